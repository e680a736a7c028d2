//! R1 to R3: what fails for now comes back by tiers once what failed is there again; what the incident no
//! longer needs is fenced off; what stays is told, and people deal with it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::time::Duration;

use holdline_stage::clock;
use holdline_tests::programs::{Installation, STAGES, changed_sample, scratch};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::Target;
use serde_json::Value;

/// The loop's playbooks aimed at the target, and one that asks by name to hear of dead letters.
fn playbooks(target: &Target) -> PathBuf {
    let folder = scratch("dlq-playbooks");
    let address = target.address.to_string();
    changed_sample("loop", &folder, |_, text| text.replace("127.0.0.1:44001", &address));
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    write(
        "subscriptions/alerts.json",
        r#"{"name": "alerts", "topicName": "EventSubscriptionDeliveryFailure", "authType": "HMAC",
            "secretToken": "env:HOLDLINE_TELEPHONY_SECRET"}"#
            .into(),
    );
    for name in ["tell", "untell"] {
        let url = format!("http://{address}/{name}/{{{{data.letter}}}}");
        let action = r#"{"name": "NAME", "actionType": "WEBHOOK", "method": "POST", "url": "URL"}"#;
        write(&format!("actions/{name}.json"), action.replace("NAME", name).replace("URL", &url));
    }
    write(
        "alerts.playbook.yaml",
        "playbook: alerts\nmode: live\non:\n  topic: EventSubscriptionDeliveryFailure\n  entity: data.letter\n  \
         failed: status == 'FAILED'\nconfirm:\n  failures: 1\n  stable_for: 0s\nact:\n  failed:\n    do: [tell]\n    \
         class: failover\nrevert:\n  silence: 15m\n  do: [untell]\n"
            .into(),
    );
    folder
}

