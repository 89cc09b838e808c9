//! Deliberate bugs, compiled only under `--cfg verity_zoo`: the simulator itself under test.
//!
//! Purpose: each bug here is planted in its module as `#[cfg(verity_zoo)] if
//! crate::zoo::is("name")` and must be caught by the campaign or by a named directed test.
//! Invariant: a normal build holds none of this (the tidy test looks for its symbols). At most one
//! bug is selected at a time, by [`select`]; the core reads no environment.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One deliberate bug.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    pub name: &'static str,
    /// What is wrong, and which invariant it breaks.
    pub description: &'static str,
}

/// Every bug there is. A name that code asks for and this list lacks is refused by [`is`].
pub const BUGS: &[Bug] = &[
    Bug {
        name: "ack_before_durable",
        description: "journal: a prepare is written without waiting for durability, and counts",
    },
    Bug {
        name: "torn_write_ignored",
        description: "journal: recovery takes a prepare whose body fails its checksum",
    },
    Bug {
        name: "rotten_taken_as_torn",
        description: "journal: recovery drops an acknowledged prepare that rotted, without a word",
    },
    Bug {
        name: "superblock_one_copy",
        description: "superblock: an update counts when one copy is written; a crash brings back \
                      the stale one",
    },
    Bug {
        name: "page_reused_early",
        description: "store: a page that the last checkpoint needs is free at once",
    },
    Bug {
        name: "log_not_synced",
        description: "log: a checkpoint does not sync the segments it names",
    },
    Bug {
        name: "keys_one_copy",
        description: "keyring: a minted key counts when one copy holds it",
    },
    Bug {
        name: "as_of_off_by_one",
        description: "query: a read of the past takes the version that had just ended",
    },
    Bug {
        name: "fault_leaks",
        description: "query: a row whose page is not in memory counts as absent",
    },
    Bug { name: "not_unknown_is_true", description: "query: NOT of an unknown condition is true" },
    Bug {
        name: "clock_goes_back",
        description: "vsr: the timestamp of a prepare follows the wall clock back",
    },
];

/// 0: none; else the index into `BUGS` plus one.
static SELECTED: AtomicUsize = AtomicUsize::new(0);
/// How often the selected bug was reached.
static HITS: AtomicU64 = AtomicU64::new(0);

/// Selects the one bug that is alive in this process; false when there is no such bug.
pub fn select(name: &str) -> bool {
    let Some(index) = BUGS.iter().position(|bug| bug.name == name) else {
        return false;
    };
    SELECTED.store(index + 1, Ordering::Relaxed);
    true
}

/// Whether the named bug is alive. Counts as a hit when it is.
#[must_use]
pub fn is(name: &str) -> bool {
    let selected = SELECTED.load(Ordering::Relaxed);
    if selected == 0 {
        return false;
    }
    let alive = BUGS[selected - 1].name == name;
    if alive {
        HITS.fetch_add(1, Ordering::Relaxed);
    }
    alive
}

/// How often the selected bug was reached: tells "never ran" from "ran and was not caught".
#[must_use]
pub fn hits() -> u64 {
    HITS.load(Ordering::Relaxed)
}
