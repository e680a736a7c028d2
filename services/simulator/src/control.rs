//! What a test or a demonstration does behind the platform's back, and sees of it. [`crate::remote`] offers the
//! same over HTTP.

use serde_json::Value;

use crate::Simulator;
use crate::calls::Call;
use crate::faults::{Fault, SocketFault};
use crate::serve::Shared;
use crate::world::{Author, Kind};

/// There is nothing of that id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the simulator has no {kind} {id}: see its module organisation, or GET /simulator/objects")]
pub struct Unknown {
    kind: &'static str,
    id: String,
}

fn known<T, E>(kind: &'static str, id: &str, done: Result<T, E>) -> Result<T, Unknown> {
    done.map_err(|_| Unknown { kind, id: id.into() })
}

impl Shared {
    pub(crate) fn set_trunk(&self, id: &str, connected: bool, options: &[bool]) -> Result<(), Unknown> {
        known("trunk", id, self.with(|state, now| state.set_trunk(id, connected, options, now)))
    }

    pub(crate) fn set_edge(&self, id: &str, online: bool) -> Result<(), Unknown> {
        known("edge", id, self.with(|state, _| state.set_edge(id, online)))
    }

    pub(crate) fn edit(&self, kind: Kind, key: &str, fields: &Value) -> Result<Value, Unknown> {
        known("object", key, self.with(|state, now| state.world.edit(kind, key, fields, &Author::Human, now)))
    }

    pub(crate) fn incident(&self, name: &str, component: &str, status: &str) -> Result<String, Unknown> {
        let opened =
            self.with(|state, now| state.statuspage.open(name, component, status, now, &mut state.ids));
        known("component or status", &format!("{component}, {status}"), opened.ok_or(()))
    }

    pub(crate) fn resolve(&self, incident: &str) -> Result<(), Unknown> {
        let resolved = self.with(|state, now| state.statuspage.resolve(incident, now));
        known("incident", incident, resolved.then_some(()).ok_or(()))
    }

    pub(crate) fn operational_event(
        &self,
        definition: &str,
        entity: &str,
        code: &str,
    ) -> Result<(), Unknown> {
        let happened = self.with(|state, now| state.operational_event(definition, entity, code, now));
        known("operational event definition", definition, happened)
    }

    pub(crate) fn strike(&self, fault: SocketFault) {
        self.with(|state, now| {
            state.channels.strike(fault, state.options.closing_notice, now, &mut state.ids);
        });
    }

    pub(crate) fn refuse_topic(&self, topic: &str, refused: bool) -> Result<(), Unknown> {
        let done = self.with(|state, _| state.channels.refuse(topic, refused));
        known("room for a refused topic", topic, done.then_some(()).ok_or(()))
    }

    pub(crate) fn revoke_tokens(&self) {
        self.with(|state, _| {
            state.tokens.revoke_all();
            state.channels.revoke_all(&mut state.ids);
        });
    }
}

impl Simulator {
    /// Connects or disconnects a trunk and tells who has subscribed. `options`: whether each of its two proxies
    /// answers OPTIONS and REGISTER; one that is not named does as the trunk is connected.
    ///
    /// # Errors
    /// There is no such trunk.
    pub fn set_trunk(&self, id: &str, connected: bool, options: &[bool]) -> Result<(), Unknown> {
        self.shared.set_trunk(id, connected, options)
    }

    /// Puts an edge on or off the network and tells who has subscribed.
    ///
    /// # Errors
    /// There is no such edge.
    pub fn set_edge(&self, id: &str, online: bool) -> Result<(), Unknown> {
        self.shared.set_edge(id, online)
    }

    /// Opens an incident on the status page and gives its id; the component gets the status, such as
    /// `partial_outage`.
    ///
    /// # Errors
    /// There is no such component or status.
    pub fn incident(&self, name: &str, component: &str, status: &str) -> Result<String, Unknown> {
        self.shared.incident(name, component, status)
    }

    /// An incident of the status page is over.
    ///
    /// # Errors
    /// There never was such an incident.
    pub fn resolve(&self, incident: &str) -> Result<(), Unknown> {
        self.shared.resolve(incident)
    }

    /// An operational event of a definition happens to an entity.
    ///
    /// # Errors
    /// There is no such definition.
    pub fn operational_event(&self, definition: &str, entity: &str, code: &str) -> Result<(), Unknown> {
        self.shared.operational_event(definition, entity, code)
    }

    /// Changes fields of an object as a person would at the administration's pages: version and date go on.
    /// Null takes a field out.
    ///
    /// # Errors
    /// There is no such object.
    pub fn edit(&self, kind: Kind, key: &str, fields: &Value) -> Result<Value, Unknown> {
        self.shared.edit(kind, key, fields)
    }

    /// Adds an object, as if it had always been there, or takes another in its place.
    ///
    /// # Errors
    /// There are too many already.
    pub fn add(&self, kind: Kind, key: &str, object: Value) -> Result<(), Unknown> {
        known("room for an object", key, self.shared.with(|state, _| state.world.put(kind, key, object)))
    }

    /// An object as it stands; null where there is none. Keys: see [`Kind`].
    pub fn object(&self, kind: Kind, key: &str) -> Value {
        self.shared.with(|state, _| state.world.get(kind, key).cloned()).unwrap_or_default()
    }

    /// Every object of a kind, by key.
    pub fn objects(&self, kind: Kind) -> Vec<Value> {
        self.shared.with(|state, _| state.world.below(kind, "").map(|(_, object)| object.clone()).collect())
    }

    /// The `secretToken` of a subscription, which no answer gives back.
    pub fn secret_token(&self, subscription: &str) -> Option<String> {
        self.shared.with(|state, _| state.world.secret_tokens.get(subscription).cloned())
    }

    /// An emergency group as it stands.
    pub fn group(&self, id: &str) -> Value {
        self.object(Kind::EMERGENCY_GROUP, id)
    }

    /// Orders a fault.
    pub fn fault(&self, fault: Fault) {
        self.shared.with(|state, _| state.faults.order(fault));
    }

    /// Takes every ordered fault back. Calls that hang go on hanging.
    pub fn clear_faults(&self) {
        self.shared.with(|state, _| state.faults.clear());
    }

    /// Does something to every open socket.
    pub fn strike_sockets(&self, fault: SocketFault) {
        self.shared.strike(fault);
    }

    /// Whoever subscribes to the topic from now on is told that there is none, or is no longer. Channels that have it
    /// keep it until they subscribe again.
    ///
    /// # Errors
    /// There are too many already.
    pub fn refuse_topic(&self, topic: &str, refused: bool) -> Result<(), Unknown> {
        self.shared.refuse_topic(topic, refused)
    }

    /// How many sockets are open.
    pub fn sockets(&self) -> usize {
        self.shared.with(|state, _| state.channels.sockets())
    }

    /// Makes every token bad: callers get 401, sockets are told and closed, their channels are gone.
    pub fn revoke_tokens(&self) {
        self.shared.revoke_tokens();
    }

    /// What was called, oldest first; the oldest are forgotten.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.with(|state, _| state.calls.log())
    }

    /// The most API calls, all clients together, that came within any second. Exact.
    pub fn calls_in_a_second_max(&self) -> usize {
        self.shared.with(|state, _| state.calls.in_a_second_max())
    }

    /// Forgets every call and begins to count anew.
    pub fn forget_calls(&self) {
        self.shared.with(|state, _| state.calls.forget());
    }
}
