//! Edges, trunks, and the outbound routes of sites.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Asked, Route, list, ok, replace, route, show};
use crate::refusal::Refusal;
use crate::state::{Now, State, micros};
use crate::world::{Kind, with};

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

pub(super) const ROUTES: &[Route] = &[
    route(Method::GET, EDGES, TELEPHONY, |state, asked| list(state, Kind::Edge, "", EDGES, asked)),
    route(Method::GET, EDGE, TELEPHONY, |state, asked| show(state, Kind::Edge, asked)),
    route(Method::POST, STATUS_CODE, TELEPHONY, status_code),
    route(Method::POST, REBOOT, TELEPHONY, reboot),
    route(Method::GET, TRUNKS, TELEPHONY, |state, asked| list(state, Kind::Trunk, "", TRUNKS, asked)),
    route(Method::GET, TRUNK, TELEPHONY, |state, asked| show(state, Kind::Trunk, asked)),
    route(Method::GET, ROUTES_OF_SITE, TELEPHONY, |state, asked| {
        let site = asked.first();
        let path = ROUTES_OF_SITE.replace("{site}", site);
        list(state, Kind::OutboundRoute, &format!("{site}/"), &path, asked)
    }),
    route(Method::GET, ROUTE, TELEPHONY, |state, asked| show(state, Kind::OutboundRoute, asked)),
    route(Method::PUT, ROUTE, TELEPHONY, |state, asked| replace(state, Kind::OutboundRoute, asked)),
];

/// Takes an edge out of service, or puts it back. One that is out carries no new calls and stays online.
fn status_code(state: &mut State, asked: &Asked) -> Answer {
    let key = asked.key();
    state.world.find(Kind::Edge, &key)?;
    let in_service = asked.body.get("inService").and_then(Value::as_bool);
    let in_service = in_service.ok_or_else(|| Refusal::bad_request("inService is required"))?;
    let (code, draining) = if in_service { ("ACTIVE", "NONE") } else { ("INACTIVE", "WAIT") };
    state.world.set(Kind::Edge, &key, &json!({ "statusCode": code, "callDrainingState": draining }))?;
    if !in_service {
        let due_us = asked.now.us.saturating_add(micros(state.options.settle));
        state.world.later(due_us, Kind::Edge, &key, json!({ "callDrainingState": "COMPLETE" }))?;
    }
    ok(json!("OK"))
}

/// Offline at once, online again by and by.
fn reboot(state: &mut State, asked: &Asked) -> Answer {
    let key = asked.key();
    state.world.find(Kind::Edge, &key)?;
    state.set_edge(&key, false)?;
    let due_us = asked.now.us.saturating_add(micros(state.options.settle));
    state.world.later(due_us, Kind::Edge, &key, json!({ "onlineStatus": "ONLINE" }))?;
    ok(json!("OK"))
}

impl State {
    /// Puts an edge on or off the network and tells who has subscribed.
    pub(crate) fn set_edge(&mut self, id: &str, online: bool) -> Result<(), Refusal> {
        let status = if online { "ONLINE" } else { "OFFLINE" };
        self.world.set(Kind::Edge, id, &json!({ "onlineStatus": status }))?;
        self.tell_edge(id);
        Ok(())
    }

    /// Tells who has subscribed how an edge is.
    pub(crate) fn tell_edge(&mut self, id: &str) {
        let status = self.world.get(Kind::Edge, id).and_then(|edge| edge.get("onlineStatus"));
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
        let trunk = self.world.find(Kind::Trunk, id)?;
        let proxies = trunk.get("proxyAddressList").and_then(Value::as_array).into_iter().flatten();
        let proxies: Vec<String> = proxies.filter_map(|proxy| Some(proxy.as_str()?.into())).collect();
        let mut status = trunk_status(&proxies, connected, options, &now.date());
        self.world.set(Kind::Trunk, id, &status)?;
        if let Some(body) = status.as_object_mut() {
            body.insert("id".into(), json!(id));
        }
        self.channels.push(&format!("v2.telephony.providers.edges.trunks.{id}"), &status, &mut self.ids);
        Ok(())
    }
}

/// What trunks and notifications of them say alike.
pub(crate) fn trunk_status(proxies: &[String], connected: bool, options: &[bool], date: &str) -> Value {
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
