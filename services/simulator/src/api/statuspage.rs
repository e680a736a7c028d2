//! The status page's public API, under `/statuspage`.

use axum::http::Method;

use super::{Family, Route, ok, route};

pub(super) const FAMILY: Family = Family { kinds: &[], routes: ROUTES };

const ROUTES: &[Route] = &[
    route(Method::GET, "/statuspage/api/v2/summary.json", &[], |state, _| ok(state.statuspage.summary())),
    route(Method::GET, "/statuspage/api/v2/components.json", &[], |state, _| {
        ok(state.statuspage.components())
    }),
    route(Method::GET, "/statuspage/api/v2/incidents/unresolved.json", &[], |state, _| {
        ok(state.statuspage.unresolved_incidents())
    }),
];
