//! The bytes of one copy of the superblock, little endian, 4096 in all.
//!
//! | offset | size | field |
//! | ---: | ---: | --- |
//! | 0 | 32 | checksum: BLAKE3 (domain superblock) over bytes 40..4096 |
//! | 32 | 1 | copy number, outside the checksum so that copies compare equal |
//! | 33 | 7 | zeros |
//! | 40 | 8 | magic `VERITYSB` |
//! | 48 | 4 | format version |
//! | 52 | 4 | release |
//! | 56 | 8 | sequence |
//! | 64 | 32 | checksum of the version before |
//! | 96 | 16 | cluster |
//! | 112 | 16 | origin |
//! | 128 | 1 | replica |
//! | 129 | 1 | replica count |
//! | 130 | 6 | zeros |
//! | 136 | 32 | cluster constants: ring bytes u64, then six u32 |
//! | 168 | 8 | view |
//! | 176 | 8 | log view |
//! | 184 | 8 | generation |
//! | 192 | 8 | committed op |
//! | 200 | 8 | checkpoint: op |
//! | 208 | 32 | checkpoint: header checksum of that op's prepare |
//! | 240 | 8 | checkpoint: journal offset |
//! | 248 | 8 | checkpoint: timestamp, ns |
//! | 256 | 8 | checkpoint: generation |
//! | 264 | 8 | checkpoint: recovery count |
//! | 272 | 32 | system forest: page u32, zeros u32, checkpoint op u64, tag [16] |
//! | 304 | 8 | system forest: height u8, zeros |
//! | 312 | 8 | system forest: entries |
//! | 320 | 32 | system forest: logical hash |
//! | 352 | 32 | free set: page u32, zeros u32, checkpoint op u64, tag [16] |
//! | 384 | 8 | free set: runs |
//! | 392 | 4 | free set: pages |
//! | 396 | 4 | grid high-water mark, pages |
//! | 400 | 60 | wrapped signing key |
//! | 460 | 4 | zeros |
//! | 464 | 40 | last cosigned head: size u64, hash [32] |
//! | 504 | 128 | 8 peers: log view u64, acknowledged op u64; our own place: an erasure |
//! | 632 | 8 | segment positions |
//! | 640 | 16 | grid; zeros for the one of format |
//! | 656 | 1 | 1: a checkpoint is being fetched from peers; format version 2 |
//! | 657 | 1 | 1: made for a replica whose disk was lost; format version 3 |
//! | 658 | 6 | zeros |
//! | 664 | 4 | constant: records from one checkpoint record to the next |
//! | 668 | 4 | constant: tenants with a checkpoint record at a shutdown, most |
//! | 672 | 3424 | zeros |
//!
//! Invariants: bytes marked zeros are zero; decode and encode are inverse. The first 52 bytes keep
//! their meaning in every later format, so that an older release can name what it refuses. A state
//! is of the lowest format version that can say it.

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    CheckpointState, CosignedHead, ForestRoot, FreeSetRoot, PageRef, PeerEvidence, SuperblockState,
};
use crate::crypto::hash::{ChainHash, InternalDomain, InternalHash};
use crate::crypto::seal::Tag;
use crate::ids::{
    ClusterId, Generation, GridId, Op, OriginId, PageNumber, Release, ReplicaId, View,
};
use crate::io::{Pages, WrappedKey};
use crate::limits::{
    ClusterConstants, PAGE_SIZE, REPLICA_COUNTS, REPLICA_PEERS_MAX, SUPERBLOCK_COPIES,
    SYNC_CHECKPOINT_SIZE,
};
use crate::time::Timestamp;

