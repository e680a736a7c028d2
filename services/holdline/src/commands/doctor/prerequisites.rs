//! What the guide asks for besides, of which nothing can be found out from here, or nothing needs to be: each is named,
//! so that nobody takes it for looked at.

use super::Scene;
use super::finding::Finding;

pub(super) fn look(scene: &Scene) -> Vec<Finding> {
    let Ok(set) = &scene.set else { return vec![] };
    let mut found = vec![];
    if set.platform.is_some() {
        found.push(Finding::unknown(
            "licence",
            "not checked: the platform lists an organisation's products by ids of its own, and no source says which of them the \
             actions need",
            "see in Admin (or by GET /api/v2/authorization/products) that the organisation has what the actions are about: emergency groups, data tables, outbound \
             dialling, edges of its own",
        ));
        found.push(Finding::well(
            "scopes",
            "none are needed: the platform applies roles and divisions to client credentials, and no scopes",
        ));
    }
    let called: Vec<&str> = set.subscriptions.values().filter_map(|s| s.callback_url.as_deref()).collect();
    if !called.is_empty() {
        found.push(Finding::unknown(
            "callbacks",
            format!("not checked: whether the platform reaches {} shows from there alone", called.join(", ")),
            "name each with --gateway to see from here who answers and with which certificate; and see that events arrive, \
             in the gateway's /metrics",
        ));
    }
    found
}
