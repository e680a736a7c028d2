//! Every sample of an event, and the rules of each source.

use serde_json::json;

use super::*;
use crate::playbook::{Auth, Poll, Pull};

const EDGES: &str = "v2.telephony.providers.edges.{id}";
const TRUNKS: &str = "v2.telephony.providers.edges.trunks.{id}";
const OPERATIONS: &str = "v2.operations.events.{id}";
const TRUNK: &str = "b7c1f0de-3a55-4c0e-8f2e-0d9b8a7c6e51";
const EDGE: &str = "5f0a3c1e-7d2b-4b7f-9a10-2f6c1d3e4b5a";

fn subscription(source: Kind, topic: &str) -> Subscription {
    Subscription {
        name: "s".into(),
        source,
        topic: topic.into(),
        filter: None,
        callback_path: None,
        auth: Auth::None,
        secrets: vec![],
        partition_key: None,
        reports: Reports::Repeats,
        entity_label: None,
        poll: None,
        callback_url: None,
        retry_policy: None,
        pull: None,
    }
}

fn sample(name: &str) -> Value {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/samples/genesys");
    serde_json::from_str(&std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap()).unwrap()
}

/// A copy with other values at these places.
fn with(mut value: Value, changes: &[(&str, Value)]) -> Value {
    for (place, new) in changes {
        match value.pointer_mut(place) {
            Some(at) => *at = new.clone(),
            None => {
                let (parent, field) = place.rsplit_once('/').unwrap();
                value.pointer_mut(parent).unwrap()[field] = new.clone();
            }
        }
    }
    value
}

/// What is told of each event: status, entity, id, timestamp, in one line; or why nothing can be.
fn told(read: Result<Vec<Value>, Unreadable>) -> Vec<String> {
    let text = |value: Option<&Value>| match value {
        None => "-".to_string(),
        Some(value) => value.as_str().map_or(value.to_string(), str::to_string),
    };
    match read {
        Err(error) => vec![format!("{}: {}", error.place, error.reason)],
        Ok(events) => {
            let line = |event: &Value| {
                assert!(event["data"]["original"].is_object(), "what the source said is kept: {event}");
                let data = &event["data"];
                let fields =
                    [data.get("status"), data.get("entity"), event.get("id"), event.get("timestamp")];
                fields.map(text).join(" | ")
            };
            events.iter().map(line).collect()
        }
    }
}

fn check(source: Kind, topic: &str, body: &Value, expected: &[&str]) {
    assert_eq!(told(read(&subscription(source, topic), body, None)), expected, "{source:?} {topic} {body}");
}

