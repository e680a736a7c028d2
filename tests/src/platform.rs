//! The simulated platform, as tests use it.

use std::path::Path;

use holdline_simulator::organisation::GROUP_EVACUATION;
use holdline_simulator::{Kind, Simulator};
use serde_json::{Value, json};

/// An object without what every write changes.
pub fn content(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        for field in ["version", "dateModified", "modifiedBy", "modifiedByApp"] {
            fields.remove(field);
        }
    }
    object
}

/// An emergency group of an entity's own comes into being; gives it.
pub fn found_group(simulator: &Simulator, entity: &str) -> Value {
    let mut group = simulator.group(GROUP_EVACUATION);
    group["id"] = json!(entity);
    simulator.add(Kind::EMERGENCY_GROUP, entity, group.clone()).unwrap();
    group
}

/// A playbook that enables an entity's group: three failures do it, two healthy events undo it. The client's id and
/// secret are `ROUTING_ID` and `ROUTING_SECRET`.
pub fn group_playbooks(folder: &Path, simulator: &Simulator, subscription: &str) {
    let settings = format!(
        "platform:\n  region: mypurecloud.ie\n  connect_to: {}\n  clients:\n    routing: {{id: env:ROUTING_ID, \
         secret: env:ROUTING_SECRET}}\n",
        simulator.address()
    );
    let playbook = format!(
        "playbook: groups\nmode: live\non:\n  subscription: {subscription}\n  entity: data.gatewayId\n  failed: \
         status == 'FAILED'\n  healthy: status == 'HEALTHY'\nconfirm: {{failures: 3, stable_for: 0s}}\nact:\n  \
         failed: {{do: [enable-group], class: failover, deadline: 60s}}\nrevert: {{healthy: 2, stable_for: 0s, \
         silence: 15m, do: undo}}\n"
    );
    let action = json!({
        "name": "enable-group", "actionType": "GENESYS", "kind": "emergency_group.set", "client": "routing",
        "parameters": {"group": "{{data.gatewayId}}"},
    });
    let source = json!({
        "name": subscription, "topicName": "telephony.service.status", "authType": "HMAC",
        "secretToken": "env:HOLDLINE_TELEPHONY_SECRET",
    });
    for (path, text) in [
        ("holdline.yaml".into(), settings),
        ("groups.playbook.yaml".into(), playbook),
        ("actions/enable-group.json".into(), action.to_string()),
        (format!("subscriptions/{subscription}.json"), source.to_string()),
    ] {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}
