//! What is undone is put back exactly, never over somebody else's work, and not taken for done while it takes effect.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_a_human_in_between_is_never_overwritten() {
    let pager = Target::start().await;
    let world = World::start_with("native-human", Options::default(), &[group()], Some(&pager)).await;
    world.fails("group").await;
    world.until_enabled(true).await;
    world
        .simulator
        .edit(Kind::EMERGENCY_GROUP, GROUP_EVACUATION, &json!({"description": "held open by hand"}))
        .unwrap();
    let edited = world.group();
    world.recovers("group").await;
    world.until_held("somebody has changed it since").await;
    let pages = pager.wait_for(1, SOON).await;
    let page: Value = serde_json::from_str(&pages[0].body).unwrap();
    assert_eq!(page["what"], "gw-1 of group");
    assert!(page["why"].as_str().unwrap().contains("somebody has changed it since"), "{page}");
    assert_eq!(world.group(), edited);
    assert_eq!(pager.calls().len(), 1, "paged once");
    world.ends_well();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_a_stale_version_is_looked_at_again_and_merged() {
    for stale_version in [StaleVersion::Conflict, StaleVersion::BadRequest] {
        let options = Options { stale_version, ..Options::default() };
        let world = World::start("native-stale", options, &[group()]).await;
        // While our PUT is on its way, somebody gives the group another name.
        let slow = Outcome::Delay { delay_ms: 1_000 };
        world.simulator.fault(Fault::new("/api/v2/architect/emergencygroups", slow).method("PUT").times(1));
        world.fails("group").await;
        let began = clock::now();
        while !world.simulator.calls().iter().any(|call| call.method == "PUT") {
            assert!(began.elapsed() < SOON);
            clock::sleep(Duration::from_millis(20)).await;
        }
        world
            .simulator
            .edit(Kind::EMERGENCY_GROUP, GROUP_EVACUATION, &json!({"name": "Renamed meanwhile"}))
            .unwrap();
        world.until_enabled(true).await;
        assert_eq!(world.group()["name"], "Renamed meanwhile");
        let puts = world.writes("emergencygroups");
        assert_eq!(puts.len(), 2, "{puts:?}");
        world.recovers("group").await;
        world.until_enabled(false).await;
        world.until_over().await;
        assert_eq!(world.group()["name"], "Renamed meanwhile");
        world.ends_well();
    }
}

/// The trouble comes back while what was undone takes effect: it is done again, and not taken for done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_a_relapse_while_an_undo_takes_effect_is_remedied() {
    let actions = [
        action("stop", "campaign.stop", json!({"campaign": CAMPAIGN})),
        action("members", "queue.members", json!({"queue": QUEUE, "members": MEMBERS, "joined": false})),
        Action {
            client: "telephony",
            ..action("edge", "edge.out_of_service", json!({"edge": EDGE_MAIN, "drain_s": 1}))
        },
    ];
    let options = Options { settle: Duration::from_secs(4), ..Options::default() };
    let world = World::start("native-relapse", options, &actions).await;
    let member = format!("{QUEUE}/{}", MEMBERS[4]);
    for (name, kind, key, path, field, done, undone) in [
        ("stop", Kind::CAMPAIGN, CAMPAIGN, CAMPAIGN, "campaignStatus", json!("off"), json!("on")),
        ("members", Kind::QUEUE_MEMBER, &member, "/members", "joined", json!(false), json!(true)),
        ("edge", Kind::EDGE, EDGE_MAIN, "/statuscode", "statusCode", json!("INACTIVE"), json!("ACTIVE")),
    ] {
        world.fails(name).await;
        world.until(kind, key, name, |object| object[field] == done).await;
        let until_written = async |writes: usize| {
            let began = clock::now();
            while world.writes(path).len() < writes {
                assert!(began.elapsed() < SOON, "{name}: {}", world.installation.log_of("executor", 0));
                clock::sleep(Duration::from_millis(50)).await;
            }
        };
        world.recovers(name).await;
        until_written(2).await;
        assert_eq!(world.simulator.object(kind, key)[field], done, "{name}: the undo shows already");
        let proven = world.proven();
        world.fails(name).await;
        until_written(3).await;
        // Long enough for everything to have taken effect.
        world.until_proven(proven + 1).await;
        clock::sleep(Duration::from_secs(5)).await;
        assert_eq!(world.simulator.object(kind, key)[field], done, "{name}");
        world.recovers(name).await;
        world.until(kind, key, name, |object| object[field] == undone).await;
        // The first as well, whose undo was overtaken.
        world.until_over().await;
    }
    world.ends_well();
}

/// Of several steps the last that was done is undone first, each exactly: here both write the same field. What was never
/// done is not undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_several_steps_are_undone_last_first_as_far_as_they_were_done() {
    let sends = |name, destination: &str| {
        let values = json!({"destination": destination});
        action(name, "datatable_row.set", json!({"table": TABLE, "key": ROWS[0], "values": values}))
    };
    let actions = [
        Action { steps: "both, other", ..sends("both", "first") },
        sends("other", "second"),
        Action { steps: "half, group", ..sends("half", "half") },
        group(),
    ];
    let world = World::start("native-steps", Options::default(), &actions).await;
    let row = format!("{TABLE}/{}", ROWS[0]);
    let before = world.simulator.object(Kind::DATA_TABLE_ROW, &row);
    let written = || -> Vec<Value> {
        let calls = world.simulator.calls().into_iter().filter(|call| call.method == "PUT");
        calls.map(|call| call.body.unwrap()["destination"].clone()).collect()
    };
    world.fails("both").await;
    world.until(Kind::DATA_TABLE_ROW, &row, "both", |row| row["destination"] == "second").await;
    world.recovers("both").await;
    world.until_over().await;
    assert_eq!(written(), ["first", "second", "first", "primary"]);
    assert_eq!(world.simulator.object(Kind::DATA_TABLE_ROW, &row), before);
    // The second step is refused for good: that is held, and the end of the trouble undoes the first alone.
    world.simulator.forget_calls();
    world.simulator.fault(Fault::status("/api/v2/architect/emergencygroups", 403));
    world.report("half", "gw-2", "FAILED", 3).await;
    world.until_held("403").await;
    world.report("half", "gw-2", "HEALTHY", 2).await;
    world.until_over().await;
    assert_eq!(written(), ["half", "primary"]);
    assert_eq!(world.simulator.object(Kind::DATA_TABLE_ROW, &row), before);
    world.ends_well();
}
