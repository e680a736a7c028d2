//! E11: whether it worked is told by looking, or by the entity's events, and never by the answer to the call.

use super::*;

/// E11: worked, failed and unknown are told apart by looking; the latter two are held, and people are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e11_after_acting_it_is_looked_at_whether_it_worked() {
    let (pager, silent) = (Target::start().await, Target::start().await);
    let looked_at = format!("get('/api/v2/architect/emergencygroups/{GROUP_EVACUATION}')");
    let with = |name, worked: String| {
        let verify = Some(format!("after: 500ms, within: 2s, client: routing, worked: \"{worked}\""));
        Action { name, verify, ..group() }
    };
    // Any URL that answers JSON.
    let probed = format!("get('{SIMULATOR}/simulator/objects/emergency_group/{GROUP_EVACUATION}')");
    let actions = [
        with("worked", format!("{looked_at}.enabled == true")),
        with("probed", format!("{probed}.enabled == true")),
        with("failed", format!("{looked_at}.name == 'Backup'")),
        with("denied", format!("{probed}.name == 'Backup'")),
        with("unknown", "get('http://127.0.0.1:9/state').active == 'B'".into()),
        // No JSON, and time for one look or two.
        Action {
            verify: Some(format!(
                "after: 500ms, within: 100ms, worked: \"get('http://{}/state').active == 'B'\"",
                silent.address
            )),
            ..with("silent", String::new())
        },
    ];
    let world = World::start_with("native-verify", Options::default(), &actions, Some(&pager)).await;
    for (n, name) in ["worked", "probed"].into_iter().enumerate() {
        world.fails(name).await;
        world.until_enabled(true).await;
        world.until_proven(n + 1).await;
        world.recovers(name).await;
        world.until_enabled(false).await;
        world.until_over().await;
    }
    assert_eq!(pager.calls().len(), 0);
    let (failed, unknown) = ("did not work", "it is not known whether it worked");
    let cases = [("failed", failed), ("denied", failed), ("unknown", unknown), ("silent", unknown)];
    for (n, (name, reason)) in cases.into_iter().enumerate() {
        world.report(name, &format!("gw-{name}"), "FAILED", 3).await;
        let pages = pager.wait_for(n + 1, SOON).await;
        let page: Value = serde_json::from_str(&pages[n].body).unwrap();
        assert_eq!(page["what"], format!("gw-{name} of {name}"));
        assert!(page["why"].as_str().unwrap().contains(reason), "{page}");
        let shown = world.incidents();
        let open = shown.as_array().unwrap().iter().find(|open| open["playbook"] == name).unwrap();
        assert!(open["held"].as_str().unwrap().contains(reason), "{open:#}");
    }
    // Once time was over, it was asked three times; before, at most once.
    assert!((3..=4).contains(&silent.calls().len()), "{:?}", silent.calls());
    // Nothing is undone by that, and health ends it as always.
    assert_eq!(world.group()["enabled"], true);
    world.ends_well();
}

/// E11: the same three by what the source says after the remedy. The executor looks at nothing, and the remedy's own
/// answer is no event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e11_after_acting_the_event_stream_tells_whether_it_worked() {
    let pager = Target::start().await;
    let with = |name, within| {
        let verify = Some(format!("after: 500ms, within: {within}, worked: event(status == 'BACKUP')"));
        Action { name, verify, ..group() }
    };
    let actions = [with("worked", "60s"), with("failed", "5s"), with("unknown", "2s")];
    let world = World::start_with("native-listen", Options::default(), &actions, Some(&pager)).await;
    // What is told of the incident of an entity, if there is one.
    let told = |entity: &str, what: &str| {
        let shown = world.incidents();
        let of_entity = shown.as_array().unwrap().iter().find(|open| open["entityId"] == entity);
        let Some(id) = of_entity.and_then(|open| open["incidentId"].as_str()) else { return String::new() };
        let told = world.installation.holdline(&["incident", id, what]);
        String::from_utf8(told.stdout).unwrap()
    };
    // The source says it until it is heard.
    world.report("worked", "gw-worked", "FAILED", 3).await;
    let began = clock::now();
    while !told("gw-worked", "explain").contains("worked for gw-worked worked (event worked-gw-worked-BACKUP")
    {
        assert!(began.elapsed() < SOON, "{}", world.installation.logs());
        world.report("worked", "gw-worked", "BACKUP", 1).await;
        clock::sleep(Duration::from_millis(100)).await;
    }
    let again = told("gw-worked", "replay");
    assert!(again.contains("byte for byte"), "{again}");
    world.report("worked", "gw-worked", "HEALTHY", 2).await;
    world.until_enabled(false).await;
    world.until_over().await;
    assert_eq!(pager.calls().len(), 0);
    let cases = [
        ("failed", Some("PRIMARY"), "did not work", "denies it"),
        ("unknown", None, "it is not known whether it worked", "no event of it was heard within 2 s"),
    ];
    for (n, (name, says, reason, seen)) in cases.into_iter().enumerate() {
        let entity = format!("gw-{name}");
        world.report(name, &entity, "FAILED", 3).await;
        let began = clock::now();
        while pager.effects().len() <= n {
            assert!(began.elapsed() < SOON, "{}\n{}", told(&entity, "explain"), world.installation.logs());
            if let Some(status) = says {
                world.report(name, &entity, status, 1).await;
            }
            clock::sleep(Duration::from_millis(100)).await;
        }
        let page: Value = serde_json::from_str(&pager.effects()[n].body).unwrap();
        assert_eq!(page["what"], format!("{entity} of {name}"));
        let shown = world.incidents();
        let open = shown.as_array().unwrap().iter().find(|open| open["entityId"] == entity).unwrap();
        for part in [reason, seen] {
            assert!(page["why"].as_str().unwrap().contains(part), "{page}");
            assert!(open["held"].as_str().unwrap().contains(part), "{open}");
        }
        let again = told(&entity, "replay");
        assert!(again.contains(seen) && again.contains("byte for byte"), "{again}");
    }
    assert_eq!(world.group()["enabled"], true);
    assert_eq!(world.proven(), 0, "the executor looked");
    world.ends_well();
}

