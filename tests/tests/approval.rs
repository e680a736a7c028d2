//! A4, E7: what needs people is held and shown with its exact request; only the word of the right people, on exactly
//! this request, in time, has it sent, once; everything else is refused.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use holdline_decide::playbook;
use holdline_decide::{approval, execute};
use holdline_proto::approval::{Asked, Ruled, Ruling, Verdict};
use holdline_proto::command::{Command, Course, Direction};
use holdline_proto::incident::{Lane, TrackKey, View};
use holdline_proto::playbooks::{Bundle, CURRENT};
use holdline_proto::topology::{Bucket, Stream, Topology};
use holdline_proto::wire;
use holdline_stage::clock;
use holdline_stage::token::Token;
use holdline_tests::programs::{Installation, changed_sample, scratch};
use holdline_tests::sender::{Sender, event};
use holdline_tests::target::Target;
use serde_json::{Value, json};

/// Patience for a run; nothing is asserted of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes too much would come by then.
const SETTLED: Duration = Duration::from_secs(3);

/// Every service.
const STAGES: [&str; 5] = ["gateway", "classifier", "debouncer", "executor", "dlq-replayer"];

/// From the right word to its call, at most.
const SENT_WITHIN: Duration = Duration::from_secs(2);

struct World {
    target: Target,
    installation: Installation,
    sender: Sender,
    tokens: PathBuf,
}

/// A week's window that today is in, or far from, whatever the hour.
fn window(now_ms: i64, inside: bool) -> String {
    let days = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let today = usize::try_from(now_ms / 86_400_000).unwrap();
    let of = if inside { vec![today + 6, today, today + 1] } else { vec![today + 3] };
    let of: Vec<&str> = of.into_iter().map(|day| days[day % 7]).collect();
    format!(
        "windows: {{business_hours: {{zone: Europe/Lisbon, days: [{}], hours: 00:00-24:00}}}}\n",
        of.join(", ")
    )
}

/// The loop's playbooks: one failure acts, two healthy events undo it; ada and bob may approve. Without `approval` the
/// remedy itself says that it needs people.
fn playbooks(target: &Target, publics: &BTreeMap<String, String>, approval: &str, inside: bool) -> PathBuf {
    let folder = scratch("approval-playbooks");
    let address = target.address.to_string();
    let (mut people, window) = ("people:\n".to_string(), window(clock::wall_ms(), inside));
    for (name, public) in publics {
        let (roles, until) = match name.as_str() {
            "eve" => ("look", ""),
            "old" => ("approve", ", until: 2026-01-31"),
            "mallory" => continue,
            // Only where it is asked for: then it takes a token to push.
            "operator" if publics.len() > 2 => continue,
            "operator" => ("operate", ""),
            _ => ("approve", ""),
        };
        people += &format!("  {name}: {{token: {public}, roles: [{roles}]{until}}}\n");
    }
    changed_sample("loop", &folder, |path, text| {
        let text = text.replace("127.0.0.1:44001", &address).replace("failures: 3", "failures: 1");
        match path {
            "loop.playbook.yaml" if approval.is_empty() => text,
            "loop.playbook.yaml" => format!("{text}guard:\n  approval: {approval}\n"),
            "remediate.json" if approval.is_empty() => {
                text.replace("\"actionType\"", "\"allowOverride\": true,\n  \"actionType\"")
            }
            "holdline.yaml" => format!("{text}{window}{people}"),
            _ => text,
        }
    });
    folder
}

impl World {
    async fn start(name: &str, approval: &str) -> World {
        let tokens = scratch("approval-tokens");
        std::fs::create_dir_all(&tokens).unwrap();
        let mut publics = BTreeMap::new();
        for name in ["ada", "bob", "eve", "old", "mallory", "operator"] {
            let file = tokens.join(name);
            let made =
                holdline_tests::programs::holdline(&["token", file.to_str().unwrap(), "--output", "json"]);
            assert!(made.status.success(), "{made:?}");
            let made: Value = serde_json::from_slice(&made.stdout).unwrap();
            publics.insert(name.to_string(), made["token"].as_str().unwrap().to_string());
        }
        let target = Target::start().await;
        let playbooks = playbooks(&target, &publics, approval, false);
        let mut installation = Installation::broker(name, &playbooks, "default");
        for stage in STAGES {
            installation.spawn(stage, 0);
        }
        installation.wait_ready();
        let sender = Sender::new(installation.gateways(), "telephony");
        World { target, installation, sender, tokens }
    }

    async fn report(&self, entity: &str, status: &str) {
        let now_ms = clock::wall_ms();
        let event = event(&format!("{entity}-{status}-{now_ms}"), entity, status, now_ms);
        self.sender.deliver(&json!([event])).await;
    }

    async fn over(&self, entity: &str) {
        for _ in 0..2 {
            self.report(entity, "HEALTHY").await;
        }
    }

    fn calls(&self, direction: &str) -> usize {
        let path = format!("/act/{direction}/");
        self.target.calls().iter().filter(|call| call.path.starts_with(&path)).count()
    }

