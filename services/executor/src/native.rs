//! The way of a native action, between the lock and the outcome: look → plan → pre-image → intent → call →
//! what the answer says of our write. What is to be done stands in `decide::native`.

use holdline_decide::execute::{self, Answer as Answered, Next, UNCHANGED};
use holdline_decide::native::{self, Call, Change, Kept, Plan};
use holdline_decide::playbook::{Method, Native, Platform, Set};
use holdline_platform::{Api, Failed, Response};
use holdline_proto::command::{Command, Intent};
use holdline_proto::outcome::Done;
use holdline_stage::bus::StoreError;
use holdline_stage::queue::{Answer, Work};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::intent::Earlier;
use crate::kept;
use crate::lock::Lock;
use crate::protocol::Executor;
use crate::rate::CALLS_PER_SECOND;

/// Entries of one page.
const PAGE_SIZE: usize = 100;

/// Pages that are read of one list: a queue of 2,000 members.
const PAGES_MAX: usize = 20;

/// Whose calls they are, and where they go.
struct Caller<'a> {
    platform: &'a Platform,
    client: &'a str,
    host: String,
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
        lock: Lock,
    ) -> Result<Answer, StoreError> {
        let found = set.platform.as_ref().and_then(|platform| {
            let (client, _) = platform.client(native.client.as_deref())?;
            Some(Caller { platform, client, host: Api::host(platform) })
        });
        let Some(caller) = found else {
            let reason = format!("the set {} has no client for {}", command.playbooks, command.action);
            return self.cannot(work, command, reason).await;
        };
        let change = match execute::change(native, command) {
            Ok(change) => change,
            Err(reason) => return self.cannot(work, command, reason).await,
        };
        let entry = kept::of(&self.bus, command).await?;
        if command.undo.is_some() && entry.kept.is_none() {
            // No call of the remedy ever left.
            return self.report(command, Done::Carried { status: UNCHANGED }, earlier.attempts, lock).await;
        }
        let shown = match self.look(&caller, &change).await {
            Ok(shown) => shown,
            Err(answer) => {
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
                    .conclude(work, command, next, intent, earlier.revision, lock, &caller.host)
                    .await;
            }
        };
        let (plan, keep) = match (&entry.kept, command.undo) {
            (Some(kept), Some(_)) => (native::undo(&change, kept, &shown), kept.clone()),
            (kept, _) => native::plan(&change, kept.as_ref(), &shown),
        };
        let (call, entry) = match plan {
            Plan::Send(call) => (call, kept::write(&self.bus, command, &entry, keep.clone()).await?),
            Plan::Already => {
                let ours = earlier.perhaps_done;
                kept::write(&self.bus, command, &entry, keep).await?;
                let status = if ours { 200 } else { UNCHANGED };
                return self.report(command, Done::Carried { status }, earlier.attempts, lock).await;
            }
            Plan::Refused(reason) => {
                let done = Done::Failed { reason, perhaps_done: earlier.perhaps_done };
                let next = Next::GiveUp { done, transient: false };
                return self.give_up(work, command, next, earlier, lock, &caller.host).await;
            }
            Plan::Intervened(reason) => {
                let next = Next::GiveUp { done: Done::Held { reason }, transient: false };
                return self.give_up(work, command, next, earlier, lock, &caller.host).await;
            }
        };
        self.rates.turn(&caller.host, calls_per_second(caller.platform)).await;
        let mut response = None;
        let repeatable = change.look().is_some();
        let called = {
            let (response, caller) = (&mut response, &caller);
            let calling = async {
                let (answer, said) = self.ask(caller, &call).await;
                *response = said;
                answer
            };
            self.call(command, repeatable, fingerprint(&call), calling, earlier, lock).await?
        };
        let Some((next, intent, revision, lock)) = called else { return Ok(self.locked()) };
        if let (Next::Report(_), Some(said)) = (&next, response) {
            kept::write(&self.bus, command, &entry, noted(&change, command, keep, &said)).await?;
        }
        self.conclude(work, command, next, intent, revision, lock, &caller.host).await
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

    /// What the platform shows of what is to be changed.
    async fn look(&self, caller: &Caller<'_>, change: &Change) -> Result<Value, Answered> {
        let Some((path, paged)) = change.look() else { return Ok(Value::Null) };
        if !paged {
            return self.get(caller, path).await;
        }
        let mut entities = vec![];
        for number in 1..=PAGES_MAX {
            let page = self.get(caller, format!("{path}?pageSize={PAGE_SIZE}&pageNumber={number}")).await?;
            let found = page.get("entities").and_then(Value::as_array).cloned().unwrap_or_default();
            let last = found.len() < PAGE_SIZE;
            entities.extend(found);
            if last {
                break;
            }
        }
        Ok(json!({"entities": entities}))
    }

    async fn get(&self, caller: &Caller<'_>, path: String) -> Result<Value, Answered> {
        self.rates.turn(&caller.host, calls_per_second(caller.platform)).await;
        let (answer, body) = self.ask(caller, &Call { method: Method::Get, path, body: None }).await;
        match (&answer, body) {
            (Answered::Status { status: 200..300, .. }, Some(body)) => Ok(body),
            _ => Err(answer),
        }
    }

    async fn ask(&self, caller: &Caller<'_>, call: &Call) -> (Answered, Option<Value>) {
        match self.api.send(caller.platform, caller.client, call).await {
            Ok(response) => {
                if response.status >= 400 {
                    let (status, said) = (response.status, message(&response));
                    let correlation = response.correlation.as_deref();
                    let method = call.method.name();
                    tracing::warn!(correlation, "{method} {} was answered {status}: {said}", call.path);
                }
                let answer = Answered::Status {
                    status: if is_stale(&response) { 409 } else { response.status },
                    retry_after_ms: response.retry_after_ms,
                };
                (answer, Some(response.body))
            }
            Err(Failed::Unsent { reason, .. }) => (Answered::Unsent { reason }, None),
            Err(Failed::Lost { reason }) => (Answered::Lost { reason }, None),
        }
    }
}

/// What is known once the answer is here. An undone remedy has nothing left to restore.
fn noted(change: &Change, command: &Command, keep: Kept, said: &Value) -> Kept {
    if command.undo.is_some() { keep } else { native::noted(change, &keep, said) }
}

fn calls_per_second(platform: &Platform) -> u32 {
    platform.calls_per_second.unwrap_or(CALLS_PER_SECOND)
}

fn message(response: &Response) -> &str {
    response.body.get("message").and_then(Value::as_str).unwrap_or("no message")
}

/// A stale version is a 409, or a 400 that says so (genesys.md 3).
fn is_stale(response: &Response) -> bool {
    response.status == 400 && message(response).contains("does not match the current version")
}

fn fingerprint(call: &Call) -> String {
    let mut hasher = Sha256::new();
    let body = call.body.as_ref().map(Value::to_string).unwrap_or_default();
    for part in [call.method.name(), &call.path, &body] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    hex::encode(hasher.finalize())
}
