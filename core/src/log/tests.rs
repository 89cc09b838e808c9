//! Tests of the log: a disk in memory that completes effects in any order and crashes.

mod crash;
mod damage;
mod formats;
mod mending;
mod reading;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::*;
use crate::crypto::ChainHash;
use crate::crypto::seal::RecordKey;
use crate::ids::{
    Generation, IdempotencyId, KeyId, Op, PrincipalId, SchemaVersion, SegmentNumber, StreamId,
};
use crate::io::{Effect, Effects};
use crate::limits::PAGE_SIZE;
use crate::time::Timestamp;

const TENANT: TenantId = TenantId::new(7);
const ORIGIN: OriginId = OriginId::new(0x1234_5678_9abc_def0_1234);

/// Small, fast, seeded.
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A block of a file, as it was before a write that is not synced.
type Undo = (FileId, u64, Option<Vec<u8>>);

/// Files in memory. Writes to blocks are remembered until a sync, so that a crash can lose any.
#[derive(Default)]
struct Disk {
    files: BTreeMap<FileId, Vec<u8>>,
    undo: Vec<Undo>,
    created: BTreeSet<FileId>,
    /// Blocks that answer EIO until they are written.
    unreadable: BTreeSet<(FileId, u64)>,
}

impl Disk {
    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) {
        assert!(
            self.created.contains(&file) && self.files.contains_key(&file),
            "{file:?} is written before it is created"
        );
        let (mut at, content) = (offset as usize, self.files.get_mut(&file).unwrap());
        for block in bytes.chunks(PAGE_SIZE) {
            self.unreadable.remove(&(file, (at / PAGE_SIZE) as u64));
            let old = content.get(at..at + PAGE_SIZE).map(<[u8]>::to_vec);
            self.undo.push((file, at as u64, old));
            if content.len() < at + PAGE_SIZE {
                content.resize(at + PAGE_SIZE, 0);
            }
            content[at..at + PAGE_SIZE].copy_from_slice(block);
            at += PAGE_SIZE;
        }
    }

    fn result_of(&self, file: FileId, offset: u64, bytes: usize) -> Result<(), IoError> {
        let first = offset / PAGE_SIZE as u64;
        let range = (file, first)..(file, first + (bytes / PAGE_SIZE) as u64);
        match self.unreadable.range(range).next() {
            None => Ok(()),
            Some(_) => Err(IoError::Device),
        }
    }

    fn read(&self, file: FileId, offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let Some(content) = self.files.get(&file) else { return };
        let from = (offset as usize).min(content.len());
        let to = (offset as usize + bytes.len()).min(content.len());
        bytes[..to - from].copy_from_slice(&content[from..to]);
    }

    /// Any subset of the blocks that were not synced is lost, some torn.
    fn crash(&mut self, random: &mut Random) {
        for (file, at, old) in core::mem::take(&mut self.undo).into_iter().rev() {
            let content = self.files.get_mut(&file).unwrap();
            let block = &mut content[at as usize..at as usize + PAGE_SIZE];
            let old = old.unwrap_or_else(|| alloc::vec![0; PAGE_SIZE]);
            match random.below(3) {
                0 => {}
                1 => block.copy_from_slice(&old),
                _ => {
                    let torn = 512 * random.below(8) as usize;
                    block[torn..].copy_from_slice(&old[torn..]);
                }
            }
        }
    }
}

/// The boundary forbids to write what is being read or written.
fn apart(effects: &[Effect]) {
    let place = |effect: &Effect| match effect {
        Effect::Read { at, pages, .. } => Some((*at, pages.size_bytes() as u64, false)),
        Effect::Write { at, pages, .. } => Some((*at, pages.size_bytes() as u64, true)),
        _no_blocks => None,
    };
    let places: Vec<_> = effects.iter().filter_map(place).collect();
    for (nth, (one, size, writes)) in places.iter().enumerate() {
        for (other, other_size, other_writes) in &places[nth + 1..] {
            let overlap = one.file == other.file
                && one.offset < other.offset + other_size
                && other.offset < one.offset + size;
            assert!(!overlap || !(*writes || *other_writes), "{one:?} and {other:?} at once");
        }
    }
}

/// Logs with a disk under them.
struct Bench {
    logs: Logs,
    disk: Disk,
    effects: Effects,
    events: Vec<Event>,
    random: Random,
    /// Pages that were read.
    pages_read: usize,
    op: u64,
    /// Heads as of the last checkpoint, and as of the one before the crash.
    heads: BTreeMap<TenantId, LogHead>,
    /// Reads of this place come last.
    slow: Option<(FileId, u64)>,
    /// So many reads from now, one gives what lies a block farther on.
    misread: Option<usize>,
}

