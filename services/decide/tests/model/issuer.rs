//! The debouncer where it is not in question: one real `debounce::Partition` that never fails, with everything that
//! it ever issued and showed.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use holdline_decide::debounce::{self, Input, Partition};
use holdline_proto::command::Command;
use holdline_proto::event::Origin;
use holdline_proto::incident::View;
use holdline_proto::journal::Effect;
use holdline_proto::signal::{Classified, Health, Signal, Values};

use crate::broker::{chain, print};
use crate::scene::{Book, PLACE, PLAYBOOK, SET, SUBSCRIPTION};

#[derive(Debug, Clone)]
pub(crate) struct Issuer {
    /// Stands for all the rest: what it knows, and what it has issued.
    print: u64,
    issued_print: u64,
    partition: Arc<Partition>,
    inputs: u64,
    pub(crate) issued: Vec<Arc<Command>>,
    /// Each with a decision of its own.
    pub(crate) views: Vec<Arc<View>>,
}

impl Issuer {
    pub(crate) fn new() -> Issuer {
        Issuer {
            print: 0,
            issued_print: 0,
            partition: Arc::new(Partition::new(0)),
            inputs: 0,
            issued: vec![],
            views: vec![],
        }
    }

    /// Has it read something.
    pub(crate) fn read(&mut self, book: &Book, now_ms: i64, input: Input<'_>) {
        let mut step = debounce::Step::default();
        self.inputs += 1;
        Arc::make_mut(&mut self.partition).step(book, self.inputs, now_ms, input, &mut step);
        for effect in step.effects {
            if let Effect::Command(command) = effect {
                self.issued_print = chain(self.issued_print, print(&command));
                self.issued.push(Arc::new(command));
            }
        }
        for view in step.views.into_values() {
            if self.views.last().is_none_or(|last| last.decision != view.decision) {
                self.views.push(Arc::new(view));
            }
        }
        let tracks: Vec<_> = self.partition.tracks().values().collect();
        self.print = chain(chain(self.issued_print, print(&tracks)), self.views.len() as u64);
    }

    /// Has it read so many events of one kind.
    pub(crate) fn hear(&mut self, book: &Book, now_ms: i64, health: Health, times: u32) {
        let signal = |index: u32| Signal {
            echo: None,
            depth: 0,
            waited_ms: 0,
            origin: Origin { sequence: 1, index },
            accept_id: format!("0-0-{health:?}-{index}"),
            event_id: format!("{health:?}-{index}"),
            subscription: SUBSCRIPTION.into(),
            playbook: PLAYBOOK.into(),
            entity: "gw".into(),
            group: None,
            health,
            event_ms: now_ms,
            received_ms: now_ms,
            late: false,
            values: Values::from([(PLACE.to_string(), "gw".into())]),
        };
        let classified = Classified {
            playbooks: SET.into(),
            signals: (0..times).map(signal).collect(),
            ..Classified::default()
        };
        self.read(book, now_ms, Input::Classified(&classified));
    }

    /// It waits for an outcome.
    pub(crate) fn waits(&self) -> bool {
        self.partition.tracks().values().any(|track| track.outstanding.is_some())
    }
}

impl PartialEq for Issuer {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Hash for Issuer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.hash(state);
    }
}
