//! Edges, trunks, and the outbound routes of sites.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, Family, Route, list, ok, replace, route, show};
use crate::refusal::Refusal;
use crate::state::{Now, State, micros};
use crate::world::{Kind, Marks, Traits, with};

const EDGES: &str = "/api/v2/telephony/providers/edges";
const EDGE: &str = "/api/v2/telephony/providers/edges/{id}";
const STATUS_CODE: &str = "/api/v2/telephony/providers/edges/{id}/statuscode";
const REBOOT: &str = "/api/v2/telephony/providers/edges/{id}/reboot";
const TRUNKS: &str = "/api/v2/telephony/providers/edges/trunks";
const TRUNK: &str = "/api/v2/telephony/providers/edges/trunks/{id}";
const ROUTES_OF_SITE: &str = "/api/v2/telephony/providers/edges/sites/{site}/outboundroutes";
const ROUTE: &str = "/api/v2/telephony/providers/edges/sites/{site}/outboundroutes/{route}";

/// All or nothing.
const TELEPHONY: &[&str] = &["telephony:plugin:all"];

impl Kind {
    pub const EDGE: Kind = Kind(&Traits {
        name: "edge",
        marks: Marks::App,
        founded: founded::edges,
        settled: |state, id, fields| {
            if fields.get("onlineStatus").is_some() {
                state.tell_edge(id);
            }
        },
        ..Traits::PLAIN
    });
    pub const TRUNK: Kind =
        Kind(&Traits { name: "trunk", marks: Marks::App, founded: founded::trunks, ..Traits::PLAIN });
    /// Its key is `site/route`.
    pub const OUTBOUND_ROUTE: Kind = Kind(&Traits {
        name: "outbound_route",
        writable: &[
            "name",
            "description",
            "classificationTypes",
            "enabled",
            "distribution",
            "externalTrunkBases",
        ],
        marks: Marks::App,
        founded: founded::outbound_routes,
        ..Traits::PLAIN
    });
}

pub(super) const FAMILY: Family =
    Family { kinds: &[Kind::EDGE, Kind::TRUNK, Kind::OUTBOUND_ROUTE], routes: ROUTES };

const ROUTES: &[Route] = &[
    route(Method::GET, EDGES, TELEPHONY, |state, asked| list(state, Kind::EDGE, "", EDGES, asked)),
    route(Method::GET, EDGE, TELEPHONY, |state, asked| show(state, Kind::EDGE, asked)),
    route(Method::POST, STATUS_CODE, TELEPHONY, status_code),
    route(Method::POST, REBOOT, TELEPHONY, reboot),
    route(Method::GET, TRUNKS, TELEPHONY, |state, asked| list(state, Kind::TRUNK, "", TRUNKS, asked)),
    route(Method::GET, TRUNK, TELEPHONY, |state, asked| show(state, Kind::TRUNK, asked)),
    route(Method::GET, ROUTES_OF_SITE, TELEPHONY, |state, asked| {
        let site = asked.first();
        let path = ROUTES_OF_SITE.replace("{site}", site);
        list(state, Kind::OUTBOUND_ROUTE, &format!("{site}/"), &path, asked)
    }),
    route(Method::GET, ROUTE, TELEPHONY, |state, asked| show(state, Kind::OUTBOUND_ROUTE, asked)),
    route(Method::PUT, ROUTE, TELEPHONY, |state, asked| replace(state, Kind::OUTBOUND_ROUTE, asked)),
];

/// Takes an edge out of service, or puts it back: accepted at once, so by and by. One that is out carries no new calls and
/// stays online.
fn status_code(state: &mut State, asked: &Asked) -> Answer {
    let key = asked.key();
    state.world.find(Kind::EDGE, &key)?;
    let in_service = asked.body.get("inService").and_then(Value::as_bool);
    let in_service = in_service.ok_or_else(|| Refusal::bad_request("inService is required"))?;
    let settled = if in_service {
        json!({ "statusCode": "ACTIVE", "callDrainingState": "NONE" })
    } else {
        state.world.set(Kind::EDGE, &key, &json!({ "callDrainingState": "WAIT" }))?;
        json!({ "statusCode": "INACTIVE", "callDrainingState": "COMPLETE" })
    };
    let due_us = asked.now.us.saturating_add(micros(state.options.settle));
    state.world.later(due_us, Kind::EDGE, &key, settled)?;
    ok(json!("OK"))
}