/// E11: the platform says that it has done it, and has not; a flow is started, and fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e11_what_the_platform_only_says_is_found_out() {
    let pager = Target::start().await;
    let flow = Action { back: "[flow]", ..action("flow", "flow.execute", json!({"flow": FLOW_WORKFLOW})) };
    let options = Options { settle: Duration::from_secs(60), ..Options::default() };
    let world = World::start_with("native-feigned", options, &[group(), flow], Some(&pager)).await;
    let put = Fault::new("/api/v2/architect/emergencygroups", Outcome::Feign).method("PUT").times(1);
    world.simulator.fault(put);
    world.report("group", "gw-1", "FAILED", 3).await;
    world.report("flow", "gw-2", "FAILED", 3).await;
    let began = clock::now();
    let executions = || world.simulator.calls().into_iter().filter(|call| call.path.contains("executions/"));
    while executions().next().is_none() {
        assert!(began.elapsed() < SOON, "{}", world.installation.log_of("executor", 0));
        clock::sleep(Duration::from_millis(50)).await;
    }
    let id = executions().next().unwrap().path.rsplit('/').next().unwrap().to_string();
    world.simulator.edit(Kind::FLOW_EXECUTION, &id, &json!({"status": "FAILED"})).unwrap();
    let pages = pager.wait_for(2, 2 * SOON).await;
    let told: Vec<String> = pages.iter().map(|page| page.body.clone()).collect();
    for (what, why) in [
        ("gw-1 of group", "it is not as we wanted it; it shows"),
        ("gw-2 of flow", "it has failed; it shows"),
    ] {
        let page = told.iter().find(|page| page.contains(what)).unwrap_or_else(|| panic!("{told:?}"));
        assert!(page.contains("was carried out and did not work") && page.contains(why), "{page}");
    }
    assert_eq!((world.writes("emergencygroups").len(), pager.calls().len()), (1, 2), "nothing is repeated");
    // Over all the same, and there is nothing to be undone.
    world.recovers("group").await;
    let began = clock::now();
    while world.incidents().to_string().contains("gw-1") {
        assert!(began.elapsed() < SOON, "{:#}", world.incidents());
        clock::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((world.writes("emergencygroups").len(), world.group()["enabled"].clone()), (1, json!(false)));
    world.ends_well();
}

