//! How far the world is explored, and which rule is broken.

/// How much may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Ops that are proposed, at most [`crate::OPS`].
    pub ops: u8,
    /// The last view.
    pub views: u8,
    /// Crashes in all; one may come with rot.
    pub crashes: u8,
    /// Slots that rot; all on one replica, whichever.
    pub rots: u8,
    /// Replicas that come back with the disk of before some moment.
    pub older_disks: u8,
    /// Replicas that lose their disks, and have an empty one that says so.
    pub lost_disks: u8,
}

/// A rule that is broken, named after what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Rules {
    AsWritten,
    /// Quorums: one replica alone commits.
    CommitsAlone,
    /// Rule 4: f nacks are enough.
    TooFewNacks,
    /// Rule 1: what is named and has no body counts as a nack.
    NacksRotten,
    /// Rule 4: an op whose body no sender has ends the log.
    DropsWithoutNacks,
    /// Rule 2: one that is not certain counts.
    CountsUncertain,
    /// Rule 3: the log view is durable before the log is.
    LogViewFirst,
    /// Rule 4: the candidate is the newest header, whatever the log view of who names it.
    CandidateByHeader,
    /// Rule 4: a hole without a name is taken for the end of a log.
    NamelessIsEnd,
    /// Rule 5: an erasure is not on record.
    ErasesUnrecorded,
    /// Rule 5: a `start_view` of the log view's own view erases.
    ErasesOwnView,
    /// Rule 5: a log is cut down to a hole.
    CutsToHole,
    /// Rule 2: any `start_view` makes certain, however old.
    CertainByOldStartView,
    /// Rule 8: the view is not durable before `do_view_change` is sent.
    ViewNotDurable,
    /// Rule 9: nobody is asked at boot.
    TrustsOlderDisk,
    /// Rule 16: a vote counts after its replica started again.
    CountsOldVotes,
    /// Rule 18: an empty disk in place of a lost one counts like any other.
    CountsReplaced,
    /// Rule 18: it takes any `start_view`.
    ReplacedByOldStartView,
    /// Rules 16 and 18: it asks one peer for its view, and only that one forgets its votes.
    ReplacedAsksOne,
}
