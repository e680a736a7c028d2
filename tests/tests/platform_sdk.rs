//! The platform simulator, held against the platform's official SDK (`tests/platform/sdk.py`): what holdline is
//! tried on has the shapes of the real thing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use holdline_simulator::organisation::*;
use holdline_simulator::{Kind, Options, Simulator};
use serde_json::json;
use tokio::process::Command;

/// The folder of the script; `requirements.txt` beside it pins what it needs by hash.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("platform")
}

/// Fetches the SDK once, into the target folder. Where python3 has no pip of its own, that of a fresh
/// environment will do.
async fn sdk() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let installed = place.join("platform-sdk-269.0.0");
    if installed.is_dir() {
        return installed;
    }
    let partial = place.join(format!("platform-sdk-{}.partial", std::process::id()));
    let environment = place.join("platform-sdk-pip");
    let own = install("python3".as_ref(), &partial).await;
    if !own.status.success() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&environment).output().await.unwrap();
        let other = install(&environment.join("bin").join("python3"), &partial).await;
        let said = |output: &Output| String::from_utf8_lossy(&output.stderr).trim().to_string();
        assert!(
            other.status.success(),
            "the platform's SDK cannot be fetched: install python3 with pip or venv, 3.10 or newer, on \
             Linux.\npip: {}\nvenv: {}\nits pip: {}",
            said(&own),
            said(&made),
            said(&other)
        );
    }
    std::fs::rename(&partial, &installed).unwrap();
    installed
}

/// Output with a failure's status where the program cannot be run at all.
async fn install(python: &Path, into: &Path) -> Output {
    let ran = Command::new(python)
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target"])
        .arg(into)
        .arg("-r")
        .arg(scripts().join("requirements.txt"))
        .output()
        .await;
    ran.unwrap_or_else(|error| Output {
        status: std::os::unix::process::ExitStatusExt::from_raw(1),
        stdout: vec![],
        stderr: error.to_string().into_bytes(),
    })
}

/// Runs the script and gives its exit code and words.
async fn hold(simulator: &Simulator, sdk: &Path) -> (i32, String) {
    let output = Command::new("python3")
        .arg(scripts().join("sdk.py"))
        .arg(simulator.url())
        .args([CLIENT, CLIENT_SECRET, TELEPHONY_CLIENT, TELEPHONY_CLIENT_SECRET])
        .env("PYTHONPATH", sdk)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // The simulator is on loopback: no proxy is to be asked.
        .env("NO_PROXY", "*")
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

async fn start() -> Simulator {
    let settle = Duration::from_millis(50);
    Simulator::start(Options { calls_per_window: None, settle, ..Options::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_sdk_finds_no_deviation() {
    let sdk = sdk().await;
    let simulator = start().await;
    let (code, text) = hold(&simulator, &sdk).await;
    assert_eq!(code, 0, "{text}");
    println!("{text}");

    // And would find one.
    let simulator = start().await;
    let broken = json!({ "statusCode": "BROKEN", "invented": 1, "managed": "yes" });
    simulator.edit(Kind::Edge, EDGE_MAIN, &broken).unwrap();
    let (code, text) = hold(&simulator, &sdk).await;
    assert_eq!(code, 1, "{text}");
    for named in ["Edge.statusCode: 'BROKEN'", "Edge.invented: unknown field", "Edge.managed: want bool"] {
        assert!(text.contains(named), "{named} in\n{text}");
    }
}