async fn installed(name: &str, tiers: &str) -> (Installation, Target, Sender) {
    let target = Target::start().await;
    let mut installation = Installation::broker(name, &playbooks(&target), "default");
    installation.variable("HOLDLINE_REPLAYER_TIERS_S", tiers);
    for stage in STAGES.into_iter().chain(["dlq-replayer"]) {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    let sender = Sender::new(installation.gateways(), "telephony");
    (installation, target, sender)
}

async fn say(sender: &Sender, entity: &str, status: &str, times: u32, from_ms: i64) {
    for n in 0..i64::from(times) {
        let id = format!("{entity}-{status}-{}", from_ms + n);
        sender.deliver(&event(&id, entity, status, clock::wall_ms())).await;
    }
}

fn dlq(installation: &Installation, arguments: &[&str]) -> (bool, Value) {
    let output = installation.holdline(&[&["dlq"], arguments, &["--output", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), value)
}

fn letters(installation: &Installation) -> Vec<Value> {
    dlq(installation, &["list"]).1.as_array().unwrap().clone()
}

async fn until(what: &str, most: Duration, mut holds: impl FnMut() -> bool) {
    let began = clock::now();
    while !holds() {
        assert!(began.elapsed() < most, "not within {most:?}: {what}");
        clock::sleep(Duration::from_millis(200)).await;
    }
}

fn incidents(installation: &Installation) -> Vec<Value> {
    let output = installation.holdline(&["incidents", "--all", "--output", "json"]);
    serde_json::from_slice::<Value>(&output.stdout).unwrap().as_array().unwrap().clone()
}

fn explained(installation: &Installation, entity: &str) -> String {
    let incident = incidents(installation).into_iter().find(|i| i["entityId"] == entity).unwrap();
    let id = incident["incidentId"].as_str().unwrap().to_string();
    let output = installation.holdline(&["incident", &id, "explain"]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn calls(target: &Target, path: &str) -> usize {
    target.calls().iter().filter(|call| call.path == path).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_r2_what_fails_for_now_comes_back_and_what_the_incident_no_longer_needs_is_fenced_off() {
    let (installation, target, sender) = installed("dlq-tiers", "2,2,2").await;
    // Six failures: five attempts, and the first of the first tier's; its second goes through.
    target.fail(6, 503);
    say(&sender, "gw-back", "FAILED", 3, 0).await;
    until("the letter", Duration::from_secs(20), || !letters(&installation).is_empty()).await;
    let letter = letters(&installation).remove(0);
    assert_eq!((&letter["stage"], &letter["transient"]), (&"executor".into(), &true.into()));
    until("the replay", Duration::from_secs(20), || calls(&target, "/act/remediate/gw-back") == 7).await;
    until("an empty DLQ", Duration::from_secs(5), || letters(&installation).is_empty()).await;
    let told = explained(&installation, "gw-back");
    assert!(told.contains("comes back from the dead letters (first time) and is still needed"), "{told}");
    let keys: std::collections::BTreeSet<String> = target.calls().into_iter().map(|call| call.key).collect();
    assert_eq!(keys.len(), 1, "every call of the action carried the same key");
    say(&sender, "gw-back", "HEALTHY", 2, 10).await;
    until("the revert", Duration::from_secs(10), || calls(&target, "/act/revert/gw-back") == 1).await;

    // The trouble ends while the letter waits: no call may follow it.
    target.fail(5, 409);
    say(&sender, "gw-over", "FAILED", 3, 0).await;
    until("the letter", Duration::from_secs(20), || !letters(&installation).is_empty()).await;
    say(&sender, "gw-over", "HEALTHY", 2, 10).await;
    until("the fence", Duration::from_secs(20), || letters(&installation).is_empty()).await;
    until("the reason", Duration::from_secs(5), || {
        explained(&installation, "gw-over").contains("fenced off")
    })
    .await;
    assert_eq!(calls(&target, "/act/remediate/gw-over"), 5);
    assert_eq!(calls(&target, "/act/revert/gw-over"), 0, "nothing was done, so nothing is undone");
    installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_to_a_failing_target_one_letter_at_a_time_finds_out() {
    let (installation, target, sender) = installed("dlq-gate", "8,2,2").await;
    target.fail(20 + 5, 503);
    for n in 0..4 {
        say(&sender, &format!("gw-{n}"), "FAILED", 3, 0).await;
    }
    until("four letters", Duration::from_secs(20), || letters(&installation).len() == 4).await;
    assert_eq!(target.calls().len(), 20);
    // All four are due at about the same time; one is let through and fails five times more.
    until("the first to find out", Duration::from_secs(20), || target.calls().len() >= 24).await;
    let tried: std::collections::BTreeSet<String> =
        target.calls().into_iter().skip(20).map(|call| call.path).collect();
    assert_eq!(tried.len(), 1, "{tried:?}");
    until("all carried out", Duration::from_secs(40), || {
        target.effects().len() == 4 && letters(&installation).is_empty()
    })
    .await;
    installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_letters_go_back_at_the_rate_that_was_asked_for() {
    const LETTERS: u32 = 4;
    let (installation, target, sender) = installed("dlq-rate", "1").await;
    let playbook = "/act/remediate/";
    let remedies =
        || target.calls().into_iter().filter(|call| call.path.starts_with(playbook)).collect::<Vec<_>>();
    for n in 0..LETTERS {
        target.fail_at(&format!("{playbook}gw-{n}"), 1, 404);
        say(&sender, &format!("gw-{n}"), "FAILED", 3, 0).await;
    }
    let of_remedies =
        || letters(&installation).into_iter().filter(|letter| letter["stage"] == "executor").count();
    until("all letters", Duration::from_secs(20), || of_remedies() == LETTERS as usize).await;
    let before = remedies().len();
    let (went, told) = dlq(&installation, &["replay", "--all", "--containing", "404", "--rate", "1"]);
    assert!(went && told["done"] == LETTERS, "{told}");
    until("all calls", Duration::from_secs(20), || remedies().len() == before + LETTERS as usize).await;
    let again = remedies().split_off(before);
    // One a second; the way of each takes some of it.
    let took = again[again.len() - 1].at.duration_since(again[0].at);
    assert!(took >= Duration::from_millis(2_500), "{LETTERS} letters within {took:?}");
    installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_people_see_replay_and_discard_and_an_alert_is_heard_by_who_asks_for_it() {
    let (installation, target, sender) = installed("dlq-people", "1").await;
    target.fail(2, 404);
    say(&sender, "gw-404", "FAILED", 3, 0).await;
    // The alert's own action meets the second 404: it is parked, and tells nobody, or it would go round.
    until("two letters", Duration::from_secs(20), || letters(&installation).len() == 2).await;
    assert!(target.calls()[1].path.starts_with("/tell/"));
    let all = letters(&installation);
    assert!(all.iter().all(|letter| letter["transient"] == false));
    let number = all[0]["letter"].to_string();
    // Whoever does not ask for alerts by their name hears nothing of them.
    for incident in incidents(&installation) {
        let of_alert = incident["entityId"] != "gw-404";
        assert_eq!(incident["playbook"] == "alerts", of_alert, "{incident}");
    }

    let (shown, letter) = dlq(&installation, &["show", &number]);
    assert!(shown && letter["holds"]["command"]["action"] == "remediate", "{letter}");
    let (_, would) = dlq(&installation, &["replay", "--all", "--containing", "404", "--dry-run"]);
    assert_eq!((would.as_array().unwrap().len(), letters(&installation).len()), (2, 2));
    let (went, told) = dlq(&installation, &["replay", &number]);
    assert!(went && told["done"] == 1, "{told}");
    until("the call", Duration::from_secs(10), || calls(&target, "/act/remediate/gw-404") == 2).await;

    let refused = installation.holdline(&["dlq", "discard", "--all"]);
    assert!(!refused.status.success(), "a discarded letter needs a reason");
    let (gone, told) = dlq(&installation, &["discard", "--all", "--reason", "known"]);
    assert!(gone && told["done"] == 1, "{told}");
    assert!(letters(&installation).is_empty());
    assert!(!installation.holdline(&["dlq", "show", &number]).status.success());

    // Poison on the way of events: parked with its bytes; replayed it cannot be, discarded it can.
    installation.publish("gateway", "hl.event.0", b"no frame at all").await;
    until("the poison", Duration::from_secs(10), || letters(&installation).len() == 1).await;
    let number = letters(&installation)[0]["letter"].to_string();
    let (_, letter) = dlq(&installation, &["show", &number]);
    assert_eq!(letter["holds"]["unreadable"], "no frame at all");
    let (discarded, _) = dlq(&installation, &["discard", &number, "--reason", "not ours"]);
    assert!(discarded);
    installation.conserved();
}
