//! The organisation that is there at the start: two sites with an edge each, three trunks, and what an incident
//! there is answered with.

use serde_json::{Value, json};

use crate::oauth::Client;
use crate::world::Kind;

pub const ORGANISATION: &str = "23faea37-1117-4c0a-88a2-572c46780b03";
pub const DIVISION: &str = "d0000000-0000-4000-8000-000000000000";
/// The person whose hand [`crate::Simulator::edit`] is.
pub const HUMAN: &str = "a0000000-0000-4000-8000-000000000001";

pub const SITE_MAIN: &str = "50000000-0000-4000-8000-000000000001";
pub const SITE_BRANCH: &str = "50000000-0000-4000-8000-000000000002";
pub const EDGE_MAIN: &str = "5f0a3c1e-7d2b-4b7f-9a10-2f6c1d3e4b5a";
pub const EDGE_BRANCH: &str = "5f0a3c1e-7d2b-4b7f-9a10-2f6c1d3e4b5b";
pub const TRUNK_PRIMARY: &str = "b7c1f0de-3a55-4c0e-8f2e-0d9b8a7c6e51";
pub const TRUNK_BACKUP: &str = "b7c1f0de-3a55-4c0e-8f2e-0d9b8a7c6e52";
pub const TRUNK_BRANCH: &str = "b7c1f0de-3a55-4c0e-8f2e-0d9b8a7c6e53";
pub const TRUNK_BASE_PRIMARY: &str = "7b000000-0000-4000-8000-000000000001";
pub const TRUNK_BASE_BACKUP: &str = "7b000000-0000-4000-8000-000000000002";
/// Of [`SITE_MAIN`]; [`TRUNK_BASE_PRIMARY`] comes first.
pub const ROUTE: &str = "70000000-0000-4000-8000-000000000001";

/// Every IVR of the organisation.
pub const GROUP_EVACUATION: &str = "11111111-1111-4111-8111-111111111111";
/// [`IVR_SALES`] alone.
pub const GROUP_SALES: &str = "11111111-1111-4111-8111-111111111112";
pub const IVR_SERVICE: &str = "12000000-0000-4000-8000-000000000001";
pub const IVR_SALES: &str = "12000000-0000-4000-8000-000000000002";
pub const FLOW_EMERGENCY: &str = "f1000000-0000-4000-8000-000000000001";
pub const FLOW_OPEN: &str = "f1000000-0000-4000-8000-000000000002";
/// A workflow that `POST /api/v2/flows/executions` may start.
pub const FLOW_WORKFLOW: &str = "b008976c-e085-43b7-b27d-9c0efd5fbfb5";

pub const TABLE: &str = "da7ab1e0-0000-4000-8000-000000000001";
/// Keys of the rows of [`TABLE`].
pub const ROWS: [&str; 2] = ["main-line", "sales-line"];
/// `on` at the start.
pub const CAMPAIGN: &str = "ca000000-0000-4000-8000-000000000001";
pub const QUEUE: &str = "40000000-0000-4000-8000-000000000001";
/// Users who are members of [`QUEUE`], all joined.
pub const MEMBERS: [&str; 5] = [
    "a1000000-0000-4000-8000-000000000001",
    "a1000000-0000-4000-8000-000000000002",
    "a1000000-0000-4000-8000-000000000003",
    "a1000000-0000-4000-8000-000000000004",
    "a1000000-0000-4000-8000-000000000005",
];

/// A client that may do everything but telephony.
pub const CLIENT: &str = "6d2e1f00-0000-4000-8000-000000000001";
pub const CLIENT_SECRET: &str = "simulated-secret";
/// A client that may do telephony and nothing else: `telephony:plugin:all` is all or nothing.
pub const TELEPHONY_CLIENT: &str = "6d2e1f00-0000-4000-8000-000000000002";
pub const TELEPHONY_CLIENT_SECRET: &str = "simulated-telephony-secret";

/// The status page's component that stands for the organisation's region.
pub const STATUS_COMPONENT: &str = "c0mp0n3nt001";
/// A component of another region.
pub const STATUS_COMPONENT_OTHER: &str = "c0mp0n3nt002";

/// Kinds of operational events: id, name, description. Invented, as no list of the real ones is public.
pub const OPERATIONAL_EVENT_DEFINITIONS: [(&str, &str, &str); 2] = [
    ("0e000000-0000-4000-8000-000000000001", "Rate limit exceeded", "A client exceeded its rate limit"),
    ("0e000000-0000-4000-8000-000000000002", "Data action failed", "A data action failed repeatedly"),
];

