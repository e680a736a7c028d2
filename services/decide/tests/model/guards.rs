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
    /// An echo of our own actions counts for nothing. Without: it is an event as any other.
    Echo,
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
    /// A revert is over once it is seen to have worked. Without: once it was carried out.
    Proof,
    /// One executor has an entity's lock. Without: everybody gets it.
    Lock,
    /// The lock is looked at once more before a call leaves. Without: it is still sure.
    LastLook,
    /// It is looked at with the broker, too. Without: by a clock that may have stood still.
    HeldLock,
    /// What people have stopped is looked at once more before a call leaves. Without: only when a command is taken.
    Pauses,
    /// A command is held against its incident's decision number, and once more against its outcome: one of them would
    /// do. Without: against neither.
    DecisionNumber,
    /// Who has lost the lock says nothing but that something was carried out. Without: what he has seen last.
    HeldReport,
    /// Whether its outcome stands is looked at under the lock as well. Without: only when a command is taken.
    OutcomeAgain,
    /// An intent says that an earlier call may have left. Without: nobody looks.
    EarlierIntent,
    /// An intent is written by compare-and-set, so that the holder of an old lock is refused. Without: it is
    /// overwritten.
    IntentFence,
    /// The place of the intent is looked at before anything else. Without: after what others may have changed since.
    IntentFirst,
    /// A command that is late is decided anew. Without: it is never late.
    Deadline,
    /// A command is acknowledged last. Without: once it was called.
    AcknowledgedLast,
    /// What people allow is exactly one request. Without: whatever names it.
    ExactRequest,
    /// A person has one word. Without: each of them counts.
    NobodyCountsTwice,
    /// A word is void after a time. Without: never.
    ApprovalExpires,
    /// A word is its person's by signature. Without: by name.
    Signature,
    /// Whoever objects stops it. Without: nobody hears him.
    Denial,
    /// What people are asked is sealed by the executors. Without: whoever may write there has asked.
    Seal,
    /// What people allow goes by the terms that are in force now as well. Without: by those on which they were asked.
    TermsInForce,
    /// What people have said is looked at once more before a call leaves. Without: only when a command is taken.
    LastWord,
    /// A budget is taken from by compare-and-set. Without: it is overwritten.
    BudgetFence,
    /// An incident has its share once. Without: each delivery takes one.
    BudgetOnce,
    /// What was taken counts from when it is used. Without: from when it was taken.
    BudgetRenewed,
    /// What is taken of one budget goes back if another refuses. Without: it stays taken.
    GivingBack,
    /// It goes back under a lock that is sure. Without: whoever is deposed gives back what his successor goes by.
    SureGivingBack,
    /// What a remedy did counts until it is undone. Without: for a time.
    BudgetWhileOpen,
    /// Who relies on a change keeps others from undoing it. Without: nobody asks.
    Reliance,
    /// What is known of a change is written by compare-and-set. Without: it is overwritten.
    RelianceFence,
    /// It is written by compare-and-set even where it says nothing new. Without: then nobody looks.
    EveryWriteIsFenced,
    /// What was there is kept before the call. Without: after it.
    PreImage,
    /// What was there stays known while a change is in force. Without: what is there is taken for it.
    PreImageStays,
    /// Who has begun to change it may have changed it. Without: only one's own beginning counts.
    Begun,
    /// The platform's version tells our own change from another's. Without: all of it is ours.
    Stamp,
}

impl Guard {
    /// Every guard: the mutants walk this list.
    pub(crate) const ALL: [Guard; 51] = [
        Guard::DedupClaim,
        Guard::ClaimInRecord,
        Guard::RecordFence,
        Guard::PositionInRecord,
        Guard::WatermarkOfGateway,
        Guard::EffectsDone,
        Guard::TimeIsData,
        Guard::EventOrder,
        Guard::Lanes,
        Guard::Echo,
        Guard::Watermark,
        Guard::TimerGeneration,
        Guard::TimerSubject,
        Guard::Threshold,
        Guard::StabilityWindow,
        Guard::HealthyInARow,
        Guard::HealthySpan,
        Guard::Proof,
        Guard::Lock,
        Guard::LastLook,
        Guard::HeldLock,
        Guard::Pauses,
        Guard::DecisionNumber,
        Guard::OutcomeAgain,
        Guard::HeldReport,
        Guard::EarlierIntent,
        Guard::IntentFence,
        Guard::IntentFirst,
        Guard::Deadline,
        Guard::AcknowledgedLast,
        Guard::ExactRequest,
        Guard::NobodyCountsTwice,
        Guard::ApprovalExpires,
        Guard::Signature,
        Guard::Denial,
        Guard::Seal,
        Guard::TermsInForce,
        Guard::LastWord,
        Guard::BudgetFence,
        Guard::BudgetOnce,
        Guard::BudgetRenewed,
        Guard::GivingBack,
        Guard::SureGivingBack,
        Guard::BudgetWhileOpen,
        Guard::Reliance,
        Guard::RelianceFence,
        Guard::EveryWriteIsFenced,
        Guard::PreImage,
        Guard::PreImageStays,
        Guard::Begun,
        Guard::Stamp,
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
            Guard::Echo => "C4 an echo counts for nothing",
            Guard::Watermark => "O4 a timer overtakes no event",
            Guard::TimerGeneration => "O4 a wake-up acts once it has fired",
            Guard::Threshold | Guard::StabilityWindow => "A1 no remedy before threshold and window",
            Guard::HealthyInARow | Guard::HealthySpan => "A1 no revert before health is proven",
            Guard::Proof => "E11 no revert is over before it is proven",
            Guard::Lock => "O2 one executor at a time",
            Guard::LastLook | Guard::HeldLock => "O2 no call leaves without its lock",
            Guard::Pauses => "A7 no call leaves while it is stopped",
            Guard::OutcomeAgain => "O2 nothing leaves anew whose outcome stands",
            Guard::HeldReport => "E9 nothing is said not to be done that was",
            Guard::DecisionNumber => "O2 nothing withdrawn leaves",
            Guard::EarlierIntent | Guard::IntentFence | Guard::IntentFirst => {
                "T1 one effect per incident and direction"
            }
            Guard::Deadline => "L2 nothing late leaves",
            Guard::AcknowledgedLast => "N4 acknowledged last",
            Guard::ExactRequest
            | Guard::NobodyCountsTwice
            | Guard::ApprovalExpires
            | Guard::Signature
            | Guard::Denial
            | Guard::Seal
            | Guard::TermsInForce
            | Guard::LastWord => "A4 nothing leaves that people have not allowed",
            Guard::BudgetFence | Guard::BudgetRenewed | Guard::SureGivingBack | Guard::BudgetWhileOpen => {
                "A5 no budget is overdrawn"
            }
            Guard::GivingBack => "A5 what one budget refuses costs no other",
            Guard::BudgetOnce => "A5 what was taken is not asked for again",
            Guard::Reliance | Guard::RelianceFence | Guard::EveryWriteIsFenced => {
                "E2 a remedy stands while somebody relies on it"
            }
            Guard::PreImage | Guard::PreImageStays | Guard::Begun => "E2 what was there is put back",
            Guard::Stamp => "A6 a person's change stays",
        }
    }
}
