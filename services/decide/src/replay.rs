//! Folds recorded inputs again and holds what comes out against what was recorded (O4, X3).

use holdline_proto::journal::{Decided, Effect, Record};
use holdline_proto::wire;

use crate::debounce::{Input, Partition, Rulebook, Step};

/// A recorded input, decoded.
#[derive(Debug, Clone)]
pub struct Recorded<T> {
    pub sequence: u64,
    /// The broker's timestamp. Unix milliseconds.
    pub published_ms: i64,
    pub input: T,
}

/// What replaying one record showed.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Decisions, dispositions, states and effects are the same, byte for byte.
    Same,
    /// They differ.
    Different { recorded: String, replayed: String },
}

/// Replays partitions record by record.
#[derive(Debug)]
pub struct Replay {
    partition: Partition,
}

impl Replay {
    pub fn new(partition: u16) -> Replay {
        Replay { partition: Partition::new(partition) }
    }

    /// Takes a record over without replaying it: history before the part that matters.
    pub fn skip(&mut self, record: Record<Decided>) {
        self.partition.fold(record.body);
    }

    /// Decides again on the inputs that a record covers, and compares.
    pub fn record<'a>(
        &mut self,
        rulebook: &impl Rulebook,
        inputs: impl IntoIterator<Item = Recorded<Input<'a>>>,
        record: Record<Decided>,
    ) -> Verdict {
        let mut step = Step::default();
        for recorded in inputs {
            self.partition.step(
                rulebook,
                recorded.sequence,
                recorded.published_ms,
                recorded.input,
                &mut step,
            );
        }
        let effects = std::mem::take(&mut step.effects);
        let again = self.partition.record(&mut step, &[]);
        // The snapshot and what was forgotten with it belong to the owner's round, not to the inputs.
        let kept = Decided { snapshot: vec![], forgotten: vec![], ..record.body.clone() };
        let recorded = bytes(&record, kept, record.effects.clone());
        let replayed = bytes(&record, again.clone(), effects.clone());
        let verdict = if recorded == replayed {
            Verdict::Same
        } else {
            Verdict::Different {
                recorded: format!("{:?}\n{:?}", record.body.decisions, record.effects),
                replayed: format!("{:?}\n{effects:?}", again.decisions),
            }
        };
        self.partition.fold(record.body);
        verdict
    }
}

fn bytes(like: &Record<Decided>, body: Decided, effects: Vec<Effect>) -> Vec<u8> {
    wire::encode(&Record { effects, body, ..like.clone() })
}
