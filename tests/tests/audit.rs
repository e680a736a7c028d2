//! X7: who did what and why is written down before it is done, in one chain whoever writes to it; and whatever was
//! changed in it since is found, in the broker and in an exported file.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use holdline::broker::connection;
use holdline_proto::audit::{self, Act, Deed, Entry, Previous};
use holdline_proto::dead_letter::DeadLetter;
use holdline_proto::topology::{Bucket, Role, Stream, Topology};
use holdline_proto::wire;
use holdline_stage::admin::Health;
use holdline_stage::audit::{AuditError, append};
use holdline_stage::bus::Bus;
use holdline_stage::clock;
use holdline_stage::run::Tasks;
use holdline_stage::settings::{Nats, NatsTls};
use holdline_tests::programs::{Installation, changed_sample, command, holdline, sample, scratch};
use holdline_tests::proxy::{Line, Proxy};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Patience for what comes about by itself; nothing is asserted of it.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(name: &str) -> Installation {
    Installation::broker(name, &sample("loop"), "default")
}

/// Runs `holdline …`, and expects this exit code; gives what it says as JSON, and what it says of errors.
fn told(installation: &Installation, arguments: &[&str], expected: i32) -> (Value, String) {
    let output = installation.holdline(&[arguments, &["--output", "json"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {value:#}\n{errors}");
    (value, errors)
}

fn ask(installation: &Installation, arguments: &[&str], expected: i32) -> Value {
    told(installation, arguments, expected).0
}

fn trail(installation: &Installation, filter: &[&str]) -> Vec<Value> {
    ask(installation, &[&["audit"], filter].concat(), 0).as_array().unwrap().clone()
}

/// Numbers of the entries that a filter leaves.
fn numbers(installation: &Installation, filter: &[&str]) -> Vec<u64> {
    trail(installation, filter).iter().map(|entry| entry["entry"].as_u64().unwrap()).collect()
}

fn verify(installation: &Installation, arguments: &[&str], expected: i32) -> Value {
    let verdict = ask(installation, &[&["audit", "verify"], arguments].concat(), expected);
    assert_eq!(verdict["whole"], expected == 0, "{verdict:#}");
    verdict
}

/// What `verify` finds, as sequence and name.
fn findings(installation: &Installation) -> Vec<(u64, String)> {
    let verdict = verify(installation, &[], 1);
    let findings = verdict["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|f| (f["sequence"].as_u64().unwrap(), f["wrong"].as_str().unwrap().to_string()))
        .collect()
}

fn pause(installation: &Installation, entity: &str, by: &str) {
    let arguments =
        ["pause", "--entity", entity, "--reason", "carrier maintenance", "--for", "10m", "--by", by];
    ask(installation, &arguments, 0);
}

/// Entries 1 to 5: the set that came with the installation, and four pauses.
fn with_four_pauses(name: &str) -> Installation {
    let installation = start(name);
    for entity in ["gw-1", "gw-2", "gw-3", "gw-4"] {
        pause(&installation, entity, "ada");
    }
    assert_eq!(verify(&installation, &[], 0)["entries"], 5);
    installation
}

async fn as_provisioner(installation: &Installation) -> Context {
    jetstream::new(installation.client("provisioner").await)
}

fn stream() -> String {
    Topology::default().stream(Stream::Audit)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x7_the_trail_says_who_did_what_and_why() {
    let mut installation = start("audit-acts");
    // The alerts about dead letters are events like any other.
    for stage in ["dlq-replayer", "classifier", "debouncer"] {
        installation.spawn(stage, 0);
    }
    installation.wait_ready();
    pause(&installation, "gw-1", "ada");
    ask(&installation, &["resume", "--entity", "gw-1", "--reason", "it is over", "--by", "bob"], 0);
    ask(&installation, &["resume", "--by", "bob"], 1);
    let other = scratch("audit-playbooks");
    changed_sample("loop", &other, |_, text| text.replace("failures: 3", "failures: 4"));
    let set = |pushed: Value| pushed["set"].as_str().unwrap().to_string();
    let before = trail(&installation, &["--act", "push"])[0]["about"].as_str().unwrap().to_string();
    let push = ["push", other.to_str().unwrap(), "--reason", "three was too few", "--by", "carl"];
    let pushed = set(ask(&installation, &push, 0));
    for n in 1..=3 {
        let letter = DeadLetter { reason: "nonsense".into(), sequence: n, ..DeadLetter::default() };
        installation
            .publish("classifier", &Topology::default().dead("classifier"), &wire::encode(&letter))
            .await;
    }
    ask(&installation, &["dlq", "replay", "1", "--by", "eve"], 1);
    ask(&installation, &["dlq", "discard", "2", "--reason", "known", "--by", "eve"], 0);
    ask(&installation, &["dlq", "discard", "--all", "--reason", "old", "--by", "eve", "--dry-run"], 0);
    ask(&installation, &["dlq", "discard", "--all", "--reason", "old", "--by", "eve"], 0);

    let entries = trail(&installation, &[]);
    let shown: Vec<Value> = entries
        .iter()
        .skip(1)
        .map(|e| json!([e["entry"], e["by"], e["act"], e["about"], e["why"], e["details"], e["failed"]]))
        .collect();
    let expected = json!([
        [2, "ada", "pause", "entity gw-1", "carrier maintenance", {"for_ms": "600000"}, null],
        [3, "bob", "resume", "entity gw-1", "it is over", {}, null],
        [4, "bob", "resume", "everything", "", {}, null],
        [5, "carl", "push", format!("set {pushed}"), "three was too few",
            {"before": before.trim_start_matches("set ")}, null],
        [6, "eve", "dead_letter_replay", "dead letter 1", "", {"letters": "1"}, null],
        [7, "eve", "dead_letter_discard", "dead letter 2", "known", {"letters": "2"}, null],
        [8, "eve", "dead_letter_discard", "2 dead letters", "old", {"letters": "1,3"}, null],
    ]);
    assert_eq!(Value::Array(shown), expected, "{entries:#?}");
    let verdict = verify(&installation, &[], 0);
    assert_eq!((&verdict["entries"], &verdict["first"], &verdict["last"]), (&json!(8), &json!(1), &json!(8)));

    // Its filters.
    let at = entries[3]["at"].as_str().unwrap();
    for (filter, expected) in [
        (vec!["--by", "bob"], vec![3, 4]),
        (vec!["--by", "bob", "--act", "push"], vec![]),
        (vec!["--act", "dead_letter_discard"], vec![7, 8]),
        (vec!["--since", at, "--until", at], vec![4]),
        (vec!["--since", at], vec![4, 5, 6, 7, 8]),
        (vec!["--until", "2020-01-01"], vec![]),
        (vec!["--since", "2020-01-01"], vec![1, 2, 3, 4, 5, 6, 7, 8]),
    ] {
        assert_eq!(numbers(&installation, &filter), expected, "{filter:?}");
    }
    let table = installation.holdline(&["audit"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("carrier maintenance") && table.contains("for_ms: 600000"), "{table}");
    assert_eq!(installation.holdline(&["audit", "--since", "yesterday"]).status.code(), Some(2));
}

/// Without an entry nothing is done, and what failed after its entry has a second one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x7_what_cannot_be_written_down_is_not_done_and_what_failed_is_written_down() {
    let installation = start("audit-refused");
    let jetstream = as_provisioner(&installation).await;
    let topology = Topology::default();
    jetstream.delete_stream(topology.bucket_stream(Bucket::Pauses)).await.unwrap();
    let stop = ["pause", "--reason", "why not", "--for", "10m", "--by", "ada"];
    told(&installation, &stop, 1);
    let entries = trail(&installation, &["--act", "pause"]);
    assert_eq!(entries.len(), 2, "{entries:#?}");
    assert_eq!((&entries[0]["failed"], &entries[0]["why"]), (&Value::Null, &json!("why not")));
    assert_eq!((&entries[1]["failed"], &entries[1]["by"]), (&entries[0]["entry"], &json!("ada")));
    assert!(entries[1]["why"].as_str().unwrap().contains("stream not found"), "{entries:#?}");
    ask(&installation, &["provision"], 0);

    jetstream.delete_stream(stream()).await.unwrap();
    let (_, errors) = told(&installation, &stop, 1);
    assert!(errors.contains("nothing was done") && errors.contains("holdline provision"), "{errors}");
    assert_eq!(ask(&installation, &["pauses"], 0), json!([]));
    let current = || async {
        let kept = jetstream.get_key_value(topology.bucket(Bucket::Playbooks)).await.unwrap();
        kept.get("current").await.unwrap().unwrap()
    };
    let before = current().await;
    let other = scratch("audit-refused-playbooks");
    changed_sample("loop", &other, |_, text| text.replace("failures: 3", "failures: 4"));
    told(&installation, &["push", other.to_str().unwrap()], 1);
    assert_eq!(current().await, before);
    ask(&installation, &["provision"], 0);
    ask(&installation, &stop, 0);
    assert_eq!(numbers(&installation, &[]), [1]);
    assert_eq!(findings(&installation), [(2, "missing".into())], "what went with the stream is missed");
}

async fn bus(url: String, installation: &Installation, role: Role) -> Bus {
    let keys = installation.data.join("keys");
    let nats = Nats { patience: PATIENCE, ..connection(&url, Some(&keys), NatsTls::default(), role) };
    Bus::connect(role, &nats, &Tasks::default(), &Health::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x7_many_who_write_at_once_leave_one_chain() {
    let installation = start("audit-at-once");
    const PEOPLE: usize = 6;
    let pauses: Vec<_> = (0..PEOPLE)
        .map(|n| {
            command("holdline")
                .args(["pause", "--entity", &format!("gw-{n}"), "--reason", "at once", "--for", "10m"])
                .args(["--by", "ada", "--data", installation.data.to_str().unwrap()])
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    // The executor has the rights that it takes.
    let mut executors = JoinSet::new();
    for executor in 0..4 {
        let bus = bus(installation.url(), &installation, Role::Executor).await;
        executors.spawn(async move {
            for n in 0..25 {
                let deed = Deed::new("executor", Act::ApprovalUsed, format!("{executor}-{n}"), "");
                append(&bus, &deed).await.unwrap();
            }
        });
    }
    executors.join_all().await;
    for mut pause in pauses {
        assert!(pause.wait().unwrap().success());
    }
    assert_eq!(ask(&installation, &["pauses"], 0).as_array().unwrap().len(), PEOPLE);
    let verdict = verify(&installation, &[], 0);
    assert_eq!(verdict["entries"], 1 + PEOPLE + 100);
    let count = |filter: &[&str]| numbers(&installation, filter).len();
    assert_eq!((count(&["--act", "pause"]), count(&["--by", "executor"])), (PEOPLE, 100));
}

/// What an append gave, and how long it took.
type Outcome = (Result<u64, AuditError>, Duration);

/// Answers that are lost, while others write: what was said to be written is there once, what was said not to be is
/// not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x7_a_lost_answer_writes_nothing_twice() {
    let installation = start("audit-lost-answers");
    let address = installation.url().trim_start_matches("nats://").parse().unwrap();
    let line = Proxy::to(address).await;
    let outcomes: Arc<Mutex<BTreeMap<String, Outcome>>> = Arc::default();
    let writers = Tasks::default();
    for writer in 0..8 {
        // One in four is not disturbed, and takes the others' places.
        let url = if writer % 4 == 0 { installation.url() } else { format!("nats://{}", line.address) };
        let bus = bus(url, &installation, Role::Operator).await;
        let (outcomes, tasks) = (outcomes.clone(), writers.clone());
        writers.spawn(async move {
            for n in 0.. {
                if tasks.is_stopping() {
                    return;
                }
                let about = format!("{writer}-{n}");
                let began = clock::now();
                let outcome = append(&bus, &Deed::new("test", Act::Other("try".into()), &about, "")).await;
                outcomes.lock().unwrap().insert(about, (outcome, began.elapsed()));
            }
        });
    }
    // Written although its first answer never came.
    let found_again = || {
        let outcomes = outcomes.lock().unwrap();
        outcomes.values().filter(|(outcome, took)| outcome.is_ok() && *took > Duration::from_secs(2)).count()
    };
    let began = clock::now();
    while found_again() < 3 {
        assert!(began.elapsed() < PATIENCE, "no answer was lost");
        clock::sleep(Duration::from_millis(700)).await;
        line.set(Line::Deaf);
        clock::sleep(Duration::from_millis(2_500)).await;
        line.set(Line::Open);
    }
    writers.stop();
    writers.wait().await;
    assert_eq!(verify(&installation, &[], 0)["more"], 0);
    let mut there: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for entry in trail(&installation, &["--by", "test"]) {
        let about = entry["about"].as_str().unwrap().to_string();
        there.entry(about).or_default().push(entry["entry"].as_u64().unwrap());
    }
    let outcomes = std::mem::take(&mut *outcomes.lock().unwrap());
    let (mut written, mut refused, mut unknown) = (0, 0, 0);
    for (about, (outcome, _)) in outcomes {
        let found = there.remove(&about).unwrap_or_default();
        match outcome {
            Ok(number) => {
                written += 1;
                assert_eq!(found, [number], "{about}");
            }
            Err(AuditError::Unknown(_)) => {
                unknown += 1;
                assert!(found.len() <= 1, "{about}: {found:?}");
            }
            Err(error) => {
                refused += 1;
                assert_eq!(found, [0u64; 0], "{about}: {error}");
            }
        }
    }
    eprintln!("{written} written, {refused} refused, {unknown} unknown");
    assert!(there.is_empty(), "{there:?}");
}

/// Every stored entry.
async fn stored(jetstream: &Context) -> Vec<Vec<u8>> {
    let mut stream = jetstream.get_stream(stream()).await.unwrap();
    let last = stream.info().await.unwrap().state.last_sequence;
    let mut entries = vec![];
    for sequence in 1..=last {
        entries.push(stream.get_raw_message(sequence).await.unwrap().payload.to_vec());
    }
    entries
}

/// Somebody who may do anything writes the stream anew.
async fn rebuild(installation: &Installation, jetstream: &Context, entries: &[Vec<u8>]) {
    jetstream.delete_stream(stream()).await.unwrap();
    ask(installation, &["provision"], 0);
    for entry in entries {
        let subject = Topology::default().audit();
        jetstream.publish(subject, entry.clone().into()).await.unwrap().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x7_whatever_is_changed_in_the_broker_is_found() {
    let installation = with_four_pauses("audit-changed");
    let jetstream = as_provisioner(&installation).await;
    let whole = stored(&jetstream).await;
    let kept = verify(&installation, &[], 0)["hash"].as_str().unwrap().to_string();
    let wrong = |wrong: &str, sequence: u64| (sequence, wrong.to_string());

    // The broker takes nothing out, whoever asks; and that is not taken back.
    let audit = jetstream.get_stream(stream()).await.unwrap();
    assert!(audit.delete_message(2).await.is_err());
    assert!(audit.purge().await.is_err());
    let mut config = audit.cached_info().config.clone();
    (config.deny_delete, config.deny_purge) = (false, false);
    assert!(jetstream.update_stream(&config).await.is_err());
    verify(&installation, &["--from", &kept], 0);

    // A byte of each entry, the first, the last and one in the middle of it.
    for entry in 0..whole.len() {
        for at in [0, whole[entry].len() / 2, whole[entry].len() - 1] {
            let mut changed = whole.clone();
            changed[entry][at] ^= 1;
            rebuild(&installation, &jetstream, &changed).await;
            let sequence = u64::try_from(entry + 1).unwrap();
            let found = findings(&installation);
            assert!(found.contains(&wrong("altered", sequence)), "byte {at} of entry {sequence}: {found:?}");
        }
    }
    let text = installation.holdline(&["audit", "verify"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("entry 5 (sequence 5): its bytes were changed"), "{text}");

    // An entry that is sealed as it should be, in the place of another and behind the last.
    let forged = |number: u64, before: &[u8]| {
        let previous = Some(Previous { hash: audit::hash(before), stored_ms: clock::wall_ms() });
        let deed = Deed::new("nobody", Act::Resume, "everything", "");
        audit::seal(&Entry { number, at_ms: clock::wall_ms(), previous, id: "forged".into(), deed })
    };
    let mut replaced = whole.clone();
    replaced[2] = forged(3, &whole[1]);
    rebuild(&installation, &jetstream, &replaced).await;
    assert_eq!(findings(&installation), [wrong("unlinked", 4)]);
    rebuild(&installation, &jetstream, &whole).await;
    verify(&installation, &["--from", &kept], 0);
    installation.publish("provisioner", &Topology::default().audit(), &forged(6, &whole[3])).await;
    assert_eq!(findings(&installation), [wrong("unlinked", 6)]);
    installation.publish("provisioner", &Topology::default().audit(), b"no entry").await;
    let found = findings(&installation);
    assert!(found.contains(&wrong("unreadable", 7)), "{found:?}");
    // It goes on behind what it finds, and is listed.
    pause(&installation, "gw-5", "ada");
    assert_eq!(findings(&installation), found);
    let listed = trail(&installation, &["--by", "ada"]);
    assert_eq!(listed.len(), 6, "four pauses, what cannot be read, and one pause: {listed:#?}");

    // One taken out, two swapped.
    let mut without = whole.clone();
    without.remove(2);
    rebuild(&installation, &jetstream, &without).await;
    assert!(findings(&installation).contains(&wrong("misplaced", 3)));
    let mut swapped = whole.clone();
    swapped.swap(2, 3);
    rebuild(&installation, &jetstream, &swapped).await;
    assert!(findings(&installation).contains(&wrong("misplaced", 4)));

    // An end that is cut off is missed, and so is the whole trail.
    rebuild(&installation, &jetstream, &whole[..4]).await;
    assert_eq!(findings(&installation), [wrong("missing", 5)]);
    rebuild(&installation, &jetstream, &[]).await;
    assert_eq!(findings(&installation), [wrong("missing", 1)]);
    // Where what was noted apart is gone as well, only what somebody has kept himself tells.
    rebuild(&installation, &jetstream, &whole[..4]).await;
    let noted = jetstream.get_key_value(Topology::default().bucket(Bucket::Witness)).await.unwrap();
    noted.purge(audit::WITNESS).await.unwrap();
    verify(&installation, &[], 0);
    let verdict = verify(&installation, &["--from", &kept], 1);
    assert_eq!(verdict["anchored"], false);
}

/// Files of the broker that hold the trail.
fn blocks(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            blocks(&path, found);
        } else if path.to_str().unwrap().contains("/AUDIT/msgs/")
            && path.extension().is_some_and(|e| e == "blk")
        {
            found.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x7_a_byte_changed_in_the_brokers_own_file_is_found() {
    // The broker gives up the file from the damage on.
    for (word, entry) in [("gw-2", 3), ("gw-4", 5)] {
        let mut installation = with_four_pauses("audit-on-disk");
        installation.stop_broker();
        let mut files = vec![];
        blocks(&installation.data, &mut files);
        let [file] = files.as_slice() else { panic!("{files:?}") };
        let mut bytes = std::fs::read(file).unwrap();
        let places = bytes.windows(word.len()).filter(|window| *window == word.as_bytes()).count();
        let at = bytes.windows(word.len()).position(|window| window == word.as_bytes()).unwrap();
        assert_eq!(places, 1);
        bytes[at + 3] = b'9';
        std::fs::write(file, bytes).unwrap();
        installation.start_broker("default");
        let began = clock::now();
        while !installation.holdline(&["audit"]).status.success() {
            assert!(began.elapsed() < PATIENCE, "the broker does not come back");
            clock::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(findings(&installation), [(entry, "missing".into())], "{word}");
        // What is added does not hide it.
        for entity in ["gw-5", "gw-6", "gw-7", "gw-8"] {
            pause(&installation, entity, "ada");
        }
        assert_eq!(findings(&installation), [(5, "not_as_noted".into())], "{word}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x7_an_exported_trail_is_checked_without_a_broker() {
    let installation = with_four_pauses("audit-export");
    let file = installation.folder.join("trail.jsonl");
    let path = file.to_str().unwrap().to_string();
    let exported = ask(&installation, &["audit", "export", &path], 0);
    let kept = exported["hash"].as_str().unwrap().to_string();
    let again = told(&installation, &["audit", "export", &path], 1).1;
    assert!(again.contains("must be a new file"), "{again}");
    pause(&installation, "gw-5", "bob");
    verify(&installation, &["--from", &kept], 0);

    // Where no installation is.
    let offline = |arguments: &[&str]| holdline(&[arguments, &["--data", "/nowhere"]].concat());
    assert!(offline(&["audit", "verify", &path, "--from", &kept]).status.success());
    assert!(offline(&["audit", "--file", &path]).status.success());
    assert!(!offline(&["audit", "verify"]).status.success());
    let verdict = verify(&installation, &[&path], 0);
    assert_eq!((&verdict["entries"], &verdict["hash"]), (&json!(5), &json!(kept)));
    assert_eq!(numbers(&installation, &["--file", &path, "--by", "ada"]), [2, 3, 4, 5]);
    let whole = std::fs::read(&file).unwrap();
    // Some of them; a test of `services/holdline/src/commands/audit/file.rs` changes every one.
    for at in (0..whole.len()).step_by(61).chain([whole.len() - 1]) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&file, changed).unwrap();
        let output = offline(&["audit", "verify", &path]);
        assert_eq!(output.status.code(), Some(1), "byte {at}");
    }
    std::fs::write(&file, b"something else\n").unwrap();
    let other = offline(&["audit", "verify", &path]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("is no exported audit trail"));
}
