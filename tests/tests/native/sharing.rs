//! Several entities and playbooks that change the same object.

use super::*;

/// What several entities need of one object is changed once, and put back when the last of them is over: not while
/// another one still relies on it, and not as if somebody had intervened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_what_two_entities_need_is_undone_when_both_are_over() {
    let world = World::start("native-shared", Options::default(), &[group()]).await;
    let before = world.group();
    let open = || world.incidents().as_array().unwrap().len();
    let until_open = async |expected: usize| {
        let began = clock::now();
        while open() != expected {
            assert!(began.elapsed() < SOON, "{:#}", world.incidents());
            clock::sleep(Duration::from_millis(100)).await;
        }
    };
    let until_carried = async |entity: &str| {
        let began = clock::now();
        loop {
            let incidents = world.incidents();
            let of = incidents.as_array().unwrap().iter().find(|incident| incident["entityId"] == entity);
            if let Some(id) = of.and_then(|incident| incident["incidentId"].as_str()) {
                let told = world.installation.holdline(&["incident", id, "explain"]);
                let told = String::from_utf8(told.stdout).unwrap();
                if told.contains("others still rely on it") || told.contains("the target answered") {
                    return;
                }
            }
            assert!(began.elapsed() < SOON, "{entity}: {incidents:#}");
            clock::sleep(Duration::from_millis(100)).await;
        }
    };
    world.report("group", "gw-1", "FAILED", 3).await;
    world.until_enabled(true).await;
    world.report("group", "gw-2", "FAILED", 3).await;
    until_carried("gw-2").await;
    world.report("group", "gw-1", "HEALTHY", 2).await;
    until_open(1).await;
    assert_eq!((world.group()["enabled"].clone(), world.writes("emergencygroups").len()), (json!(true), 1));
    // The one who came first comes again, and is over once more.
    world.report("group", "gw-1", "FAILED", 3).await;
    until_carried("gw-1").await;
    world.report("group", "gw-1", "HEALTHY", 2).await;
    until_open(1).await;
    assert_eq!((world.group()["enabled"].clone(), world.writes("emergencygroups").len()), (json!(true), 1));
    world.report("group", "gw-2", "HEALTHY", 2).await;
    world.until_enabled(false).await;
    world.until_over().await;
    assert_eq!((content(world.group()), world.writes("emergencygroups").len()), (content(before.clone()), 2));
    // All at once, as often as it happens.
    for _ in 0..3 {
        let entities = ["gw-3", "gw-4", "gw-5", "gw-6"];
        for (status, times) in [("FAILED", 3), ("HEALTHY", 2)] {
            let reports = entities.map(|entity| world.report("group", entity, status, times));
            futures_util::future::join_all(reports).await;
            if status == "FAILED" {
                for entity in entities {
                    until_carried(entity).await;
                }
                assert_eq!(world.group()["enabled"], true);
            }
        }
        world.until_over().await;
        assert_eq!(content(world.group()), content(before.clone()));
    }
    world.ends_well();
}

/// One trunk's answer is lost, and another's remedy of the same group comes first: the group is put back all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_a_lost_answer_of_one_costs_no_other_the_way_back() {
    let world = World::start("native-shared-lost", Options::default(), &[group()]).await;
    let before = content(world.group());
    let lost = Outcome::Status { status: 500, retry_after_s: None };
    for outcome in [lost, Outcome::CloseMidBody, Outcome::Hang] {
        let what = format!("{outcome:?}");
        let put = Fault::new("/api/v2/architect/emergencygroups", outcome).method("PUT").times(1).applied();
        world.simulator.fault(put);
        world.simulator.forget_calls();
        let entities = ["gw-1", "gw-2", "gw-3"];
        let before_carried = world.installation.log_of("executor", 0).matches("Carried").count();
        let all = |status, times| entities.map(|entity| world.report("group", entity, status, times));
        futures_util::future::join_all(all("FAILED", 3)).await;
        let carried = || world.installation.log_of("executor", 0).matches("Carried").count();
        let began = clock::now();
        while carried() - before_carried < entities.len() {
            assert!(began.elapsed() < SOON, "{what}: {}", world.installation.log_of("executor", 0));
            clock::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(world.group()["enabled"], true, "{what}");
        futures_util::future::join_all(all("HEALTHY", 2)).await;
        world.until_over().await;
        assert_eq!(content(world.group()), before, "{what}");
        assert_eq!(world.writes("emergencygroups").len(), 2, "{what}: {:?}", world.writes("emergencygroups"));
    }
    world.ends_well();
}

