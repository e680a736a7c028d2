//! The way of a native action, between the lock and the outcome: look → plan → pre-image → intent → call →
//! what the answer says of our write. What is to be done stands in `decide::native`.

use std::time::Duration;

use holdline_decide::execute::{self, Answer as Answered, Next, UNCHANGED};
use holdline_decide::native::{
    self, BEGUN_MAX, Call, Change, InForce, Kept, LISTS_MAX, Plan, Stands, Written,
};
use holdline_decide::playbook::{Doing, Native, Platform, Set};
use holdline_platform::rate::{Following, Leave, Pace};
use holdline_platform::{Failed, Response};
use holdline_proto::command::{Command, Intent};
use holdline_proto::outcome::Done;
use holdline_proto::topology::Role;
use holdline_stage::bus::StoreError;
use holdline_stage::crash::{self, Point};
use holdline_stage::queue::{Answer, Work};
use holdline_stage::telemetry::Metric;
use serde_json::{Value, json};

use crate::intent::Earlier;
use crate::kept;
use crate::lock::Lock;
use crate::protocol::{Asking, Executor, fingerprint};

/// Pages that are read of one list: a queue of 2,000 members.
pub(crate) const PAGES_MAX: usize = 20;

/// What passes by itself is looked at again after this.
const PASSING_WAIT: Duration = Duration::from_secs(2);

/// Whose calls they are, and where they go.
struct Caller<'a> {
    platform: &'a Platform,
    client: &'a str,
    pace: Pace,
}

/// What came of a look.
enum Looked {
    Shown(Value),
    /// There is no turn in the rate window for this long.
    Wait(Duration),
    /// The platform did not show it.
    Refused(Answered),
}