    /// What waits for people.
    fn waiting(&self) -> Vec<Value> {
        let output = self.installation.holdline(&["approvals", "--output", "json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
    }

    async fn asked(&self) -> Value {
        let began = clock::now();
        loop {
            if let [asked] = self.waiting().as_slice() {
                return asked.clone();
            }
            assert!(began.elapsed() < PATIENCE, "nobody is asked\n{}", self.installation.logs());
            clock::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What people are asked for these entities, in their order, however many others wait.
    async fn asked_for<const N: usize>(&self, entities: [&str; N]) -> [Value; N] {
        let began = clock::now();
        loop {
            let waiting = self.waiting();
            let of = |entity| waiting.iter().find(|asked| asked["entityId"] == entity).cloned();
            let found = entities.map(of);
            if found.iter().all(Option::is_some) {
                return found.map(Option::unwrap);
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{entities:?}: nobody is asked\n{}",
                self.installation.logs()
            );
            clock::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes another set the current one, for what is reported from now on.
    async fn push(&mut self, set: &Path) {
        const FOLLOW: [&str; 2] = ["classifier", "executor"];
        let heard = |world: &World| FOLLOW.map(|stage| sets(&world.installation, stage));
        let before = heard(self);
        self.installation.push(set);
        self.until("they have the set", |world| {
            heard(world).iter().zip(&before).all(|(now, before)| now > before)
        })
        .await;
    }

    /// The newest of a bucket's entry.
    async fn stored(&self, bucket: Bucket, key: &str) -> StreamMessage {
        let topology = Topology::default();
        let broker = async_nats::jetstream::new(self.installation.client("operator").await);
        let stream = broker.get_stream(topology.bucket_stream(bucket)).await.unwrap();
        stream.get_last_raw_message_by_subject(&topology.entry(bucket, key)).await.unwrap()
    }

    /// Somebody allows a request; how long from the moment at which the broker had the word to the call.
    async fn allowed(&self, asked: &Value, by: &str) -> Duration {
        let (id, entity) = (asked["id"].as_str().unwrap(), asked["entityId"].as_str().unwrap());
        assert_eq!(self.say("approve", id, by), None);
        let path = format!("/act/remediate/{entity}");
        let called = || self.target.calls().into_iter().find(|call| call.path == path);
        self.until("the call", |_| called().is_some()).await;
        // The broker's clock is this machine's.
        let word = self.stored(Bucket::Approvals, id).await.time;
        let word_ms = i64::try_from(word.unix_timestamp_nanos() / 1_000_000).unwrap();
        let since_call = clock::since(called().unwrap().at);
        let called_ms = clock::wall_ms() - i64::try_from(since_call.as_millis()).unwrap();
        // No call leaves before the word.
        Duration::from_millis(u64::try_from(called_ms - word_ms).unwrap())
    }

    /// Each is sent once it is allowed, and two of the three in time: this machine may be busy with something else at any
    /// one of them; whatever of ours waits for its turn (a look every few seconds, a delivery that has to come again, a
    /// lease that has to run out) makes more than one of them late.
    async fn sent_in_time(&self, asked: &[Value; 3], by: &str) {
        let mut took = vec![];
        for asked in asked {
            took.push(self.allowed(asked, by).await);
        }
        eprintln!("from the word to the call: {took:?}");
        took.sort();
        assert!(took[1] <= SENT_WITHIN, "{took:?}");
    }

    /// What comes of a person's word: nothing, or why it is refused.
    fn say(&self, verdict: &str, id: &str, by: &str) -> Option<String> {
        let token = self.tokens.join(by);
        let said = ["--reason", "seen on the line", "--token", token.to_str().unwrap(), "--output", "json"];
        let output = self.installation.holdline(&[&[verdict, id], said.as_slice()].concat());
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            panic!("{verdict} {id} by {by}: {}", String::from_utf8_lossy(&output.stderr));
        });
        let refused = told["refused"].as_str().map(str::to_string);
        assert_eq!(output.status.code(), Some(i32::from(refused.is_some())), "{told}");
        refused
    }

    /// A word that is refused, and in the trail as that.
    fn refused(&self, verdict: &str, id: &str, by: &str, because: &str) {
        let refused = self.say(verdict, id, by);
        assert!(
            refused.as_ref().is_some_and(|told| told.contains(because)),
            "{verdict} by {by}: {refused:?}"
        );
        // Whom nobody knows is there by his token's public half.
        let public = Token::read(&self.tokens.join(by)).unwrap().public();
        let by = if by == "mallory" { public.as_str() } else { by };
        assert!(self.has_recorded(by, id, because), "{verdict} by {by}: {:#?}", self.trail());
    }

    /// Has something done that needs nobody's word.
    fn does(&self, arguments: &[&str]) {
        let output = self.installation.holdline(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn public(&self, name: &str) -> (String, String) {
        (name.to_string(), Token::read(&self.tokens.join(name)).unwrap().public())
    }

    /// Tells the incident that people have decided, whatever they said.
    async fn tell(&self, asked: &Asked) {
        let ruled = Ruled {
            key: asked.key.clone(),
            incident: asked.incident.clone(),
            approval: asked.id.clone(),
            verdict: Verdict::Approve,
            by: "ada".into(),
            reason: "forged".into(),
        };
        let operator = Topology::default().operator(asked.partition);
        self.installation.publish("operator", &operator, &wire::encode(&ruled)).await;
    }

    /// Writes an entry of APPROVALS past holdline's commands.
    async fn write(&self, asked: &Asked) {
        let entry = Topology::default().entry(Bucket::Approvals, &asked.id);
        self.installation.publish("operator", &entry, &wire::encode(asked)).await;
    }

    /// What people are asked under an id, as it is stored.
    async fn entry(&self, id: &str) -> Asked {
        wire::decode(&self.stored(Bucket::Approvals, id).await.payload).unwrap()
    }

    /// A word with the token of this name, on a request as it is shown there.
    fn word(&self, by: &str, token: &str, asked: &Asked, at_ms: i64) -> Ruling {
        let ruling = Ruling {
            by: by.into(),
            verdict: Verdict::Approve,
            reason: "seen on the line".into(),
            at_ms,
            signature: vec![],
        };
        let signature = Token::read(&self.tokens.join(token)).unwrap().sign(&ruling.signed(asked)).unwrap();
        Ruling { signature, ..ruling }
    }

    fn trail(&self) -> Vec<Value> {
        let trail = self.installation.holdline(&["audit", "--output", "json"]);
        assert!(trail.status.success(), "{}", String::from_utf8_lossy(&trail.stderr));
        serde_json::from_slice(&trail.stdout).unwrap()
    }

    /// Whether the trail has that somebody's word on a request was refused, or by the executor that it was there and
    /// counted for nothing, and why.
    fn has_recorded(&self, by: &str, id: &str, because: &str) -> bool {
        self.trail().iter().any(|entry| {
            let is_about = entry["about"] == id || entry["details"]["approval"] == id;
            let told = entry["why"].as_str().is_some_and(|why| why.contains(because));
            entry["act"] == "approval_refused" && entry["by"] == by && is_about && told
        })
    }

    /// How often each of these acts is in the trail.
    fn acts<const N: usize>(&self, acts: [&str; N]) -> [usize; N] {
        let trail = self.trail();
        acts.map(|act| trail.iter().filter(|entry| entry["act"] == act).count())
    }

    async fn until(&self, what: &str, done: impl Fn(&World) -> bool) {
        let began = clock::now();
        while !done(self) {
            assert!(began.elapsed() < PATIENCE, "{what}\n{}", self.installation.logs());
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `holdline doctor` says of what waits for people.
    fn doctor(&self, part: &str) {
        let output = self.installation.holdline(&["doctor", "--only", "people"]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(part), "{part}: {told}");
    }

    fn explained(&self, incident: &Value) -> String {
        let output = self.installation.holdline(&["incident", incident.as_str().unwrap(), "explain"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_only_the_right_word_on_exactly_this_request_has_it_sent_and_restarts_forget_nothing() {
    let mut world =
        World::start("approval-one", "{for: [failover], when: outside business_hours, expires: 10m}").await;
    world.report("gw-1", "FAILED").await;
    let asked = world.asked().await;
    let id = asked["id"].as_str().unwrap().to_string();
    let request = asked["request"].as_str().unwrap();
    assert!(request.contains(&format!("http://{}/act/remediate/gw-1", world.target.address)), "{request}");
    world.refused("approve", &id, "mallory", "nobody with the token");
    world.refused("approve", &id, "eve", "may not approve");
    world.refused("deny", &id, "eve", "may not approve");
    world.refused("approve", &id, "old", "has expired");
    world.refused("approve", "00ff", "ada", "nobody is asked for 00ff");
    // What was said of another request says nothing of this one.
    let (before, after) = (["gw-2", "gw-3", "gw-4"], ["gw-1", "gw-5", "gw-6"]);
    for entity in [&before[..], &after[1..]].concat() {
        world.report(entity, "FAILED").await;
    }
    let (before, after) = (world.asked_for(before).await, world.asked_for(after).await);
    world.sent_in_time(&before, "bob").await;

    for stage in STAGES {
        world.installation.kill(stage, 0);
    }
    world.installation.kill_nats();
    for stage in STAGES {
        world.installation.spawn(stage, 0);
    }
    world.installation.wait_ready();
    clock::sleep(SETTLED).await;
    let ids = |asked: &[Value]| -> BTreeSet<String> {
        asked.iter().map(|asked| asked["id"].as_str().unwrap().into()).collect()
    };
    let waiting = world.waiting();
    assert_eq!(ids(&waiting), ids(&after), "still the same, and nobody is asked twice");
    assert_eq!(world.calls("remediate"), 3);
    world.sent_in_time(&after, "ada").await;
    world.refused("approve", &id, "ada", "nobody counts twice");
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 6, "each once");
    let explained = world.explained(&asked["incidentId"]);
    assert!(explained.contains("approved by ada: seen on the line"), "{explained}");
    // Each of them, and what was refused, is in the trail.
    assert_eq!(
        world.acts(["approval_asked", "approved", "approval_used", "approval_refused"]),
        [6, 6, 6, 6],
        "{:#?}",
        world.trail()
    );
    // Undoing is not covered.
    world.over("gw-1").await;
    world.until("the revert", |world| world.calls("revert") == 1).await;
    assert!(world.waiting().is_empty());
    world.installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_two_people_are_two_and_a_denial_holds_the_incident() {
    let world = World::start("approval-two", "{for: [failover], people: 2}").await;
    world.report("gw-1", "FAILED").await;
    let asked = world.asked().await;
    let id = asked["id"].as_str().unwrap();
    assert_eq!(world.say("approve", id, "ada"), None);
    world.refused("approve", id, "ada", "nobody counts twice");
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 0, "one is not two");
    assert_eq!(world.asked().await["standing"], "waits for 1 more");
    assert_eq!(world.say("approve", id, "bob"), None);
    world.until("the call", |world| world.calls("remediate") == 1).await;

    world.report("gw-2", "FAILED").await;
    let asked = world.asked().await;
    let id = asked["id"].as_str().unwrap();
    world.doctor("(gw-2)\n     → `holdline approvals`");
    assert_eq!(world.say("approve", id, "ada"), None);
    // Taken back before it had come to anything.
    assert_eq!(world.say("deny", id, "ada"), None);
    world.refused("approve", id, "bob", "denied already");
    clock::sleep(SETTLED).await;
    let explained = world.explained(&asked["incidentId"]);
    assert!(explained.contains("waits for a person: ") || explained.contains("denied by ada"), "{explained}");
    world.doctor("(gw-2): ");
    assert_eq!(world.calls("remediate"), 1);
    // What was not done is not undone.
    world.over("gw-2").await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("revert"), 0);
    world.installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_a_soft_block_is_sent_unless_somebody_objects_and_what_is_over_is_not_sent() {
    let world =
        World::start("approval-soft", "{for: [failover, revert], unless_denied: 4s, expires: 5m}").await;
    world.report("gw-1", "FAILED").await;
    let id = world.asked().await["id"].as_str().unwrap().to_string();
    assert_eq!(world.calls("remediate"), 0, "not yet");
    // The trouble of another ends while its time runs: nothing is left to be sent.
    world.report("gw-2", "FAILED").await;
    world.until("both are asked for", |world| world.waiting().len() == 2).await;
    let over = world.waiting().into_iter().find(|asked| asked["id"] != id.as_str()).unwrap();
    world.over("gw-2").await;
    world.until("nobody has objected", |world| world.calls("remediate") == 1).await;
    world.refused("approve", over["id"].as_str().unwrap(), "ada", "no longer waits");
    // Its undoing is covered as well, and somebody objects.
    world.over("gw-1").await;
    let asked = world.asked().await;
    assert_eq!(asked["direction"], "revert");
    assert_eq!(world.say("deny", asked["id"].as_str().unwrap(), "bob"), None);
    clock::sleep(Duration::from_secs(6)).await;
    assert_eq!((world.calls("remediate"), world.calls("revert")), (1, 0));
    let explained = world.explained(&asked["incidentId"]);
    assert!(explained.contains("Nobody has objected"), "{explained}");
    assert!(explained.contains("denied by bob"), "{explained}");
    world.installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_what_has_expired_is_asked_anew_and_the_old_word_is_void() {
    let world = World::start("approval-expired", "{for: [failover], expires: 3s}").await;
    world.report("gw-1", "FAILED").await;
    let first = world.asked().await;
    let first = first["id"].as_str().unwrap();
    world.until("asked anew", |world| world.waiting().iter().any(|asked| asked["id"] != first)).await;
    world.refused("approve", first, "ada", "expired");
    assert_eq!(world.calls("remediate"), 0);
    world.over("gw-1").await;
    world.until("nothing waits", |world| world.waiting().is_empty()).await;
    clock::sleep(SETTLED).await;
    assert_eq!((world.calls("remediate"), world.calls("revert")), (0, 0));
    world.installation.conserved();
}

/// Whoever may write on the operator's subjects and has no token gets nothing sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_a_forged_word_and_a_changed_request_allow_nothing() {
    let world = World::start("approval-forged", "{for: [failover], expires: 10m}").await;
    let topology = Topology::default();
    world.report("gw-1", "FAILED").await;
    let id = world.asked().await["id"].as_str().unwrap().to_string();
    let asked = world.entry(&id).await;
    // A word with a signature that is not ada's.
    let ruling = world.word("ada", "mallory", &asked, clock::wall_ms());
    world.write(&Asked { rulings: vec![ruling.clone()], ..asked.clone() }).await;
    world.tell(&asked).await;
    let recorded = |because: &'static str| {
        let id = id.clone();
        move |world: &World| world.has_recorded("executor", &id, because)
    };
    world.until("it is in the trail", recorded("the signature is not this person's")).await;
    assert_eq!(world.calls("remediate"), 0);
    // A request that is not the one that would leave, with ada's word on it.
    world
        .until("it waits again", |world| world.waiting().iter().any(|asked| asked["id"] == id.as_str()))
        .await;
    let mut changed = Asked { request: "0".repeat(64), rulings: vec![], ..asked.clone() };
    changed.rulings.push(world.word("ada", "ada", &changed, clock::wall_ms()));
    world.write(&changed).await;
    world.tell(&asked).await;
    world.until("it is in the trail", recorded("is for another request")).await;
    world.until("asked anew", |world| world.waiting().iter().any(|asked| asked["id"] != id.as_str())).await;
    world.refused("approve", &id, "bob", "changed since");
    // Nor does a command that no decision has made: of an action that the playbook's lane has not (A2).
    let view: View = wire::decode(&world.stored(Bucket::Incidents, &asked.incident).await.payload).unwrap();
    let made_up = |lane, direction, step| Command {
        incident: asked.incident.clone(),
        partition: asked.partition,
        key: TrackKey { lane, ..asked.key.clone() },
        group: None,
        playbooks: view.playbooks.clone(),
        direction,
        step,
        action: "remediate".into(),
        undo: None,
        decision: view.decision,
        decided_ms: clock::wall_ms(),
        course: Course::default(),
        deadline_ms: clock::wall_ms() + 60_000,
        depth: 0,
        values: ["event.id", "data.gatewayId", "data.status"].map(|path| (path.into(), json!("x"))).into(),
        replays: 0,
        approval: None,
    };
    for (lane, direction, step) in
        [(Lane::Scaling, Direction::Remediate, 7), (Lane::Failover, Direction::Revert, 8)]
    {
        let command = made_up(lane, direction, step);
        let subject = topology.command(asked.partition, &asked.incident);
        world.installation.publish("debouncer", &subject, &wire::encode(&command)).await;
        let because = format!("remediate is no {direction} of {lane}");
        let parked = |world: &World| {
            let letters = world.installation.holdline(&["dlq", "list", "--output", "json"]);
            let letters: Vec<Value> = serde_json::from_slice(&letters.stdout).unwrap();
            letters.iter().any(|letter| letter["stage"] == "executor" && letter["reason"] == because.as_str())
        };
        world.until(&because, parked).await;
    }
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 0);
    world.installation.conserved();
}

/// When a soft block is sent, when a word is void, and what people are shown: only an executor can have written it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_what_people_are_asked_is_the_executors_to_say() {
    type Forge = fn(&World, Asked) -> Asked;
    const SEALED: &str = "it is not as the executor has asked it";
    let world = World::start("approval-sealed", "{for: [failover], expires: 10m, unless_denied: 5m}").await;
    let cases: [(&str, Forge, &str); 7] = [
        ("gw-at-once", |_, asked| Asked { sends_ms: Some(1), ..asked }, SEALED),
        ("gw-for-ever", |_, asked| Asked { expires_ms: i64::MAX, ..asked }, SEALED),
        ("gw-early", |_, asked| Asked { asked_ms: 1, ..asked }, SEALED),
        (
            "gw-unsealed",
            |world, asked| {
                let rulings = vec![world.word("ada", "ada", &asked, clock::wall_ms())];
                Asked { seal: vec![], rulings, ..asked }
            },
            SEALED,
        ),
        (
            "gw-own-seal",
            |world, asked| {
                let asked = Asked { sends_ms: Some(1), ..asked };
                let seal = Token::read(&world.tokens.join("mallory")).unwrap().sign(&asked.sealed()).unwrap();
                Asked { seal, ..asked }
            },
            SEALED,
        ),
        // Ada has signed something else than what she was shown.
        (
            "gw-shown",
            |world, asked| {
                let shown = Asked { shown: "POST https://harmless.example.com/".into(), ..asked.clone() };
                Asked { rulings: vec![world.word("ada", "ada", &shown, clock::wall_ms())], ..asked }
            },
            "the signature is not this person's",
        ),
        ("gw-told", |_, asked| asked, "1 more must approve"),
    ];
    for (entity, ..) in &cases {
        world.report(entity, "FAILED").await;
    }
    let mut earlier = vec![];
    for (entity, forge, because) in cases {
        let [shown] = world.asked_for([entity]).await;
        let id = shown["id"].as_str().unwrap();
        let asked = world.entry(id).await;
        world.write(&forge(&world, asked.clone())).await;
        world.tell(&asked).await;
        world.until(entity, |world| world.has_recorded("executor", id, because)).await;
        // It waits again; under an id of its own where it was asked anew.
        let waits = |world: &World| {
            let waiting = world.waiting();
            let found = waiting.iter().find(|asked| asked["entityId"] == entity);
            found.is_some_and(|again| (again["id"] != shown["id"]) == (because == SEALED))
        };
        world.until(entity, waits).await;
        if because == SEALED {
            earlier.push(asked);
        }
    }
    // What was asked and allowed earlier, under the id of what is asked now.
    let first = earlier.swap_remove(0);
    let [now] = world.asked_for(["gw-at-once"]).await;
    let id = now["id"].as_str().unwrap();
    let asked = world.entry(id).await;
    let copy = Asked { rulings: vec![world.word("ada", "ada", &first, clock::wall_ms())], ..first };
    let entry = Topology::default().entry(Bucket::Approvals, id);
    world.installation.publish("operator", &entry, &wire::encode(&copy)).await;
    world.tell(&asked).await;
    let anew = |world: &World| {
        let waiting = world.waiting();
        waiting.iter().any(|asked| asked["entityId"] == "gw-at-once" && asked["id"] != id)
    };
    world.until("asked anew", anew).await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 0);
    world.installation.conserved();
}

/// A denial is recorded and counts as long as the call has not left: when people had allowed it before, and when it takes
/// nobody any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_what_was_allowed_is_taken_back_until_its_call_has_left() {
    let mut world = World::start("approval-late", "{for: [failover], when: outside business_hours}").await;
    let publics = BTreeMap::from([world.public("ada"), world.public("bob")]);
    let open = playbooks(&world.target, &publics, "{for: [failover], when: inside business_hours}", false);
    for (entity, opens) in [("gw-1", false), ("gw-2", true)] {
        world.report(entity, "FAILED").await;
        let [asked] = world.asked_for([entity]).await;
        let id = asked["id"].as_str().unwrap();
        world.does(&["pause", "--reason", "works", "--for", "10m"]);
        assert_eq!(world.say("approve", id, "ada"), None);
        let waits = format!("for {entity} waits: everything is paused");
        world.until("it waits", |world| world.installation.log_of("executor", 0).contains(&waits)).await;
        world.refused("approve", id, "bob", "no longer waits");
        assert_eq!(world.say("deny", id, "bob"), None);
        if opens {
            world.push(&open).await;
        }
        world.does(&["resume"]);
        let denied = |world: &World| {
            let told = world.explained(&asked["incidentId"]);
            told.contains("denied by bob: seen on the line")
        };
        world.until("it is denied", denied).await;
    }
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 0);
    assert_eq!(world.acts(["approved", "denied", "revoked", "approval_used"]), [2, 0, 2, 0]);
    world.installation.conserved();
}

/// Whoever has asked and died before saying so may have been answered: a denial stands, and nobody is asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_what_was_denied_before_the_incident_heard_of_it_is_not_asked_again() {
    let world = World::start("approval-answered", "{for: [failover]}").await;
    world.does(&["pause", "--reason", "works", "--for", "10m"]);
    world.report("gw-1", "FAILED").await;
    let waits = "for gw-1 waits: everything is paused";
    world.until("it waits", |world| world.installation.log_of("executor", 0).contains(waits)).await;
    // What the executor would ask, and what somebody has said of it.
    let topology = Topology::default();
    let broker = async_nats::jetstream::new(world.installation.client("operator").await);
    let commands = broker.get_stream(topology.stream(Stream::Commands)).await.unwrap();
    let queued = commands.get_last_raw_message_by_subject(&topology.command(0, "*").replace('0', "*")).await;
    let command: Command = wire::decode(&queued.unwrap().payload).unwrap();
    let bundle = world.stored(Bucket::Playbooks, &Bundle::key(&command.playbooks)).await;
    let set = playbook::compile(&wire::decode(&bundle.payload).unwrap()).unwrap();
    let shown = execute::shown(&set.actions[&command.action], &command).unwrap();
    let terms = set.playbooks[&command.key.playbook].approval.as_ref().unwrap().terms;
    let asked = approval::ask(&command, &terms, shown, clock::wall_ms());
    let seal = Token::read(&world.installation.seed("executor")).unwrap().sign(&asked.sealed()).unwrap();
    let said = Ruling { verdict: Verdict::Deny, ..world.word("ada", "ada", &asked, asked.asked_ms) };
    let signature = Token::read(&world.tokens.join("ada")).unwrap().sign(&said.signed(&asked)).unwrap();
    world.write(&Asked { seal, rulings: vec![Ruling { signature, ..said }], ..asked }).await;
    world.does(&["resume"]);
    let incident = json!(command.incident);
    world
        .until("it is denied", |world| world.explained(&incident).contains("denied by ada: seen on the line"))
        .await;
    clock::sleep(SETTLED).await;
    assert_eq!((world.calls("remediate"), world.waiting().len()), (0, 0));
    assert_eq!(world.acts(["approval_asked", "approval_used"]), [0, 0]);
    world.installation.conserved();
}

/// However often a call is tried, people's word is used once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_one_use_is_one_entry_of_the_trail() {
    let world = World::start("approval-once", "{for: [failover]}").await;
    world.target.fail(2, 429);
    world.report("gw-1", "FAILED").await;
    let asked = world.asked().await;
    assert_eq!(world.say("approve", asked["id"].as_str().unwrap(), "ada"), None);
    world.until("it is carried out", |world| world.calls("remediate") == 3).await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 3);
    assert_eq!(
        world.acts(["approval_asked", "approved", "approval_used", "approval_refused"]),
        [1, 1, 1, 0],
        "{:#?}",
        world.trail()
    );
    world.installation.conserved();
}

/// A set that asks people is in force at once, for what waits for its turn as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_people_are_asked_for_what_still_waits_for_its_turn() {
    const COMMANDS: usize = 20;
    let mut world = World::start("approval-turn", "{for: [revert]}").await;
    let publics = BTreeMap::from([world.public("ada"), world.public("bob")]);
    let slow = |world: &World, approval: &str| {
        let set = playbooks(&world.target, &publics, approval, false);
        let settings = set.join("holdline.yaml");
        let text = std::fs::read_to_string(&settings).unwrap();
        std::fs::write(&settings, text.replace("calls_per_second: 5000", "calls_per_second: 1")).unwrap();
        set
    };
    let (before, after) = (slow(&world, "{for: [revert]}"), slow(&world, "{for: [revert, failover]}"));
    world.push(&before).await;
    for n in 0..COMMANDS {
        world.report(&format!("gw-{n}"), "FAILED").await;
    }
    world.until("the first call", |world| world.calls("remediate") > 0).await;
    world.push(&after).await;
    let left = world.calls("remediate");
    world
        .until("the rest is asked for", |world| world.waiting().len() + world.calls("remediate") == COMMANDS)
        .await;
    // Longer than anything waits for a turn at once.
    clock::sleep(Duration::from_secs(5)).await;
    let calls = world.calls("remediate");
    eprintln!("{left} of {COMMANDS} had left, {} after it", calls - left);
    // The one that was about to leave.
    assert!(calls <= left + 1 && left + 1 < COMMANDS, "{left} had left, and then {calls}");
    world.installation.conserved();
}

/// Whoever was cut off between his word and the incident need not say it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_a_word_that_was_not_told_is_told_by_whoever_looks() {
    let world = World::start("approval-untold", "{for: [failover]}").await;
    world.report("gw-1", "FAILED").await;
    let shown = world.asked().await;
    let asked = world.entry(shown["id"].as_str().unwrap()).await;
    let ruling = world.word("ada", "ada", &asked, clock::wall_ms());
    world.write(&Asked { rulings: vec![ruling], ..asked }).await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 0, "nobody has told the incident");
    world.waiting();
    world.until("the call", |world| world.calls("remediate") == 1).await;
    world.waiting();
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 1);
    world.installation.conserved();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_where_people_may_operate_only_their_tokens_do() {
    let mut world = World::start("approval-operate", "{for: [failover]}").await;
    let publics = BTreeMap::from([world.public("ada"), world.public("operator")]);
    let set = playbooks(&world.target, &publics, "{for: [failover]}", false);
    world.installation.push(&set);
    world.installation.publish("gateway", "hl.event.0", b"no frame").await;
    let parked = |world: &World| {
        let listed = world.installation.holdline(&["dlq", "list", "--output", "json"]);
        serde_json::from_slice::<Vec<Value>>(&listed.stdout).is_ok_and(|letters| !letters.is_empty())
    };
    world.until("a letter", parked).await;
    let set = set.to_str().unwrap();
    let commands: [(&str, &[&str]); 5] = [
        ("pause", &["pause", "--reason", "works", "--for", "1h"]),
        ("resume", &["resume"]),
        ("push", &["push", set]),
        ("dead_letter_replay", &["dlq", "replay", "--all"]),
        ("dead_letter_discard", &["dlq", "discard", "--all", "--reason", "works"]),
    ];
    let says = |arguments: &[&str], token: Option<&str>| {
        let token = token.map(|name| world.tokens.join(name).to_str().unwrap().to_string());
        let mut said = [arguments, &["--by", "eve", "--output", "json"]].concat();
        said.extend(token.iter().flat_map(|token| ["--token", token.as_str()]));
        let output = world.installation.holdline(&said);
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&told).into_owned())
    };
    let refusals = |act: &str| -> Vec<(String, String)> {
        let trail = world.trail();
        let of = trail.iter().filter(|entry| entry["act"] == "operation_refused" && entry["about"] == act);
        of.map(|entry| (entry["by"].as_str().unwrap().into(), entry["why"].as_str().unwrap().into()))
            .collect()
    };
    let stranger = world.public("mallory").1;
    for (act, arguments) in &commands {
        let mut expected = 0;
        for (token, by, part) in [
            (None, "eve", "--token"),
            (Some("nothing"), "eve", "cannot be read"),
            (Some("mallory"), stranger.as_str(), "may not operate"),
            (Some("ada"), "ada", "may not operate"),
        ] {
            let (code, told) = says(arguments, token);
            assert!(code == Some(1) && told.contains(part), "{arguments:?} with {token:?}: {told}");
            let refused = refusals(act);
            expected += 1;
            assert_eq!(refused.len(), expected, "{act} with {token:?}: {refused:?}");
            let is_told = |refused: &(String, String)| refused.0 == by && refused.1.contains(part);
            assert!(refused.iter().any(is_told), "{act} with {token:?}: {refused:?}");
        }
    }
    let acts = ["pause", "resume", "dead_letter_replay", "dead_letter_discard"];
    assert_eq!(world.acts(acts), [0; 4], "nothing was done");
    for (act, arguments) in &commands {
        let (_, told) = says(arguments, Some("operator"));
        let by: Vec<Value> = world.trail().into_iter().filter(|entry| entry["act"] == *act).collect();
        assert!(by.iter().any(|entry| entry["by"] == "operator"), "{act}: {told} {by:#?}");
    }
    // Of a push it is said to programs as well; first who may, then what is wrong with the set: nobody is left to approve.
    let few = BTreeMap::from([world.public("ada"), world.public("old"), world.public("operator")]);
    let few = playbooks(&world.target, &few, "{for: [failover], people: 2}", false);
    for (token, part) in [(None, "--token"), (Some("operator"), "the tokens of all but 1 have expired")] {
        let token = token.map(|name| world.tokens.join(name).to_str().unwrap().to_string());
        let mut said = vec!["push", few.to_str().unwrap(), "--output", "json"];
        said.extend(token.iter().flat_map(|token| ["--token", token.as_str()]));
        let output = world.installation.holdline(&said);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(told["refused"].as_str().unwrap().contains(part), "{told}");
        assert_eq!((output.status.code(), &told["pushed"]), (Some(1), &json!(false)), "{told}");
    }
    // It is the leader that says who may: here no replica says anything.
    let broker = async_nats::jetstream::new(world.installation.client("provisioner").await);
    let name = Topology::default().bucket_stream(Bucket::Playbooks);
    let mut config = broker.get_stream(&name).await.unwrap().cached_info().config.clone();
    config.allow_direct = false;
    broker.update_stream(&config).await.unwrap();
    for (_, arguments) in &commands {
        let (code, told) = says(arguments, None);
        assert!(code == Some(1) && told.contains("--token"), "{arguments:?}: {told}");
    }
    // Where the broker does not say who may, nobody does.
    broker.delete_stream(&name).await.unwrap();
    for (act, arguments) in &commands {
        let before = world.acts([*act]);
        let (code, told) = says(arguments, None);
        assert!(code != Some(0) && world.acts([*act]) == before, "{act}: {told}");
    }
    world.does(&["provision"]);
    world.does(&["push", set]);
    // A set that cannot be used names nobody, or no better one could be pushed.
    let current = Topology::default().entry(Bucket::Playbooks, CURRENT);
    world.installation.publish("operator", &current, b"spoilt").await;
    let (code, told) = says(&["push", set], None);
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = says(&["resume"], None);
    assert!(code == Some(1) && told.contains("--token"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e7_people_are_asked_when_the_window_says_so_and_always_where_the_action_does() {
    let mut world = World::start("approval-hours", "{for: [failover], when: outside business_hours}").await;
    let publics = BTreeMap::from([world.public("ada")]);
    world.report("gw-1", "FAILED").await;
    world.asked().await;
    // When people are asked, whether it is within the window now, and whether they are.
    for (entity, when, inside, asked) in
        [("gw-2", "inside", false, false), ("gw-3", "outside", true, false), ("gw-4", "inside", true, true)]
    {
        let approval = format!("{{for: [failover], when: {when} business_hours}}");
        let set = playbooks(&world.target, &publics, &approval, inside);
        world.push(&set).await;
        world.report(entity, "FAILED").await;
        let path = format!("/act/remediate/{entity}");
        let is_asked = |world: &World| world.waiting().iter().any(|asked| asked["entityId"] == entity);
        let is_called = |world: &World| world.target.calls().iter().any(|call| call.path == path);
        world.until("either of them", |world| is_called(world) || is_asked(world)).await;
        assert_eq!((is_asked(&world), is_called(&world)), (asked, !asked), "{entity}: {when}, {inside}");
    }
    // An action that needs people by itself, in a playbook that says nothing of it.
    let set = playbooks(&world.target, &publics, "", false);
    world.push(&set).await;
    world.report("gw-5", "FAILED").await;
    let [asked] = world.asked_for(["gw-5"]).await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 2, "it is held");
    world.allowed(&asked, "ada").await;
    clock::sleep(SETTLED).await;
    assert_eq!(world.calls("remediate"), 3, "once");
    assert_eq!(
        world.acts(["approval_asked", "approved", "approval_used"]),
        [3, 1, 1],
        "{:#?}",
        world.trail()
    );
    world.installation.conserved();
}

/// Sets that a stage has heard of.
fn sets(installation: &Installation, stage: &str) -> usize {
    installation.log_of(stage, 0).matches("is in force").count()
}