impl Bench {
    fn new(segment_positions: u64) -> Bench {
        Bench {
            logs: Logs::new(segment_positions, ORIGIN),
            disk: Disk::default(),
            effects: Effects::new(),
            events: Vec::new(),
            random: Random(0x9e37_79b9_7f4a_7c15),
            pages_read: 0,
            op: 1,
            heads: BTreeMap::new(),
            slow: None,
            misread: None,
        }
    }

    fn head(&self, tenant: TenantId) -> LogHead {
        let kept = || self.heads.get(&tenant).cloned().unwrap_or_else(LogHead::empty);
        self.logs.head(tenant).cloned().unwrap_or_else(kept)
    }

    /// A transaction of one record.
    fn append(&mut self, tenant: TenantId, kind: RecordKind, plain: &[u8]) -> Appended {
        let head = self.head(tenant);
        self.logs.open(tenant, head.clone());
        let mut metadata = metadata(tenant, head.next, kind, Op::new(self.op));
        let mut data = plain.to_vec();
        seal_record(&key(), &mut metadata, &mut data);
        self.logs.append(&metadata, &data)
    }

    fn append_sized(&mut self, tenant: TenantId, size: usize) -> Appended {
        let fill = self.head(tenant).next.get() as u8;
        self.append(tenant, RecordKind::Append, &alloc::vec![fill; size])
    }

    fn append_checkpoint_record(&mut self, tenant: TenantId) -> Appended {
        let claim = CheckpointRecord::of(&self.head(tenant), Timestamp(self.op), None);
        self.append(tenant, RecordKind::CheckpointRecord, &claim.encode())
    }

    /// Completes up to `limit` effects, in random order, and what follows from them.
    fn run(&mut self, limit: usize) {
        let mut waiting: Vec<Effect> = Vec::new();
        for _ in 0..limit {
            waiting.extend(self.effects.drain());
            apart(&waiting);
            if waiting.is_empty() {
                break;
            }
            // A read that is slow waits for all else.
            let slow = |effect: &Effect| matches!(effect, Effect::Read { at, .. } if self.slow == Some((at.file, at.offset)));
            let others: Vec<usize> = (0..waiting.len()).filter(|&at| !slow(&waiting[at])).collect();
            let at = match others.len() {
                0 => 0,
                count => others[self.random.below(count as u64) as usize],
            };
            self.complete(waiting.swap_remove(at));
        }
        for effect in waiting {
            self.effects.push(effect);
        }
    }

    fn complete(&mut self, effect: Effect) {
        let Bench { logs, disk, effects, events, pages_read, misread, .. } = self;
        match effect {
            Effect::Read { io, at, mut pages } => {
                *pages_read += pages.as_bytes().len() / PAGE_SIZE;
                let result = disk.result_of(at.file, at.offset, pages.size_bytes());
                if result.is_ok() {
                    let astray = if *misread == Some(0) { PAGE_SIZE as u64 } else { 0 };
                    disk.read(at.file, at.offset + astray, pages.as_bytes_mut());
                }
                *misread = misread.and_then(|left| left.checked_sub(1));
                logs.on_read_done(io, pages, result, effects).unwrap();
            }
            Effect::Write { io, at, pages, .. } => {
                disk.write(at.file, at.offset, pages.as_bytes());
                logs.on_write_done(io, pages, Ok(()), effects).unwrap();
            }
            Effect::Sync { io, file } => {
                disk.undo.retain(|(written, _, _)| *written != file);
                logs.on_done(io, Ok(()), effects).unwrap();
            }
            Effect::Create { io, file } => {
                disk.files.entry(file).or_default();
                disk.created.insert(file);
                logs.on_done(io, Ok(()), effects).unwrap();
            }
            Effect::Send { .. } => panic!("the log talks to nobody"),
            Effect::Event(event) => events.push(event),
            Effect::Remove { .. } | Effect::Wrap { .. } | Effect::Unwrap { .. } => {
                panic!("the log never does that")
            }
        }
    }

    fn checkpoint(&mut self) {
        self.op += 1;
        let changed = self.logs.checkpoint_begin(Op::new(self.op));
        self.finish_checkpoint(changed);
    }