impl Executor {
    /// With the entity to ourselves, and time left.
    pub(crate) async fn act_natively(
        &self,
        work: &Work,
        command: &Command,
        set: &Set,
        native: &Native,
        earlier: Earlier,
        mut lock: Lock,
    ) -> Result<Answer, StoreError> {
        let found = set.platform.as_ref().and_then(|platform| {
            let (client, _) = platform.client(native.client.as_deref())?;
            Some(Caller { platform, client, pace: Pace::of(platform, client) })
        });
        let Some(caller) = found else {
            let reason = format!("the set {} has no client for {}", command.playbooks, command.action);
            return self.cannot(work, command, reason, earlier, lock).await;
        };
        let change = match execute::change(native, command) {
            Ok(change) => change,
            Err(reason) => return self.cannot(work, command, reason, earlier, lock).await,
        };
        // Other entities may want the same of it, or something else.
        if let Some(object) = change.object()
            && !self.locks.take_also(&self.bus, &mut lock, &object).await?
        {
            lock.release(&self.bus).await;
            return Ok(self.locked());
        }
        let mut entry = kept::of(&self.bus, &change, command).await?;
        if let Some(error) = &entry.unreadable {
            let reason = format!("what was there before cannot be read: {error}");
            let next = Next::GiveUp { done: Done::Held { reason }, transient: false };
            return self.give_up(work, command, next, earlier, lock, &caller.pace.host).await;
        }
        let remedy = kept::remedy(command);
        if command.undo.is_some() {
            // Of the other steps as well: should this one fail, theirs is not asked for any more.
            self.withdraw(set, command).await?;
            let Some(known) = entry.known.take() else {
                let reason = "what was there before is not kept any more".into();
                let next = Next::GiveUp { done: Done::Held { reason }, transient: false };
                return self.give_up(work, command, next, earlier, lock, &caller.pace.host).await;
            };
            entry = kept::write(&self.bus, &entry, known.without(&remedy, earlier.perhaps_done)).await?;
            if entry.known.as_ref().is_none_or(|known| !known.owed) {
                let (incident, action) = (&command.incident, &command.action);
                tracing::info!(
                    incident,
                    "{action} stays as it is: other remedies rely on it, or it is undone"
                );
                let done = Done::Carried { status: UNCHANGED };
                return self.report(command, done, earlier.attempts, lock).await;
            }
        }
        let mut following = None;
        let looked = self.look(&caller, command, &change, &mut lock, &mut following).await?;
        // Else what is there may be what somebody else has brought about since, and no pre-image.
        let mut lock = match self.held_still(lock).await? {
            Ok(lock) => lock,
            Err(answer) => return Ok(answer),
        };
        let shown = match looked {
            Looked::Shown(shown) => shown,
            Looked::Wait(wait) => return Ok(self.throttled(command, wait, lock).await),
            Looked::Refused(answer) => {
                let attempts = earlier.attempts.saturating_add(1);
                let next = match execute::judge(&answer, attempts, true, earlier.perhaps_done) {
                    // A look changes nothing: whatever it answers, nothing more has perhaps been done.
                    Next::GiveUp { done: Done::Failed { reason, .. }, transient } => Next::GiveUp {
                        done: Done::Failed { reason, perhaps_done: earlier.perhaps_done },
                        transient,
                    },
                    next => next,
                };
                let intent = Intent {
                    answered: true,
                    ..self.intent(command, &lock, Earlier { attempts, ..earlier }, String::new())
                };
                return self
                    .conclude(work, command, next, intent, earlier.revision, lock, &caller.pace.host)
                    .await;
            }
        };
        let known = entry.known.clone().unwrap_or_default();
        let (plan, kept) = match command.undo {
            Some(_) => {
                let written = self.written(&change).await?.unwrap_or_default();
                let now_ms = self.time.now_ms();
                (native::undo(&change, &known.kept, &written, &shown, now_ms), known.kept.clone())
            }
            None => {
                let before = known.known(&remedy, earlier.perhaps_done, self.time.now_ms());
                native::plan(&change, before, &shown)
            }
        };
        let is_new = command.undo.is_none() && !known.begun.contains(&remedy);
        if is_new && known.begun.len() >= BEGUN_MAX {
            let reason = format!(
                "of {BEGUN_MAX} remedies that want the same it is not known whether they are through"
            );
            return self.cannot(work, command, reason, earlier, lock).await;
        }
        // Who is never undone would keep all others from being undone.
        let relies = set.rules(&command.key).is_some_and(|rules| rules.revert.undo);
        let plan = match command.undo {
            None if relies => self.beside(&change).await?.unwrap_or(plan),
            Some(_) | None => plan,
        };
        let now_ms = self.time.now_ms();
        let carried = |known: InForce, kept: Kept| match (command.undo, relies) {
            (Some(_), _) => known.undone(now_ms),
            (None, true) => known.carried(&remedy, kept),
            (None, false) => InForce { kept, ..known },
        };
        let call = match plan {
            Plan::Send(call) => call,
            Plan::Already => {
                let ours = earlier.perhaps_done;
                let before = if command.undo.is_some() { &kept.stamp_after } else { &kept.stamp_before };
                let written = native::reconciled(&change, before.as_ref(), &shown).filter(|_| ours);
                let carried = carried(known, kept);
                // Of what nobody has done just now, nothing is still to show.
                let carried = if ours { carried } else { carried.proven(now_ms) };
                kept::write(&self.bus, &entry, carried).await?;
                self.note_written(&change, written).await?;
                let status = if ours { 200 } else { UNCHANGED };
                return self.report(command, Done::Carried { status }, earlier.attempts, lock).await;
            }
            Plan::Wait => return Ok(self.throttled(command, PASSING_WAIT, lock).await),
            Plan::Refused(reason) => {
                let done = Done::Failed { reason, perhaps_done: earlier.perhaps_done };
                let next = Next::GiveUp { done, transient: false };
                return self.give_up(work, command, next, earlier, lock, &caller.pace.host).await;
            }
            Plan::Intervened(reason) => {
                let next = Next::GiveUp { done: Done::Held { reason }, transient: false };
                return self.give_up(work, command, next, earlier, lock, &caller.pace.host).await;
            }
        };
        // Who waits for a token leaves late.
        self.holding(&mut lock, command, self.api.prepare(caller.platform, caller.client)).await;
        let leave = following.map_or(Leave::Alone, Leave::After);
        let turn = match self.turn(command, &caller.pace, &mut lock, leave).await? {
            Ok(turn) => turn,
            Err(wait) => return Ok(self.throttled(command, wait, lock).await),
        };
        let kept = match command.undo {
            Some(_) => kept,
            None => Kept { called_ms: Some(self.time.now_ms()), ..kept },
        };
        // Not before there is a turn: others take what is begun for what may stand.
        let begun = match (command.undo, relies) {
            (None, true) => known.clone().beginning(&remedy, kept.clone()),
            _ => InForce { kept: kept.clone(), ..known.clone() },
        };
        let entry = kept::write(&self.bus, &entry, begun.clone()).await?;
        crash::point(Point::PreImageKept);
        let mut response = None;
        let body = call.body.as_ref().map(Value::to_string);
        let called = {
            let (response, caller) = (&mut response, &caller);
            let calling = async {
                let (answer, said) = self.ask(caller, &call).await;
                *response = said;
                answer
            };
            let asking = Asking {
                pace: &caller.pace,
                may_be_repeated: change.look().is_some(),
                request: fingerprint(call.method, &call.path, body.as_deref()),
                calling,
            };
            self.call(command, asking, earlier, lock, turn).await
        };
        let called = match called {
            // Others have acted since, and this comes too late to say that a call may leave.
            Err(StoreError::Fenced) if is_new => {
                kept::write(&self.bus, &entry, begun.not_begun(&remedy)).await?;
                return Err(StoreError::Fenced);
            }
            called => called?,
        };
        let perhaps_done = called.as_ref().map_or(earlier.perhaps_done, |called| called.1.perhaps_done);
        if !perhaps_done && command.undo.is_none() {
            kept::write(&self.bus, &entry, begun.not_begun(&remedy)).await?;
        }
        let Some((next, intent, revision, lock)) = called else { return Ok(self.locked()) };
        if let (Next::Report(_), Some(said)) = (&next, response) {
            let noted = native::noted(&change, &kept, &said);
            kept::write(&self.bus, &entry, carried(known, noted)).await?;
            crash::point(Point::VersionNoted);
            let written = native::stamp(&change, &shown).zip(native::stamp(&change, &said));
            self.note_written(&change, written).await?;
        }
        self.conclude(work, command, next, intent, revision, lock, &caller.pace.host).await
    }

