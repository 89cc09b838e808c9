//! The RFC 6962 tree over the records of a log, apart from their chain.
//!
//! The chain is one hash after the other and cannot be hurried; leaves and inner nodes wait for
//! nothing but the record hashes. So they are made batch by batch, level by level, where each hash
//! is independent of the one before it; and, if the caller wants that, on another thread.
//!
//! Invariants: memory is bounded by one batch; the root does not depend on how hashes came.

use alloc::vec::Vec;

use crate::crypto::{ChainHash, Frontier, merkle};
use crate::limits::LOG_TREE_BATCH_HEIGHT;
use crate::proof::Seen;

/// Takes the hashes of a log's records in order.
#[derive(Debug)]
pub struct LogTree {
    /// Of whole batches.
    frontier: Frontier,
    /// Hashes of records behind them: fewer than a batch.
    pending: Vec<ChainHash>,
    /// A size whose root will be asked for, and the root once it is known.
    seen: Option<u64>,
    root_at_seen: Option<ChainHash>,
}

impl LogTree {
    pub(super) fn new(seen: Option<Seen>) -> LogTree {
        let (frontier, pending) = (Frontier::new(), Vec::with_capacity(BATCH));
        LogTree { frontier, pending, seen: seen.map(|seen| seen.size), root_at_seen: None }
    }

    /// The hashes of the next records.
    pub fn extend(&mut self, records: &[ChainHash]) {
        for record in records {
            self.push(record);
        }
    }

    pub(super) fn push(&mut self, record: &ChainHash) {
        self.pending.push(*record);
        if self.pending.len() == BATCH {
            let leaves = core::mem::take(&mut self.pending);
            let root = merkle::root_of(&leaf_hashes(&leaves));
            self.frontier.push_subtree(LOG_TREE_BATCH_HEIGHT, root);
            self.pending = leaves;
            self.pending.clear();
        }
        if self.seen == Some(self.size()) {
            self.root_at_seen = Some(self.root());
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.frontier.size() + self.pending.len() as u64
    }

    pub(super) fn root(&self) -> ChainHash {
        let mut frontier = self.frontier.clone();
        for leaf in leaf_hashes(&self.pending) {
            frontier.push_leaf_hash(leaf);
        }
        frontier.root()
    }

    /// Did the log go through the head that was seen? It is long enough to tell.
    pub(super) fn passed(&self, seen: Seen) -> bool {
        seen.size == 0 || self.root_at_seen == Some(seen.root)
    }
}

/// Leaves of a subtree that is hashed at once.
const BATCH: usize = 1 << LOG_TREE_BATCH_HEIGHT;

fn leaf_hashes(records: &[ChainHash]) -> Vec<ChainHash> {
    records.iter().map(|record| merkle::leaf_hash(&record.0)).collect()
}