    fn finish_checkpoint(&mut self, changed: Vec<(TenantId, LogHead)>) {
        while self.logs.checkpoint_step(&mut self.effects) == LogCheckpoint::Working {
            assert!(!self.effects.is_empty(), "a checkpoint waits for nothing");
            self.run(usize::MAX);
        }
        self.logs.checkpoint_done(Op::new(self.op));
        self.heads.extend(changed);
    }

    /// The process stops; another starts from the last checkpoint.
    fn restart(&mut self) {
        self.logs = Logs::new(self.logs.segment_positions(), self.logs.origin);
        self.effects = Effects::new();
        self.disk.created =
            self.disk.files.keys().filter(|file| is_segment(file)).copied().collect();
    }

    /// Runs a stage until it answers, evicting everything between tries.
    fn stage<T>(
        &mut self,
        mut stage: impl FnMut(&Logs, &LogHead) -> Result<T, LogFault>,
    ) -> Result<T, LogFault> {
        let mut pins = LogPins::default();
        for _ in 0..10_000 {
            let head = self.head(TENANT);
            match stage(&self.logs, &head) {
                Err(LogFault::Missing) => {}
                result => {
                    self.logs.release(&mut pins);
                    return result;
                }
            }
            self.logs.fetch(&mut pins, &mut self.effects);
            while !self.logs.fetched(&pins) {
                assert!(!self.effects.is_empty(), "a fetch waits for nothing");
                self.run(1);
            }
            self.logs.evict_all();
        }
        panic!("a stage makes no progress");
    }

    fn read(&mut self, position: u64) -> Result<Record, LogFault> {
        self.stage(|logs, head| logs.read(TENANT, head, Position::new(position)))
    }

    fn seen(&self, name: &str) -> usize {
        self.events.iter().filter(|event| event.name() == name).count()
    }

    fn segment(&self, number: u32) -> Vec<u8> {
        self.disk.files[&segment_file(number)].clone()
    }

    /// Verifies all segments of the tenant up to its head; the views come out.
    fn verify(&self) -> Result<Vec<(u64, Metadata)>, Damage> {
        let head = self.head(TENANT);
        let mut end = SegmentEnd::genesis();
        let mut seen = Vec::new();
        for number in 0..=head.segment.get() {
            let number = SegmentNumber::new(number);
            let start = SegmentStart { tenant: TENANT, number, before: Some(end.clone()) };
            let mut verifier = SegmentVerifier::new(start, SegmentExtent::To(head.next));
            for blocks in self.segment(number.get()).chunks(PAGE_SIZE) {
                verifier.push(blocks, |view| {
                    seen.push((view.offset, view.record.metadata.clone()));
                    check_claim(view)
                })?;
            }
            end = verifier.finish()?;
        }
        assert!(end.matches(&head));
        assert_eq!(end.size_bytes, head.segment_offset);
        Ok(seen)
    }
}

fn check_claim(view: &RecordView<'_>) -> Result<(), DamageReason> {
    let metadata = &view.record.metadata;
    if metadata.kind != RecordKind::CheckpointRecord {
        return Ok(());
    }
    let claim = open_claim(metadata, view.record.data).ok_or(DamageReason::CheckpointRecord)?;
    view.claim_holds(&claim)
}

fn open_claim(metadata: &Metadata, data: &[u8]) -> Option<CheckpointRecord> {
    CheckpointRecord::decode(&open_record(&key(), metadata, data).ok()?).ok()
}

fn is_segment(file: &FileId) -> bool {
    matches!(file, FileId::Segment { .. })
}

fn segment_file(number: u32) -> FileId {
    FileId::Segment { tenant: TENANT, number: SegmentNumber::new(number) }
}

fn index_of(number: u32) -> IndexOf {
    IndexOf { origin: ORIGIN, tenant: TENANT, segment: SegmentNumber::new(number) }
}

fn index_file(number: u32) -> FileId {
    FileId::Index { tenant: TENANT, number: SegmentNumber::new(number) }
}

fn key() -> RecordKey {
    RecordKey::new(&[3; 32])
}

fn metadata(tenant: TenantId, position: Position, kind: RecordKind, op: Op) -> Metadata {
    Metadata {
        position,
        tenant,
        op,
        generation: Generation::new(1),
        timestamp: Timestamp(op.get()),
        transaction_first: position,
        transaction_last: position,
        stream: StreamId::new(5),
        kind,
        key: KeyId::new(1),
        principal: PrincipalId::new(9),
        caused_by: None,
        idempotency: IdempotencyId::new(12345, [6; 10]),
        schema_version: SchemaVersion::new(2),
        commitment: ChainHash([8; 32]),
        data_length: 0,
    }
}