    /// Why members of a queue cannot be changed beside what else is in force of the same queue. `None`: they can, and
    /// are noted among it.
    async fn beside(&self, change: &Change) -> Result<Option<Plan>, StoreError> {
        let (Change::Members(_), Some(queue)) = (change, change.object()) else { return Ok(None) };
        let mut entry = kept::lists(&self.bus, &queue).await?;
        if let Some(error) = &entry.unreadable {
            let reason = format!("which of the queue's members we have changed cannot be read: {error}");
            return Ok(Some(Plan::Refused(reason)));
        }
        let before = entry.known.take().unwrap_or_default();
        let mut lists = before.clone();
        for other in before.in_the_way(change) {
            let known = kept::under(&self.bus, &other).await?;
            let stands = match (&known.known, &known.unreadable) {
                (_, Some(_)) => Stands::Yes,
                (Some(known), None) => known.stands(self.time.now_ms()),
                (None, None) => Stands::No,
            };
            match stands {
                Stands::No => lists = lists.without(&other),
                Stands::Passing if before.shares(change, &other) => return Ok(Some(Plan::Wait)),
                Stands::Yes if before.shares(change, &other) => {
                    let whose = known.known.unwrap_or_default().relying.into_iter().next();
                    let whose = whose.unwrap_or_else(|| "not known".into());
                    return Ok(Some(Plan::Refused(format!(
                        "another remedy ({whose}) has changed some of these members and not the same, and the end of \
                         one would take them from the other: a person has to do it"
                    ))));
                }
                Stands::Yes | Stands::Passing => {}
            }
        }
        let Some(lists) = lists.with(change) else {
            let reason = format!("{LISTS_MAX} lists of members of this queue are in force already");
            return Ok(Some(Plan::Refused(reason)));
        };
        kept::write(&self.bus, &entry, lists).await?;
        Ok(None)
    }

    /// What we have written to the object of a change.
    pub(crate) async fn written(&self, change: &Change) -> Result<Option<Written>, StoreError> {
        let Some(object) = change.object() else { return Ok(None) };
        let entry = kept::written(&self.bus, &object).await?;
        if let Some(error) = entry.unreadable {
            tracing::error!(
                object,
                "what we have written to it cannot be read, so only the last write counts: {error}"
            );
        }
        Ok(entry.known)
    }

    /// Remembers a write of ours, so that no other change of ours in the same object takes it for somebody else's. Lost,
    /// it costs a person a look.
    async fn note_written(&self, change: &Change, stamps: Option<(Value, Value)>) -> Result<(), StoreError> {
        let (Some((before, after)), Some(object)) = (stamps, change.object()) else { return Ok(()) };
        let mut entry = kept::written(&self.bus, &object).await?;
        let written = entry.known.take().unwrap_or_default().with(before, after);
        kept::write(&self.bus, &entry, written).await.map(drop)
    }

    /// A remedy has come to an end without having been called: nobody is to take its change for ours.
    pub(crate) async fn forget_begun(&self, command: &Command) -> Result<(), StoreError> {
        if command.undo.is_some() {
            return Ok(());
        }
        let Some(set) = self.set_to_look_by(command).await? else { return Ok(()) };
        let Some(Doing::Native(native)) = set.actions.get(&command.action).map(|action| &action.what) else {
            return Ok(());
        };
        let Ok(change) = execute::change(native, command) else { return Ok(()) };
        let (remedy, mut entry) = (kept::remedy(command), kept::of(&self.bus, &change, command).await?);
        match entry.known.take().filter(|known| known.begun.contains(&remedy)) {
            Some(known) => kept::write(&self.bus, &entry, known.not_begun(&remedy)).await.map(drop),
            None => Ok(()),
        }
    }

