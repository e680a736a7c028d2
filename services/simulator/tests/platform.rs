//! The platform as a caller sees it: versions, permissions, limits, faults, and what happens by and by.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod caller;

use std::time::Duration;

use caller::{Caller, options, until};
use holdline_simulator::organisation::*;
use holdline_simulator::{Fault, Kind, Options, Outcome, Simulator, StaleVersion};
use serde_json::{Value, json};

fn group(id: &str) -> String {
    format!("/api/v2/architect/emergencygroups/{id}")
}

#[tokio::test]
async fn a_group_is_replaced_as_a_whole_and_only_at_its_version() {
    for (stale_version, status) in [(StaleVersion::Conflict, 409), (StaleVersion::BadRequest, 400)] {
        let simulator = Simulator::start(Options { stale_version, ..options() }).await.unwrap();
        let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
        let mut body = caller.get(&group(GROUP_EVACUATION)).await;
        body["enabled"] = json!(true);
        let (answer, stored) = caller.call("PUT", &group(GROUP_EVACUATION), &body).await;
        assert_eq!((answer, &stored["version"], &stored["enabled"]), (200, &json!(8), &json!(true)));
        assert_eq!(stored["emergencyCallFlows"], body["emergencyCallFlows"]);
        assert_eq!(stored["modifiedByApp"], CLIENT);

        let (answer, error) = caller.call("PUT", &group(GROUP_EVACUATION), &body).await;
        assert_eq!((answer, &error["status"]), (status, &json!(status)));
        assert_eq!(error["message"], "Version 7 does not match the current version 8");

        // A person was there in between.
        simulator.edit(Kind::EMERGENCY_GROUP, GROUP_EVACUATION, &json!({ "enabled": false })).unwrap();
        let current = simulator.group(GROUP_EVACUATION);
        assert_eq!((&current["version"], &current["modifiedBy"]), (&json!(9), &json!(HUMAN)));
        assert_eq!(current.get("modifiedByApp"), None);

        // Who leaves the call flows out disconnects the IVRs.
        let bare = json!({ "name": "Organization Evacuation", "version": 9, "enabled": true });
        let (_, stored) = caller.call("PUT", &group(GROUP_EVACUATION), &bare).await;
        assert_eq!((stored.get("emergencyCallFlows"), &stored["id"]), (None, &json!(GROUP_EVACUATION)));
        assert!(stored["division"].is_object());
    }
}

#[tokio::test]
async fn calls_are_refused_in_the_platforms_words() {
    let simulator = Simulator::start(options()).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    let check = async |method, path: &str, body: Value, status, code: &str| {
        let (answered, error) = caller.call(method, path, &body).await;
        assert_eq!((answered, error["code"].as_str().unwrap()), (status, code), "{method} {path}");
    };
    let telephony = "/api/v2/telephony/providers/edges";
    check("GET", telephony, Value::Null, 403, "missing.any.permissions").await;
    check("GET", &group("nowhere"), Value::Null, 404, "not.found").await;
    check("GET", "/api/v2/architect/emergencygroups?pageSize=101", Value::Null, 400, "bad.request").await;
    check("PUT", &group(GROUP_SALES), json!({ "name": "x" }), 400, "bad.request").await;
    check("PUT", &group(GROUP_SALES), json!({ "version": 2 }), 400, "bad.request").await;
    check("PUT", &group(GROUP_SALES), json!([]), 400, "bad.request").await;
    check("GET", "/api/v2/no/such/thing", Value::Null, 404, "not.found").await;
    let (_, error) = caller.call("GET", telephony, &Value::Null).await;
    assert_eq!(error["messageParams"]["missingPermissions"], "[telephony:plugin:all]");

    simulator.revoke_tokens();
    check("GET", &group(GROUP_SALES), Value::Null, 401, "bad.credentials").await;
    let wrong = caller::token(&simulator, CLIENT, "wrong").await;
    assert_eq!((wrong.0, wrong.1["error"].as_str()), (401, Some("invalid_client")));
}

#[tokio::test]
async fn tokens_expire() {
    let options = Options { token_lifetime: Duration::ZERO, ..options() };
    let simulator = Simulator::start(options).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    assert_eq!(caller.call("GET", &group(GROUP_SALES), &Value::Null).await.0, 401);
}

#[tokio::test]
async fn a_stopped_platform_is_off_the_network_and_forgets_its_tokens() {
    let simulator = Simulator::start(options()).await.unwrap();
    let listen = simulator.address();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    simulator.stop().await;
    assert!(caller.send("GET", &group(GROUP_SALES), &Value::Null).await.is_err());
    let simulator = Simulator::start(Options { listen, ..options() }).await.unwrap();
    Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    assert_eq!(caller.call("GET", &group(GROUP_SALES), &Value::Null).await.0, 401);
}