#[test]
fn g9_messages_of_the_platform() {
    let check = |topic, body: &Value, expected: &[&str]| check(Kind::Notification, topic, body, expected);
    let (up, down) = (sample("trunk_status_up.ws"), sample("trunk_status_down.ws"));
    let trunk = |status: &str, time: &str| format!("{status} | {TRUNK} | {TRUNK}:{status}:{time} | {time}");
    check(TRUNKS, &down, &[&trunk("FAILED", "2026-11-23T10:00:00.000Z")]);
    check(TRUNKS, &up, &[&trunk("HEALTHY", "2026-11-23T10:04:00.000Z")]);
    // One of two proxies does not answer; the younger of the two states is the time.
    let proxy = |state: bool, minute: u8| json!({"optionState": state, "optionStateTime": format!("2026-11-23T10:0{minute}:00.000Z")});
    let some = with(up.clone(), &[("/eventBody/optionsStatus", json!([proxy(true, 4), proxy(false, 6)]))]);
    check(TRUNKS, &some, &[&trunk("DEGRADED", "2026-11-23T10:06:00.000Z")]);
    let register = with(up.clone(), &[("/eventBody/registersStatus/0/registerState", json!(false))]);
    check(TRUNKS, &register, &[&trunk("DEGRADED", "2026-11-23T10:04:00.000Z")]);
    let all = with(up.clone(), &[("/eventBody/optionsStatus", json!([proxy(false, 4)]))]);
    check(TRUNKS, &all, &[&trunk("DEGRADED", "2026-11-23T10:04:00.000Z")]);
    check(TRUNKS, &with(up.clone(), &[("/eventBody/connectedStatus", Value::Null)]), &[]);
    let odd = with(up.clone(), &[("/eventBody/connectedStatus/connected", json!("yes"))]);
    check(TRUNKS, &odd, &["eventBody.connectedStatus.connected: expected true or false"]);
    // An edge has no time, and is told by the correlation.
    let edge = sample("edge_status.ws");
    let correlation = "8f725aa1-d831-4fb3-a8ea-9ccf7d44db68";
    check(EDGES, &edge, &[&format!("FAILED | {EDGE} | {EDGE}:FAILED:{correlation} | -")]);
    let online = with(edge.clone(), &[("/eventBody/onlineStatus", json!("ONLINE"))]);
    check(EDGES, &online, &[&format!("HEALTHY | {EDGE} | {EDGE}:HEALTHY:{correlation} | -")]);
    let by_message = read(&subscription(Kind::Notification, EDGES), &edge, Some("msg_1"));
    assert_eq!(told(by_message), [format!("FAILED | {EDGE} | {EDGE}:FAILED:msg_1 | -")]);
    let nameless = with(edge.clone(), &[("/metadata", Value::Null)]);
    let missing = "metadata.CorrelationId: missing, and the message has neither an id nor a time to tell it from \
                   the next one";
    check(EDGES, &nameless, &[missing]);
    let other = with(edge.clone(), &[("/eventBody/onlineStatus", json!("SLEEPING"))]);
    check(EDGES, &other, &["eventBody.onlineStatus: expected ONLINE or OFFLINE"]);
    // A bridge may add when it heard of it.
    let stamped = with(edge.clone(), &[("/timestamp", json!(1_795_428_000))]);
    check(EDGES, &stamped, &[&format!("FAILED | {EDGE} | {EDGE}:FAILED:{correlation} | 1795428000")]);
    // Not ours.
    check(EDGES, &up, &[&format!("topicName: subscription s carries {EDGES}")]);
    check(EDGES, &json!([]), &[": expected a message, an object with topicName and eventBody"]);
    check(EDGES, &json!({}), &["topicName: missing"]);
    // Other topics come as they are.
    let metrics = sample("edge_metrics.ws");
    let found = told(read(&subscription(Kind::Notification, &format!("{EDGES}.metrics")), &metrics, None));
    assert!(found[0].starts_with(&format!("- | {EDGE} | {EDGE}:")), "{found:?}");
    assert!(found[0].ends_with(":2026-11-23T10:00:10.000Z | 2026-11-23T10:00:10.000Z"), "{found:?}");
    for control in ["ws_heartbeat", "ws_pong", "ws_socket_closing", "ws_subscribe.reply", "ws_token_revoked"]
    {
        check(EDGES, &sample(control), &[]);
    }
}

#[test]
fn g9_a_look_at_the_list_says_what_a_message_would_have_said() {
    let at_ms = |time: &str| parse_time_ms(&json!(time)).unwrap();
    let check = |every_ms, topic, entity: &Value, at_ms, expected: &[&str]| {
        let pull = Some(Pull { client: "c".into(), entities: vec![], every_ms });
        let subscription = Subscription { pull, ..subscription(Kind::Notification, topic) };
        let events = channel::look(&subscription, entity, "look1", at_ms);
        for event in events.iter().flatten() {
            assert_eq!(event["data"]["reconcile"], true, "{event}");
            assert_eq!(event["data"]["original"]["eventBody"].get("interfaces"), None, "{event}");
        }
        assert_eq!(told(events), expected, "{every_ms:?} {topic} {entity}");
    };
    // A trunk's state has a time: the same event as the message.
    let mut trunk = sample("trunk_status_down.ws")["eventBody"].clone();
    trunk["name"] = json!("Primary");
    let (since, minute) = ("2026-11-23T10:00:00.000Z", Some(60_000));
    let id = format!("{TRUNK}:FAILED:{since}");
    check(None, TRUNKS, &trunk, 7_000, &[&format!("FAILED | {TRUNK} | {id} | {since}")]);
    // Polled, it is told once in every interval; its time is never before that of the state.
    let began = at_ms(since);
    let told_at = |at_ms: i64, time_ms: i64| {
        let interval = at_ms / 60_000;
        check(minute, TRUNKS, &trunk, at_ms, &[&format!("FAILED | {TRUNK} | {id}:{interval} | {time_ms}")]);
    };
    told_at(began + 1_000, began);
    told_at(began + 59_000, began + 57_000);
    told_at(began + 60_000, began + 58_000);
    check(None, TRUNKS, &json!({"id": TRUNK}), 0, &[]);
    // An edge's has none: an event of its own, as old as the look.
    let edge = |status: &str| json!({"id": EDGE, "onlineStatus": status, "interfaces": []});
    let line =
        |status: &str, rest: &str| format!("{status} | {EDGE} | {EDGE}:{status}:look1{rest} | {began}");
    check(None, EDGES, &edge("OFFLINE"), began, &[&line("FAILED", "")]);
    check(None, EDGES, &edge("ONLINE"), began, &[&line("HEALTHY", "")]);
    check(minute, EDGES, &edge("ONLINE"), began, &[&line("HEALTHY", &format!(":{}", began / 60_000))]);
    check(None, EDGES, &json!({}), 0, &["entities[].id: missing"]);
}

