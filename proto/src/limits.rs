//! Every limit on the size of what crosses a wire, in one place, each with what happens at the bound.

/// Bytes of one HTTP request body. Beyond: 413.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// Events in one posted array. Beyond: 400.
pub const BATCH_EVENTS_MAX: usize = 1_000;

/// Bytes that the events of one body have together, where each repeats what the body says of all. Beyond: 400.
pub const EVENTS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Events in one frame on `hl.event.<p>`. Beyond: the next frame takes the rest. Small enough that the states
/// which a frame of distinct entities changes fit in one record.
pub const FRAME_EVENTS_MAX: usize = 128;

/// Bytes of event bodies in one frame, unless a single event is larger (then it travels alone).
pub const FRAME_BYTES_MAX: usize = 128 * 1024;

/// Bytes of new content after which a stage closes a record and leaves further inputs to the next one.
/// Far enough below [`MESSAGE_BYTES_MAX`] that the outputs of one more whole frame still fit.
pub const RECORD_BYTES_SOFT: usize = 192 * 1024;

/// `max_payload` of the embedded nats-server, headers included; its own default, 1 MiB, is the least that the
/// pipeline is built for. What the server at hand says is what counts.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of the template values that one signal carries. Beyond: the event is `undecidable`.
pub const VALUES_BYTES_MAX: usize = 2 * 1024;

/// Bytes of an entity's, a group's or an event's name. Beyond: refused at the gateway, or `undecidable`.
pub const NAME_BYTES_MAX: usize = 256;

/// Subscriptions in one set of playbooks. Beyond: the set is refused.
pub const SUBSCRIPTIONS_MAX: usize = 64;

/// Playbooks that may listen to one subscription. Beyond: the set is refused.
pub const PLAYBOOKS_PER_SUBSCRIPTION_MAX: usize = 8;

/// Gateways that the watermark follows at once. Beyond: the one heard least recently is forgotten.
pub const GATEWAYS_MAX: usize = 64;

/// Bytes of all files of one set of playbooks. Beyond: the push is refused.
pub const BUNDLE_BYTES_MAX: usize = 768 * 1024;

/// Decided actions of one entity that wait for the outcome of the one under way. Beyond: held for a person.
pub const LINEUP_MAX: usize = 16;

/// Remedies that a budget may allow at most. Beyond: the set is refused.
pub const BUDGET_MAX: u32 = 1_000;

/// Pauses that stand at once. Beyond: `holdline pause` is refused.
pub const PAUSES_MAX: usize = 256;

/// Rulings that are kept of one request, the last of which is a denial. Beyond: `holdline deny` is refused, too.
pub const RULINGS_MAX: usize = 16;

/// Bytes of a request that people are shown. Beyond: it is cut, and says so; what they allow is all of it.
pub const SHOWN_BYTES_MAX: usize = 16 * 1024;

/// Bytes of one entry of the audit trail, far enough below what the broker takes at least. Beyond: it is not written,
/// and what it is about is not done.
pub const AUDIT_ENTRY_BYTES_MAX: usize = 512 * 1024;

/// Partitions of an installation.
pub const PARTITIONS_MAX: u16 = 256;
