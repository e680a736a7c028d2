//! What people have to allow first (E7, A4): they are asked in APPROVALS for exactly the request that would leave, and
//! their word is looked at again, at the leader, before it does. Whose word counts stands in `decide::approval`; that
//! it is theirs is proven by their signature, so that no right at the broker takes the place of a person's token; and
//! that an executor has asked, and when, by its own.

use std::sync::Arc;

use holdline_decide::approval::{self, Named, Permission, Person, Standing, Terms};
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
use holdline_stage::crash::{self, Point};
use holdline_stage::playbooks::SetError;
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

/// An entry of APPROVALS.
struct Stored {
    place: Place,
    /// As it stands there. What cannot be read allows nothing.
    asked: Option<Asked>,
}

impl Executor {
    /// By which set people allow a command: what they allow holds at once, also for incidents that were opened under an
    /// earlier set. A playbook that is in the current set no more goes by its own.
    ///
    /// # Errors
    /// When this replica does not know yet what is current.
    pub(crate) fn allowing(&self, command: &Command, own: &Arc<Set>) -> Result<Arc<Set>, StoreError> {
        let (_, current) = self.playbooks.current().ok_or_else(|| {
            StoreError::Unknown("it is not known yet which set of playbooks is current".into())
        })?;
        let has_playbook = current.playbooks.contains_key(&command.key.playbook);
        Ok(if has_playbook { current } else { own.clone() })
    }

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
        let terms = approval::terms(set, action, command, now_ms);
        if terms.is_none() && command.approval.is_none() {
            return Ok(Word::Allowed(None));
        }
        let shown = match execute::shown(action, command) {
            Ok(shown) => shown,
            Err(reason) => return Ok(Word::Unaskable(reason)),
        };
        let (permission, stored) = self.permission(command, &shown, terms.as_ref(), set, now_ms).await?;
        match (permission, stored, &terms) {
            (Permission::Denied { by, reason }, ..) => Ok(Word::Denied(denied(&by, &reason))),
            (Permission::NotNeeded, ..) | (_, _, None) => Ok(Word::Allowed(command.approval.clone())),
            (Permission::Allowed { by }, Some((place, asked)), _) => {
                self.note_use(command, place, asked, &by).await?;
                Ok(Word::Allowed(command.approval.clone()))
            }
            (Permission::Waits { missing, void }, Some((_, asked)), Some(terms)) => {
                let why = format!("{missing} more must approve; for nothing counts [{}]", void.join("; "));
                self.refuse(command, &why).await?;
                Ok(Word::Awaited(approval::awaits(&approval::on_terms(asked, terms), perhaps_done)))
            }
            (permission, _, Some(terms)) => {
                if let Permission::Ask { because: Some(why) } = permission {
                    self.refuse(command, why).await?;
                }
                let asked = self.ask_people(command, terms, shown, now_ms).await?;
                // Whoever crashed between asking and reporting that may have been answered meanwhile, and the incident,
                // which waited for nothing yet, has not heard of it. A yes waits until it is told: nobody was shown that
                // it would count.
                if let Standing::Denied { by, reason } = standing(&asked, Some(terms), set, now_ms) {
                    return Ok(Word::Denied(denied(&by, &reason)));
                }
                Ok(Word::Awaited(approval::awaits(&approval::on_terms(asked, terms), perhaps_done)))
            }
        }
    }

    /// Whether people still allow it, now that the call is about to leave: by the set that is current by now.
    pub(crate) async fn is_still_allowed(&self, command: &Command) -> bool {
        match self.look_again(command).await {
            Ok(allowed) => allowed,
            Err(error) => {
                tracing::warn!(incident = command.incident, "whether this is allowed is not known: {error}");
                false
            }
        }
    }

    async fn look_again(&self, command: &Command) -> Result<bool, SetError> {
        let own = self.playbooks.by_hash(&command.playbooks).await?;
        let Some(action) = own.actions.get(&command.action) else { return Ok(false) };
        let (set, now_ms) = (self.allowing(command, &own)?, self.time.now_ms());
        let terms = approval::terms(&set, action, command, now_ms);
        if terms.is_none() && command.approval.is_none() {
            return Ok(true);
        }
        let Ok(shown) = execute::shown(action, command) else { return Ok(false) };
        let (permission, _) = self.permission(command, &shown, terms.as_ref(), &set, now_ms).await?;
        Ok(matches!(permission, Permission::NotNeeded | Permission::Allowed { .. }))
    }

    /// What people's word comes to, and what they were asked under the id that the command names.
    async fn permission(
        &self,
        command: &Command,
        shown: &Shown,
        terms: Option<&Terms>,
        set: &Set,
        now_ms: i64,
    ) -> Result<(Permission, Option<(Place, Asked)>), StoreError> {
        let stored = match &command.approval {
            Some(id) => self.asked(id).await?,
            None => Stored { place: Place::default(), asked: None },
        };
        let named = stored.asked.as_ref().map(|asked| Named {
            is_about: approval::is_about(asked, command, shown),
            is_sealed: self.has_sealed(asked),
            standing: standing(asked, terms, set, now_ms),
        });
        let place = stored.place;
        Ok((approval::permission(terms.is_some(), named), stored.asked.map(|asked| (place, asked))))
    }

    /// What people have said does not allow a command, and why.
    async fn refuse(&self, command: &Command, why: &str) -> Result<(), StoreError> {
        let id = command.approval.as_deref().unwrap_or_default();
        tracing::warn!(incident = command.incident, "approval {id}: {why}");
        self.record(Act::ApprovalRefused, command, id, why).await
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
        let Stored { place, asked: known } = self.asked(&id).await?;
        let is_same = |known: &Asked| approval::is_about(known, command, &shown) && self.has_sealed(known);
        if let Some(known) = known.filter(is_same) {
            return Ok(known);
        }
        let asked = approval::ask(command, terms, shown, now_ms);
        self.record(Act::ApprovalAsked, command, &id, "").await?;
        crash::point(Point::AskRecorded);
        let asked = self.store(place, asked).await?;
        crash::point(Point::PeopleAsked);
        Ok(asked)
    }

    /// Has the audit trail say that a command goes on with people's word: once, however often the command comes again.
    async fn note_use(
        &self,
        command: &Command,
        place: Place,
        asked: Asked,
        by: &[String],
    ) -> Result<(), StoreError> {
        let issue = command.issue_key();
        if asked.used.as_ref() == Some(&issue) {
            return Ok(());
        }
        let by = if by.is_empty() { "nobody objected".into() } else { by.join(", ") };
        self.record(Act::ApprovalUsed, command, &asked.id, &by).await?;
        crash::point(Point::UseRecorded);
        self.store(place, Asked { used: Some(issue), ..asked }).await?;
        Ok(())
    }

    /// Writes an entry that only an executor can have written, unless somebody has written there since it was read.
    async fn store(&self, place: Place, asked: Asked) -> Result<Asked, StoreError> {
        let seal = self.key.as_ref().map(|key| key.sign(&asked.sealed())).transpose();
        let seal = seal.map_err(|error| StoreError::Unknown(error.to_string()))?.unwrap_or_default();
        let asked = Asked { seal, ..asked };
        let put = Put { expect: Some(place.revision), ttl: Some(KEPT), ..Put::default() };
        self.bus.put(Bucket::Approvals, &asked.id, wire::encode(&asked).into(), put).await?;
        Ok(asked)
    }

    /// Whether an executor has asked exactly this. At a broker without users there is no key, and anybody may have.
    fn has_sealed(&self, asked: &Asked) -> bool {
        self.key.as_ref().is_none_or(|key| key.has_signed(&asked.sealed(), &asked.seal))
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

    /// What people are asked under an id, from the leader.
    async fn asked(&self, id: &str) -> Result<Stored, StoreError> {
        let place = self.bus.newest(Bucket::Approvals, id).await?;
        let asked = match place.value.as_ref().map(|value| wire::decode::<Asked>(value)) {
            None => None,
            Some(Ok(asked)) if asked.id == id => Some(asked),
            Some(Ok(asked)) => {
                let other = asked.id;
                tracing::error!("the entry {id} of APPROVALS is a copy of {other}, so it allows nothing");
                None
            }
            Some(Err(error)) => {
                tracing::error!("the entry {id} of APPROVALS cannot be read, so it allows nothing: {error}");
                None
            }
        };
        Ok(Stored { place, asked })
    }
}

/// What people's word comes to, on the terms that are in force.
fn standing(asked: &Asked, terms: Option<&Terms>, set: &Set, now_ms: i64) -> Standing {
    // The signatures are over what was asked, not over what it comes to.
    let authentic = |person: &Person, ruling: &Ruling| token::has_said(&person.token, ruling, asked);
    approval::judge(&on_terms(asked.clone(), terms), &set.people, authentic, now_ms)
}

fn denied(by: &str, reason: &str) -> String {
    format!("denied by {by}: {reason}")
}

/// On the terms that are in force, if there are any.
fn on_terms(asked: Asked, terms: Option<&Terms>) -> Asked {
    match terms {
        Some(terms) => approval::on_terms(asked, terms),
        None => asked,
    }
}
