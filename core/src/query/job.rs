//! Jobs: work on a table that is too large for one transaction, done in slices.
//!
//! A job is an entry of the catalog, put there by a record and changed by the record of each slice,
//! so a crash loses nothing of it and a rebuild comes to the same. `docs/JOBS.md` has the whole.
//!
//! Invariants: a job's id is a tree of its own (the entries of the index that it builds, the last
//! of the trees that it frees), so ids are never used again; what a job makes shows nowhere before
//! it is done. Fault model: as the catalog: entries are what records put there.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{Position, TableId, TreeId};
use crate::query::cbor::{DecodeError, Decoder, Encoder};

/// First byte of the keys of jobs in the catalog tree.
pub const JOBS: u8 = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: TreeId,
    pub table: TableId,
    /// As they were called when it began.
    pub table_name: String,
    pub index_name: String,
    /// Of the event that began it.
    pub begun_at: Position,
    pub work: JobWork,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobWork {
    /// Rows enter the index whose entries are in the tree of the job's id.
    Build {
        /// The last row that is in it.
        after: Option<Vec<u8>>,
        rows_done: u64,
        /// Rows of the table when it began; there may be more by now.
        rows_total: u64,
    },
    /// Pages of trees that nobody can read any more.
    Free { trees: Vec<TreeId>, entries_left: u64, entries_total: u64 },
    /// It came to nothing, and its index is dropped. Kept until it is cancelled.
    Failed { error: String },
}

impl Job {
    #[must_use]
    pub fn is_running(&self) -> bool {
        match &self.work {
            JobWork::Build { .. } | JobWork::Free { .. } => true,
            JobWork::Failed { .. } => false,
        }
    }

    #[must_use]
    pub fn kind(&self) -> &'static str {
        match &self.work {
            JobWork::Build { .. } => "build index",
            JobWork::Free { .. } => "free pages",
            JobWork::Failed { .. } => "failed",
        }
    }

    /// How much is done, of how much.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        match &self.work {
            JobWork::Build { rows_done, rows_total, .. } => {
                Some((*rows_done, (*rows_total).max(*rows_done)))
            }
            JobWork::Free { entries_left, entries_total, .. } => {
                Some((entries_total.saturating_sub(*entries_left), *entries_total))
            }
            JobWork::Failed { .. } => None,
        }
    }

    #[must_use]
    pub fn key(id: TreeId) -> Vec<u8> {
        let mut key = alloc::vec![JOBS];
        key.extend_from_slice(&id.get().to_be_bytes());
        key
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out);
        encoder.array(6).uint(u64::from(self.id.get())).uint(u64::from(self.table.get()));
        encoder.text(&self.table_name).text(&self.index_name).uint(self.begun_at.get());
        match &self.work {
            JobWork::Build { after, rows_done, rows_total } => {
                encoder.array(4).uint(1).option(after.as_deref(), |encoder, key| {
                    encoder.bytes(key);
                });
                encoder.uint(*rows_done).uint(*rows_total);
            }
            JobWork::Free { trees, entries_left, entries_total } => {
                encoder.array(4).uint(2).array(trees.len());
                for tree in trees {
                    encoder.uint(u64::from(tree.get()));
                }
                encoder.uint(*entries_left).uint(*entries_total);
            }
            JobWork::Failed { error } => {
                encoder.array(2).uint(3).text(error);
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Job, DecodeError> {
        let decoder = &mut Decoder::new(bytes);
        decoder.record(6)?;
        let id = TreeId::new(decoder.u32()?);
        let table = TableId::new(decoder.u32()?);
        let table_name = decoder.text()?.to_owned();
        let index_name = decoder.text()?.to_owned();
        let begun_at = Position::new(decoder.uint()?);
        let fields = decoder.array()?;
        let work = match (decoder.uint()?, fields) {
            (1, 4) => JobWork::Build {
                after: decoder.option(|decoder| Ok(decoder.bytes()?.to_owned()))?,
                rows_done: decoder.uint()?,
                rows_total: decoder.uint()?,
            },
            (2, 4) => {
                let count = decoder.array()?;
                let mut trees = Vec::with_capacity(count.min(8));
                for _ in 0..count {
                    trees.push(TreeId::new(decoder.u32()?));
                }
                let (entries_left, entries_total) = (decoder.uint()?, decoder.uint()?);
                JobWork::Free { trees, entries_left, entries_total }
            }
            (3, 2) => JobWork::Failed { error: decoder.text()?.to_owned() },
            (_, _) => return decoder.error("unknown kind of job"),
        };
        decoder.finish()?;
        Ok(Job { id, table, table_name, index_name, begun_at, work })
    }
}