/// The clients of the organisation.
pub fn clients() -> Vec<Client> {
    let permissions = [
        "routing:emergencyGroup:view",
        "routing:emergencyGroup:edit",
        "routing:callRoute:view",
        "routing:callRoute:edit",
        "routing:queue:view",
        "routing:queue:edit",
        "routing:queueMember:manage",
        "architect:datatable:view",
        "architect:datatableRow:view",
        "architect:datatableRow:edit",
        "architect:flow:launch",
        "outbound:campaign:view",
        "outbound:campaign:edit",
        "outbound:campaign:stop",
        "outbound:campaign:start",
        "usage:events:view",
        "analytics:queueObservation:view",
        "audits:audit:view",
    ];
    vec![
        Client::new(CLIENT, CLIENT_SECRET, &permissions),
        Client::new(TELEPHONY_CLIENT, TELEPHONY_CLIENT_SECRET, &["telephony:plugin:all"]),
    ]
}

/// Kind, key and content of every object.
pub(crate) fn objects(date: &str) -> Vec<(Kind, String, Value)> {
    let mut objects = telephony(date);
    objects.extend(architect(date));
    objects.extend(routing(date));
    objects
}

fn reference(id: &str, name: &str) -> Value {
    json!({ "id": id, "name": name })
}

fn division() -> Value {
    json!({ "id": DIVISION, "name": "Home", "selfUri": format!("/api/v2/authorization/divisions/{DIVISION}") })
}

fn telephony(date: &str) -> Vec<(Kind, String, Value)> {
    let mut objects = vec![];
    for (id, name, site, site_name) in
        [(EDGE_MAIN, "EDGE-01", SITE_MAIN, "Main"), (EDGE_BRANCH, "EDGE-02", SITE_BRANCH, "Branch")]
    {
        let edge = json!({
            "id": id,
            "name": name,
            "division": division(),
            "version": 3,
            "dateCreated": date,
            "dateModified": date,
            "createdBy": HUMAN,
            "state": "active",
            "site": { "id": site, "name": site_name, "state": "active" },
            "statusCode": "ACTIVE",
            "onlineStatus": "ONLINE",
            "callDrainingState": "NONE",
            "edgeDeploymentType": "HARDWARE",
            "physicalEdge": true,
            "managed": false,
            "conversationCount": 0,
            "selfUri": format!("/api/v2/telephony/providers/edges/{id}"),
        });
        objects.push((Kind::Edge, id.into(), edge));
    }
    for (id, name, base, edge, carrier) in [
        (TRUNK_PRIMARY, "Carrier A", TRUNK_BASE_PRIMARY, EDGE_MAIN, 10),
        (TRUNK_BACKUP, "Carrier B", TRUNK_BASE_BACKUP, EDGE_MAIN, 20),
        (TRUNK_BRANCH, "Carrier A, branch", TRUNK_BASE_PRIMARY, EDGE_BRANCH, 30),
    ] {
        let proxies = [format!("203.0.113.{carrier}:5060"), format!("203.0.113.{}:5060", carrier + 1)];
        let mut trunk = json!({
            "id": id,
            "name": name,
            "division": division(),
            "version": 2,
            "dateCreated": date,
            "dateModified": date,
            "createdBy": HUMAN,
            "state": "active",
            "trunkType": "EXTERNAL",
            "edge": { "id": edge, "selfUri": format!("/api/v2/telephony/providers/edges/{edge}") },
            "trunkBase": { "id": base },
            "inService": true,
            "enabled": true,
            "optionsEnabledStatus": "ENABLED",
            "registersEnabledStatus": "ENABLED",
            "family": 5,
            "proxyAddressList": proxies,
            "selfUri": format!("/api/v2/telephony/providers/edges/trunks/{id}"),
        });
        let status = crate::api::telephony::trunk_status(&proxies, true, &[], date);
        if let (Some(trunk), Some(status)) = (trunk.as_object_mut(), status.as_object()) {
            trunk.extend(status.clone());
        }
        objects.push((Kind::Trunk, id.into(), trunk));
    }
    let route = json!({
        "id": ROUTE,
        "name": "Default Outbound Route",
        "version": 4,
        "dateCreated": date,
        "dateModified": date,
        "createdBy": HUMAN,
        "state": "active",
        "classificationTypes": ["National", "International"],
        "enabled": true,
        "distribution": "SEQUENTIAL",
        "externalTrunkBases": [
            reference(TRUNK_BASE_PRIMARY, "Carrier A"), reference(TRUNK_BASE_BACKUP, "Carrier B")
        ],
        "selfUri": format!("/api/v2/telephony/providers/edges/sites/{SITE_MAIN}/outboundroutes/{ROUTE}"),
    });
    objects.push((Kind::OutboundRoute, format!("{SITE_MAIN}/{ROUTE}"), route));
    objects
}

