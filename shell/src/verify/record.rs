//! One record by its position, believed only when its chain says so.
//!
//! How: the core's verified read. It follows the chain from the record back to the nearest
//! checkpoint record and forward to the next, or to the head that the checkpoint holds; so neither
//! the index nor the record's own checksum is taken at its word, and the cost is that of one
//! checkpoint interval, however long the log is.
//!
//! Invariant: nothing is written. Positions that only the journal holds are replayed over the files
//! ([`Offline`]), in memory.

use std::path::Path;

use verity_core::ids::{Op, Position, TenantId};
use verity_core::io::{Effects, Input};
use verity_core::keyring::Keyring;
use verity_core::log::{
    CheckpointRecord, LogFault, LogHead, LogPins, Logs, Metadata, Record, VerifiedRead, open_record,
};
use verity_core::node::Halt;

use super::{CannotCheck, Report, Silent, grid, parts};
use crate::disk::lock::DirectoryLock;
use crate::disk::master_key::MasterKey;
use crate::offline::Offline;
use crate::rebuild;

/// What became of the read.
#[derive(Debug)]
pub enum RecordRead {
    Holds(Box<VerifiedRecord>),
    /// The record, or one that its chain needs.
    Damaged {
        position: Position,
        reason: String,
    },
    NoSuchPosition {
        next: Position,
    },
    CouldNotTell(String),
}

/// A record that is what was appended.
#[derive(Debug)]
pub struct VerifiedRecord {
    pub record: Record,
    /// What is sealed in it; `None`: there is no key for it any more.
    pub plain: Option<Vec<u8>>,
    /// Steps of the read: records looked at.
    pub records_read: u64,
}

/// Reads one record of a directory that nobody has open.
pub fn read_record(
    root: &Path,
    master_key: MasterKey,
    tenant: TenantId,
    position: Position,
) -> Result<RecordRead, CannotCheck> {
    let path = || root.display().to_string();
    if let Err(error) = std::fs::read_dir(root) {
        return Err(CannotCheck::NoDirectory { path: path(), error });
    }
    if !crate::format::is_formatted(root).unwrap_or(true) {
        return Err(CannotCheck::NoDatabase { path: path() });
    }
    let _lock = DirectoryLock::shared(root).map_err(CannotCheck::Lock)?;
    let mut files = Offline::new(root, Some(master_key));
    Ok(read(root, &mut files, tenant, position).unwrap_or_else(RecordRead::CouldNotTell))
}

fn read(
    root: &Path,
    files: &mut Offline,
    tenant: TenantId,
    position: Position,
) -> Result<RecordRead, String> {
    let mut at = Checkpoint::read(files, tenant)?;
    let mut last_op = at.op;
    if at.head.next <= position {
        // Only the journal may have it. Closing the replay appends records that are on no disk.
        let mut report = Report::default();
        parts::journal(root, files, &at.state, &mut report, &mut Silent);
        last_op = Op::new(at.op.get() + report.prepares);
        if report.prepares == 0 {
            return Ok(RecordRead::NoSuchPosition { next: at.head.next });
        }
        rebuild::replay(files).map_err(|error| error.to_string())?;
        at = Checkpoint::read(files, tenant)?;
    }
    let Checkpoint { head, keyring, .. } = &at;
    let mut reader = Reader { files, logs: Logs::new(at.segment_positions, at.state.origin), head };
    let found = reader.verified(keyring, tenant, position)?;
    if let RecordRead::Holds(found) = &found
        && found.record.metadata.op > last_op
    {
        return Ok(RecordRead::NoSuchPosition { next: position });
    }
    Ok(found)
}

/// Where the log stands, and the keys.
struct Checkpoint {
    state: verity_core::superblock::SuperblockState,
    op: Op,
    segment_positions: u64,
    keyring: Keyring,
    head: LogHead,
}

impl Checkpoint {
    fn read(files: &mut Offline, tenant: TenantId) -> Result<Checkpoint, String> {
        let mut report = Report::default();
        let opened = parts::superblock(files, &mut report)
            .and_then(|state| Some((state, parts::keys(files, &state, None, &mut report)?)));
        let Some((state, keyring)) = opened else {
            let worst = report.findings.iter().max_by_key(|finding| finding.severity);
            return Err(worst.map(ToString::to_string).unwrap_or_default());
        };
        if state.syncing {
            return Err(Halt::Syncing.to_string());
        }
        let heads = grid::heads(files, &state, &keyring).map_err(|what| {
            format!("grid: {what}; how far the logs go cannot be told without it")
        })?;
        let head = heads.into_iter().find(|(of, _)| *of == tenant).map(|(_, head)| head);
        Ok(Checkpoint {
            op: state.checkpoint.op,
            segment_positions: state.constants.segment_positions,
            keyring,
            // A log without a checkpoint is empty so far.
            head: head.unwrap_or_else(LogHead::empty),
            state,
        })
    }
}

struct Reader<'a> {
    files: &'a mut Offline,
    logs: Logs,
    head: &'a LogHead,
}

impl Reader<'_> {
    fn verified(
        &mut self,
        keyring: &Keyring,
        tenant: TenantId,
        position: Position,
    ) -> Result<RecordRead, String> {
        let open = |metadata: &Metadata, data: &[u8]| {
            let keys = keyring.tenant_key(metadata.tenant, metadata.key)?;
            open_record(&keys.record(metadata.generation), metadata, data).ok()
        };
        let mut claim = |metadata: &Metadata, data: &[u8]| {
            CheckpointRecord::decode(&open(metadata, data)?).ok()
        };
        let mut read = VerifiedRead::new(tenant, position);
        let mut pins = LogPins::default();
        let mut effects = Effects::new();
        let mut records_read = 0;
        loop {
            match read.step(&self.logs, self.head, &mut claim) {
                Ok(None) => {
                    records_read += 1;
                    self.logs.release(&mut pins);
                }
                Ok(Some(record)) => {
                    let metadata = &record.metadata;
                    let plain = open(metadata, &record.data);
                    if plain.is_none() && keyring.tenant_key(tenant, metadata.key).is_some() {
                        let reason = "it does not open under its tenant's key".to_string();
                        return Ok(RecordRead::Damaged { position, reason });
                    }
                    records_read += 1;
                    let found = VerifiedRecord { plain, record, records_read };
                    return Ok(RecordRead::Holds(Box::new(found)));
                }
                Err(LogFault::Missing) => {
                    self.logs.fetch(&mut pins, &mut effects);
                    self.settle(&mut effects)?;
                }
                Err(LogFault::NoSuchPosition { next, .. }) => {
                    return Ok(RecordRead::NoSuchPosition { next });
                }
                Err(LogFault::Damaged(damage)) => {
                    let (position, reason) = (damage.position, damage.to_string());
                    return Ok(RecordRead::Damaged { position, reason });
                }
            }
        }
    }

    fn settle(&mut self, effects: &mut Effects) -> Result<(), String> {
        let mut inputs = Vec::new();
        loop {
            self.files.execute(effects, &mut inputs);
            if inputs.is_empty() {
                return Ok(());
            }
            for input in inputs.drain(..) {
                let taken = match input {
                    Input::ReadDone { io, pages, result } => {
                        self.logs.on_read_done(io, pages, result, effects)
                    }
                    Input::WriteDone { io, pages, result } => {
                        self.logs.on_write_done(io, pages, result, effects)
                    }
                    Input::Done { io, result } => self.logs.on_done(io, result, effects),
                    other => unreachable!("a log asks for files only: {other:?}"),
                };
                taken.map_err(|error| error.to_string())?;
            }
        }
    }
}