#[tokio::test]
async fn a_client_has_so_many_calls_a_window() {
    let options = Options { calls_per_window: Some(2), ..options() };
    let simulator = Simulator::start(options).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    for (count, status) in [(1, 200), (2, 200), (3, 429)] {
        let answer = caller.send("GET", &group(GROUP_SALES), &Value::Null).await.unwrap();
        let header = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_string());
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(header("inin-ratelimit-allowed").as_deref(), Some("2"));
        assert_eq!(header("inin-ratelimit-count"), Some(count.to_string()));
        assert_eq!(header("retry-after").is_some(), status == 429);
        assert!(header("inin-correlation-id").is_some());
        if status == 429 {
            assert_eq!(header("retry-after"), header("inin-ratelimit-reset"));
            let body: Value = answer.json().await.unwrap();
            assert_eq!((&body["code"], &body["limit"]["value"]), (&json!("too.many.requests"), &json!(2)));
        }
    }
    // Another client has calls of its own.
    let other = Caller::of(&simulator, TELEPHONY_CLIENT, TELEPHONY_CLIENT_SECRET).await;
    assert_eq!(other.call("GET", "/api/v2/telephony/providers/edges", &Value::Null).await.0, 200);
}

#[tokio::test]
async fn ordered_faults_happen_and_are_noted() {
    let simulator = Simulator::start(options()).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    let path = group(GROUP_SALES);
    let body = caller.get(&path).await;

    simulator.fault(
        Fault::new("/api/v2/architect", Outcome::Status { status: 429, retry_after_s: Some(7) }).times(1),
    );
    let answer = caller.send("GET", &path, &Value::Null).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].as_bytes()), (429, &b"7"[..]));

    // 500, and yet it was done.
    simulator.fault(Fault::status("/api/v2/architect", 500).method("PUT").times(1).applied());
    assert_eq!(caller.call("PUT", &path, &body).await.0, 500);
    assert_eq!(simulator.group(GROUP_SALES)["version"], 3);

    simulator.fault(Fault::new("/api/v2/architect", Outcome::CloseMidBody).times(1));
    let answer = caller.send("GET", &path, &Value::Null).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err());

    simulator.fault(Fault::new("/api/v2/architect", Outcome::Hang).times(1));
    let hung = tokio::time::timeout(Duration::from_millis(50), caller.send("GET", &path, &Value::Null)).await;
    assert!(hung.is_err());

    simulator.fault(Fault::new("/api/v2/architect", Outcome::Delay { delay_ms: 1 }).times(1));
    assert_eq!(caller.call("GET", &path, &Value::Null).await.0, 200);

    simulator.fault(Fault::status("/oauth", 429));
    let throttled = caller::token(&simulator, CLIENT, CLIENT_SECRET).await;
    assert_eq!((throttled.0, throttled.1["error"].as_str()), (400, Some("invalid_request")));
    simulator.clear_faults();
    assert_eq!(caller::token(&simulator, CLIENT, CLIENT_SECRET).await.0, 200);

    let calls: Vec<(String, Option<u16>)> = simulator
        .calls()
        .into_iter()
        .map(|call| (format!("{} {}", call.method, call.path), call.status))
        .collect();
    let expected = [
        ("POST /oauth/token".to_string(), Some(200)),
        (format!("GET {path}"), Some(200)),
        (format!("GET {path}"), Some(429)),
        (format!("PUT {path}"), Some(500)),
        (format!("GET {path}"), Some(200)),
        (format!("GET {path}"), None),
        (format!("GET {path}"), Some(200)),
        ("POST /oauth/token".into(), Some(400)),
        ("POST /oauth/token".into(), Some(200)),
    ];
    assert_eq!(calls, expected);
    assert!(simulator.calls().iter().all(|call| call.client.as_deref() == Some(CLIENT)));
}

#[tokio::test]
async fn the_fullest_second_counts_api_calls_of_all_clients() {
    let simulator = Simulator::start(options()).await.unwrap();
    let (one, other) = (
        Caller::of(&simulator, CLIENT, CLIENT_SECRET).await,
        Caller::of(&simulator, TELEPHONY_CLIENT, TELEPHONY_CLIENT_SECRET).await,
    );
    for _ in 0..5 {
        one.get(&group(GROUP_SALES)).await;
        other.get("/api/v2/telephony/providers/edges").await;
    }
    let mut arrivals = simulator.calls();
    arrivals.retain(|call| call.path.starts_with("/api/"));
    let within = |from: u64| {
        arrivals.iter().filter(|call| (from..from + 1_000_000).contains(&call.arrived_us)).count()
    };
    let expected = arrivals.iter().map(|call| within(call.arrived_us)).max().unwrap();
    assert_eq!(simulator.calls_in_a_second_max(), expected);
    simulator.forget_calls();
    assert_eq!((simulator.calls().len(), simulator.calls_in_a_second_max()), (0, 0));
}

