//! Sets of playbooks as people write them: the samples load unchanged, and what is wrong is pointed at.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;

use holdline_decide::approval;
use holdline_decide::playbook::{self, Auth, Finding, SecretRef, Set, Severity};
use holdline_proto::playbooks::Bundle;

fn sample(name: &str) -> Bundle {
    fn visit(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(root, &path, files);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
                files.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/samples/playbooks").join(name);
    let mut bundle = Bundle::default();
    visit(&root, &root, &mut bundle.files);
    bundle
}

fn load(bundle: &Bundle) -> (Set, Vec<Finding>) {
    let (set, findings) = playbook::load(bundle);
    (
        set.unwrap_or_else(|| panic!("{}", findings.iter().map(|f| f.to_string()).collect::<String>())),
        findings,
    )
}

#[test]
fn the_guides_own_files_load_unchanged() {
    let (set, findings) = load(&sample("guide"));
    let codes: Vec<&str> = findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["filter-hides-health", "literal-secret"]);
    assert!(
        findings.iter().all(|finding| !finding.to_string().contains("aGVsbG8gd29ybGQ")),
        "a secret is shown"
    );
    let subscription = &set.subscriptions["IncidentResponse_TelephonyService"];
    assert_eq!(subscription.auth, Auth::Basic);
    assert_eq!(subscription.callback_path.as_deref(), Some("/genesys-webhook"));
    assert_eq!(subscription.partition_key.as_ref().unwrap().to_string(), "data.gatewayId");
    let rules = set.playbooks["voice-gateway-failover"].failover.as_ref().unwrap();
    assert_eq!((rules.threshold, rules.stable_for_ms), (5, 20_000));
    assert_eq!((rules.revert.healthy, rules.revert.stable_for_ms, rules.revert.silence_ms), (2, 0, 900_000));
    let paths: Vec<String> =
        set.playbooks["voice-gateway-failover"].paths.iter().map(|p| p.to_string()).collect();
    assert_eq!(paths, ["data.gatewayId", "event.id"]);
}

#[test]
fn the_loop_loads_unchanged() {
    let (set, findings) = load(&sample("loop"));
    assert_eq!(findings, []);
    assert_eq!(set.target("127.0.0.1", 44_001).unwrap().calls_per_second, Some(5_000));
    assert_eq!(set.target("127.0.0.1", 44_002), None);
    assert_eq!(set.subscriptions["telephony"].secrets, [SecretRef::Env("HOLDLINE_TELEPHONY_SECRET".into())]);
    assert_eq!(set.playbooks["loop"].failover.as_ref().unwrap().threshold, 3);
}

#[test]
fn g7_a_secret_written_in_place_never_reaches_a_stored_bundle() {
    let mut bundle = sample("guide");
    let literals = playbook::replace_literals(&mut bundle);
    let name = "HOLDLINE_SECRET_INCIDENTRESPONSE_TELEPHONYSERVICE";
    assert_eq!(literals, BTreeMap::from([(name.to_string(), "aGVsbG8gd29ybGQ=".to_string())]));
    assert!(bundle.files.values().all(|text| !text.contains("aGVsbG8gd29ybGQ")));
    let (set, _) = load(&bundle);
    let subscription = &set.subscriptions["IncidentResponse_TelephonyService"];
    assert_eq!(subscription.secrets, [SecretRef::Env(name.into())]);
    assert!(subscription.filter.is_some());
}