/// Two playbooks change different fields of one IVR: neither takes the other for a person.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_two_changes_of_one_object_are_both_undone() {
    let actions = [
        action("hours", "ivr.route", json!({"ivr": IVR_SALES, "open_hours_flow": FLOW_EMERGENCY})),
        action("numbers", "ivr.route", json!({"ivr": IVR_SALES, "dnis": ["+13175550188"]})),
    ];
    let world = World::start("native-two", Options::default(), &actions).await;
    let before = content(world.simulator.object(Kind::IVR, IVR_SALES));
    let until = async |what: &str, expected: &dyn Fn(&Value) -> bool| {
        world.until(Kind::IVR, IVR_SALES, what, expected).await;
    };
    world.fails("hours").await;
    until("hours", &|ivr| ivr["openHoursFlow"]["id"] == FLOW_EMERGENCY).await;
    world.fails("numbers").await;
    until("numbers", &|ivr| ivr["dnis"] == json!(["+13175550188"])).await;
    // The first that was done is the first to be undone.
    world.recovers("hours").await;
    until("hours undone", &|ivr| ivr["openHoursFlow"]["id"] == FLOW_OPEN).await;
    world.recovers("numbers").await;
    world.until_over().await;
    assert_eq!(content(world.simulator.object(Kind::IVR, IVR_SALES)), before);
    world.ends_well();
}

/// Two remedies share a member of a queue, and not all: the end of one would take him from the other, so the second is
/// held. Once the first is over and its undo has taken effect, it can be done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e2_members_whom_two_remedies_share_in_part_stay_with_the_first() {
    let leave = |name, members: [&str; 2]| {
        action(name, "queue.members", json!({"queue": QUEUE, "members": members, "joined": false}))
    };
    let actions = [leave("first", [MEMBERS[0], MEMBERS[1]]), leave("second", [MEMBERS[1], MEMBERS[2]])];
    let pager = Target::start().await;
    let world = World::start_with("native-members", Options::default(), &actions, Some(&pager)).await;
    let joined = |n: usize| {
        world.simulator.object(Kind::QUEUE_MEMBER, &format!("{QUEUE}/{}", MEMBERS[n]))["joined"].clone()
    };
    let shared = format!("{QUEUE}/{}", MEMBERS[1]);
    world.report("first", "gw-1", "FAILED", 3).await;
    world.until(Kind::QUEUE_MEMBER, &shared, "left", |member| member["joined"] == false).await;
    // The same list for another entity is no other list.
    world.report("first", "gw-3", "FAILED", 3).await;
    world.until_incidents(2).await;
    world.report("second", "gw-2", "FAILED", 3).await;
    let pages = pager.wait_for(1, SOON).await;
    assert!(pages[0].body.contains("gw-2 of second"), "{}", pages[0].body);
    assert!(pages[0].body.contains("has changed some of these members"), "{}", pages[0].body);
    assert_eq!((joined(1), joined(2), world.writes("/members").len()), (json!(false), json!(true), 1));
    // Nothing of it is undone, as nothing was done.
    world.report("second", "gw-2", "HEALTHY", 2).await;
    world.until_incidents(2).await;
    assert_eq!((joined(1), world.writes("/members").len()), (json!(false), 1));
    for entity in ["gw-1", "gw-3"] {
        world.report("first", entity, "HEALTHY", 2).await;
    }
    world.until(Kind::QUEUE_MEMBER, &shared, "back", |member| member["joined"] == true).await;
    // What may not have taken effect is waited for, and held by nobody.
    world.report("second", "gw-4", "FAILED", 3).await;
    world.until(Kind::QUEUE_MEMBER, &shared, "left again", |member| member["joined"] == false).await;
    let calls = world.simulator.calls().into_iter().filter(|call| call.path.ends_with("/members"));
    let methods: Vec<String> = calls.map(|call| call.method.to_string()).collect();
    let writes: Vec<usize> = (0..methods.len()).filter(|at| methods[*at] == "PATCH").collect();
    // The look that has proven the undo, and its own.
    assert!(writes.len() == 3 && writes[2] - writes[1] > 2, "{methods:?}");
    world.report("second", "gw-4", "HEALTHY", 2).await;
    world.until_over().await;
    assert_eq!((joined(0), joined(1), joined(2)), (json!(true), json!(true), json!(true)));
    assert_eq!((world.writes("/members").len(), pager.calls().len()), (4, 1));
    world.ends_well();
}
