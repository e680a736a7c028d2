//! Watches the dead letters. In this form it parks only: every letter stays in DEAD with its bytes and its
//! reason until a person resolves it, and each is told once, loudly.

use holdline_proto::dead_letter::DeadLetter;
use holdline_proto::topology::{DLQ_CONSUMER, Role, Stream};
use holdline_proto::wire;
use holdline_stage::bus::Bus;
use holdline_stage::queue::{self, Answer, Work};
use holdline_stage::run::Shell;
use holdline_stage::settings::Reader;

/// Settings of the dlq-replayer: none of its own yet.
#[derive(Debug, Clone, Default)]
pub struct Settings {}

impl Settings {
    pub fn read(_reader: &mut Reader) -> Settings {
        Settings {}
    }
}

/// Runs the dlq-replayer until the service is stopped.
///
/// # Errors
/// When the broker stays away.
pub async fn run(_settings: Settings, shell: Shell) -> anyhow::Result<()> {
    let bus = Bus::connect(Role::DlqReplayer, &shell.common.nats, &shell.tasks, &shell.health).await?;
    queue::run(&bus, &shell, Stream::Dead, DLQ_CONSUMER, 1, |work| async move { tell(&work) }).await;
    Ok(())
}

/// An acknowledged letter stays in DEAD: the acknowledgement says that it was told.
fn tell(work: &Work) -> Answer {
    match wire::decode::<DeadLetter>(&work.payload) {
        Ok(letter) => tracing::warn!(
            letter = work.sequence,
            stage = letter.stage,
            subject = letter.subject,
            "dead letter {}: the {} gave up {} ({} attempts): {}",
            work.sequence,
            letter.stage,
            letter.subject,
            letter.attempts,
            letter.reason
        ),
        Err(error) => {
            tracing::warn!(letter = work.sequence, "dead letter {} cannot be read: {error}", work.sequence)
        }
    }
    Answer::Done
}