    /// An incident is over: it needs none of what it has changed any more, whatever comes of undoing it.
    async fn withdraw(&self, set: &Set, command: &Command) -> Result<(), StoreError> {
        let others = execute::native_steps(set, command).into_iter();
        for (other, change) in others.filter(|(other, _)| Some(other.step) != command.undo) {
            let (remedy, mut entry) = (kept::remedy(&other), kept::of(&self.bus, &change, &other).await?);
            let concerned =
                |known: &InForce| known.relying.contains(&remedy) || known.begun.contains(&remedy);
            if let Some(known) = entry.known.take().filter(concerned) {
                kept::write(&self.bus, &entry, known.without(&remedy, false)).await?;
            }
        }
        Ok(())
    }

    async fn give_up(
        &self,
        work: &Work,
        command: &Command,
        next: Next,
        earlier: Earlier,
        lock: Lock,
        host: &str,
    ) -> Result<Answer, StoreError> {
        let intent = self.intent(command, &lock, earlier, String::new());
        self.conclude(work, command, next, intent, earlier.revision, lock, host).await
    }

    /// What the platform shows of what is to be changed. With the first look the turn of the call that follows is taken.
    async fn look(
        &self,
        caller: &Caller<'_>,
        command: &Command,
        change: &Change,
        lock: &mut Lock,
        following: &mut Option<Following>,
    ) -> Result<Looked, StoreError> {
        let Some((path, paged)) = change.look() else { return Ok(Looked::Shown(Value::Null)) };
        if !paged {
            return self.get(caller, command, Call::get(path), lock, following).await;
        }
        let mut entities = vec![];
        for number in 1..=PAGES_MAX {
            let page = match self.get(caller, command, Call::page(&path, number), lock, following).await? {
                Looked::Shown(page) => page,
                other => return Ok(other),
            };
            if !native::add_page(&mut entities, &page) {
                break;
            }
        }
        Ok(Looked::Shown(json!({"entities": entities})))
    }

    async fn get(
        &self,
        caller: &Caller<'_>,
        command: &Command,
        call: Call,
        lock: &mut Lock,
        following: &mut Option<Following>,
    ) -> Result<Looked, StoreError> {
        // Who waits for a token leaves late, and together with all others that do.
        self.holding(lock, command, self.api.prepare(caller.platform, caller.client)).await;
        loop {
            let leave = if following.is_none() { Leave::Ahead } else { Leave::Alone };
            let mut turn = match self.turn(command, &caller.pace, lock, leave).await? {
                Ok(turn) => turn,
                Err(wait) => return Ok(Looked::Wait(wait)),
            };
            *following = turn.following.take().or_else(|| following.take());
            turn.come().await;
            if turn.leaves() {
                break;
            }
        }
        let (answer, body) = self.holding(lock, command, self.ask(caller, &call)).await;
        if let Answered::Status { limits, .. } = &answer {
            self.rates.learn(&caller.pace, limits).await;
        }
        Ok(match (&answer, body) {
            (Answered::Status { status: 200..300, .. }, Some(body)) => Looked::Shown(body),
            _ => Looked::Refused(answer),
        })
    }

    async fn ask(&self, caller: &Caller<'_>, call: &Call) -> (Answered, Option<Value>) {
        match self.api.send_now(caller.platform, caller.client, call).await {
            Ok(response) => {
                if response.status >= 400 {
                    let (status, said) = (response.status, response.message());
                    let correlation = response.correlation.as_deref();
                    let method = call.method.name();
                    tracing::warn!(correlation, "{method} {} was answered {status}: {said}", call.path);
                }
                let answer = Answered::Status {
                    status: if is_stale(&response) { 409 } else { response.status },
                    retry_after_ms: response.retry_after_ms,
                    limits: response.limits,
                };
                (answer, Some(response.body))
            }
            Err(Failed::Unsent { reason, .. }) => (Answered::Unsent { reason }, None),
            Err(Failed::Throttled { reason, retry_after_ms }) => {
                Metric::Throttled.add(1, Role::Executor.name(), Some(("what", "token".into())));
                (Answered::Throttled { reason, retry_after_ms }, None)
            }
            Err(Failed::Lost { reason }) => (Answered::Lost { reason }, None),
        }
    }
}

/// A stale version is a 409, or a 400 that says so (genesys.md 3).
fn is_stale(response: &Response) -> bool {
    response.status == 400 && response.message().contains("does not match the current version")
}
