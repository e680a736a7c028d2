//! The platform's official SDK, in its own language: `tests/platform/sdk.py`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use holdline_simulator::Simulator;
use holdline_simulator::organisation::{CLIENT, CLIENT_SECRET, TELEPHONY_CLIENT, TELEPHONY_CLIENT_SECRET};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The folder of the script; `requirements.txt` beside it pins what it needs by hash.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("platform")
}

/// Fetches the SDK once, into a folder of cargo's (`CARGO_TARGET_TMPDIR`). Where python3 has no pip of its own, that of a
/// fresh environment will do.
pub async fn fetched(place: &Path) -> PathBuf {
    let installed = place.join("platform-sdk-269.0.0");
    // Tests of one binary run at the same time, and a developer may run two binaries at once.
    let lock = std::fs::File::create(place.join("platform-sdk-lock")).unwrap();
    let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await.unwrap().unwrap();
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

/// Has the SDK try every endpoint of a simulator; gives the script's exit code and words.
pub async fn hold(simulator: &Simulator, sdk: &Path) -> (i32, String) {
    run(simulator, sdk, "hold", "").await
}

/// Has the SDK read objects: API, method, arguments, and what must stand there at least.
pub async fn read_back(simulator: &Simulator, sdk: &Path, written: &[Value]) -> (i32, String) {
    run(simulator, sdk, "read", &Value::from(written).to_string()).await
}

async fn run(simulator: &Simulator, sdk: &Path, what: &str, input: &str) -> (i32, String) {
    let mut python = Command::new("python3")
        .arg(scripts().join("sdk.py"))
        .args([what, &simulator.url()])
        .args([CLIENT, CLIENT_SECRET, TELEPHONY_CLIENT, TELEPHONY_CLIENT_SECRET])
        .env("PYTHONPATH", sdk)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // The simulator is on loopback: no proxy is to be asked.
        .env("NO_PROXY", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = python.wait_with_output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}
