//! The status page's public API, under `/statuspage`.

use axum::routing::MethodFilter;

use super::{Route, ok, route};

pub(super) const ROUTES: &[Route] = &[
    route(MethodFilter::GET, "/statuspage/api/v2/summary.json", &[], |state, _| {
        ok(state.statuspage.summary())
    }),
    route(MethodFilter::GET, "/statuspage/api/v2/components.json", &[], |state, _| {
        ok(state.statuspage.components())
    }),
    route(MethodFilter::GET, "/statuspage/api/v2/incidents/unresolved.json", &[], |state, _| {
        ok(state.statuspage.unresolved_incidents())
    }),
];
