//! The stamps that our own writes of one object led to: several of our changes may stand in the same object, and none of
//! them is somebody else's intervention to another.

use holdline_proto::wire::Wire;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Writes of one object that are remembered. What is undone after more of them is a person's.
const WRITES_MAX: usize = 64;

/// Our writes of an object, oldest first: the stamp before each, and the one that it led to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Written(Vec<(Value, Value)>);

impl Wire for Written {
    const KIND: &'static str = "written";
}

impl Written {
    /// With one more write.
    #[must_use]
    pub fn with(mut self, before: Value, after: Value) -> Written {
        self.0.push((before, after));
        let over = self.0.len().saturating_sub(WRITES_MAX);
        self.0.drain(..over);
        self
    }

    /// Whether nobody but us has written between two stamps.
    pub fn leads(&self, from: &Value, to: &Value) -> bool {
        let mut at = from;
        for (before, after) in &self.0 {
            if before == at {
                at = after;
            }
        }
        at == to
    }
}
