//! Every kind: done, read back by the platform's official SDK, undone. A new kind gets its entry in [`cases`].

use std::collections::BTreeSet;

use holdline_decide::native::KINDS;

use super::*;

/// A kind as it is tried: an action, the object that shows it, and what the platform's official SDK reads of it.
struct Case {
    action: Action,
    object: (Kind, String),
    done: fn(&Value) -> bool,
    /// API, method and arguments, and what is read by them at least.
    read: Value,
}

/// Every kind that can be undone.
fn cases() -> Vec<Case> {
    let (row, route) = (format!("{TABLE}/{}", ROWS[0]), format!("{SITE_MAIN}/{ROUTE}"));
    let telephony = |action: Action| Action { client: "telephony", ..action };
    let edges = "TelephonyProvidersEdgeApi";
    let bases = [TRUNK_BASE_BACKUP, TRUNK_BASE_PRIMARY];
    let joined = |joined: bool| json!({"joined": joined});
    vec![
        Case {
            action: group(),
            object: (Kind::EMERGENCY_GROUP, GROUP_EVACUATION.into()),
            done: |group| group["enabled"] == true,
            read: json!(["ArchitectApi", "get_architect_emergencygroup", [GROUP_EVACUATION], {
                "enabled": true, "emergencyCallFlows": [{"emergencyFlow": {"id": FLOW_EMERGENCY}}]}]),
        },
        Case {
            action: action(
                "row",
                "datatable_row.set",
                json!({"table": TABLE, "key": ROWS[0], "values": {"destination": "backup of {{data.gatewayId}}"}}),
            ),
            object: (Kind::DATA_TABLE_ROW, row),
            done: |row| row["destination"] == "backup of gw-1",
            read: json!(["ArchitectApi", "get_flows_datatable_row", [TABLE, ROWS[0]], {
                "key": ROWS[0], "destination": "backup of gw-1", "announce": false}]),
        },
        Case {
            action: telephony(action(
                "route",
                "outbound_route.reorder",
                json!({"site": SITE_MAIN, "route": ROUTE, "trunk_bases": bases}),
            )),
            object: (Kind::OUTBOUND_ROUTE, route),
            done: |route| route["externalTrunkBases"][0]["id"] == TRUNK_BASE_BACKUP,
            read: json!([edges, "get_telephony_providers_edges_site_outboundroute", [SITE_MAIN, ROUTE], {
                "externalTrunkBases": bases.map(|id| json!({"id": id}))}]),
        },
        Case {
            action: action("ivr", "ivr.route", json!({"ivr": IVR_SALES, "open_hours_flow": FLOW_EMERGENCY})),
            object: (Kind::IVR, IVR_SALES.into()),
            done: |ivr| ivr["openHoursFlow"]["id"] == FLOW_EMERGENCY,
            read: json!(["ArchitectApi", "get_architect_ivr", [IVR_SALES], {
                "openHoursFlow": {"id": FLOW_EMERGENCY}}]),
        },
        Case {
            action: action("stop", "campaign.stop", json!({"campaign": CAMPAIGN})),
            object: (Kind::CAMPAIGN, CAMPAIGN.into()),
            done: |campaign| campaign["campaignStatus"] == "off",
            read: json!(["OutboundApi", "get_outbound_campaign", [CAMPAIGN], {"campaignStatus": "off"}]),
        },
        Case {
            action: action(
                "throttle",
                "campaign.throttle",
                json!({"campaign": CAMPAIGN, "outbound_lines": 4, "abandon_rate": 1.5, "calls_per_agent": 1}),
            ),
            object: (Kind::CAMPAIGN, CAMPAIGN.into()),
            done: |campaign| campaign["outboundLineCount"] == 4,
            read: json!(["OutboundApi", "get_outbound_campaign", [CAMPAIGN], {
                "outboundLineCount": 4, "abandonRate": 1.5, "maxCallsPerAgent": 1}]),
        },
        Case {
            action: action(
                "members",
                "queue.members",
                json!({"queue": QUEUE, "members": &MEMBERS[..3], "joined": false}),
            ),
            object: (Kind::QUEUE_MEMBER, format!("{QUEUE}/{}", MEMBERS[1])),
            done: |member| member["joined"] == false,
            read: json!(["RoutingApi", "get_routing_queue_members", [QUEUE], {
                "entities": [joined(false), joined(false), joined(false), joined(true), joined(true)]}]),
        },
        Case {
            action: action(
                "queue",
                "queue.put",
                json!({"queue": QUEUE, "set": {"description": "{{data.gatewayId}}"}}),
            ),
            object: (Kind::QUEUE, QUEUE.into()),
            done: |queue| queue["description"] == "gw-1",
            read: json!(["RoutingApi", "get_routing_queue", [QUEUE], {"description": "gw-1"}]),
        },
        Case {
            action: telephony(action(
                "edge",
                "edge.out_of_service",
                json!({"edge": EDGE_MAIN, "drain_s": 1}),
            )),
            object: (Kind::EDGE, EDGE_MAIN.into()),
            done: |edge| edge["statusCode"] == "INACTIVE",
            read: json!([edges, "get_telephony_providers_edge", [EDGE_MAIN], {"statusCode": "INACTIVE"}]),
        },
    ]
}