#[tokio::test]
async fn a_campaign_is_stopping_before_it_is_off() {
    let options = Options { settle: Duration::from_secs(3_600), ..options() };
    let simulator = Simulator::start(options).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    let campaign = format!("/api/v2/outbound/campaigns/{CAMPAIGN}");
    assert_eq!(caller.call("POST", &format!("{campaign}/stop"), &Value::Null).await.0, 204);
    assert_eq!(simulator.object(Kind::CAMPAIGN, CAMPAIGN)["campaignStatus"], "stopping");
    assert_eq!(caller.call("POST", &format!("{campaign}/start"), &Value::Null).await.0, 400);
}

#[tokio::test]
async fn what_is_asynchronous_happens_later() {
    let simulator =
        Simulator::start(Options { settle: Duration::from_millis(50), ..options() }).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    let campaign = format!("/api/v2/outbound/campaigns/{CAMPAIGN}");
    assert_eq!(caller.call("POST", &format!("{campaign}/stop"), &Value::Null).await.0, 204);
    until(|| simulator.object(Kind::CAMPAIGN, CAMPAIGN)["campaignStatus"] == "off").await;
    assert_eq!(caller.call("POST", &format!("{campaign}/start"), &Value::Null).await.0, 204);
    until(|| simulator.object(Kind::CAMPAIGN, CAMPAIGN)["campaignStatus"] == "on").await;
    assert_eq!(
        caller.call("PATCH", &campaign, &json!({ "outboundLineCount": 1, "name": "no" })).await.0,
        204
    );
    let patched = simulator.object(Kind::CAMPAIGN, CAMPAIGN);
    assert_eq!((&patched["outboundLineCount"], &patched["name"]), (&json!(1), &json!("Renewals")));

    let members = format!("/api/v2/routing/queues/{QUEUE}/members");
    let leave = json!([{ "id": MEMBERS[0], "joined": false }]);
    assert_eq!(caller.call("PATCH", &members, &leave).await.0, 202);
    let joined = |id: &str| simulator.object(Kind::QUEUE_MEMBER, &format!("{QUEUE}/{id}"))["joined"].clone();
    until(|| joined(MEMBERS[0]) == false).await;
    assert_eq!(joined(MEMBERS[1]), true);
    let page = caller.get(&format!("{members}?joined=true&pageSize=3&pageNumber=2")).await;
    assert_eq!((page["entities"].as_array().unwrap().len(), page.get("total")), (1, None));
    let many: Vec<Value> = (0..101).map(|_| json!({ "id": MEMBERS[0], "joined": true })).collect();
    assert_eq!(caller.call("PATCH", &members, &json!(many)).await.0, 400);
    let stranger = json!([{ "id": HUMAN, "joined": true }]);
    assert_eq!(caller.call("PATCH", &members, &stranger).await.0, 404);
}

#[tokio::test]
async fn rows_show_their_key_alone_unless_asked() {
    let simulator = Simulator::start(options()).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    let row = format!("/api/v2/flows/datatables/{TABLE}/rows/{}", ROWS[0]);
    assert_eq!(caller.get(&row).await, json!({ "key": ROWS[0] }));
    let mut whole = caller.get(&format!("{row}?showbrief=false")).await;
    whole["destination"] = json!("backup");
    assert_eq!(caller.call("PUT", &row, &whole).await.0, 200);
    assert_eq!(caller.get(&format!("{row}?showbrief=false")).await["destination"], "backup");
    assert_eq!(caller.call("PUT", &row, &json!({ "key": "another" })).await.0, 400);
}

#[tokio::test]
async fn the_status_page_tells_of_an_incident_until_it_is_over() {
    let simulator = Simulator::start(options()).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    let id = simulator.incident("Inbound voice", STATUS_COMPONENT, "partial_outage").unwrap();
    simulator.incident("Slow", STATUS_COMPONENT_OTHER, "degraded_performance").unwrap();
    assert!(simulator.incident("x", STATUS_COMPONENT, "gone").is_err());
    let summary = caller.get("/statuspage/api/v2/summary.json").await;
    assert_eq!(summary["status"]["indicator"], "major");
    assert_eq!(summary["components"][0]["status"], "partial_outage");
    let unresolved = caller.get("/statuspage/api/v2/incidents/unresolved.json").await;
    assert_eq!(
        unresolved["incidents"][0]["incident_updates"][0]["affected_components"][0]["old_status"],
        "operational"
    );
    simulator.resolve(&id).unwrap();
    let summary = caller.get("/statuspage/api/v2/summary.json").await;
    assert_eq!(
        (&summary["status"]["indicator"], summary["incidents"].as_array().unwrap().len()),
        (&json!("minor"), 1)
    );
    assert_eq!(
        caller.get("/statuspage/api/v2/components.json").await["components"][0]["status"],
        "operational"
    );
}

