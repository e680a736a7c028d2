//! What was looked at, and how it was found to be.

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Well,
    /// It works; somebody may want to know this or change it some day.
    Note,
    /// It could not be looked at from here. That it is well is not said.
    Unknown,
    /// It needs a person.
    Person,
}

impl State {
    /// As programs read it.
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Well => "well",
            State::Note => "note",
            State::Unknown => "unknown",
            State::Person => "person",
        }
    }

    /// As people read it, in front of a line.
    pub(super) fn mark(self) -> &'static str {
        match self {
            State::Well => "ok ",
            State::Note => "·  ",
            State::Unknown => "?  ",
            State::Person => "NO ",
        }
    }
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub what: String,
    pub state: State,
    pub found: String,
    /// Empty where it is well.
    pub todo: String,
}

impl Finding {
    pub(super) fn new(
        what: impl Into<String>,
        state: State,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) -> Finding {
        Finding { what: what.into(), state, found: found.into(), todo: todo.into() }
    }

    pub(super) fn well(what: impl Into<String>, found: impl Into<String>) -> Finding {
        Finding::new(what, State::Well, found, "")
    }

    pub(super) fn note(
        what: impl Into<String>,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) -> Finding {
        Finding::new(what, State::Note, found, todo)
    }

    pub(super) fn unknown(
        what: impl Into<String>,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) -> Finding {
        Finding::new(what, State::Unknown, found, todo)
    }

    pub(super) fn person(
        what: impl Into<String>,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) -> Finding {
        Finding::new(what, State::Person, found, todo)
    }
}