#[test]
fn g9_eventbridge() {
    let check = |topic, body: &Value, expected: &[&str]| check(Kind::EventBridge, topic, body, expected);
    let operational = sample("operational_event.eventbridge");
    let id = "e9938ff0-50e2-45f8-950f-ad02d95fee85";
    let entity = "6d2e1f00-0000-4000-8000-000000000001";
    check(OPERATIONS, &operational, &[&format!("- | {entity} | {id} | 1795428000000")]);
    let event = &read(&subscription(Kind::EventBridge, OPERATIONS), &operational, None).unwrap()[0];
    assert_eq!(event["topicName"], "v2.operations.events.eventDefinitionId");
    assert_eq!(event["data"]["original"], operational);
    let timeless = with(operational.clone(), &[("/detail/eventBody/timestamp", Value::Null)]);
    check(OPERATIONS, &timeless, &[&format!("- | {entity} | {id} | 2026-11-23T10:00:00.031Z")]);
    let timeless = with(timeless, &[("/detail/timestamp", Value::Null)]);
    check(OPERATIONS, &timeless, &[&format!("- | {entity} | {id} | 2026-11-23T10:00:01Z")]);
    // A concrete subscription; another one; a platform's message that has a state.
    check(
        "v2.operations.events.eventDefinitionId",
        &timeless,
        &[&format!("- | {entity} | {id} | 2026-11-23T10:00:01Z")],
    );
    check(TRUNKS, &operational, &[&format!("detail.topicName: subscription s carries {TRUNKS}")]);
    let trunk = with(operational.clone(), &[("/detail", sample("trunk_status_down.ws"))]);
    check(TRUNKS, &trunk, &[&format!("FAILED | {TRUNK} | {id} | 2026-11-23T10:00:00.000Z")]);
    let edge = with(operational.clone(), &[("/detail", sample("edge_status.ws"))]);
    check(EDGES, &edge, &[&format!("FAILED | {EDGE} | {id} | 2026-11-23T10:00:01Z")]);
    check(EDGES, &with(operational.clone(), &[("/detail", sample("ws_heartbeat"))]), &[]);
    check(
        OPERATIONS,
        &with(operational.clone(), &[("/id", json!(""))]),
        &["id: expected a text of 1 to 256 bytes"],
    );
    check(OPERATIONS, &json!({"id": "1"}), &["detail: missing"]);
    let bare = with(operational, &[("/detail", json!({"topicName": "v2.operations.events.x"}))]);
    check(OPERATIONS, &bare, &["detail.eventBody: missing"]);
}

