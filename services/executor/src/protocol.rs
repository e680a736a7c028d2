//! The way of one command, from top to bottom (architecture.md 8).
//!
//! Outcome already there? → stopped by people? → lock → earlier calls → still no outcome, still the incident's latest
//! decision? → deadline → allowed by people? → budget → turn in the rate window → intent → last look: lock still ours,
//! still not stopped, still allowed? → call → outcome → release, acknowledge. A crash between any two lines leads to one
//! more delivery, which finds out from the intent and the outcome how far this one had got. Who stood still between any
//! two is refused his intent, his call, or to say that nothing was done, once somebody else has acted, whatever his clock
//! says.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use holdline_decide::execute::{self, Answer as Answered, Next, Standing, may_have_happened};
use holdline_decide::playbook::{Doing, Method, Set, Webhook};
use holdline_decide::rate::Purpose;
use holdline_decide::verify::Looking;
use holdline_platform::Api;
use holdline_platform::rate::{Granted, Leave, Pace, Rates, Turn};
use holdline_proto::cause::Cause;
use holdline_proto::command::{Command, Direction, Intent};
use holdline_proto::dead_letter::DeadLetter;
use holdline_proto::digest::Digest;
use holdline_proto::incident::View;
use holdline_proto::outcome::{Done, Outcome, Shares};
use holdline_proto::pause::Pause;
use holdline_proto::topology::{Bucket, Role, Stream};
use holdline_proto::wire;
use holdline_stage::broker_time::BrokerTime;
use holdline_stage::bus::{Bus, StoreError};
use holdline_stage::clock::{self, Moment};
use holdline_stage::crash::{self, Point};
use holdline_stage::dead_letter;
use holdline_stage::playbooks::{Playbooks, SetError};
use holdline_stage::queue::{Answer, Work};
use holdline_stage::run::Tasks;
use holdline_stage::telemetry::Metric;
use holdline_stage::token::Token;

use crate::approvals::Word;
use crate::budget;
use crate::call::{Caller, Destination};
use crate::intent::{self, Earlier};
use crate::lock::{self, Lock, Locks};
use crate::pauses;
use crate::target::Targets;
use crate::verify;

/// A command whose entity is locked is looked at again after this.
const LOCKED_WAIT: Duration = Duration::from_millis(250);

/// A command for which the broker gave no answer is looked at again after this.
const UNKNOWN_WAIT: Duration = Duration::from_millis(500);

/// The view of an incident is looked at again after this, and this often, before the command goes back.
const VIEW_WAIT: Duration = Duration::from_millis(10);
const VIEW_LOOKS: usize = 20;

pub(crate) struct Executor {
    pub bus: Bus,
    pub playbooks: Playbooks<Set>,
    pub replica: String,
    pub time: BrokerTime,
    pub caller: Caller,
    pub api: Api,
    pub locks: Locks,
    pub rates: Rates,
    pub targets: Targets,
    /// Of our user at the broker, which all executors have in common; none where it has no users.
    pub key: Option<Token>,
    /// Says when this process stops.
    pub tasks: Tasks,
}

/// A call that is about to be made.
pub(crate) struct Asking<'a, C> {
    pub pace: &'a Pace,
    /// Having it made twice does no harm.
    pub may_be_repeated: bool,
    /// SHA-256 of the request, hex.
    pub request: String,
    /// The call itself.
    pub calling: C,
}

impl Executor {
    /// Works on one delivery.
    pub(crate) async fn take(&self, work: Work) -> Answer {
        match self.carry_out(&work).await {
            Ok(answer) => answer,
            Err(StoreError::Fenced) => Answer::Later(LOCKED_WAIT),
            Err(StoreError::Unknown(why)) => {
                tracing::warn!(subject = work.subject, "a command waits: {why}");
                Answer::Later(UNKNOWN_WAIT)
            }
        }
    }