/// The newest that this release knows.
pub const FORMAT_VERSION: u32 = 3;
/// Of a state without marks, and of one that fetches a checkpoint.
const FORMAT_VERSION_WHOLE: u32 = 1;
const FORMAT_VERSION_SYNCING: u32 = 2;
const MAGIC: [u8; 8] = *b"VERITYSB";
/// Where the checksum's coverage begins.
const COVERED_FROM: usize = 40;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPageRef {
    page: U32,
    zeros: [u8; 4],
    checkpoint_op: U64,
    tag: [u8; 16],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawPeer {
    log_view: U64,
    op: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    checksum: [u8; 32],
    copy: u8,
    zeros_33: [u8; 7],
    magic: [u8; 8],
    format_version: U32,
    release: U32,
    sequence: U64,
    previous: [u8; 32],
    cluster: U128,
    origin: U128,
    replica: u8,
    replica_count: u8,
    zeros_130: [u8; 6],
    journal_ring_bytes: U64,
    grid_pages_max: U32,
    dirty_pages_max: U32,
    transaction_events_max: U32,
    transaction_pages_read_max: U32,
    transaction_pages_dirtied_max: U32,
    transaction_bytes_max: U32,
    view: U64,
    log_view: U64,
    generation: U64,
    committed: U64,
    checkpoint_op: U64,
    checkpoint_prepare_checksum: [u8; 32],
    checkpoint_journal_offset: U64,
    checkpoint_timestamp: U64,
    checkpoint_generation: U64,
    checkpoint_recovery_count: U64,
    forest_root: RawPageRef,
    forest_height: u8,
    zeros_305: [u8; 7],
    forest_count: U64,
    forest_hash: [u8; 32],
    free_set_root: RawPageRef,
    free_set_runs: U64,
    free_set_pages: U32,
    grid_pages: U32,
    signing_key: [u8; 60],
    zeros_460: [u8; 4],
    cosigned_size: U64,
    cosigned_hash: [u8; 32],
    peers: [RawPeer; REPLICA_PEERS_MAX],
    segment_positions: U64,
    grid: U128,
    syncing: u8,
    replaced: u8,
    zeros_658: [u8; 6],
    checkpoint_record_interval: U32,
    shutdown_records_max: U32,
    zeros_672: [u8; 3424],
}

const_assert_eq!(size_of::<RawSuperblock>(), PAGE_SIZE);
const_assert_eq!(align_of::<RawSuperblock>(), 1);
const_assert_eq!(core::mem::offset_of!(RawSuperblock, magic), COVERED_FROM);
const_assert_eq!(core::mem::offset_of!(RawSuperblock, checkpoint_op), 200);
const_assert_eq!(core::mem::offset_of!(RawSuperblock, forest_root), 272);
const_assert_eq!(core::mem::offset_of!(RawSuperblock, signing_key), 400);
const_assert_eq!(core::mem::offset_of!(RawSuperblock, peers), 504);
const_assert_eq!(core::mem::offset_of!(RawSuperblock, checkpoint_record_interval), 664);

/// The format version of a state.
pub(super) fn version_of(state: &SuperblockState) -> u32 {
    match (state.replaced, state.syncing) {
        (true, _) => FORMAT_VERSION,
        (false, true) => FORMAT_VERSION_SYNCING,
        (false, false) => FORMAT_VERSION_WHOLE,
    }
}

/// Where the checkpoint is in a copy.
const CHECKPOINT_FROM: usize = 200;
const CHECKPOINT_TO: usize = 400;
const_assert_eq!(CHECKPOINT_TO - CHECKPOINT_FROM + 16, SYNC_CHECKPOINT_SIZE);

/// A checkpoint as replicas tell one another of it: bytes 200..400 of the superblock, and its grid.
#[must_use]
pub fn encode_checkpoint(state: &SuperblockState) -> [u8; SYNC_CHECKPOINT_SIZE] {
    let raw = raw_of(state);
    let mut bytes = [0; SYNC_CHECKPOINT_SIZE];
    let (checkpoint, grid) = bytes.split_at_mut(CHECKPOINT_TO - CHECKPOINT_FROM);
    checkpoint.copy_from_slice(&raw.as_bytes()[CHECKPOINT_FROM..CHECKPOINT_TO]);
    grid.copy_from_slice(raw.grid.as_bytes());
    bytes
}

/// What a peer says of its checkpoint; an error in words when it cannot be one.
pub fn decode_checkpoint(
    bytes: &[u8; SYNC_CHECKPOINT_SIZE],
) -> Result<(CheckpointState, GridId), &'static str> {
    let mut raw = RawSuperblock::new_zeroed();
    let (checkpoint, grid) = bytes.split_at(CHECKPOINT_TO - CHECKPOINT_FROM);
    raw.as_mut_bytes()[CHECKPOINT_FROM..CHECKPOINT_TO].copy_from_slice(checkpoint);
    raw.grid.as_mut_bytes().copy_from_slice(grid);
    if check_zeros(&raw).is_err() {
        return Err("reserved bytes are not zero");
    }
    let checkpoint = checkpoint_of(&raw);
    let inside = |at: &PageRef| at.page.get() < checkpoint.grid_pages;
    let (forest, free_set) = (&checkpoint.system_forest.root, &checkpoint.free_set.root);
    if !checkpoint.journal_offset.is_multiple_of(PAGE_SIZE as u64) {
        return Err("journal offset is not a multiple of 4096");
    }
    if checkpoint.op == Op::ZERO || forest.is_none() || free_set.is_none() {
        return Err("a checkpoint without pages");
    }
    if !inside(forest) || !inside(free_set) || checkpoint.free_set.pages >= checkpoint.grid_pages {
        return Err("a root past the end of the grid");
    }
    Ok((checkpoint, GridId::new(raw.grid.get())))
}