/// What takes its time is looked at until it shows: out of service, and gone and there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e11_an_edge_is_looked_at_until_it_has_settled() {
    let edge = |name, kind, edge: &str, back| Action {
        client: "telephony",
        back,
        ..action(name, kind, json!({"edge": edge, "drain_s": 0}))
    };
    let actions = [
        edge("out", "edge.out_of_service", EDGE_MAIN, "undo"),
        edge("reboot", "edge.reboot", EDGE_BRANCH, "[reboot]"),
    ];
    // The edge that reboots is gone when it is looked at first, ten seconds after the call.
    let options = Options { settle: Duration::from_secs(8), ..Options::default() };
    let world = World::start("native-edges", options, &actions).await;
    for (name, path, key, field, meanwhile, then) in [
        ("out", "/statuscode", EDGE_MAIN, "statusCode", "ACTIVE", "INACTIVE"),
        ("reboot", "/reboot", EDGE_BRANCH, "onlineStatus", "OFFLINE", "ONLINE"),
    ] {
        let (proven, own) = (world.proven(), format!("/api/v2/telephony/providers/edges/{key}"));
        let looks = || {
            let calls = world.simulator.calls().into_iter();
            calls.filter(|call| call.method == "GET" && call.path == own).count()
        };
        world.fails(name).await;
        let began = clock::now();
        while world.writes(path).is_empty() {
            assert!(began.elapsed() < SOON, "{name}: {}", world.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(50)).await;
        }
        let before = looks();
        while looks() == before {
            assert!(began.elapsed() < SOON, "{name}: {}", world.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(world.simulator.object(Kind::EDGE, key)[field], meanwhile, "{name}");
        assert_eq!(world.proven(), proven, "{name}: it has not settled");
        world.until_proven(proven + 1).await;
        assert_eq!(world.simulator.object(Kind::EDGE, key)[field], then, "{name}");
        assert!(looks() > before + 1, "{name}: {} looks", looks());
        assert_eq!(world.writes(path).len(), 1, "{name}");
    }
    world.recovers("out").await;
    world.until(Kind::EDGE, EDGE_MAIN, "back", |edge| edge["statusCode"] == "ACTIVE").await;
    world.ends_well();
}

/// E11: the platform says that it has put back what was there, and has not: nobody takes that for the end, and what was there
/// stays known. Repeated by a person, or put back by the next who has changed it, it shows, and is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e11_an_undo_is_the_end_once_it_shows() {
    let pager = Target::start().await;
    let values = json!({"destination": "backup"});
    let row = action("row", "datatable_row.set", json!({"table": TABLE, "key": ROWS[0], "values": values}));
    let mut world =
        World::start_with("native-undone", Options::default(), &[group(), row], Some(&pager)).await;
    world.installation.spawn("dlq-replayer", 0);
    let shown = |world: &World| {
        let group = world.group();
        let row = world.simulator.object(Kind::DATA_TABLE_ROW, &format!("{TABLE}/{}", ROWS[0]));
        [group["enabled"].clone(), group["emergencyCallFlows"].clone(), row["destination"].clone()]
    };
    let before = shown(&world);
    let cases = [("group", "/api/v2/architect/emergencygroups"), ("row", "/api/v2/flows/datatables")];
    for (n, (name, _)) in cases.into_iter().enumerate() {
        world.fails(name).await;
        world.until_proven(n + 1).await;
    }
    let done = shown(&world);
    // Between the letter and the verdict of the first it crashes, once.
    world.installation.kill("executor", 0);
    world.installation.spawn_with("executor", 0, &[("HOLDLINE_CRASH_AT", &Point::AfterPark.name())]);
    let mut ids = vec![];
    for (name, path) in cases {
        world.simulator.fault(Fault::new(path, Outcome::Feign).method("PUT").times(1));
        world.recovers(name).await;
        let began = clock::now();
        while world.writes(path).len() < 2 {
            assert!(began.elapsed() < SOON, "{name}: {}", world.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(50)).await;
        }
        let shown = world.incidents();
        let open = shown.as_array().unwrap().iter().find(|open| open["playbook"] == name).unwrap();
        ids.push(open["incidentId"].as_str().unwrap().to_string());
    }
    world.installation.service("executor", 0).wait(2 * SOON);
    assert_eq!(pager.calls().len(), 0);
    world.installation.spawn("executor", 0);
    let pages = pager.wait_for(2, 2 * SOON).await;
    for (name, _) in cases {
        let why = format!("the undo of {name} was carried out and did not work: it is not as it was before");
        assert!(pages.iter().any(|page| page.body.contains(&why)), "{why}: {pages:?}");
    }
    world.until_incidents(2).await;
    assert_eq!((shown(&world), world.undone()), (done, 0));
    let holdline = |arguments: &[&str]| {
        let ran = world.installation.holdline(arguments);
        String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap()
    };
    let letters = holdline(&["dlq", "list"]);
    assert_eq!(letters.matches("it was carried out, and is not seen to have worked").count(), 2, "{letters}");
    // Another entity finds the row as it wants it, and knows what was there before.
    world.report("row", "gw-2", "FAILED", 3).await;
    world.until_incidents(3).await;
    world.report("row", "gw-2", "HEALTHY", 2).await;
    world.until_incidents(2).await;
    assert_eq!(world.undone(), 1);
    let replayed = holdline(&["dlq", "replay", "--all"]);
    world.until_over().await;
    assert_eq!(shown(&world), before, "{replayed}");
    let writes = cases.map(|(_, path)| world.writes(path).len());
    assert_eq!((world.undone(), writes, pager.calls().len()), (3, [3, 3], 2));
    for (id, (name, _)) in ids.iter().zip(cases) {
        let told = holdline(&["incident", id, "explain"]);
        assert!(told.contains(&format!("Undoing ({name}) for gw-1 did not work")), "{told}");
        let again = holdline(&["incident", id, "replay"]);
        assert!(again.contains("byte for byte"), "{again}");
    }
    let told = holdline(&["incident", &ids[0], "explain"]);
    assert!(told.contains("Undoing (group) for gw-1 worked (it is undone)"), "{told}");
    world.ends_well();
}