    async fn carry_out(&self, work: &Work) -> Result<Answer, StoreError> {
        let command: Command = match wire::decode(&work.payload) {
            Ok(command) => command,
            Err(error) => {
                self.park(work, DeadLetter { reason: error.to_string(), ..DeadLetter::default() }).await?;
                return Ok(Answer::Done);
            }
        };
        if let Some(outcome) = self.outcome_under(&command, &command.issue_key()).await? {
            return self.follow_up(work, &command, &outcome).await;
        }
        let set = match self.playbooks.by_hash(&command.playbooks).await {
            Err(SetError::Unreachable(error)) => return Err(error),
            known => known.map_err(|error| error.to_string()),
        };
        if let Some(pause) = pauses::stopping(&self.bus, &self.time, &command).await?
            && !self.is_late(&command)
        {
            say_stopped(work, &command, &pause);
            return Ok(Answer::Later(self.before_deadline(&command, pauses::STOPPED_WAIT)));
        }
        let Some(lock) = self.locks.take(&self.bus, &acts_on(&command), &self.replica).await? else {
            return Ok(Answer::Later(LOCKED_WAIT));
        };
        crash::point(Point::AfterLock);
        self.act(work, &command, set, lock).await
    }

    /// With the entity to ourselves.
    async fn act(
        &self,
        work: &Work,
        command: &Command,
        set: Result<Arc<Set>, String>,
        lock: Lock,
    ) -> Result<Answer, StoreError> {
        // First of all, so that whoever acts after this look has our intent refused.
        let earlier = intent::earlier(&self.bus, command).await?;
        crash::point(Point::BetweenLooks);
        let issue = command.issue_key();
        let looks = tokio::try_join!(self.outcome_under(command, &issue), self.standing(command));
        let (outcome, standing) = match looks {
            Ok(looks) => looks,
            Err(error) => {
                lock.release(&self.bus).await;
                return Err(error);
            }
        };
        // Whoever had the lock before may have reported since this delivery was taken.
        if outcome.is_some() {
            lock.release(&self.bus).await;
            return Ok(self.locked());
        }
        match standing {
            Standing::Current => {}
            // People are told of what is held, whatever was decided since.
            _ if command.direction == Direction::Page => {}
            // Its deadline frees a command whose view does not come back.
            Standing::Behind if !self.is_late(command) => {
                lock.release(&self.bus).await;
                return Ok(Answer::Later(LOCKED_WAIT));
            }
            Standing::Behind => {}
            Standing::Replaced { by } => {
                let reason = format!("decision {by} has replaced decision {}", command.decision);
                return self.report(command, Done::Withdrawn { reason }, 0, lock).await;
            }
        }
        if self.is_late(command) {
            let done = Done::Expired { perhaps_done: earlier.perhaps_done };
            return self.report(command, done, earlier.attempts, lock).await;
        }
        let set = match &set {
            Ok(set) => set,
            Err(reason) => return self.cannot(work, command, reason.clone(), earlier, lock).await,
        };
        let Some(action) = set.actions.get(&command.action) else {
            let reason = format!("the set {} has no action {}", command.playbooks, command.action);
            return self.cannot(work, command, reason, earlier, lock).await;
        };
        // An intent without an answer: a call may have left before a crash.
        if earlier.perhaps_done && !action.may_be_repeated() {
            let reason = "an earlier call may have happened, and this target must not be asked twice";
            let (reason, attempts) = (reason.to_string(), earlier.attempts);
            let letter = DeadLetter { reason: reason.clone(), attempts, ..DeadLetter::default() };
            return self.park_and_report(work, command, letter, Done::Held { reason }, lock).await;
        }
        if set
            .playbooks
            .get(&command.key.playbook)
            .is_none_or(|playbook| !execute::belongs(playbook, command))
        {
            let reason = format!("{} is no {} of {}", command.action, command.direction, command.key.lane);
            return self.cannot(work, command, reason, earlier, lock).await;
        }
        let allowing = match self.allowing(command, set) {
            Ok(allowing) => allowing,
            Err(error) => {
                lock.release(&self.bus).await;
                return Err(error);
            }
        };
        let word = match self.word_of_people(command, action, &allowing, earlier.perhaps_done).await {
            Ok(word) => word,
            Err(error) => {
                lock.release(&self.bus).await;
                return Err(error);
            }
        };
        let command = &match word {
            Word::Allowed(approval) => Command { approval, ..command.clone() },
            Word::Awaited(done) => return self.report(command, done, earlier.attempts, lock).await,
            // Asked for again with `holdline dlq replay`.
            Word::Denied(reason) | Word::Unaskable(reason) => {
                return self.cannot(work, command, reason, earlier, lock).await;
            }
        };
        let taken = match budget::take(&self.bus, &self.time, &allowing, command, earlier, &lock).await {
            Ok(taken) => taken,
            Err(error) => {
                lock.release(&self.bus).await;
                return Err(error);
            }
        };
        if let Err(reason) = taken {
            return self.cannot(work, command, reason, earlier, lock).await;
        }
        match &action.what {
            Doing::Webhook(webhook) => self.send(work, command, set, webhook, earlier, lock).await,
            Doing::Native(native) => self.act_natively(work, command, set, native, earlier, lock).await,
        }
    }