#[tokio::test]
async fn the_guides_subscriptions_never_give_their_secret_back() {
    let simulator = Simulator::start(options()).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    let path = "/api/v2/events/subscriptions";
    let mut body = json!({
        "name": "IncidentResponse_TelephonyService",
        "topicName": "telephony.service.status",
        "filterExpression": "status == 'FAILED'",
        "callbackUrl": "https://receiver.example.com/webhook",
        "authType": "BASIC",
        "secretToken": "never",
        "retryPolicy": { "maxRetries": 3 },
    });
    let (status, created) = caller.call("POST", path, &body).await;
    assert_eq!((status, created.get("secretToken")), (201, None));
    let own = format!("{path}/{}", created["id"].as_str().unwrap());
    assert_eq!(caller.get(&own).await["retryPolicy"]["maxRetries"], 3);
    body["filterExpression"] = json!("status == 'DEGRADED'");
    assert_eq!(caller.call("PUT", &own, &body).await.0, 200);
    let all = caller.get(path).await;
    assert_eq!(
        (&all["total"], &all["entities"][0]["filterExpression"]),
        (&json!(1), &body["filterExpression"])
    );
    assert_eq!(caller.call("POST", path, &json!({ "name": "x" })).await.0, 400);
    assert_eq!(caller.call("DELETE", &own, &Value::Null).await.0, 204);
    assert_eq!(caller.call("GET", &own, &Value::Null).await.0, 404);
}

#[tokio::test]
async fn everything_can_be_done_over_http_as_well() {
    let simulator = Simulator::start(options()).await.unwrap();
    let caller = Caller::of(&simulator, CLIENT, CLIENT_SECRET).await;
    let check = async |method, path: &str, body: Value, status| {
        let (answered, body) = caller.call(method, &format!("/simulator{path}"), &body).await;
        assert_eq!(answered, status, "{method} {path}: {body}");
        body
    };
    let down = json!({ "connected": false, "options": [true] });
    check("POST", &format!("/trunks/{TRUNK_PRIMARY}"), down, 200).await;
    let trunk = simulator.object(Kind::TRUNK, TRUNK_PRIMARY);
    assert_eq!(
        (&trunk["optionsStatus"][0]["optionState"], &trunk["optionsStatus"][1]["optionState"]),
        (&json!(true), &json!(false))
    );
    check("POST", "/trunks/nowhere", json!({ "connected": true }), 404).await;
    check("POST", &format!("/edges/{EDGE_MAIN}"), json!({ "online": false }), 200).await;
    assert_eq!(
        check("GET", &format!("/objects/edge/{EDGE_MAIN}"), Value::Null, 200).await["onlineStatus"],
        "OFFLINE"
    );
    let route = format!("/objects/outbound_route/{SITE_MAIN}/{ROUTE}");
    assert_eq!(check("PATCH", &route, json!({ "enabled": false }), 200).await["version"], 5);
    assert_eq!(
        check("GET", "/objects/emergency_group", Value::Null, 200).await.as_object().unwrap().len(),
        2
    );
    let incident = json!({ "name": "x", "component": STATUS_COMPONENT, "status": "major_outage" });
    let id = check("POST", "/incidents", incident, 200).await["id"].as_str().unwrap().to_string();
    check("DELETE", &format!("/incidents/{id}"), Value::Null, 200).await;
    let event =
        json!({ "definition": OPERATIONAL_EVENT_DEFINITIONS[0].0, "entity": CLIENT, "error_code": "x" });
    check("POST", "/operational-events", event, 200).await;
    let fault = json!({ "path_prefix": "/api", "outcome": "status", "status": 503, "times": 1 });
    check("POST", "/faults", fault, 200).await;
    assert_eq!(check("GET", "/faults", Value::Null, 200).await.as_array().unwrap().len(), 1);
    assert_eq!(caller.call("GET", &group(GROUP_SALES), &Value::Null).await.0, 503);
    check("DELETE", "/faults", Value::Null, 200).await;
    check("POST", "/sockets", json!({ "fault": "cut" }), 200).await;
    assert_eq!(check("GET", "/calls", Value::Null, 200).await["in_a_second_max"], 1);
    check("DELETE", "/calls", Value::Null, 200).await;
    check("DELETE", "/tokens", Value::Null, 200).await;
    assert_eq!(caller.call("GET", &group(GROUP_SALES), &Value::Null).await.0, 401);
}
