//! Where the logs stood at a checkpoint, from their own records: for when the grid, which holds
//! their heads, cannot be read.
//!
//! How: every record names the op that made it, so those up to the checkpoint's op belong to it.
//! The first that does not, or none, ends the log. That none is missing there is what the index
//! shows: it was durable with the checkpoint, so its slot of the next position must be empty, in a
//! page that is whole.
//!
//! Invariants: a head is given only when the end of the log is certain; a log with damage before
//! its end gives none. Constant memory. Fault model: files hold anything; index and segment damaged
//! at the same place leave the end uncertain, and that is said.

use std::collections::BTreeSet;

use verity_core::ids::{Op, OriginId, Position, SegmentNumber, TenantId};
use verity_core::io::{Address, FileId};
use verity_core::limits::PAGE_SIZE;
use verity_core::log::{
    DamageReason, HEADER_SIZE, IndexOf, LogHead, RecordKind, RecordView, SegmentEnd, SegmentExtent,
    SegmentStart, SegmentVerifier, entry_in_page, entry_place, page_is_good,
};
use verity_core::superblock::SuperblockState;

use super::Problem;
use crate::disk::paths;
use crate::offline::Offline;
use crate::verify::Progress;

/// Bytes read at a time.
const CHUNK: usize = 64 * PAGE_SIZE;

/// Heads of all logs at a checkpoint; in words, why that cannot be told.
pub fn at(
    files: &mut Offline,
    state: &SuperblockState,
    progress: &mut dyn Progress,
) -> Result<Vec<(TenantId, LogHead)>, String> {
    let segments = paths::segments(files.root()).map_err(|error| error.to_string())?;
    let tenants: BTreeSet<TenantId> = segments.iter().map(|(tenant, _)| *tenant).collect();
    let mut heads = Vec::new();
    for tenant in tenants {
        let mut scan = Scan {
            tenant,
            origin: state.origin,
            checkpoint: state.checkpoint.op,
            segment_positions: state.constants.segment_positions,
            head: LogHead::empty(),
            later: false,
        };
        scan.run(files, progress)?;
        if scan.head.next > Position::ZERO {
            heads.push((tenant, scan.head));
        }
    }
    // Every directory has one, from its first open on.
    if !heads.iter().any(|(tenant, _)| *tenant == TenantId::SYSTEM) {
        return Err("the log of tenant 0 is missing: restore a copy of the directory".to_string());
    }
    Ok(heads)
}

/// A log that ends with a full segment may have had another one, with its index.
pub fn refuse_full(heads: &[(TenantId, LogHead)], segment_positions: u64) -> Result<(), Problem> {
    let full = |head: &LogHead| head.next.get().is_multiple_of(segment_positions);
    match heads.iter().find(|(_, head)| full(head)) {
        None => Ok(()),
        Some((tenant, _)) => Err(missing(&format!(
            "the log of tenant {tenant} ends with a full segment, and there is no next one"
        ))),
    }
}

/// Files that are gone as a whole leave no trace beside the grid.
pub fn missing(what: &str) -> Problem {
    Problem::CannotTell(format!(
        "{what}: either nothing was ever written there, or it is lost, and the grid that would \
         tell is damaged. If nothing is lost, run again with --accept-missing-logs; nothing was \
         changed"
    ))
}

struct Scan {
    tenant: TenantId,
    origin: OriginId,
    checkpoint: Op,
    segment_positions: u64,
    head: LogHead,
    /// A record of a later op follows the head.
    later: bool,
}