/// The loop's subscription as a channel of the gateway's own, with this in the place of its proof.
fn pulled(topic: &str, fields: &str, settings: &str) -> Vec<String> {
    let mut bundle = sample("loop");
    let text =
        format!(r#"{{"name": "telephony", "topicName": "{topic}", "source": "notification", {fields}}}"#);
    bundle.files.insert("subscriptions/telephony.json".into(), text);
    bundle.files.get_mut("holdline.yaml").unwrap().push_str(settings);
    let (set, findings) = playbook::load(&bundle);
    let errors = findings.iter().any(|finding| finding.severity == Severity::Error);
    assert_eq!(set.is_none(), errors, "{findings:?}");
    findings.iter().map(|f| format!("{} {}", f.message, f.help.clone().unwrap_or_default())).collect()
}

#[test]
fn g9_a_channel_of_the_gateways_own() {
    let trunks = "v2.telephony.providers.edges.trunks.{id}";
    let platform = "platform:\n  region: mypurecloud.ie\n  clients:\n    telephony:\n      id: env:ID\n      secret: env:S\n";
    let check = |topic: &str, fields: &str, settings: &str, expected: &[&str]| {
        let found = pulled(topic, fields, settings);
        let all = expected.iter().zip(&found).all(|(part, text)| text.contains(part));
        assert!(all && found.len() == expected.len(), "{topic} {fields}: {found:#?}");
    };
    let bare = r#""client": "telephony""#;
    let client = r#""client": "telephony", "poll": {"every": "60s"}"#;
    let with = |more: &str| format!("{client}, {more}");
    check(trunks, client, platform, &[]);
    check("v2.telephony.providers.edges.{id}", client, platform, &[]);
    check(trunks, bare, platform, &["told twice"]);
    check(trunks, &with(r#""entities": ["a-1", "b"]"#), platform, &[]);
    check(trunks, &with(r#""reports": "repeats""#), platform, &[]);
    check(trunks, client, "", &["the platform, and there is none"]);
    check(trunks, r#""client": "other", "poll": {}"#, platform, &["no client other"]);
    check(trunks, &with(r#""authType": "HMAC""#), platform, &["posted by nobody"]);
    check(
        trunks,
        &with(r#""callbackUrl": "https://example.com/x""#),
        platform,
        &["`callbackUrl` and `client`"],
    );
    check(trunks, r#""client": "telephony", "poll": {"url": "https://example.com"}"#, platform, &["url"]);
    check(trunks, r#""client": "telephony", "poll": {"every": "10ms"}"#, platform, &["expected 1s to 1h"]);
    check(
        trunks,
        r#""client": "telephony", "reports": "repeats""#,
        platform,
        &["told twice", "repeats nothing"],
    );
    check(trunks, &with(r#""entities": ["a.b"]"#), platform, &["no id of an edge or a trunk"]);
    check("v2.analytics.queues.{id}.observations", client, platform, &["no list of states"]);
    check(trunks, r#""authType": "NONE""#, platform, &[]);
}

#[test]
fn g9_a_client_has_twenty_channels() {
    let check = |subscriptions: usize, entities: usize, expected: &[&str]| {
        let mut bundle = sample("loop");
        let platform =
            "platform: {region: mypurecloud.ie, clients: {telephony: {id: env:ID, secret: env:S}}}\n";
        bundle.files.get_mut("holdline.yaml").unwrap().push_str(platform);
        for number in 0..subscriptions {
            let entities: Vec<String> = (0..entities).map(|n| format!("\"e{n}\"")).collect();
            let text = format!(
                r#"{{"name": "s{number:02}", "topicName": "v2.telephony.providers.edges.{{id}}", "source": "notification",
                "client": "telephony", "poll": {{"every": "60s"}}, "entities": [{}]}}"#,
                entities.join(",")
            );
            bundle.files.insert(format!("subscriptions/s{number:02}.json"), text);
        }
        let (_, findings) = playbook::load(&bundle);
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
        let told: Vec<&str> = errors.map(|finding| finding.message.as_str()).collect();
        let all = expected.iter().zip(&told).all(|(part, text)| text.contains(part));
        assert!(all && told.len() == expected.len(), "{subscriptions} {entities}: {told:#?}");
    };
    check(20, 0, &[]);
    check(21, 0, &["subscription s20 the client telephony listens on 21 channels"]);
    check(10, 2_000, &[]);
    check(10, 2_001, &["s06", "s07", "s08", "s09"]);
}

/// Changes one file of the loop and expects these findings (severity, line, part of the message), no more.
fn check(file: &str, from: &str, to: &str, expected: &[(Severity, usize, &str)]) {
    let mut bundle = sample("loop");
    let text = bundle.files.get_mut(file).unwrap();
    assert!(text.contains(from), "{file} has no {from:?}");
    *text = text.replacen(from, to, 1);
    let (set, findings) = playbook::load(&bundle);
    let found: Vec<_> = findings.iter().map(|f| (f.severity, f.line, f.message.as_str())).collect();
    assert_eq!(found.len(), expected.len(), "{from:?} → {to:?}: {found:#?}");
    for (finding, (severity, line, message)) in findings.iter().zip(expected) {
        let text = format!("{} {}", finding.message, finding.help.clone().unwrap_or_default());
        assert!(
            finding.severity == *severity && finding.line == *line && text.contains(message),
            "{from:?} → {to:?}: expected {severity:?} at line {line} with {message:?}\n{finding:?}"
        );
    }
    assert_eq!(set.is_none(), expected.iter().any(|(severity, ..)| *severity == Severity::Error));
}

/// The loop with a native remedy: its fields, `revert.do`, and settings; parts of every message that comes.
fn check_native(action: &str, revert: &str, settings: &str, expected: &[&str]) {
    let mut bundle = sample("loop");
    let remedy = format!(r#"{{"name": "remediate", "actionType": "GENESYS", {action}}}"#);
    bundle.files.insert("actions/remediate.json".into(), remedy);
    bundle.files.get_mut("holdline.yaml").unwrap().push_str(settings);
    let playbook = bundle.files.get_mut("loop.playbook.yaml").unwrap();
    *playbook = playbook.replace("do: [revert]", &format!("do: {revert}"));
    let (set, findings) = playbook::load(&bundle);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let told: Vec<String> =
        errors.map(|f| format!("{} {}", f.message, f.help.clone().unwrap_or_default())).collect();
    assert_eq!(told.len(), expected.len(), "{action}: {told:#?}");
    for part in expected {
        assert!(told.iter().any(|told| told.contains(part)), "{action}: {part:?} is not in {told:#?}");
    }
    assert_eq!(set.is_none(), !expected.is_empty());
}

#[test]
fn native_actions_are_checked_before_they_run() {
    let one = "platform: {region: mypurecloud.ie, clients: {a: {id: env:A, secret: env:B}}}\n";
    let two = "platform:\n  region: mypurecloud.ie\n  clients:\n    a: {id: env:A, secret: env:B}\n    b: {id: \
               env:A, secret: env:B}\n";
    let set = r#""kind": "emergency_group.set", "parameters": {"group": "{{data.gatewayId}}"}"#;
    check_native(set, "undo", one, &[]);
    check_native(set, "[revert]", one, &[]);
    check_native(set, "undo", "", &["and there is none"]);
    check_native(set, "undo", two, &["`client` must say which"]);
    check_native(&format!(r#"{set}, "client": "c""#), "undo", two, &["no client c"]);
    check_native(&format!(r#"{set}, "client": "b""#), "undo", two, &[]);
    let literal = "platform: {region: mypurecloud.ie, clients: {a: {id: env:A, secret: geheim}}}\n";
    check_native(set, "undo", literal, &["written in place", "there is no client"]);
    let kind = |kind: &str, parameters: &str| format!(r#""kind": "{kind}", "parameters": {parameters}"#);
    check_native(&kind("emergency_group.sett", r#"{"group": "g"}"#), "undo", one, &["emergency_group.set`?"]);
    check_native(&kind("emergency_group.set", r#"{"grupp": "g"}"#), "undo", one, &["lacks `group`"]);
    check_native(&kind("edge.reboot", r#"{"edge": "e"}"#), "undo", one, &["cannot undo remediate"]);
    check_native(&kind("edge.reboot", r#"{"edge": "e"}"#), "[revert]", one, &[]);
}

/// Which playbook sees a group shows in its events alone.
#[test]
fn a_share_of_nothing_is_told_of_groups_of_which_no_playbook_allows_anything() {
    let check = |shares: &[u32], expected: &[&str]| {
        let mut bundle = sample("loop");
        bundle.files.get_mut("holdline.yaml").unwrap().push_str("groups: {lisbon: 10, porto: 3}\n");
        let playbook = bundle.files.remove("loop.playbook.yaml").unwrap();
        let playbook =
            playbook.replace("  entity: data.gatewayId\n", "  entity: data.gatewayId\n  group: data.site\n");
        for (n, share) in shares.iter().enumerate() {
            let named = playbook.replace("playbook: loop", &format!("playbook: p{n}"));
            let guard = format!("guard: {{blast_radius: {{of: group, share: {share}%, within: 1h}}}}\n");
            bundle.files.insert(format!("p{n}.playbook.yaml"), named + &guard);
        }
        let (set, findings) = playbook::load(&bundle);
        assert!(set.is_some(), "{findings:#?}");
        let held: Vec<&str> =
            findings.iter().filter_map(|finding| Some(finding.message.split_once("is held: ")?.1)).collect();
        assert_eq!(held, expected, "{shares:?}");
    };
    check(&[50], &[]);
    check(&[30], &["porto (3)"]);
    check(&[30, 50], &[]);
    check(&[5, 30], &["porto (3)", "porto (3)"]);
    check(&[5, 5], &["lisbon (10), porto (3)", "lisbon (10), porto (3)"]);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    use Severity::{Error, Warning};
    let p = "loop.playbook.yaml";
    let refuse = |file, from, to, line, message| check(file, from, to, &[(Error, line, message)]);
    refuse(p, "stable_for", "stable_fro", 11, "did you mean `stable_for`?");
    refuse(p, "failures: 3", "failures: three", 10, "expected a whole number, found text");
    refuse(p, "failures: 3", "failures: 0", 10, "too few");
    refuse(p, "stable_for: 0s", "stable_for: 20", 11, "expected a duration");
    refuse(p, "stable_for: 0s", "stable_for: 25h", 11, "too long");
    refuse(p, "healthy: 2", "healthy: 1", 17, "at least 2");
    refuse(p, "class: failover", "class: scaling", 15, "class");
    refuse(p, "    class: failover\n", "", 14, "lacks `class`");
    refuse(p, "do: [remediate]", "do: [remidiate]", 14, "no action remidiate");
    refuse(p, "do: [remediate]", "do: []", 14, "does nothing");
    refuse(p, "  do: [revert]", "  healthy: 3", 20, "duplicate mapping key: healthy");
    refuse(p, "subscription: telephony", "subscription: telefony", 5, "no subscription telefony");
    refuse(p, "subscription: telephony", "topic: nothing", 5, "no subscription has the topic");
    refuse(p, "entity: data.gatewayId", "entity: gatewayId", 6, "no path");
    refuse(p, "status == 'FAILED'", "status == 'FAILED", 7, "never ends");
    refuse(p, "status == 'FAILED'", "nosuch(status)", 7, "no function");
    for planned in ["mode: canary\n", "mode: shadow\n"] {
        refuse(p, "mode: live\n", planned, 3, "not supported yet");
    }
    let guard = |text: &str, message| {
        let to = format!("guard: {text}\nplaybook: loop\n");
        check(p, "playbook: loop\n", &to, &[(Error, 1, message)]);
    };
    guard("{inhibited_by: [region]}", "not supported yet");
    guard("{at_most: {actions: 1, per: entity}}", "lacks `within`");
    guard("{at_most: {actions: 0, per: entity, within: 1h}}", "too few");
    guard("{at_most: {actions: 1001, per: entity, within: 1h}}", "at most 1000");
    guard("{at_most: {actions: 1, per: entitty, within: 1h}}", "did you mean `entity`?");
    guard("{at_most: {actions: 1, per: entity, within: 0s}}", "no time");
    guard("{at_most: {actions: 1, per: group, within: 1h}}", "needs `on.group`");
    guard("{blast_radius: {of: group, share: 50, within: 1h}}", "expected text");
    guard("{blast_radius: {of: group, share: 101%, within: 1h}}", "1% to 100%");
    guard("{blast_radius: {of: entity, share: 50%, within: 1h}}", "there is no of");
    guard("{blast_radius: {of: group, share: 50%, within: 1h}}", "needs `on.group`");
    let settings = |text: &str, message| {
        let to = format!("{text}\ntargets:");
        check("holdline.yaml", "targets:", &to, &[(Error, 2, message)]);
    };
    let window = |text: &str, message| settings(&format!("windows: {{office: {text}}}"), message);
    window("{zone: Europe/Lisboa, days: [mon], hours: 08:00-20:00}", "no time zone");
    window("{zone: Europe/Lisbon, days: [mom], hours: 08:00-20:00}", "did you mean `mon`?");
    window("{zone: Europe/Lisbon, days: [], hours: 08:00-20:00}", "names none of mon");
    window("{zone: Europe/Lisbon, days: [mon], hours: 8 to 20}", "such as `08:00-20:00`");
    window("{zone: Europe/Lisbon, days: [mon], hours: 08:00-20:00, closed: [christmas]}", "is no date");
    window("{zone: Europe/Lisbon, days: [mon]}", "lacks `hours`");
    let public = format!("U{}", "A".repeat(55));
    let person = |text: &str, message| settings(&format!("people: {{ada: {text}}}"), message);
    person("{token: SUAB, roles: [approve]}", "the public half");
    person(&format!("{{token: {public}, roles: [aprove]}}"), "did you mean `approve`?");
    person(&format!("{{token: {public}, roles: [approve], until: soon}}"), "the last day");
    let two = format!("{{token: {public}, roles: [approve]}}");
    settings(&format!("people: {{ada: {two}, bob: {two}}}"), "has the token of ada");
    guard("{approval: {for: [failover]}}", "1 must approve, and 0 may");
    refuse(p, "failures: 3", "evidence: usual", 10, "not supported yet");
    refuse(p, "do: [remediate]", "do: [remediate]\n    verify: {}", 15, "lacks `worked`");
    let listen = |text: &str, line, message| {
        let to = format!("do: [remediate]\n    verify:\n      {text}");
        check(p, "do: [remediate]", &to, &[(Error, line, message)]);
    };
    listen("worked: status == 'BACKUP'", 16, "such as `event(status == 'BACKUP')`");
    listen("worked: event(status == 'BACKUP') && get('/a').x == 1", 16, "by which it can be told");
    listen("worked: event(status == 'BACKUP') AND event(load < 5)", 16, "one `event(…)` and nothing besides");
    listen("worked: event(nosuch(status))", 16, "no function");
    listen("worked: event(status == )", 16, "`worked`");
    listen("worked: event(status == '{{data.status}}')", 16, "nothing is filled in");
    listen("client: a\n      worked: event(status == 'B')", 16, "nobody is asked");
    listen("within: 0s\n      worked: event(status == 'B')", 16, "no event is heard within no time");
    listen("wihtin: 1s\n      worked: event(status == 'B')", 16, "did you mean `within`?");
    let listening = "do: [remediate]\n    verify: {worked: event(status == 'BACKUP')}";
    check(p, "do: [remediate]", listening, &[]);
    let s = "subscriptions/telephony.json";
    refuse(s, "\"telephony.service.status\"", "\"all\"", 3, "every event of the organisation");
    refuse(s, "HMAC", "NOTHING", 5, "no authType");
    refuse(s, "HMAC", "PATH_TOKENS", 5, "did you mean `PATH_TOKEN`?");
    let field = |text: &str| format!("\"topicName\": \"telephony.service.status\", {text}");
    let topic = "\"topicName\": \"telephony.service.status\"";
    let refuse_field =
        |text: &str, message| check(s, topic, field(text).trim_end_matches(", "), &[(Error, 3, message)]);
    refuse_field(r#""source": "event-bridge""#, "did you mean `eventbridge`?");
    refuse_field(r#""source": "smoke""#, "there are guide, eventbridge");
    refuse_field(r#""source": 7"#, "expected text");
    refuse_field(r#""reports": "change""#, "did you mean `changes`?");
    refuse_field(r#""entityLabel": "trunk""#, "for the source alertmanager");
    let retry = |policy: &str| format!(r#""retryPolicy": {policy}"#);
    for (policy, message) in [
        ("5", "expected a map"),
        (r#"{"maxAttempts": -1}"#, "`maxAttempts`: expected a whole number"),
        (r#"{"maxRetries": 1.5}"#, "`maxRetries`: expected a whole number"),
        (r#"{"intervalSeconds": 0}"#, "`intervalSeconds`: expected more than 0"),
        (r#"{"backOffIntervals": [1, -2]}"#, "`backOffIntervals`: expected more than 0"),
        (r#"{"backOffIntervals": []}"#, "`backOffIntervals`: expected more than 0"),
    ] {
        refuse_field(&retry(policy), message);
    }
    let good = retry(r#"{"maxAttempts": 0, "backOffIntervals": [1, 2.5], "strategy": "EXPONENTIAL"}"#);
    check(s, topic, &field(&good), &[]);
    check(
        s,
        topic,
        &field(&format!(r#""source": "cloudevents", {good}"#)),
        &[(Warning, 3, "changes nothing here")],
    );
    refuse_field(r#""poll": {"url": "https://status.example.com"}"#, "for the source statuspage");
    let polled = |poll: &str| format!(r#""source": "statuspage", "poll": {poll}"#);
    refuse_field(&polled("{}"), "lacks `url`");
    refuse_field(&polled(r#"{"url": "http://status.example.com"}"#), "expected https");
    refuse_field(&polled(r#"{"url": "status"}"#), "no URL");
    refuse_field(&polled(r#"{"url": "https://status.example.com", "every": "2h"}"#), "expected 1s to 1h");
    refuse_field(&polled(r#"{"url": "https://status.example.com", "evry": "1m"}"#), "did you mean `every`?");
    check(s, topic, &field(&polled(r#"{"url": "http://127.0.0.1:1/summary.json"}"#)), &[]);
    refuse_field(r#""source": "statuspage""#, "Statuspage signs nothing, so its webhooks are not believed");
    check(s, topic, &field(r#""source": "alertmanager", "entityLabel": "trunk""#), &[]);
    refuse(s, "telephony.service.status", "telephony.{id}s.status", 3, "one whole part");
    refuse_field(r#""entities": ["a"]"#, "name the OAuth client that listens");
    check(s, "env:HOLDLINE_TELEPHONY_SECRET", "vault:a/b#c", &[]);
    for (reference, why) in [
        ("vault:a/b", "it names no key"),
        ("vault:a/b#", "is no key"),
        ("vault:a#b#c", "is no key"),
        ("vault:#b", "is not one below the engine's mount"),
        ("vault:/a#b", "is not one below the engine's mount"),
        ("vault:a/../b#c", "is not one below the engine's mount"),
    ] {
        refuse(s, "env:HOLDLINE_TELEPHONY_SECRET", reference, 6, why);
    }
    check(s, "env:HOLDLINE_TELEPHONY_SECRET", "hush", &[(Warning, 6, "written in place")]);
    let filter = "\"filterExpression\": \"status == 'FAILED'\", \"authType\"";
    check(s, "\"authType\"", filter, &[(Warning, 2, "keeps every healthy event away")]);
    let a = "actions/remediate.json";
    refuse(a, "\"WEBHOOK\"", "\"GENESYSS\"", 3, "there is no actionType");
    let header = |text: &str| format!("\"headers\": {{ {text}, ");
    for good in
        ["env:SBC_TOKEN", "Bearer env:SBC_TOKEN", "Basic file:/run/secrets/sbc", "vault:carrier#token"]
    {
        check(a, "\"headers\": { ", &header(&format!("\"Authorization\": \"{good}\"")), &[]);
    }
    for name in ["Authorization", "X-Api-Key", "Cookie", "X-Auth-Token"] {
        let literal = header(&format!("\"{name}\": \"Bearer abc\""));
        check(a, "\"headers\": { ", &literal, &[(Warning, 6, "written in place")]);
    }
    let malformed = header("\"Authorization\": \"Bearer vault:carrier\"");
    check(a, "\"headers\": { ", &malformed, &[(Error, 6, "it names no key")]);
    // A value of the event is nobody's secret.
    check(a, "\"headers\": { ", &header("\"X-Token\": \"{{event.id}}\""), &[]);
    let post = r#""method": "POST""#;
    check(a, post, &format!(r#"{post}, "allowOverride": true"#), &[(Error, 14, "nobody may")]);
    check(a, post, &format!(r#"{post}, "allowOverride": false"#), &[]);
    refuse(a, "127.0.0.1:44001", "example.com", 2, "plain HTTP");
    refuse(a, "http://127.0.0.1:44001", "http://{{data.host}}", 4, "host or port");
    refuse(a, "{{event.id}}", "{{event.id", 6, "never closed");
    refuse(a, "\\\"gatewayId\\\"", "gatewayId", 7, "not JSON");
    refuse("holdline.yaml", "calls_per_second: 5000", "connect_to: 10.0.0.1:80", 4, "loopback");
    refuse("holdline.yaml", "targets:", "business_hours: {}\ntargets:", 2, "windows");
}

#[test]
fn e7_who_approves_what_is_checked_before_it_runs() {
    let public = |letter: &str| format!("U{}", letter.repeat(55));
    let settings = format!(
        "people: {{ada: {{token: {}, roles: [approve]}}, eve: {{token: {}, roles: [look, operate]}}}}\nwindows: \
         {{office: {{zone: Europe/Lisbon, days: [mon], hours: 08:00-20:00}}}}\n",
        public("A"),
        public("B")
    );
    let check = |approval: &str, expected: Option<&str>| {
        let mut bundle = sample("loop");
        bundle.files.get_mut("holdline.yaml").unwrap().push_str(&settings);
        let guard = format!("guard: {{approval: {approval}}}\n");
        bundle.files.get_mut("loop.playbook.yaml").unwrap().push_str(&guard);
        let (set, findings) = playbook::load(&bundle);
        let told: Vec<String> = findings
            .iter()
            .map(|f| format!("{} {}", f.message, f.help.clone().unwrap_or_default()))
            .collect();
        match expected {
            None => assert!(set.is_some() && told.is_empty(), "{approval}: {told:?}"),
            Some(part) => assert!(told.len() == 1 && told[0].contains(part), "{approval}: {told:?}"),
        }
    };
    check("{for: [failover]}", None);
    check("{for: [failover, revert], when: outside office, expires: 5m, unless_denied: 1m}", None);
    check("{for: [failover], people: 2}", Some("2 must approve, and 1 may"));
    check("{for: [failover], people: 16}", Some("16 must approve, and 15 at most are counted"));
    check("{for: [failover], when: outside ofice}", Some("`windows` in holdline.yaml has office"));
    check("{for: [failover], when: at night}", Some("the name of a window"));
    check("{when: always}", Some("lacks `for`"));
    check("{for: [failovr]}", Some("did you mean `failover`?"));
    check("{for: []}", Some("names none of failover"));
    check("{for: [failover], expires: 1m, unless_denied: 1m}", Some("never be sent"));
    check("{for: [failover], expires: 0s}", Some("no time"));
}

/// The checks have no clock; who has one asks whether the people who are named still may.
#[test]
fn e7_a_playbook_lacks_people_once_their_tokens_have_expired() {
    const DAY_MS: i64 = 86_400_000;
    // The day after `until`, in UTC.
    let expires_ms = 20_000 * DAY_MS;
    let public = |letter: &str| format!("U{}", letter.repeat(55));
    let check = |approval: &str, overrides: bool, at_ms: i64, expected: &[(usize, usize)]| {
        let mut bundle = sample("loop");
        bundle.files.get_mut("holdline.yaml").unwrap().push_str(&format!(
            "people: {{ada: {{token: {}, roles: [approve]}}, bob: {{token: {}, roles: [approve], until: 2024-10-03}}}}\n",
            public("A"),
            public("B")
        ));
        bundle.files.get_mut("loop.playbook.yaml").unwrap().push_str(approval);
        if overrides {
            let action = bundle.files.get_mut("actions/remediate.json").unwrap();
            *action = action.replace("\"actionType\"", "\"allowOverride\": true, \"actionType\"");
        }
        let set = playbook::load(&bundle).0.unwrap();
        let found: Vec<_> = approval::lacks(&set, at_ms).iter().map(|l| (l.needed, l.there)).collect();
        assert_eq!(found, expected, "{approval} at {at_ms}");
    };
    let two = "guard: {approval: {for: [failover], people: 2}}\n";
    check(two, false, expires_ms - 1, &[]);
    check(two, false, expires_ms, &[(2, 1)]);
    check("guard: {approval: {for: [failover]}}\n", false, expires_ms, &[]);
    check("", true, expires_ms, &[]);
    check("", false, expires_ms, &[]);
}

#[test]
fn a5_a_share_of_nothing_is_told_before_it_holds_everything() {
    let check = |share: &str, groups: &str, expected: Option<&str>| {
        let mut bundle = sample("loop");
        let playbook = bundle.files.get_mut("loop.playbook.yaml").unwrap();
        *playbook =
            playbook.replace("  entity: data.gatewayId\n", "  entity: data.gatewayId\n  group: data.site\n");
        playbook.push_str(&format!("guard: {{blast_radius: {{of: group, share: {share}, within: 1h}}}}\n"));
        bundle.files.get_mut("holdline.yaml").unwrap().push_str(&format!("groups: {groups}\n"));
        let (set, findings) = playbook::load(&bundle);
        let told: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
        assert!(set.is_some() && told.len() == usize::from(expected.is_some()), "{share} {groups}: {told:?}");
        assert!(expected.is_none_or(|part| told[0].contains(part)), "{share} {groups}: {told:?}");
    };
    check("50%", "{lisbon: 2, porto: 12}", None);
    check("50%", "{lisbon: 1, porto: 12}", Some("held: lisbon (1)"));
    check("30%", "{lisbon: 3, porto: 4, faro: 2}", Some("held: faro (2), lisbon (3)"));
    check("100%", "{lisbon: 1}", None);
}

/// A set in which each playbook listens to a topic and does one action, which emits others.
fn chained(links: &[(&str, &str, &str)]) -> Vec<(Severity, String, String)> {
    let mut bundle = Bundle::default();
    let mut file = |path: String, text: String| bundle.files.insert(path, text);
    file("actions/back.json".into(), webhook("back", ""));
    for (name, topic, emits) in links {
        file(
            format!("{name}.playbook.yaml"),
            format!(
                "playbook: {name}\nmode: live\non: {{subscription: {name}, entity: data.gw, failed: status == 'FAILED', \
                 healthy: status == 'HEALTHY'}}\nact:\n  failed: {{do: [do_{name}], class: failover}}\nrevert: {{do: \
                 [back]}}\n"
            ),
        );
        let subscription = format!(
            r#"{{"name": "{name}", "topicName": "{topic}", "authType": "HMAC", "secretToken": "env:S"}}"#
        );
        file(format!("subscriptions/{name}.json"), subscription);
        file(format!("actions/do_{name}.json"), webhook(&format!("do_{name}"), emits));
    }
    let (set, findings) = playbook::load(&bundle);
    assert_eq!(set.is_none(), findings.iter().any(|finding| finding.severity == Severity::Error));
    findings.into_iter().map(|f| (f.severity, f.file, f.message)).collect()
}

fn webhook(name: &str, emits: &str) -> String {
    let emits = if emits.is_empty() { String::new() } else { format!(r#", "emits": {emits}"#) };
    format!(
        r#"{{"name": "{name}", "actionType": "WEBHOOK", "url": "https://t.example.com/", "method": "POST"{emits}}}"#
    )
}

#[test]
fn c4_a3_a_set_that_sets_itself_off_is_refused_with_the_loop() {
    let check = |links: &[(&str, &str, &str)], expected: &[(Severity, &str, &str)]| {
        let found = chained(links);
        let expected: Vec<_> = expected
            .iter()
            .map(|(severity, file, text)| (*severity, format!("actions/{file}.json"), text))
            .collect();
        let alike = found.iter().zip(&expected).all(|((severity, file, message), (wanted, of, text))| {
            severity == wanted && file == of && message.contains(*text)
        });
        assert!(found.len() == expected.len() && alike, "{links:?}: {found:#?}");
    };
    use Severity::{Error, Warning};
    check(&[("a", "t.a", ""), ("b", "t.b", "")], &[]);
    check(&[("a", "t.a", r#"["t.b"]"#), ("b", "t.b", "")], &[]);
    let one = "a loop: a does do_a, which emits t.a, which sets off a";
    check(&[("a", "t.a", r#"["t.a"]"#)], &[(Error, "do_a", one)]);
    check(&[("a", "t.{id}", r#"["x", "t.5"]"#)], &[(Error, "do_a", "emits t.5, which sets off a")]);
    let three = "a loop: a does do_a, which emits t.b, which sets off b; b does do_b, which emits t.{id}, which sets off \
                 c; c does do_c, which emits t.a, which sets off a";
    let links = [("a", "t.a", r#"["t.b"]"#), ("b", "t.b", r#"["t.{id}"]"#), ("c", "u.c", "")];
    // The template is as wide as it says.
    let wide = "a loop: a does do_a, which emits t.b, which sets off b; b does do_b, which emits t.{id}, which sets off a";
    check(&links, &[(Error, "do_a", wide), (Error, "do_b", "emits t.{id}, which sets off b")]);
    let links = [
        ("a", "t.a", r#"["t.b"]"#),
        ("b", "t.b", r#"["t.c"]"#),
        ("c", "t.c", r#"["t.a"]"#),
        ("d", "t.d", r#"["t.a"]"#),
    ];
    check(&links, &[(Error, "do_a", &three.replace("t.{id}", "t.c"))]);
    // No loop, and longer than what is acted on.
    let cut = "which sets off c; 2 actions may lead to one another, so the last one acts no more";
    check(&links[..2], &[]);
    check(&[links[0], links[1], ("c", "t.c", "")], &[(Warning, "do_a", cut)]);
    check(&[("a", "t.a", r#"["t..b"]"#)], &[(Error, "do_a", "is no topic")]);
    check(&[("a", "t.a", r#""t.b""#)], &[(Error, "do_a", "a list of topics")]);
}

#[test]
fn a2_a_warning_may_not_do_what_a_failure_does_whatever_it_calls_it() {
    let playbook = "loop.playbook.yaml";
    let expected =
        "remediate is what loop does about failures, class failover, and loop would do it about a warning";
    let from = "confirm:\n  failures: 3\n  stable_for: 0s\nact:\n";
    let to = |action: &str| {
        let lane = format!("  degraded: {{do: [{action}], class: scaling}}\n");
        format!("  degraded: status == 'DEGRADED'\n{from}{lane}")
    };
    check(playbook, from, &to("remediate"), &[(Severity::Error, 2, expected)]);
    check(playbook, from, &to("revert"), &[]);
}

#[test]
fn members_that_two_remedies_share_in_part_are_told() {
    let check = |one: &str, other: &str, revert: &str, expected: &[&str]| {
        let mut bundle = sample("loop");
        let settings = "platform: {region: mypurecloud.ie, clients: {one: {id: env:A, secret: env:B}}}\n";
        *bundle.files.get_mut("holdline.yaml").unwrap() += settings;
        for (name, members) in [("first", one), ("second", other)] {
            let action = format!(
                r#"{{"name": "{name}", "actionType": "GENESYS", "kind": "queue.members", "parameters": {{"queue": "q", "members": {members}}}}}"#
            );
            bundle.files.insert(format!("actions/{name}.json"), action);
        }
        let playbook = bundle.files.get_mut("loop.playbook.yaml").unwrap();
        *playbook =
            playbook.replace("do: [remediate]", "do: [first, second]").replace("do: [revert]", revert);
        let findings = playbook::load(&bundle).1;
        let codes: Vec<&str> =
            findings.iter().map(|finding| finding.code).filter(|code| *code != "unused").collect();
        assert_eq!(codes, expected, "{one} {other} {revert}: {findings:?}");
    };
    check(r#"["a", "b"]"#, r#"["b", "c"]"#, "do: undo", &["members-shared"]);
    check(r#"["a", "b"]"#, r#"["b", "a"]"#, "do: undo", &[]);
    check(r#"["a", "b"]"#, r#"["c"]"#, "do: undo", &[]);
    check(r#"["a", "b"]"#, r#"["b", "{{data.gatewayId}}"]"#, "do: undo", &[]);
    check(r#"["a", "b"]"#, r#"["b", "c"]"#, "do: [revert]", &[]);
}

#[test]
fn d2_the_subscriptions_of_a_playbook_repeat_alike() {
    let mut bundle = sample("loop");
    let text = bundle.files.get_mut("loop.playbook.yaml").unwrap();
    *text = text.replace("subscription: telephony", "topic: telephony.service.status");
    let first = &bundle.files["subscriptions/telephony.json"];
    let second =
        first.replace("\"name\": \"telephony\"", "\"name\": \"second\"").replace("/webhooks/telephony", "/2");
    bundle.files.insert("subscriptions/second.json".into(), second.clone());
    assert_eq!(playbook::load(&bundle).1, []);
    let changes = second.replace("\"authType\"", "\"reports\": \"changes\", \"authType\"");
    bundle.files.insert("subscriptions/second.json".into(), changes);
    let found = playbook::load(&bundle).1;
    assert!(found.len() == 1 && found[0].message.contains("one tells of changes"), "{found:?}");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let mut bundle = sample("loop");
    let text = bundle.files.get_mut("loop.playbook.yaml").unwrap();
    *text =
        text.replace("failures: 3", "failures: x").replace("healthy: 2", "healthy: 1").replace("15m", "15x");
    let (set, findings) = playbook::load(&bundle);
    assert!(set.is_none());
    assert_eq!(findings.len(), 3, "{findings:#?}");
    assert!(findings[0].rendered.contains("^"), "underlined:\n{}", findings[0].rendered);
}

#[test]
fn any_bytes_are_refused_without_a_panic() {
    let deep = "[".repeat(100_000);
    for text in ["", "\0", "- - -", "a: &a [*a]", &deep, "playbook: 1\non: []\nact: 3\nrevert: no", "{", "]"]
    {
        for file in ["x.playbook.yaml", "subscriptions/x.json", "actions/x.json", "holdline.yaml"] {
            let mut bundle = sample("loop");
            bundle.files.insert(file.into(), text.into());
            playbook::load(&bundle);
        }
    }
}

#[test]
fn e11_what_is_listened_for_must_come_and_is_explained() {
    let mut bundle = sample("loop");
    let playbook = bundle.files.get_mut("loop.playbook.yaml").unwrap();
    let verify = "do: [remediate]\n    verify: {after: 1s, within: 2m, worked: event(status == 'BACKUP')}";
    *playbook = playbook.replace("do: [remediate]", verify);
    let (set, findings) = load(&bundle);
    assert_eq!(findings, []);
    let told = playbook::explain(&set);
    let expected = "its events are listened to from 1 s after it was carried out, for at most 2 min: event(status == \
                    'BACKUP'); else held for a person";
    assert!(told.contains(expected), "{told}");
    let subscription = bundle.files.get_mut("subscriptions/telephony.json").unwrap();
    let filter = "\"filterExpression\": \"status == 'FAILED' OR status == 'HEALTHY'\", \"authType\"";
    *subscription = subscription.replace("\"authType\"", filter);
    let (_, findings) = load(&bundle);
    let told: Vec<_> = findings.iter().map(|finding| (finding.code, finding.file.as_str())).collect();
    assert_eq!(told, [("filter-hides-worked", "subscriptions/telephony.json")]);
}
