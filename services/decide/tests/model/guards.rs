//! The guards, each of which a mutant goes without. No production code knows of this: a guard is taken away
//! at the machine's boundary, by what goes in, what comes out, or what the broker does.

/// What stands between a fault and a wrong effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// An event id is remembered with the acceptance that claimed it. Without: the window forgets at once.
    DedupClaim,
    /// A claim is in the record. Without: a new owner does not take claims over.
    ClaimInRecord,
    /// A record is published with the one before it as its expectation. Without: the broker takes any.
    RecordFence,
    /// The position moves only with the record. Without: a new owner goes on from what was read.
    PositionInRecord,
    /// The watermark waits for what a gateway may hold. Without: a frame stands for everything before it.
    WatermarkOfGateway,
    /// What has to follow a record is known from the record. Without: a new owner publishes nothing again.
    EffectsDone,
    /// Time is the broker's timestamp of an input. Without: the owner's own clock.
    TimeIsData,
    /// An event older than the newest one moves nothing. Without: event times always increase.
    EventOrder,
    /// FAILED and DEGRADED are judged apart. Without: one passes for the other.
    Lanes,
    /// A fired wake-up waits for the watermark. Without: it has always passed.
    Watermark,
    /// A fired wake-up is that of its generation. Without: it passes for the armed one.
    TimerGeneration,
    /// Each generation has a schedule of its own. Without: the broker keeps one per incident.
    TimerSubject,
    /// So many failures. Without: one.
    Threshold,
    /// Over so long a time. Without: at once.
    StabilityWindow,
    /// Two healthy events. Without: one.
    HealthyInARow,
    /// Over so long a time. Without: at once.
    HealthySpan,
    /// One executor has an entity's lock. Without: everybody gets it.
    Lock,
    /// The lock is looked at once more before a call leaves. Without: it is still sure.
    LastLook,
    /// What people have stopped is looked at once more before a call leaves. Without: only when a command is taken.
    Pauses,
    /// A command is held against its incident's decision number. Without: it is always the latest.
    DecisionNumber,
    /// An intent says that an earlier call may have left. Without: nobody looks.
    EarlierIntent,
    /// An intent is written by compare-and-set, so that the holder of an old lock is refused. Without: it is
    /// overwritten.
    IntentFence,
    /// A command that is late is decided anew. Without: it is never late.
    Deadline,
    /// A command is acknowledged last. Without: once it was called.
    AcknowledgedLast,
}

impl Guard {
    /// Every guard: the mutants walk this list.
    pub(crate) const ALL: [Guard; 24] = [
        Guard::DedupClaim,
        Guard::ClaimInRecord,
        Guard::RecordFence,
        Guard::PositionInRecord,
        Guard::WatermarkOfGateway,
        Guard::EffectsDone,
        Guard::TimeIsData,
        Guard::EventOrder,
        Guard::Lanes,
        Guard::Watermark,
        Guard::TimerGeneration,
        Guard::TimerSubject,
        Guard::Threshold,
        Guard::StabilityWindow,
        Guard::HealthyInARow,
        Guard::HealthySpan,
        Guard::Lock,
        Guard::LastLook,
        Guard::Pauses,
        Guard::DecisionNumber,
        Guard::EarlierIntent,
        Guard::IntentFence,
        Guard::Deadline,
        Guard::AcknowledgedLast,
    ];
    /// The property that is broken without it, by its name.
    pub(crate) fn property(self) -> &'static str {
        match self {
            Guard::DedupClaim | Guard::ClaimInRecord => "T2 an event counts once",
            Guard::RecordFence => "O1 one writer, one chain",
            Guard::PositionInRecord | Guard::EffectsDone | Guard::TimerSubject => {
                "L1 in the end everything due is done"
            }
            Guard::WatermarkOfGateway => "O4 the watermark passes nothing unread",
            Guard::TimeIsData => "O4 a replay gives the same",
            Guard::EventOrder => "O3 an older event moves nothing",
            Guard::Lanes => "A2 a warning feeds no failover",
            Guard::Watermark => "O4 a timer overtakes no event",
            Guard::TimerGeneration => "O4 a wake-up acts once it has fired",
            Guard::Threshold | Guard::StabilityWindow => "A1 no remedy before threshold and window",
            Guard::HealthyInARow | Guard::HealthySpan => "A1 no revert before health is proven",
            Guard::Lock => "O2 one executor at a time",
            Guard::LastLook => "O2 no call leaves without its lock",
            Guard::Pauses => "A7 no call leaves while it is stopped",
            Guard::DecisionNumber => "O2 nothing withdrawn leaves",
            Guard::EarlierIntent | Guard::IntentFence => "T1 one effect per incident and direction",
            Guard::Deadline => "L2 nothing late leaves",
            Guard::AcknowledgedLast => "N4 acknowledged last",
        }
    }
}