impl Scan {
    fn run(&mut self, files: &mut Offline, progress: &mut dyn Progress) -> Result<(), String> {
        let mut before = SegmentEnd::genesis();
        loop {
            let number = self.head.next.get() / self.segment_positions;
            let Ok(number) = u32::try_from(number) else { unreachable!("2^32 segments") };
            let number = SegmentNumber::new(number);
            let file = FileId::Segment { tenant: self.tenant, number };
            let size = files.size(file).map_err(|error| files.why(file, error))?;
            let Some(size) = size else { return self.ends_here(files, "is missing") };
            progress.part(&format!("log of tenant {}", self.tenant), size);
            let start = SegmentStart { tenant: self.tenant, number, before: Some(before) };
            let mut verifier = SegmentVerifier::new(start, SegmentExtent::Unknown);
            let mut damage = None;
            let mut at = 0;
            while at < size && !verifier.is_done() && damage.is_none() {
                let length = (size - at).div_ceil(PAGE_SIZE as u64).min((CHUNK / PAGE_SIZE) as u64);
                let mut bytes = vec![0; length as usize * PAGE_SIZE];
                let read = files.read(Address::new(file, at), &mut bytes);
                read.map_err(|error| files.why(file, error))?;
                at += bytes.len() as u64;
                progress.bytes(bytes.len() as u64);
                damage = verifier.push(&bytes, |view| self.take(number, view)).err();
            }
            if self.later {
                return Ok(());
            }
            match damage {
                Some(damage) => return self.ends_here(files, &damage.to_string()),
                None => before = verifier.finish().map_err(|damage| damage.to_string())?,
            }
            if !self.head.next.get().is_multiple_of(self.segment_positions) {
                return self.ends_here(files, "ends");
            }
        }
    }

    fn take(&mut self, number: SegmentNumber, view: &RecordView<'_>) -> Result<(), DamageReason> {
        let metadata = &view.record.metadata;
        if metadata.op > self.checkpoint {
            self.later = true;
            // Ends the walk; what it says is not looked at.
            return Err(DamageReason::Truncated);
        }
        let size = (HEADER_SIZE + view.record.data.len()) as u64;
        let head = &mut self.head;
        head.segment = number;
        head.segment_first = Position::new(u64::from(number.get()) * self.segment_positions);
        // A checkpoint pads the block that it finds unfinished.
        head.segment_offset = (view.offset + size).next_multiple_of(PAGE_SIZE as u64);
        head.next = metadata.position.next();
        head.chain = view.record.hash;
        head.frontier.push(&view.record.hash);
        if metadata.kind == RecordKind::CheckpointRecord {
            head.records_since_checkpoint_record = 0;
            head.last_checkpoint_record = Some(metadata.position);
        } else {
            head.records_since_checkpoint_record += 1;
        }
        Ok(())
    }

    /// No whole record follows the head. Was there one?
    fn ends_here(&self, files: &mut Offline, why: &str) -> Result<(), String> {
        let next = self.head.next;
        let lost = |what: &str| {
            Err(format!(
                "the log of tenant {} {why} before position {next}, and {what}: what belongs there \
                 is lost. Restore a copy of the directory",
                self.tenant
            ))
        };
        if let Some(last) = next.previous() {
            match self.entry(files, last) {
                Entry::Hash(hash) if hash == self.head.chain.0 => {}
                Entry::Hash(_) | Entry::None => return lost("its index does not fit it"),
                Entry::Unreadable => return lost("its index is damaged, too"),
            }
        }
        match self.entry(files, next) {
            Entry::None => Ok(()),
            Entry::Hash(_) => lost("its index knows a record there"),
            Entry::Unreadable => lost("its index is damaged, too"),
        }
    }

    fn entry(&self, files: &mut Offline, position: Position) -> Entry {
        let Ok(number) = u32::try_from(position.get() / self.segment_positions) else {
            unreachable!("2^32 segments outlast any disk")
        };
        let number = SegmentNumber::new(number);
        let (page_number, slot) = entry_place(self.segment_positions, position);
        let file = FileId::Index { tenant: self.tenant, number };
        let mut page = vec![0; PAGE_SIZE];
        let at = Address::new(file, u64::from(page_number) * PAGE_SIZE as u64);
        if files.read(at, &mut page).is_err() {
            return Entry::Unreadable;
        }
        // A page comes to be with its first entry.
        if slot == 0 && page.iter().all(|byte| *byte == 0) {
            return Entry::None;
        }
        let of = IndexOf { origin: self.origin, tenant: self.tenant, segment: number };
        if !page_is_good(of, page_number, &page) {
            return Entry::Unreadable;
        }
        match entry_in_page(&page, self.segment_positions, position) {
            Some(entry) => Entry::Hash(entry.hash.0),
            None => Entry::None,
        }
    }
}

/// What an index says of a position.
enum Entry {
    None,
    Hash([u8; 32]),
    Unreadable,
}