    /// A webhook: turn in the rate window, intent, call.
    async fn send(
        &self,
        work: &Work,
        command: &Command,
        set: &Set,
        webhook: &Webhook,
        earlier: Earlier,
        mut lock: Lock,
    ) -> Result<Answer, StoreError> {
        let prepared = execute::request(webhook, command).map_err(|error| error.to_string());
        let prepared = prepared
            .and_then(|request| Destination::of(&request.url, set).map(|destination| (request, destination)));
        let (mut request, destination) = match prepared {
            Ok(prepared) => prepared,
            Err(reason) => return self.cannot(work, command, reason, earlier, lock).await,
        };
        // A Vault may take its time.
        let credentials = self.holding(&mut lock, command, self.caller.credentials(&request)).await;
        let turn = match self.turn(command, &destination.pace, &mut lock, Leave::Alone).await? {
            Ok(turn) => turn,
            Err(wait) => return Ok(self.throttled(command, wait, lock).await),
        };
        execute::mark(&mut request, &Cause::of(command, self.time.now_ms()));
        let asking = Asking {
            pace: &destination.pace,
            may_be_repeated: webhook.idempotent,
            request: fingerprint(request.method, &request.url, request.body.as_deref()),
            calling: self.caller.call(&destination, &request, credentials),
        };
        let called = self.call(command, asking, earlier, lock, turn).await?;
        let Some((next, intent, revision, lock)) = called else { return Ok(self.locked()) };
        self.conclude(work, command, next, intent, revision, lock, &destination.pace.host).await
    }

    /// What comes of a judgement: an outcome, one more dead letter, or another try.
    #[allow(clippy::too_many_arguments, reason = "everything that is known of one call")]
    pub(crate) async fn conclude(
        &self,
        work: &Work,
        command: &Command,
        next: Next,
        intent: Intent,
        revision: u64,
        lock: Lock,
        host: &str,
    ) -> Result<Answer, StoreError> {
        match next {
            Next::Report(done) => {
                self.targets.answers(&self.bus, host).await;
                let shares = execute::shares(command, work.published_ms, &intent);
                self.report_with(command, done, intent.attempts, shares, lock).await
            }
            Next::GiveUp { done, transient } => {
                let reason = match &done {
                    Done::Failed { reason, .. } | Done::Held { reason } => reason.clone(),
                    _ => String::new(),
                };
                // Before anything is told, so that what is known of the calls stays known if it cannot be.
                intent::write(&self.bus, command, &intent, revision).await?;
                if transient {
                    self.targets.fails(&self.bus, host, &reason).await;
                }
                let letter = DeadLetter {
                    reason,
                    attempts: intent.attempts,
                    transient,
                    replays: command.replays,
                    target: transient.then(|| host.to_string()),
                    ..DeadLetter::default()
                };
                self.park_and_report(work, command, letter, done, lock).await
            }
            Next::Throttled { after_ms } => {
                let attempts = intent.attempts.saturating_sub(1);
                intent::write(&self.bus, command, &Intent { attempts, ..intent }, revision).await?;
                Ok(self.throttled(command, Duration::from_millis(after_ms), lock).await)
            }
            Next::Retry { after_ms, reason } => {
                tracing::warn!(
                    action = command.action,
                    entity = command.key.entity,
                    "{}: attempt {} of {}: {reason}; again in {after_ms} ms",
                    command.action,
                    intent.attempts,
                    execute::ATTEMPTS_MAX
                );
                intent::write(&self.bus, command, &intent, revision).await?;
                lock.release(&self.bus).await;
                crash::point(Point::BeforeRetry);
                Ok(Answer::Later(Duration::from_millis(after_ms)))
            }
        }
    }