#[test]
fn g9_statuspage() {
    let mut polled = subscription(Kind::Statuspage, "statuspage");
    polled.poll = Some(Poll { url: "https://status.example.com".into(), every_ms: 60_000 });
    // A webhook is a hint: checked, and not believed.
    let hint = |body: &Value| told(read(&polled, body, None));
    let update = json!({"page": {}, "component_update": {"id": "u1"}, "component": {"id": "c1", "status": "operational"}});
    for body in [&sample("statuspage_incident.webhook"), &update] {
        assert_eq!(hint(body), [""; 0]);
    }
    let odd = "expected Statuspage's webhook, with an incident, or a component_update and its component";
    for body in [json!({"page": {}}), json!({"incident": 1}), json!({"component": {}})] {
        assert_eq!(read(&polled, &body, None).unwrap_err().reason, odd);
    }
    // Twice in an interval is once; the next interval counts again, and so does another state.
    let summary = sample("statuspage_summary.poll");
    let at = |at_ms| told(statuspage::poll(&polled, &summary, at_ms)).remove(0);
    assert_eq!(at(120_000), "FAILED | c0mp0n3nt001 | c0mp0n3nt001:FAILED:2 | 120000");
    assert_eq!(at(179_999), "FAILED | c0mp0n3nt001 | c0mp0n3nt001:FAILED:2 | 179999");
    assert_eq!(at(180_000), "FAILED | c0mp0n3nt001 | c0mp0n3nt001:FAILED:3 | 180000");
    let check = |status: &str, expected: Option<&str>| {
        let being = with(summary.clone(), &[("/components/0/status", json!(status))]);
        let expected =
            expected.map(|health| format!("{health} | c0mp0n3nt001 | c0mp0n3nt001:{health}:3 | 180000"));
        let found = told(statuspage::poll(&polled, &being, 180_000));
        let found: Vec<String> = found.into_iter().filter(|line| line.contains("c0mp0n3nt001")).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{status}");
    };
    check("operational", Some("HEALTHY"));
    check("degraded_performance", Some("DEGRADED"));
    check("partial_outage", Some("FAILED"));
    check("major_outage", Some("FAILED"));
    check("under_maintenance", None);
    check("what a later version says", None);
    let affected = json!([{"id": "i1", "incident_updates": ["long"], "components": [{"id": "c0mp0n3nt001"}]}, {"id": "i2"}]);
    let event = &statuspage::poll(&polled, &with(summary, &[("/incidents", affected)]), 0).unwrap()[0];
    assert_eq!(event["data"]["original"]["incidents"], json!([{"id": "i1"}]));
    let long = json!({"id": "x".repeat(10_000), "components": [{"id": "c0mp0n3nt001"}]});
    let many = with(sample("statuspage_summary.poll"), &[("/incidents", json!(vec![long; 9]))]);
    let event = &statuspage::poll(&polled, &many, 0).unwrap()[0];
    assert_eq!(event["data"]["original"]["incidents"].as_array().unwrap().len(), 1);
    assert!(statuspage::poll(&polled, &json!({}), 0).is_err());
}

#[test]
fn g9_alertmanager() {
    let alert = |status: &str, severity: Value| {
        json!({
            "status": status,
            "fingerprint": "c0ffee",
            "labels": {"alertname": "TrunkDown", "severity": severity, "trunk": "sbc-1"},
            "startsAt": "2026-11-23T10:00:00Z",
            "endsAt": if status == "firing" { "0001-01-01T00:00:00Z" } else { "2026-11-23T10:09:00Z" },
        })
    };
    let group = |alerts: Value| json!({"version": "4", "receiver": "holdline", "alerts": alerts});
    let check = |alerts: Value, expected: &[&str]| {
        check(Kind::Alertmanager, "alerts", &group(alerts), expected);
    };
    let firing =
        |status| format!("{status} | c0ffee | c0ffee:firing:2026-11-23T10:00:00Z | 2026-11-23T10:00:00Z");
    let resolved = "HEALTHY | c0ffee | c0ffee:resolved:2026-11-23T10:09:00Z | 2026-11-23T10:09:00Z";
    for severity in ["critical", "error", "page"] {
        check(json!([alert("firing", severity.into())]), &[&firing("FAILED")]);
    }
    check(json!([alert("firing", "warning".into())]), &[&firing("DEGRADED")]);
    check(json!([alert("resolved", "critical".into())]), &[resolved]);
    for said in ["firing", "resolved"] {
        check(json!([alert(said, "info".into()), alert(said, Value::Null)]), &[]);
    }
    check(
        json!([alert("firing", "page".into()), alert("resolved", "page".into())]),
        &[&firing("FAILED"), resolved],
    );
    check(json!([]), &[]);
    check(json!([alert("pending", "page".into())]), &["alerts[0].status: expected firing or resolved"]);
    check(json!([{"status": "firing"}]), &["alerts[0].fingerprint: missing"]);
    check(json!({}), &["alerts: expected Alertmanager's list of alerts"]);
    let mut by_label = subscription(Kind::Alertmanager, "alerts");
    by_label.entity_label = Some("trunk".into());
    let both = json!([alert("firing", "page".into()), alert("firing", "warning".into())]);
    let events = read(&by_label, &group(both.clone()), None).unwrap();
    assert_eq!(events[0]["data"]["entity"], "sbc-1");
    assert_eq!(
        events[0]["data"]["original"],
        group(json!([both[0]])),
        "the group, and of its alerts this one"
    );
    by_label.entity_label = Some("site".into());
    assert_eq!(read(&by_label, &group(both), None).unwrap()[0]["data"]["entity"], "c0ffee");
    let long = with(
        group(json!(vec![alert("firing", "page".into()); 1_000])),
        &[("/receiver", json!("x".repeat(5_000)))],
    );
    assert!(read(&by_label, &long, None).is_err_and(|error| error.reason.contains("send fewer")));
}

