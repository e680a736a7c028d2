//! The platform simulator, held against the platform's official SDK (`tests/platform/sdk.py`): what holdline is
//! tried on has the shapes of the real thing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use holdline_simulator::organisation::*;
use holdline_simulator::{Kind, Options, Simulator};
use holdline_tests::sdk::{fetched, hold};
use serde_json::json;

async fn start() -> Simulator {
    let settle = Duration::from_millis(50);
    Simulator::start(Options { calls_per_window: None, settle, ..Options::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_sdk_finds_no_deviation() {
    let sdk = fetched(Path::new(env!("CARGO_TARGET_TMPDIR"))).await;
    let simulator = start().await;
    let (code, text) = hold(&simulator, &sdk).await;
    assert_eq!(code, 0, "{text}");
    println!("{text}");

    // And would find one.
    let simulator = start().await;
    let broken = json!({ "statusCode": "BROKEN", "invented": 1, "managed": "yes" });
    simulator.edit(Kind::EDGE, EDGE_MAIN, &broken).unwrap();
    let (code, text) = hold(&simulator, &sdk).await;
    assert_eq!(code, 1, "{text}");
    for named in ["Edge.statusCode: 'BROKEN'", "Edge.invented: unknown field", "Edge.managed: want bool"] {
        assert!(text.contains(named), "{named} in\n{text}");
    }
}