    /// A turn in the rate window, or after how long to ask again. Nothing has left then, and no attempt is spent.
    pub(crate) async fn turn(
        &self,
        command: &Command,
        pace: &Pace,
        lock: &mut Lock,
        leave: Leave,
    ) -> Result<Result<Turn, Duration>, StoreError> {
        // However often a turn is let pass: not beyond the deadline, and nobody waits for one while this stops.
        if self.is_late(command) {
            return Ok(Err(Duration::ZERO));
        }
        let taking = self.rates.turn(pace, Purpose::Remediation, leave);
        let granted = tokio::select! {
            () = self.tasks.stopping() => return Ok(Err(Duration::ZERO)),
            granted = self.holding(lock, command, taking) => granted?,
        };
        let turn = match granted {
            Granted::Turn(turn) => turn,
            Granted::Later(wait) => return Ok(Err(wait)),
        };
        if turn.was_long() && matches!(self.standing(command).await?, Standing::Replaced { .. }) {
            // The next delivery says so.
            return Ok(Err(Duration::ZERO));
        }
        Ok(Ok(turn))
    }

    /// Gives a command back until there may be a turn, but not beyond its deadline.
    pub(crate) async fn throttled(&self, command: &Command, wait: Duration, lock: Lock) -> Answer {
        lock.release(&self.bus).await;
        Answer::Later(self.before_deadline(command, wait))
    }

