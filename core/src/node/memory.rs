//! How `--memory` is divided: it is the budget of the whole process, not of one cache.
//!
//! Everything that can grow has a share with a bound of its own; the bounds follow from cluster
//! constants and from `limits.rs`. What is left is for clean pages. A budget that leaves too little
//! for them is refused with the least that would do.
//!
//! Invariants: nothing here steers state. Two replicas with different budgets give the same answers
//! and the same bytes; the smaller one faults more often. [`MemoryUse`] never exceeds
//! [`MemoryPlan`], part by part: the simulator holds every run to that.
//!
//! Not counted, because its owner decides: what a program that embeds the database keeps itself,
//! the rows of answers included.

use crate::limits::{
    ClusterConstants, FRAME_BYTES, JOURNAL_CHUNK_BYTES, JOURNAL_CHUNKS_IN_FLIGHT_MAX,
    LOG_BUFFER_SIZE_MAX, LOG_BUFFERS_KEPT_BYTES, LOG_CACHE_BLOCKS, LOG_RUN_RESERVED_SIZE,
    LOG_RUNS_RESERVED_MAX, LOG_WRITING_BYTES_MAX, PAGE_SIZE, PREPARE_BUFFERS_MAX,
    PREPARE_HEADER_SIZE, PREPARE_SIZE_MAX, PROCESS_BYTES, READ_MEMORY_MAX, READ_MEMORY_MIN,
    REQUESTS_BYTES_MAX, REQUESTS_BYTES_MIN, SEALED_BYTES_MAX, STORE_BUFFERS_KEPT_PAGES,
    STORE_READS_IN_FLIGHT_MAX, STORE_WRITES_IN_FLIGHT_MAX,
};

/// What a node may hold in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Bytes of the whole process: `--memory`.
    Process(u64),
    /// As much as is needed for this many clean pages. For tests and the simulator, whose caches
    /// are smaller than any that would be worth a process.
    CleanPages(u32),
}

impl Memory {
    /// When nothing is said.
    pub const DEFAULT: Memory = Memory::Process(1 << 30);
}

/// The process cannot work with so little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryTooSmall {
    pub asked_bytes: u64,
    /// The least for this cluster's constants.
    pub least_bytes: u64,
}

impl core::fmt::Display for MemoryTooSmall {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let MemoryTooSmall { asked_bytes, least_bytes } = self;
        write!(
            f,
            "{} MiB of memory are too few for this database: give at least {} MiB (--memory), or \
             make one with `verity format --profile compact`",
            asked_bytes >> 20,
            least_bytes.div_ceil(1 << 20)
        )
    }
}

/// Bounds of all parts, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    pub clean_pages: u32,
    /// Pages in memory: clean, changed, and part of the checkpoint under way.
    pub pages: u64,
    /// What the grid holds beside them: pages on their way from and to the disk, tags.
    pub grid: u64,
    /// Records on their way to the disk, blocks that were read.
    pub logs: u64,
    /// Prepares, and a header for each page of the ring.
    pub journal: u64,
    /// What one transaction has made and not yet put in its place.
    pub transaction: u64,
    /// Requests that wait.
    pub requests: u64,
    /// What all reads sort and group.
    pub reads: u64,
    /// Code, stacks, what the allocator cannot give out.
    pub process: u64,
}

/// What the parts hold now; those that are not here cannot grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    pub pages: u64,
    pub grid: u64,
    pub logs: u64,
    pub journal: u64,
    pub requests: u64,
    pub reads: u64,
}

impl MemoryPlan {
    pub fn new(memory: Memory, constants: &ClusterConstants) -> Result<MemoryPlan, MemoryTooSmall> {
        let least = MemoryPlan::least(constants);
        let least_bytes = least.total();
        match memory {
            Memory::CleanPages(pages) => Ok(least.with_clean(constants, pages)),
            Memory::Process(asked_bytes) if asked_bytes < least_bytes => {
                Err(MemoryTooSmall { asked_bytes, least_bytes })
            }
            Memory::Process(bytes) => {
                let spare = bytes - least_bytes;
                // A quarter of what is not needed: larger sorts, more requests that wait.
                let reads = (spare / 8).min(READ_MEMORY_MAX as u64 - READ_MEMORY_MIN);
                let requests = (spare / 8).min(REQUESTS_BYTES_MAX);
                let pages = (spare - reads - requests) / FRAME_BYTES;
                let pages = u32::try_from(pages).unwrap_or(u32::MAX);
                let clean = least.clean_pages.saturating_add(pages).min(constants.grid_pages_max);
                let plan = MemoryPlan {
                    reads: least.reads + reads,
                    requests: least.requests + requests,
                    ..least
                }
                .with_clean(constants, clean);
                assert!(plan.total() <= bytes, "the parts are the whole");
                Ok(plan)
            }
        }
    }