/// Why bytes are no copy of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    Checksum,
    Misplaced { found: u8 },
    NewerFormat { found: u32 },
    Malformed(&'static str),
}

/// One copy, ready to be written at its place.
pub(super) fn encode(state: &SuperblockState, copy: u8) -> Pages {
    assert!(usize::from(copy) < SUPERBLOCK_COPIES);
    let mut raw = raw_of(state);
    raw.copy = copy;
    Pages::from_bytes(raw.as_bytes())
}

pub(super) fn checksum(state: &SuperblockState) -> InternalHash {
    InternalHash(raw_of(state).checksum)
}

/// Parses the bytes found at the place of `copy`.
pub(super) fn decode(bytes: &[u8], copy: u8) -> Result<SuperblockState, DecodeError> {
    let Ok(raw) = RawSuperblock::ref_from_bytes(bytes) else {
        return Err(DecodeError::Malformed("unreadable, or not 4096 bytes"));
    };
    if raw.magic != MAGIC {
        return Err(DecodeError::Malformed("no superblock here"));
    }
    if raw.checksum != covered_hash(raw).0 {
        return Err(DecodeError::Checksum);
    }
    if raw.format_version.get() > FORMAT_VERSION {
        return Err(DecodeError::NewerFormat { found: raw.format_version.get() });
    }
    if raw.copy != copy {
        return Err(DecodeError::Misplaced { found: raw.copy });
    }
    check_zeros(raw)?;
    if raw.syncing > 1 || raw.replaced > 1 {
        return Err(DecodeError::Malformed("a mark is neither 0 nor 1"));
    }
    let state = state_of(raw);
    check_values(&state)?;
    Ok(state)
}

fn covered_hash(raw: &RawSuperblock) -> InternalHash {
    InternalHash::of(InternalDomain::Superblock, &[&raw.as_bytes()[COVERED_FROM..]])
}

fn check_zeros(raw: &RawSuperblock) -> Result<(), DecodeError> {
    let zeros: [&[u8]; 8] = [
        &raw.zeros_33,
        &raw.zeros_130,
        &raw.zeros_305,
        &raw.zeros_460,
        &raw.zeros_658,
        &raw.zeros_672,
        &raw.forest_root.zeros,
        &raw.free_set_root.zeros,
    ];
    if zeros.iter().all(|part| part.iter().all(|&byte| byte == 0)) {
        Ok(())
    } else {
        Err(DecodeError::Malformed("reserved bytes are not zero"))
    }
}