/// Offline by and by, and online again as long after that.
fn reboot(state: &mut State, asked: &Asked) -> Answer {
    let key = asked.key();
    state.world.find(Kind::EDGE, &key)?;
    let settle_us = micros(state.options.settle);
    let mut due_us = asked.now.us;
    for status in ["OFFLINE", "ONLINE"] {
        due_us = due_us.saturating_add(settle_us);
        state.world.later(due_us, Kind::EDGE, &key, json!({ "onlineStatus": status }))?;
    }
    ok(json!("OK"))
}

impl State {
    /// Puts an edge on or off the network and tells who has subscribed.
    pub(crate) fn set_edge(&mut self, id: &str, online: bool) -> Result<(), Refusal> {
        let status = if online { "ONLINE" } else { "OFFLINE" };
        self.world.set(Kind::EDGE, id, &json!({ "onlineStatus": status }))?;
        self.tell_edge(id);
        Ok(())
    }

    /// Tells who has subscribed how an edge is.
    pub(crate) fn tell_edge(&mut self, id: &str) {
        let status = self.world.get(Kind::EDGE, id).and_then(|edge| edge.get("onlineStatus"));
        let body = json!({ "id": id, "onlineStatus": status });
        self.channels.push(&format!("v2.telephony.providers.edges.{id}"), &body, &mut self.ids);
    }

    /// Sets a trunk's state and tells who has subscribed. `options`: whether each proxy answers OPTIONS and
    /// REGISTER; a proxy that is not named does as the trunk is connected.
    pub(crate) fn set_trunk(
        &mut self,
        id: &str,
        connected: bool,
        options: &[bool],
        now: Now,
    ) -> Result<(), Refusal> {
        let trunk = self.world.find(Kind::TRUNK, id)?;
        let proxies = trunk.get("proxyAddressList").and_then(Value::as_array).into_iter().flatten();
        let proxies: Vec<String> = proxies.filter_map(|proxy| Some(proxy.as_str()?.into())).collect();
        let mut status = trunk_status(&proxies, connected, options, &now.date());
        self.world.set(Kind::TRUNK, id, &status)?;
        if let Some(body) = status.as_object_mut() {
            body.insert("id".into(), json!(id));
        }
        self.channels.push(&format!("v2.telephony.providers.edges.trunks.{id}"), &status, &mut self.ids);
        Ok(())
    }
}

/// What trunks and notifications of them say alike.
fn trunk_status(proxies: &[String], connected: bool, options: &[bool], date: &str) -> Value {
    let answers = |number: usize| options.get(number).copied().unwrap_or(connected);
    let mut options_status = vec![];
    let mut registers_status = vec![];
    for (number, proxy) in proxies.iter().enumerate() {
        let well = answers(number);
        let option = json!({ "proxyAddress": proxy, "optionState": well, "optionStateTime": date });
        let register = json!({ "proxyAddress": proxy, "registerState": well, "registerStateTime": date });
        // The codes are invented, as in the samples.
        let silent = error("SIP OPTIONS request timed out", "sip.options.timeout", "408", number);
        let rejected = error("REGISTER rejected", "sip.register.failed", "503", number);
        options_status.push(with(option, &json!({ "errorInfo": (!well).then_some(silent) })));
        registers_status.push(with(register, &json!({ "errorInfo": (!well).then_some(rejected) })));
    }
    json!({
        "connectedStatus": { "connected": connected, "connectedStateTime": date },
        "optionsStatus": options_status,
        "registersStatus": registers_status,
        "ipStatus": { "address": "198.51.100.4" },
    })
}

fn error(text: &str, code: &str, sip: &str, number: usize) -> Value {
    let message = if sip == "408" { "Request Timeout" } else { "Service Unavailable" };
    let hostname = format!("sbc{}.example.net", number + 1);
    json!({ "text": text, "code": code, "details": { "code": sip, "message": message, "hostname": hostname } })
}

/// What is there at the start: two sites with an edge each, and three trunks.
pub(crate) mod founded {
    use serde_json::{Value, json};

    use crate::organisation::{HUMAN, division, reference};

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

    pub(super) fn edges(date: &str) -> Vec<(String, Value)> {
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
            objects.push((id.into(), edge));
        }
        objects
    }

    pub(super) fn trunks(date: &str) -> Vec<(String, Value)> {
        let mut objects = vec![];
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
            let status = super::trunk_status(&proxies, true, &[], date);
            if let (Some(trunk), Some(status)) = (trunk.as_object_mut(), status.as_object()) {
                trunk.extend(status.clone());
            }
            objects.push((id.into(), trunk));
        }
        objects
    }

    pub(super) fn outbound_routes(date: &str) -> Vec<(String, Value)> {
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
        vec![(format!("{SITE_MAIN}/{ROUTE}"), route)]
    }
}