    /// The least that works, whatever is asked of the database within its limits.
    #[must_use]
    pub fn least(constants: &ClusterConstants) -> MemoryPlan {
        let page = PAGE_SIZE as u64;
        let grid_pages =
            STORE_READS_IN_FLIGHT_MAX + STORE_WRITES_IN_FLIGHT_MAX + STORE_BUFFERS_KEPT_PAGES;
        let tags = 2 * u64::from(constants.dirty_pages_max) * TAG_BYTES;
        let free_set = u64::from(constants.grid_pages_max) / 8;
        let buffered = LOG_BUFFER_SIZE_MAX + constants.log_bytes_of_a_transaction();
        // Runs grow by quarters, or are as large as they will be at once.
        let logs = buffered
            + buffered / 4
            + LOG_RUNS_RESERVED_MAX * LOG_RUN_RESERVED_SIZE
            + LOG_WRITING_BYTES_MAX
            + LOG_BUFFERS_KEPT_BYTES
            + LOG_CACHE_BLOCKS * PAGE_SIZE;
        let headers = constants.journal_ring_bytes / page * (PREPARE_HEADER_SIZE as u64 + 8);
        let buffers = PREPARE_BUFFERS_MAX * (PREPARE_SIZE_MAX + PAGE_SIZE);
        let chunks = JOURNAL_CHUNKS_IN_FLIGHT_MAX * JOURNAL_CHUNK_BYTES;
        let plan = MemoryPlan {
            clean_pages: 0,
            pages: 0,
            grid: grid_pages as u64 * page + tags + free_set.min(FREE_SET_BYTES),
            logs: logs as u64,
            journal: headers + buffers.max(chunks) as u64,
            transaction: 2 * u64::from(constants.transaction_bytes_max),
            requests: REQUESTS_BYTES_MIN + SEALED_BYTES_MAX as u64,
            reads: READ_MEMORY_MIN,
            process: PROCESS_BYTES,
        };
        plan.with_clean(constants, constants.clean_pages_min())
    }

    fn with_clean(mut self, constants: &ClusterConstants, pages: u32) -> MemoryPlan {
        self.clean_pages = pages.max(constants.clean_pages_min());
        let frames = u64::from(self.clean_pages) + u64::from(constants.busy_pages_max());
        self.pages = frames * FRAME_BYTES;
        self
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        let MemoryPlan {
            clean_pages: _,
            pages,
            grid,
            logs,
            journal,
            transaction,
            requests,
            reads,
            process,
        } = self;
        pages + grid + logs + journal + transaction + requests + reads + process
    }

    /// The first part that holds more than it may: its name, what it holds, its bound.
    #[must_use]
    pub fn exceeded_by(&self, used: &MemoryUse) -> Option<(&'static str, u64, u64)> {
        let MemoryUse { pages, grid, logs, journal, requests, reads } = *used;
        [
            ("pages", pages, self.pages),
            ("grid", grid, self.grid),
            ("logs", logs, self.logs),
            ("journal", journal, self.journal),
            ("requests", requests, self.requests),
            ("reads", reads, self.reads),
        ]
        .into_iter()
        .find(|(_, holds, bound)| holds > bound)
    }
}

/// Tag and hash of a sealed page in their maps, and its place in the order of a checkpoint.
const TAG_BYTES: u64 = 112;
/// A bit for each page of a grid of 256 GiB: larger ones take more than is planned, by as much.
const FREE_SET_BYTES: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::{Memory, MemoryPlan, MemoryUse};
    use crate::limits::ClusterConstants;

    #[test]
    fn the_parts_never_exceed_the_whole() {
        for constants in [ClusterConstants::DEFAULT, ClusterConstants::COMPACT] {
            let least = MemoryPlan::least(&constants).total();
            for extra in [0, 1, 4_095, 1 << 20, 100 << 20, 64 << 30] {
                let Ok(plan) = MemoryPlan::new(Memory::Process(least + extra), &constants) else {
                    panic!("{extra} more than the least is enough");
                };
                assert!(plan.total() <= least + extra);
                assert!(plan.clean_pages >= constants.clean_pages_min());
            }
            let refused = MemoryPlan::new(Memory::Process(least - 1), &constants);
            assert_eq!(refused.map_err(|error| error.least_bytes), Err(least));
        }
    }

    /// What is promised in the README and by `--help`.
    #[test]
    fn a_quarter_of_a_gibibyte_is_enough_for_a_default_directory_and_half_of_it_for_a_compact_one()
    {
        assert!(MemoryPlan::least(&ClusterConstants::DEFAULT).total() <= 256 << 20);
        assert!(MemoryPlan::least(&ClusterConstants::COMPACT).total() <= 128 << 20);
    }

    #[test]
    fn what_exceeds_its_part_is_named() {
        let plan = MemoryPlan::least(&ClusterConstants::SMALL);
        let within = MemoryUse { pages: plan.pages, logs: plan.logs, ..MemoryUse::default() };
        assert_eq!(plan.exceeded_by(&within), None);
        let above = MemoryUse { logs: plan.logs + 1, ..within };
        assert_eq!(plan.exceeded_by(&above), Some(("logs", plan.logs + 1, plan.logs)));
    }
}