fn check_values(state: &SuperblockState) -> Result<(), DecodeError> {
    if state.format_version == 0 {
        return Err(DecodeError::Malformed("format version 0"));
    }
    if state.format_version != version_of(state) {
        return Err(DecodeError::Malformed("another format version than its content has"));
    }
    if !REPLICA_COUNTS.contains(&state.replica_count) {
        return Err(DecodeError::Malformed("replica count is not 1, 3 or 5"));
    }
    if state.replica.get() >= state.replica_count {
        return Err(DecodeError::Malformed("replica number is not below the replica count"));
    }
    state.constants.validate().map_err(DecodeError::Malformed)?;
    if !state.checkpoint.journal_offset.is_multiple_of(PAGE_SIZE as u64) {
        return Err(DecodeError::Malformed("journal offset is not a multiple of 4096"));
    }
    if state.log_view > state.view {
        return Err(DecodeError::Malformed("log view is above view"));
    }
    if state.committed < state.checkpoint.op {
        return Err(DecodeError::Malformed("checkpoint is above what is committed"));
    }
    Ok(())
}

fn raw_of(state: &SuperblockState) -> RawSuperblock {
    let checkpoint = &state.checkpoint;
    let constants = &state.constants;
    let mut raw = RawSuperblock {
        magic: MAGIC,
        format_version: U32::new(state.format_version),
        release: U32::new(state.release.get()),
        sequence: U64::new(state.sequence),
        previous: state.previous.0,
        cluster: U128::new(state.cluster.get()),
        origin: U128::new(state.origin.get()),
        replica: state.replica.get(),
        replica_count: state.replica_count,
        journal_ring_bytes: U64::new(constants.journal_ring_bytes),
        grid_pages_max: U32::new(constants.grid_pages_max),
        dirty_pages_max: U32::new(constants.dirty_pages_max),
        transaction_events_max: U32::new(constants.transaction_events_max),
        transaction_pages_read_max: U32::new(constants.transaction_pages_read_max),
        transaction_pages_dirtied_max: U32::new(constants.transaction_pages_dirtied_max),
        transaction_bytes_max: U32::new(constants.transaction_bytes_max),
        view: U64::new(state.view.get()),
        log_view: U64::new(state.log_view.get()),
        generation: U64::new(state.generation.get()),
        committed: U64::new(state.committed.get()),
        checkpoint_op: U64::new(checkpoint.op.get()),
        checkpoint_prepare_checksum: checkpoint.prepare_checksum.0,
        checkpoint_journal_offset: U64::new(checkpoint.journal_offset),
        checkpoint_timestamp: U64::new(checkpoint.timestamp.0),
        checkpoint_generation: U64::new(checkpoint.generation.get()),
        checkpoint_recovery_count: U64::new(checkpoint.recovery_count),
        forest_root: raw_page_ref(&checkpoint.system_forest.root),
        forest_height: checkpoint.system_forest.height,
        forest_count: U64::new(checkpoint.system_forest.count),
        forest_hash: checkpoint.system_forest.hash.0,
        free_set_root: raw_page_ref(&checkpoint.free_set.root),
        free_set_runs: U64::new(checkpoint.free_set.runs),
        free_set_pages: U32::new(checkpoint.free_set.pages),
        grid_pages: U32::new(checkpoint.grid_pages),
        signing_key: state.signing_key.0,
        cosigned_size: U64::new(state.cosigned.size),
        cosigned_hash: state.cosigned.hash.0,
        peers: core::array::from_fn(|peer| RawPeer {
            log_view: U64::new(state.peers[peer].log_view.get()),
            op: U64::new(state.peers[peer].op.get()),
        }),
        segment_positions: U64::new(constants.segment_positions),
        grid: U128::new(state.grid.get()),
        syncing: u8::from(state.syncing),
        replaced: u8::from(state.replaced),
        checkpoint_record_interval: U32::new(constants.checkpoint_record_interval),
        shutdown_records_max: U32::new(constants.shutdown_records_max),
        ..RawSuperblock::new_zeroed()
    };
    raw.checksum = covered_hash(&raw).0;
    raw
}

