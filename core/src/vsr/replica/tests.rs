//! The protocol under test: whole clusters of replicas with real journals on fake disks and a
//! seeded network, in `world`; directed tests in a small notation (`notation`, `directed`); random
//! runs (`random`); the choice of a log by itself (`choice`); bugs planted to see them caught.

mod choice;
mod directed;
mod notation;
mod random;
mod replaced;
mod world;

/// Deliberate bugs, alive in one replica object, not in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// A rotten op is left out of the offer: a corrupt slot counts as an empty one.
    NacksRotten,
    /// An op whose body no offer has is dropped, whoever is silent.
    TruncatesWithoutNacks,
    /// What is being written counts as durable.
    CountsUnsynced,
    /// An inherited op counts as committed before the view begins.
    CommitsInherited,
    /// What peers saw of us is not held against our disk.
    TrustsOldDisk,
    /// A checkpoint of a peer is installed in the view of before.
    SyncsInOldView,
    /// An empty disk in place of a lost one counts like any other.
    CountsReplaced,
    /// To an empty disk in place of a lost one a single answer is enough.
    ReplacedByOne,
    /// An empty disk in place of a lost one answers whoever asks what it saw.
    AnswersReplaced,
    /// A replica is certain of a log that it has, before the superblock says which view's it is.
    HealsEarly,
    /// A vote counts that was sent before its replica started again.
    CountsOldVotes,
    /// Of five, a vote counts beside that of one who knows that its replica started again.
    CountsUnheardVotes,
    /// At boot the view is not raised to that of the peers that answer.
    ForgetsPromises,
    /// The end of a `start_view` of our own log view is taken for the end of the log.
    OldStartViewTruncates,
    /// A commit number of a later view is taken for one of our own log.
    BelievesLaterCommits,
    /// The log view is made durable before the log is.
    LogViewBeforeLog,
    /// What others committed is acknowledged before it is durable here.
    AcknowledgesCommitted,
    /// An op is applied that counts on a checkpoint which is not durable here.
    AppliesAhead,
    /// An op that a replica holds and cannot name ends the log.
    NacksUnnamed,
    /// What is committed by others and being written here counts as on disk in the superblock.
    RecordsUnwritten,
    /// A link that closed is held against its replica, whatever comes of it since.
    BelievesClosedLinks,
    /// A peer alone in a later view is left there.
    LeavesStranded,
    /// A log is cut down to a hole that only the erased op above it names.
    JoinsAtAHole,
    /// The superblock does not say that the end of the log is erased.
    ErasesUnrecorded,
    /// A read is answered without asking whether we still lead.
    ConfirmsAlone,
}