fn architect(date: &str) -> Vec<(Kind, String, Value)> {
    let mut objects = vec![];
    for (id, name, version, ivrs) in [
        (GROUP_EVACUATION, "Organization Evacuation", 7, vec![IVR_SERVICE, IVR_SALES]),
        (GROUP_SALES, "Sales Evacuation", 2, vec![IVR_SALES]),
    ] {
        let ivrs: Vec<Value> = ivrs.iter().map(|id| json!({ "id": id })).collect();
        let flow = json!({ "id": FLOW_EMERGENCY, "name": "Emergency" });
        let group = json!({
            "id": id,
            "name": name,
            "division": division(),
            "version": version,
            "dateCreated": date,
            "dateModified": date,
            "createdBy": HUMAN,
            "state": "active",
            "enabled": false,
            "emergencyCallFlows": [{ "emergencyFlow": flow, "ivrs": ivrs }],
            "selfUri": format!("/api/v2/architect/emergencygroups/{id}"),
        });
        objects.push((Kind::EmergencyGroup, id.into(), group));
    }
    for (id, name, number) in [(IVR_SERVICE, "Service", "+13175550100"), (IVR_SALES, "Sales", "+13175550101")]
    {
        let ivr = json!({
            "id": id,
            "name": name,
            "division": division(),
            "version": 5,
            "dateCreated": date,
            "dateModified": date,
            "createdBy": HUMAN,
            "state": "active",
            "dnis": [number],
            "openHoursFlow": reference(FLOW_OPEN, "Open"),
            "selfUri": format!("/api/v2/architect/ivrs/{id}"),
        });
        objects.push((Kind::Ivr, id.into(), ivr));
    }
    for (id, name) in
        [(FLOW_EMERGENCY, "Emergency"), (FLOW_OPEN, "Open"), (FLOW_WORKFLOW, "Incident workflow")]
    {
        objects.push((Kind::Flow, id.into(), reference(id, name)));
    }
    for key in ROWS {
        // The key's field has the name `key` in every data table.
        let row = json!({ "key": key, "destination": "primary", "announce": false });
        objects.push((Kind::DataTableRow, format!("{TABLE}/{key}"), row));
    }
    objects
}

fn routing(date: &str) -> Vec<(Kind, String, Value)> {
    let campaign = json!({
        "id": CAMPAIGN,
        "name": "Renewals",
        "dateCreated": date,
        "dateModified": date,
        "version": 9,
        "division": division(),
        "contactList": reference("c1000000-0000-4000-8000-000000000001", "Renewals"),
        "queue": reference(QUEUE, "Service"),
        "dialingMode": "power",
        "campaignStatus": "on",
        "phoneColumns": [{ "columnName": "phone", "type": "cell" }],
        "abandonRate": 3.0,
        "callerName": "Example",
        "callerAddress": "+13175550100",
        "outboundLineCount": 12,
        "maxCallsPerAgent": 2,
        "priority": 5,
        "selfUri": format!("/api/v2/outbound/campaigns/{CAMPAIGN}"),
    });
    let queue = json!({
        "id": QUEUE,
        "name": "Service",
        "division": division(),
        "description": "Customer service",
        "dateCreated": date,
        "dateModified": date,
        "createdBy": HUMAN,
        "modifiedBy": HUMAN,
        "memberCount": MEMBERS.len(),
        "userMemberCount": MEMBERS.len(),
        "joinedMemberCount": MEMBERS.len(),
        "skillEvaluationMethod": "ALL",
        "scoringMethod": "TimestampAndPriority",
        "acwSettings": { "wrapupPrompt": "OPTIONAL" },
        "autoAnswerOnly": true,
        "enableTranscription": false,
        "enableManualAssignment": false,
        "selfUri": format!("/api/v2/routing/queues/{QUEUE}"),
    });
    let mut objects = vec![(Kind::Campaign, CAMPAIGN.into(), campaign), (Kind::Queue, QUEUE.into(), queue)];
    for (number, id) in MEMBERS.iter().enumerate() {
        let name = format!("Agent {}", number + 1);
        let member = json!({
            "id": id,
            "name": name,
            "user": { "id": id, "name": name, "selfUri": format!("/api/v2/users/{id}") },
            "ringNumber": 1,
            "joined": true,
            "memberBy": "user",
            "routingStatus": { "userId": id, "status": "IDLE", "startTime": date },
            "selfUri": format!("/api/v2/routing/queues/{QUEUE}/members/{id}"),
        });
        objects.push((Kind::QueueMember, format!("{QUEUE}/{id}"), member));
    }
    objects
}