fn state_of(raw: &RawSuperblock) -> SuperblockState {
    SuperblockState {
        format_version: raw.format_version.get(),
        sequence: raw.sequence.get(),
        previous: InternalHash(raw.previous),
        cluster: ClusterId::new(raw.cluster.get()),
        origin: OriginId::new(raw.origin.get()),
        grid: GridId::new(raw.grid.get()),
        syncing: raw.syncing == 1,
        replaced: raw.replaced == 1,
        replica: ReplicaId::new(raw.replica),
        replica_count: raw.replica_count,
        release: Release::new(raw.release.get()),
        constants: ClusterConstants {
            journal_ring_bytes: raw.journal_ring_bytes.get(),
            grid_pages_max: raw.grid_pages_max.get(),
            dirty_pages_max: raw.dirty_pages_max.get(),
            transaction_events_max: raw.transaction_events_max.get(),
            transaction_pages_read_max: raw.transaction_pages_read_max.get(),
            transaction_pages_dirtied_max: raw.transaction_pages_dirtied_max.get(),
            transaction_bytes_max: raw.transaction_bytes_max.get(),
            segment_positions: raw.segment_positions.get(),
            checkpoint_record_interval: raw.checkpoint_record_interval.get(),
            shutdown_records_max: raw.shutdown_records_max.get(),
        },
        view: View::new(raw.view.get()),
        log_view: View::new(raw.log_view.get()),
        generation: Generation::new(raw.generation.get()),
        committed: Op::new(raw.committed.get()),
        checkpoint: checkpoint_of(raw),
        signing_key: WrappedKey(raw.signing_key),
        cosigned: CosignedHead {
            size: raw.cosigned_size.get(),
            hash: ChainHash(raw.cosigned_hash),
        },
        peers: core::array::from_fn(|peer| PeerEvidence {
            log_view: View::new(raw.peers[peer].log_view.get()),
            op: Op::new(raw.peers[peer].op.get()),
        }),
    }
}

fn checkpoint_of(raw: &RawSuperblock) -> CheckpointState {
    CheckpointState {
        op: Op::new(raw.checkpoint_op.get()),
        prepare_checksum: InternalHash(raw.checkpoint_prepare_checksum),
        journal_offset: raw.checkpoint_journal_offset.get(),
        timestamp: Timestamp(raw.checkpoint_timestamp.get()),
        generation: Generation::new(raw.checkpoint_generation.get()),
        recovery_count: raw.checkpoint_recovery_count.get(),
        system_forest: ForestRoot {
            root: page_ref(&raw.forest_root),
            height: raw.forest_height,
            count: raw.forest_count.get(),
            hash: ChainHash(raw.forest_hash),
        },
        free_set: FreeSetRoot {
            root: page_ref(&raw.free_set_root),
            pages: raw.free_set_pages.get(),
            runs: raw.free_set_runs.get(),
        },
        grid_pages: raw.grid_pages.get(),
    }
}

fn raw_page_ref(page_ref: &PageRef) -> RawPageRef {
    RawPageRef {
        page: U32::new(page_ref.page.get()),
        zeros: [0; 4],
        checkpoint_op: U64::new(page_ref.checkpoint_op.get()),
        tag: page_ref.tag.0,
    }
}

fn page_ref(raw: &RawPageRef) -> PageRef {
    PageRef {
        page: PageNumber::new(raw.page.get()),
        checkpoint_op: Op::new(raw.checkpoint_op.get()),
        tag: Tag(raw.tag),
    }
}