/// All are done, the platform's official SDK reads what was written, and all are undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_every_kind_is_done_read_back_by_the_official_sdk_and_undone() {
    let cases = cases();
    let undoable = KINDS.into_iter().filter(|kind| kind.can_be_looked_at).map(|kind| kind.name);
    let tried: BTreeSet<&str> = cases.iter().map(|case| case.action.kind).collect();
    assert_eq!(tried, undoable.collect::<BTreeSet<_>>(), "every kind has its case");
    let actions: Vec<Action> = cases.iter().map(|case| case.action.clone()).collect();
    let world = World::start("native-kinds", Options::default(), &actions).await;
    let now = |case: &Case| content(world.simulator.object(case.object.0, &case.object.1));
    let before: Vec<Value> = cases.iter().map(now).collect();
    for Case { action, object: (kind, key), done, .. } in &cases {
        world.fails(action.name).await;
        world.until(*kind, key, action.name, done).await;
    }
    // E11: each is looked at again, and stands.
    world.until_proven(cases.len()).await;
    // Three of five members, and one call.
    let patched = format!("PATCH /api/v2/routing/queues/{QUEUE}/members Some(202)");
    assert_eq!(world.writes("/members"), [patched.as_str()]);
    let written: Vec<Value> = cases.iter().map(|case| case.read.clone()).collect();
    let sdk = sdk::fetched(Path::new(env!("CARGO_TARGET_TMPDIR"))).await;
    let (code, text) = sdk::read_back(&world.simulator, &sdk, &written).await;
    assert_eq!(code, 0, "{text}");
    for case in &cases {
        world.recovers(case.action.name).await;
    }
    for (Case { action, object: (kind, key), .. }, before) in cases.iter().zip(&before) {
        let what = format!("{} undone", action.name);
        world.until(*kind, key, &what, |object| content(object.clone()) == *before).await;
    }
    world.until_over().await;
    assert_eq!(world.writes("/members"), [patched.as_str(), patched.as_str()]);
    let throttled = format!("PATCH /api/v2/outbound/campaigns/{CAMPAIGN} Some(204)");
    assert_eq!(world.writes(CAMPAIGN).iter().filter(|call| **call == throttled).count(), 2);
    // And would find what it does not know, or what was not written.
    world.simulator.edit(Kind::QUEUE, QUEUE, &json!({"invented": 1})).unwrap();
    let read: Vec<Value> = written.into_iter().filter(|read| read[1] == "get_routing_queue").collect();
    let (code, text) = sdk::read_back(&world.simulator, &sdk, &read).await;
    assert_eq!(code, 1, "{text}");
    for named in ["Queue.invented: unknown field", "description: 'Customer service'; 'gw-1' was expected"] {
        assert!(text.contains(named), "{named} in\n{text}");
    }
    world.ends_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_what_cannot_be_looked_at_is_started_once() {
    let runs = |name, flow| {
        let parameters = json!({"flow": flow, "input": {"gateway": "{{data.gatewayId}}"}});
        Action { back: "[flow_back]", ..action(name, "flow.execute", parameters) }
    };
    let actions = [
        runs("flow", FLOW_WORKFLOW),
        runs("flow_back", FLOW_OPEN),
        Action {
            back: "[reboot]",
            client: "telephony",
            ..action("reboot", "edge.reboot", json!({"edge": EDGE_BRANCH, "drain_s": 0}))
        },
    ];
    let world = World::start("native-launch", Options::default(), &actions).await;
    for (n, (name, path)) in [("flow", "/flows/executions"), ("reboot", "/reboot")].into_iter().enumerate() {
        world.fails(name).await;
        let began = clock::now();
        while world.writes(path).is_empty() {
            assert!(began.elapsed() < SOON, "{name}: {}", world.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(world.writes(path).len(), 1, "{name}");
        // E11: the flow has come to its end, the edge is there again.
        world.until_proven(n + 1).await;
    }
    // What undoes a flow is a flow of its own.
    world.recovers("flow").await;
    let began = clock::now();
    while world.writes("/flows/executions").len() < 2 {
        assert!(began.elapsed() < SOON, "{}", world.installation.log_of("executor", 0));
        clock::sleep(Duration::from_millis(50)).await;
    }
    let mut runs: Vec<(Value, Value)> = world
        .simulator
        .objects(Kind::FLOW_EXECUTION)
        .into_iter()
        .map(|run| (run["flowId"].clone(), run["inputData"]["gateway"].clone()))
        .collect();
    runs.sort_by_key(|(flow, _)| flow != FLOW_WORKFLOW);
    assert_eq!(runs, [FLOW_WORKFLOW, FLOW_OPEN].map(|flow| (json!(flow), json!("gw-1"))));
    // What these calls carry is what the platform's models have.
    let sdk = sdk::fetched(Path::new(env!("CARGO_TARGET_TMPDIR"))).await;
    let (code, text) = sdk::read_back(&world.simulator, &sdk, &[]).await;
    assert_eq!(code, 0, "{text}");
    // The answer is lost: it may have happened, so a person has to look.
    world.simulator.fault(Fault::new("/api/v2/flows/executions", Outcome::CloseMidBody));
    world.report("flow", "gw-2", "FAILED", 3).await;
    let began = clock::now();
    while !world.incidents().to_string().contains("must not be asked twice") {
        assert!(began.elapsed() < SOON, "{:#}", world.incidents());
        clock::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.writes("/flows/executions").len(), 3);
    world.ends_well();
}
