//! What people have to allow first (E7, A4): they are asked in APPROVALS for exactly the request that would leave, and
//! their word is looked at again, at the leader, before it does. Whose word counts stands in `decide::approval`; that
//! it is theirs is proven by their signature, so that no right at the broker takes the place of a person's token.

use holdline_decide::approval::{self, Person, Standing, Terms};
use holdline_decide::execute::{self, Shown};
use holdline_decide::playbook::{Action, Set};
use holdline_proto::approval::{Asked, KEPT, Ruling};
use holdline_proto::audit::{Act, Deed};
use holdline_proto::command::Command;
use holdline_proto::outcome::Done;
use holdline_proto::topology::{Bucket, Role};
use holdline_proto::wire;
use holdline_stage::audit;
use holdline_stage::bus::{Place, Put, StoreError};
use holdline_stage::token;

use crate::protocol::Executor;

/// What people say of a command.
pub(crate) enum Word {
    /// It may go on: under this id, or because it needs nobody.
    Allowed(Option<String>),
    /// They are asked.
    Awaited(Done),
    Denied(String),
    /// There is no request to ask them for.
    Unaskable(String),
}

impl Executor {
    /// Whether people have allowed a command; if it takes them and they have not been asked, asks them.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(crate) async fn word_of_people(
        &self,
        command: &Command,
        action: &Action,
        set: &Set,
        perhaps_done: bool,
    ) -> Result<Word, StoreError> {
        let now_ms = self.time.now_ms();
        let Some(terms) = approval::terms(set, action, command, now_ms) else {
            return Ok(Word::Allowed(None));
        };
        let shown = match execute::shown(action, command) {
            Ok(shown) => shown,
            Err(reason) => return Ok(Word::Unaskable(reason)),
        };
        if let Some(id) = &command.approval
            && let Some(asked) = self.asked(id).await?.1
        {
            let asked = Asked { people: asked.people.max(terms.people), ..asked };
            if !is_about(&asked, command, &shown) {
                let why =
                    "it is for another request than the one that would leave now: people are asked anew";
                tracing::warn!(incident = command.incident, "approval {id}: {why}");
                self.record(Act::ApprovalRefused, command, id, why).await?;
            } else {
                match approval::judge(&asked, &set.people, authentic(&asked), now_ms) {
                    Standing::Allowed { by } => {
                        let by = if by.is_empty() { "nobody objected".into() } else { by.join(", ") };
                        self.record(Act::ApprovalUsed, command, id, &by).await?;
                        return Ok(Word::Allowed(Some(id.clone())));
                    }
                    Standing::Denied { by, reason } => {
                        return Ok(Word::Denied(format!("denied by {by}: {reason}")));
                    }
                    Standing::Waits { missing, void } => {
                        let why =
                            format!("{missing} more must approve; for nothing counts [{}]", void.join("; "));
                        tracing::warn!(incident = command.incident, "approval {id}: {why}");
                        self.record(Act::ApprovalRefused, command, id, &why).await?;
                        return Ok(Word::Awaited(awaits(&asked, perhaps_done)));
                    }
                    Standing::Expired => {}
                }
            }
        }
        let asked = self.ask_people(command, &terms, shown, now_ms).await?;
        Ok(Word::Awaited(awaits(&asked, perhaps_done)))
    }

    /// Whether what people have allowed still stands, now that the call is about to leave.
    pub(crate) async fn is_still_allowed(&self, command: &Command) -> bool {
        let Some(id) = &command.approval else { return true };
        let asked = match self.asked(id).await {
            Ok((_, asked)) => asked,
            Err(error) => {
                tracing::warn!(incident = command.incident, "whether this is allowed is not known: {error}");
                return false;
            }
        };
        let current = self.playbooks.current();
        let (Some(asked), Some((_, set))) = (asked, current) else { return false };
        let standing = approval::judge(&asked, &set.people, authentic(&asked), self.time.now_ms());
        matches!(standing, Standing::Allowed { .. })
    }

    /// Asks people, unless they are asked for this very request already.
    async fn ask_people(
        &self,
        command: &Command,
        terms: &Terms,
        shown: Shown,
        now_ms: i64,
    ) -> Result<Asked, StoreError> {
        let id = holdline_proto::approval::id(command, &shown.request);
        let (place, known) = self.asked(&id).await?;
        if let Some(known) = known.filter(|known| is_about(known, command, &shown)) {
            return Ok(known);
        }
        let asked = Asked {
            id: id.clone(),
            incident: command.incident.clone(),
            partition: command.partition,
            key: command.key.clone(),
            group: command.group.clone(),
            direction: command.direction,
            step: command.step,
            action: command.action.clone(),
            shown: shown.text,
            request: shown.request,
            people: terms.people,
            asked_ms: now_ms,
            expires_ms: now_ms.saturating_add(terms.expires_ms),
            sends_ms: terms.unless_denied_ms.map(|ms| now_ms.saturating_add(ms)),
            rulings: vec![],
        };
        let put = Put { expect: Some(place.revision), ttl: Some(KEPT), ..Put::default() };
        self.record(Act::ApprovalAsked, command, &id, "").await?;
        self.bus.put(Bucket::Approvals, &id, wire::encode(&asked).into(), put).await?;
        Ok(asked)
    }

    /// Writes down what comes of what people say. What cannot be written down is not done.
    async fn record(&self, act: Act, command: &Command, id: &str, why: &str) -> Result<(), StoreError> {
        let about = format!("{} for {}", command.action, command.key.entity);
        let deed = Deed::new(Role::Executor.name(), act, about, why)
            .with("approval", id)
            .with("incident", &command.incident)
            .with("decision", command.decision.to_string());
        audit::append(&self.bus, &deed).await.map_err(|error| StoreError::Unknown(error.to_string()))?;
        Ok(())
    }

    /// What people are asked under an id. What cannot be read allows nothing.
    async fn asked(&self, id: &str) -> Result<(Place, Option<Asked>), StoreError> {
        let place = self.bus.newest(Bucket::Approvals, id).await?;
        let asked = match place.value.as_ref().map(|value| wire::decode(value)) {
            None => None,
            Some(Ok(asked)) => Some(asked),
            Some(Err(error)) => {
                tracing::error!("the entry {id} of APPROVALS cannot be read, so it allows nothing: {error}");
                None
            }
        };
        Ok((place, asked))
    }
}

/// Whether exactly this is what people were asked for.
fn is_about(asked: &Asked, command: &Command, shown: &Shown) -> bool {
    let same = asked.incident == command.incident
        && asked.direction == command.direction
        && asked.step == command.step
        && asked.action == command.action;
    same && asked.request == shown.request
}

fn authentic(asked: &Asked) -> impl Fn(&Person, &Ruling) -> bool {
    |person, ruling| token::has_said(&person.token, ruling, asked)
}

fn awaits(asked: &Asked, perhaps_done: bool) -> Done {
    Done::AwaitsApproval {
        approval: asked.id.clone(),
        until_ms: asked.sends_ms.unwrap_or(asked.expires_ms),
        unless_denied: asked.sends_ms.is_some(),
        perhaps_done,
    }
}