#[test]
fn g9_cloudevents() {
    let check = |body: &Value, expected: &[&str]| check(Kind::CloudEvents, "com.example.sbc", body, expected);
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/sbc", "type": "com.example.sbc", "subject": "sbc-1",
        "time": "2026-11-23T10:00:00+01:00", "data": {"status": "FAILED", "cause": "x"},
    });
    let line = |status: &str| format!("{status} | sbc-1 | /sbc 1 | 2026-11-23T10:00:00+01:00");
    check(&event, &[&line("FAILED")]);
    check(&with(event.clone(), &[("/data/status", json!("HEALTHY"))]), &[&line("HEALTHY")]);
    check(&with(event.clone(), &[("/data/status", json!("down"))]), &[&line("-")]);
    check(&with(event.clone(), &[("/data", json!("text"))]), &[&line("-")]);
    check(
        &with(event.clone(), &[("/type", json!("other"))]),
        &["type: subscription s carries com.example.sbc"],
    );
    check(&with(event.clone(), &[("/source", json!(7))]), &["source: expected a text of 1 to 256 bytes"]);
    let version = "specversion: expected a CloudEvent of version 1.0 in structured mode";
    check(&with(event, &[("/specversion", json!("0.3"))]), &[version]);
    check(&json!([]), &[version]);
}

#[test]
fn the_guides_events_stay_as_they_are() {
    let guide = subscription(Kind::Guide, "telephony.service.status");
    let event = json!({"id": "1", "topicName": "telephony.service.status", "data": {"status": "FAILED"}});
    assert_eq!(read(&guide, &event, Some("other")), Ok(vec![event.clone()]));
    let mut nameless = event.clone();
    nameless.as_object_mut().unwrap().remove("id");
    assert_eq!(read(&guide, &nameless, Some("1")), Ok(vec![event]));
    assert_eq!(read(&guide, &nameless, None), Err(Unreadable::at("id", "missing")));
}

#[test]
fn a_template_has_its_topics_and_no_others() {
    let check =
        |wanted, topic, expected| assert_eq!(matches_topic(wanted, topic), expected, "{wanted} {topic}");
    check("a.b", "a.b", true);
    check("a.b", "a.c", false);
    check(EDGES, "v2.telephony.providers.edges.1", true);
    check(EDGES, EDGES, true);
    check(EDGES, "v2.telephony.providers.edges.", false);
    check(EDGES, "v2.telephony.providers.edges", false);
    check(EDGES, "v2.telephony.providers.edges.trunks.1", false);
    check("v2.audits.entitytype.{id}.entityid.{id}", "v2.audits.entitytype.Trunk.entityid.7", true);
}

#[test]
fn whether_a_source_repeats_its_state() {
    let check = |kind: Kind, topic, expected| {
        assert_eq!(kind.reports(topic), expected, "{kind:?} {topic}");
    };
    check(Kind::Guide, "t", Reports::Repeats);
    check(Kind::CloudEvents, "t", Reports::Repeats);
    check(Kind::Notification, TRUNKS, Reports::Changes);
    check(Kind::EventBridge, TRUNKS, Reports::Changes);
    check(Kind::EventBridge, OPERATIONS, Reports::Repeats);
    check(Kind::Statuspage, "t", Reports::Repeats);
    check(Kind::Alertmanager, "t", Reports::Changes);
}