    /// Renews the lock for as long as something takes.
    pub(crate) async fn holding<T>(
        &self,
        lock: &mut Lock,
        command: &Command,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        let mut wait = lock.renews_in();
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = clock::sleep(wait) => {
                    wait = lock::RENEW_EVERY;
                    if let Err(error) = lock.renew(&self.bus).await {
                        tracing::warn!(entity = command.key.entity, "the lock is not renewed: {error}");
                    }
                }
            }
        }
    }

    /// A delivery that has to come again, because somebody else has the entity.
    pub(crate) fn locked(&self) -> Answer {
        Answer::Later(LOCKED_WAIT)
    }

    pub(crate) fn intent(&self, command: &Command, lock: &Lock, earlier: Earlier, request: String) -> Intent {
        Intent {
            action_key: command.action_key(),
            issue_key: command.issue_key(),
            token: lock.token,
            attempts: earlier.attempts,
            request,
            answered: true,
            perhaps_done: earlier.perhaps_done,
            called_ms: 0,
            answered_ms: 0,
        }
    }

    /// Intent, a last look, call. `None` when it must not leave now.
    pub(crate) async fn call(
        &self,
        command: &Command,
        asking: Asking<'_, impl Future<Output = Answered>>,
        earlier: Earlier,
        mut lock: Lock,
        mut turn: Turn,
    ) -> Result<Option<(Next, Intent, u64, Lock)>, StoreError> {
        let mut intent = Intent {
            attempts: earlier.attempts.saturating_add(1),
            answered: false,
            ..self.intent(command, &lock, earlier, asking.request)
        };
        // Whoever has it meanwhile would take this intent for a call that may have left.
        if !lock.is_sure() {
            lock.release(&self.bus).await;
            return Ok(None);
        }
        crash::point(Point::BeforeIntent);
        let revision = intent::write(&self.bus, command, &intent, earlier.revision).await?;
        crash::point(Point::AfterIntent);
        let mut looked = None;
        let leaves = loop {
            // A look that is young enough serves the next turn as well: it may take longer than a turn is told ahead.
            if looked.is_none_or(|looked| !pauses::is_fresh(looked)) {
                looked = Some(Moment::now());
                if !self.last_look(command, &lock).await {
                    break false;
                }
            }
            turn.come().await;
            if looked.is_some_and(pauses::is_fresh) && turn.leaves() {
                break true;
            }
            // The look or the intent took long. The intent stands now, so the next turn is used as soon as it has come.
            Metric::Throttled.add(1, Role::Executor.name(), Some(("what", "old".into())));
            match self.turn(command, asking.pace, &mut lock, Leave::Alone).await {
                Ok(Ok(next)) => turn = next,
                Ok(Err(_)) | Err(_) => break false,
            }
        };
        if !leaves || !lock.is_sure() || self.is_late(command) {
            // Nothing left, and the next delivery must know that.
            intent.answered = true;
            intent.attempts = earlier.attempts;
            intent::write(&self.bus, command, &intent, revision).await?;
            lock.release(&self.bus).await;
            return Ok(None);
        }
        intent.called_ms = self.time.now_ms();
        let answer = self.holding(&mut lock, command, asking.calling).await;
        intent.answered_ms = self.time.now_ms();
        crash::point(Point::AfterCall);
        if let Answered::Status { limits, .. } = &answer {
            self.rates.learn(asking.pace, limits).await;
        }
        let next = execute::judge(&answer, intent.attempts, asking.may_be_repeated, intent.perhaps_done);
        let result = match &next {
            Next::Report(_) => "carried",
            Next::GiveUp { .. } => "given_up",
            Next::Retry { .. } => "retried",
            Next::Throttled { .. } => "throttled",
        };
        Metric::Calls.add(1, Role::Executor.name(), Some(("result", result.into())));
        intent.answered = true;
        intent.perhaps_done |= may_have_happened(&answer);
        Ok(Some((next, intent, revision, lock)))
    }

    /// Whether a call may leave now, as far as others have a say in that; all of it from the leader.
    async fn last_look(&self, command: &Command, lock: &Lock) -> bool {
        let (stopping, renewed_ms, is_allowed) = tokio::join!(
            pauses::stopping(&self.bus, &self.time, command),
            lock.renewed_ms(&self.bus),
            self.is_still_allowed(command)
        );
        match (stopping, renewed_ms) {
            // Not by our idea of the broker's clock, which may have stood still with us.
            (Ok(None), Ok(Some(renewed_ms))) => is_allowed && renewed_ms <= command.deadline_ms,
            (Ok(_), Ok(_)) => false,
            (Err(error), _) | (_, Err(error)) => {
                let entity = &command.key.entity;
                tracing::warn!(entity, "whether a call may still leave is not known: {error}");
                false
            }
        }
    }

    /// What comes of a command other than by a call that was carried out, if nobody else may have made one since its
    /// earlier calls were looked at.
    pub(crate) async fn report(
        &self,
        command: &Command,
        result: Done,
        attempts: u32,
        lock: Lock,
    ) -> Result<Answer, StoreError> {
        match self.held_still(lock).await? {
            Ok(lock) => self.report_with(command, result, attempts, None, lock).await,
            Err(answer) => Ok(answer),
        }
    }

    /// The same of a command that goes to the dead letters.
    async fn park_and_report(
        &self,
        work: &Work,
        command: &Command,
        letter: DeadLetter,
        result: Done,
        lock: Lock,
    ) -> Result<Answer, StoreError> {
        let lock = match self.held_still(lock).await? {
            Ok(lock) => lock,
            Err(answer) => return Ok(answer),
        };
        let attempts = letter.attempts;
        self.park(work, letter).await?;
        self.report_with(command, result, attempts, None, lock).await
    }

    /// The lock, if the leader says that it is still ours; else the command has to come again.
    pub(crate) async fn held_still(&self, lock: Lock) -> Result<Result<Lock, Answer>, StoreError> {
        let renewed_ms = lock.renewed_ms(&self.bus).await;
        if let Ok(Some(_)) = renewed_ms {
            return Ok(Ok(lock));
        }
        lock.release(&self.bus).await;
        renewed_ms.map(|_| Err(self.locked()))
    }

    /// The synced truth about a command, with where the time went: once it stands, the command is done whatever else is
    /// lost.
    async fn report_with(
        &self,
        command: &Command,
        result: Done,
        attempts: u32,
        shares: Option<Shares>,
        lock: Lock,
    ) -> Result<Answer, StoreError> {
        for (share, ms) in shares.iter().flat_map(Shares::named) {
            let ms = u64::try_from(ms).unwrap_or(0);
            Metric::ActionLatency.observe(ms, Role::Executor.name(), Some(("share", share.into())));
        }
        if matches!(result, Done::Failed { perhaps_done: false, .. } | Done::Expired { perhaps_done: false })
        {
            self.forget_begun(command).await?;
        }
        // What it led to is looked at by and by.
        let look = match result {
            Done::Carried { status } => self
                .set_to_look_by(command)
                .await
                .map(|set| set.and_then(|set| verify::first_look(&set, command, status))),
            _ => Ok(None),
        };
        let took_ms = match result {
            Done::Carried { .. } => self.time.now_ms().saturating_sub(command.decided_ms).max(0),
            _ => 0,
        };
        // Where it is not known what to look at, that is told.
        let verdict_within_ms = match &look {
            Ok(look) => look.as_ref().map(Looking::told_within_ms),
            Err(_) => Some(Looking::default().told_within_ms()),
        };
        let outcome =
            Outcome { took_ms, shares, verdict_within_ms, ..Outcome::of(command, result, attempts) };
        // In this order: whoever waits for the lock finds the outcome.
        let told = self.publish(command, &command.issue_key(), &outcome).await;
        lock.release(&self.bus).await;
        told?;
        crash::point(Point::BeforeAck);
        Ok(look?.map_or(Answer::Done, |looking| verify::later(looking.after_ms)))
    }

    /// Publishes an outcome under its key, once.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when one stands there already.
    pub(crate) async fn publish(
        &self,
        command: &Command,
        key: &str,
        outcome: &Outcome,
    ) -> Result<(), StoreError> {
        let message =
            PublishMessage::build().expected_last_subject_sequence(0).payload(wire::encode(outcome).into());
        let subject = self.bus.topology().outcome(command.partition, key);
        self.bus.publish(message.outbound_message(subject)).await?;
        tracing::info!(
            action = command.action,
            entity = command.key.entity,
            incident = command.incident,
            "{} for {}: {:?}",
            command.action,
            command.key.entity,
            outcome.result
        );
        Ok(())
    }

    /// From the leader: a replica that lags would have a call made twice, or held without need.
    pub(crate) async fn outcome_under(
        &self,
        command: &Command,
        key: &str,
    ) -> Result<Option<StreamMessage>, StoreError> {
        let subject = self.bus.topology().outcome(command.partition, key);
        self.bus.last(Stream::Inputs, &subject).await
    }

    /// Whether the command is still its incident's latest decision (O2). The view follows the record that the
    /// command follows, so it may be a moment behind.
    async fn standing(&self, command: &Command) -> Result<Standing, StoreError> {
        let mut unreadable = None;
        for look in 0..VIEW_LOOKS {
            if look > 0 {
                clock::sleep(VIEW_WAIT).await;
            }
            let entry = self.bus.get(Bucket::Incidents, &command.incident).await?;
            let view = match entry.map(|entry| wire::decode::<View>(&entry.value)).transpose() {
                Ok(view) => view,
                Err(error) => {
                    unreadable = Some(error);
                    continue;
                }
            };
            match execute::standing(command, view.as_ref()) {
                Standing::Behind => {}
                known => return Ok(known),
            }
        }
        if let Some(error) = unreadable {
            let incident = &command.incident;
            tracing::error!(
                incident,
                "the entry {incident} of INCIDENTS cannot be read, so it waits: {error}"
            );
        }
        Ok(Standing::Behind)
    }

    /// A command that is not carried out, as far as this delivery can tell: parked, and reported, so that its incident does
    /// not wait.
    pub(crate) async fn cannot(
        &self,
        work: &Work,
        command: &Command,
        reason: String,
        Earlier { attempts, perhaps_done, .. }: Earlier,
        lock: Lock,
    ) -> Result<Answer, StoreError> {
        let letter = DeadLetter { reason: reason.clone(), attempts, ..DeadLetter::default() };
        self.park_and_report(work, command, letter, Done::Failed { reason, perhaps_done }, lock).await
    }

    /// Keeps the command's bytes with what is said of them.
    pub(crate) async fn park(&self, work: &Work, said: DeadLetter) -> Result<(), StoreError> {
        let letter = DeadLetter {
            stage: Role::Executor.name().into(),
            subject: work.subject.clone(),
            sequence: work.sequence,
            payload: work.payload.to_vec(),
            ..said
        };
        dead_letter::park(&self.bus, Role::Executor, &letter).await
    }

    /// A wait, cut short so that the command comes back when it is late at the latest.
    fn before_deadline(&self, command: &Command, wait: Duration) -> Duration {
        let left_ms = command.deadline_ms.saturating_sub(self.time.now_ms()).saturating_add(1);
        wait.min(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)))
    }

    /// The broker's clock made the deadline, so it is the broker's that is compared with it.
    fn is_late(&self, command: &Command) -> bool {
        self.time.now_ms() > command.deadline_ms
    }
}

/// Said once; the next deliveries find the same.
fn say_stopped(work: &Work, command: &Command, pause: &Pause) {
    if work.deliveries > 1 {
        return;
    }
    let Pause { scope, by, reason, .. } = pause;
    let (action, entity) = (&command.action, &command.key.entity);
    tracing::warn!(
        incident = command.incident,
        "{action} for {entity} waits: {scope} is paused by {by}: {reason}"
    );
}

/// What nobody else may act on meanwhile: an entity. A page acts on none.
fn acts_on(command: &Command) -> String {
    match command.direction {
        Direction::Page => command.action_key(),
        Direction::Remediate | Direction::Revert => command.key.entity.clone(),
    }
}

/// SHA-256 of a request, hex.
pub(crate) fn fingerprint(method: Method, address: &str, body: Option<&str>) -> String {
    Digest::of([method.name(), address, body.unwrap_or_default()]).hex()
}
