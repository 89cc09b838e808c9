//! Random pipelined histories; at every crash, every (or many a) subset of the sectors in flight;
//! after each a second history and a second crash; and rot of one sector on top.
//!
//! What must hold: an op that was applied (hence acknowledged) is there after every open, the same
//! bytes, whatever the crash kept. With rot on top: it is there, or the open fails and names it.
//! The one exception, which is counted: a rotten prepare of which nothing on the disk proves that
//! it ever was durable (no redundant header, no later commit number, no word of the superblock).

use alloc::vec::Vec;

use super::world::World;
use crate::ids::Op;
use crate::io::FileId;
use crate::journal::fake_disk::{FakeDisk, Keep};
use crate::journal::{JournalError, Operation, PrepareHeader, Ring};
use crate::limits::{JOURNAL_RING_BYTES_MIN, PAGE_SIZE, PREPARE_HEADER_SIZE};
use crate::time::SECOND_NS;
use crate::vsr::VsrError;

const RING_BYTES: u64 = JOURNAL_RING_BYTES_MIN;
const PAGE: u64 = PAGE_SIZE as u64;
/// Up to so many sectors in flight all subsets are tried, above it samples.
const EXHAUSTIVE_SECTORS_MAX: usize = 5;
const SAMPLES: usize = 20;

#[derive(Debug, Default)]
struct Seen {
    crashes: usize,
    crashes_with_writes_in_flight: usize,
    subsets: usize,
    dropped: usize,
    wraps: usize,
    checkpoints: usize,
    rots: usize,
    rotten: usize,
    /// Acknowledged prepares lost to rot without a trace: the risk that remains.
    unprovable: usize,
}

#[test]
fn acknowledged_ops_survive_every_crash() {
    let mut seen = Seen::default();
    for seed in 0..10 {
        run(seed, 6, &mut seen);
    }
    // The run was worth it.
    assert!(seen.subsets >= 300 && seen.crashes_with_writes_in_flight >= 15, "{seen:?}");
    assert!(seen.dropped >= 20 && seen.wraps >= 1 && seen.checkpoints >= 3, "{seen:?}");
    assert!(seen.rotten >= 10 && seen.unprovable >= 1, "{seen:?}");
}

/// Minutes: `cargo test --release -p verity-core vsr::tests::model -- --ignored`.
#[test]
#[ignore = "minutes"]
fn acknowledged_ops_survive_every_crash_campaign() {
    let mut seen = Seen::default();
    for seed in 1_000..1_200 {
        run(seed, 10, &mut seen);
    }
    std::eprintln!("{seen:?}");
}

fn run(seed: u64, rounds: usize, seen: &mut Seen) {
    let mut world = World::new(seed);
    // Near the end of the ring, so that it wraps soon.
    let before_end = world.random.below(40) as u64 * PAGE;
    world.state.checkpoint.journal_offset = (1 + seed % 3) * RING_BYTES - before_end;
    for _ in 0..rounds {
        live(&mut world, 80, seen);
        crash_every_way(&mut world, seen);
    }
}

/// A stretch of life, from open to just before a crash, which may come at any point.
fn live(world: &mut World, actions_max: usize, seen: &mut Seen) {
    world.open();
    for _ in 0..world.random.below(actions_max) + 3 {
        act(world, seen);
    }
}

fn act(world: &mut World, seen: &mut Seen) {
    let pending = world.disk.pending.len();
    let reading = world.vsr().status().recovering.is_some();
    let dice = world.random.below(100);
    if pending > 0 && (reading || dice < 35) {
        // Opening takes a dozen reads; most lives get past it.
        let count = if reading && dice < 90 { pending } else { 1 };
        for _ in 0..count {
            let index = world.random.below(world.disk.pending.len());
            world.complete(index);
        }
        return;
    }
    match dice {
        0..55 => {
            if let Some(committed) = world.next_committed() {
                let header = committed.header;
                world.apply(committed);
                seen.wraps += usize::from(header.journal_offset % RING_BYTES == 0);
            }
        }
        55..60 => {
            world.now.monotonic = world.now.monotonic.plus_ns(SECOND_NS);
            world.tick();
        }
        60..64 => finish_checkpoint(world, seen),
        64.. => step_proposals(world),
    }
}

fn finish_checkpoint(world: &mut World, seen: &mut Seen) {
    let status = world.vsr().status();
    let op = status.checkpoint_op;
    if op > status.checkpoint_durable && status.applied >= op {
        world.checkpoint_durable(op);
        seen.checkpoints += 1;
    }
}

fn step_proposals(world: &mut World) {
    if world.vsr().view_wanted().is_some() {
        world.view_durable();
    }
    let operation = match world.random.below(20) {
        _ if !world.vsr().recovery_proposed() => Operation::Recovery,
        0 => Operation::Checkpoint,
        _ => Operation::Requests,
    };
    let size = match (operation, world.random.below(10)) {
        (Operation::Requests, 0) => world.random.below(60_000),
        (Operation::Requests, 1..5) => world.random.below(3 * PAGE_SIZE),
        _ => world.random.below(500),
    };
    // Committed ops that wait to be applied hold their buffers.
    let Some(buffer) = world.vsr().buffer() else { return };
    world.vsr().recycle(buffer);
    if world.vsr().can_propose(operation, size) {
        world.propose(operation, size);
    }
}

fn crash_every_way(world: &mut World, seen: &mut Seen) {
    let sectors = world.disk.unsynced();
    seen.crashes += 1;
    seen.crashes_with_writes_in_flight += usize::from(sectors > 0);
    let exhaustive = sectors <= EXHAUSTIVE_SECTORS_MAX;
    let count = if exhaustive { 1 << sectors } else { SAMPLES };
    let go_on_with = world.random.below(count);
    let mut chosen = None;
    for subset in 0..count {
        let seed = world.random.next();
        let mut fork = forked(world, seed);
        let mut bit = 0;
        let mut random = fork.random.clone();
        fork.crash(|| {
            bit += 1;
            if exhaustive {
                return if subset >> (bit - 1) & 1 == 1 { Keep::New } else { Keep::Old };
            }
            match random.below(5) {
                0 | 1 => Keep::Old,
                2 | 3 => Keep::New,
                _ => Keep::Torn((random.below(8)) * 512),
            }
        });
        seen.subsets += 1;
        if subset == go_on_with {
            chosen = Some(fork.disk.clone());
        }
        let crashed = forked(&fork, seed ^ 1);
        let recovered = check_open(&mut fork, seen);
        rot_somewhere(crashed, &recovered, seen);
        second_crash(fork, seen);
    }
    world.vsr = None;
    world.disk = chosen.unwrap();
}

/// The same disk, superblock and memory of acknowledgements, in another world.
fn forked(world: &World, seed: u64) -> World {
    let mut fork = World::new(seed);
    fork.disk = world.disk.clone();
    fork.state = world.state;
    fork.applied = world.applied.clone();
    fork.now = world.now;
    fork
}

/// Opens and replays: all that was ever acknowledged is there. Returns what was recovered.
fn check_open(world: &mut World, seen: &mut Seen) -> Vec<PrepareHeader> {
    world.try_open().unwrap();
    let head = world.vsr().status().op;
    let last_acknowledged = world.applied.keys().next_back().copied().unwrap_or_default();
    assert!(
        head >= last_acknowledged,
        "op {last_acknowledged} is lost, the journal ends at {head}"
    );
    let torn = |event: &crate::event::Event| event.name() == "JournalTornTail";
    seen.dropped += usize::from(world.disk.events.iter().any(torn));
    let mut recovered = Vec::new();
    while let Some(committed) = world.next_committed_with_io() {
        recovered.push(committed.header);
        // Compares with what was acknowledged under this op.
        world.apply(committed);
    }
    assert_eq!(world.vsr().status().applied, head);
    recovered
}

/// Goes on with a few ops of a new history in flight, crashes again with a random subset.
fn second_crash(mut world: World, seen: &mut Seen) {
    for _ in 0..12 {
        act(&mut world, seen);
    }
    for _ in 0..3 {
        step_proposals(&mut world);
    }
    for _ in 0..world.random.below(6) {
        if !world.disk.pending.is_empty() {
            let index = world.random.below(world.disk.pending.len());
            world.complete(index);
        }
        if let Some(committed) = world.next_committed() {
            world.apply(committed);
        }
    }
    let mut random = world.random.clone();
    world.crash(|| if random.chance(50) { Keep::New } else { Keep::Old });
    let crashed = forked(&world, world.random.0);
    let recovered = check_open(&mut world, seen);
    rot_somewhere(crashed, &recovered, seen);
}

/// Flips a byte of the disk as the crash left it, mostly where it hurts, and opens that.
fn rot_somewhere(mut world: World, recovered: &[PrepareHeader], seen: &mut Seen) {
    let ring = Ring::new(RING_BYTES);
    let target = (!recovered.is_empty()).then(|| {
        let from_end = world.random.below(recovered.len().min(6));
        &recovered[recovered.len() - 1 - from_end]
    });
    let byte = match (target, world.random.below(10)) {
        (Some(header), 0..6) => {
            let inside = world.random.next() % header.padded_bytes();
            ring.address(header.journal_offset).offset + inside
        }
        (Some(header), 6..8) => ring.slot_offset(header.journal_offset) as u64,
        _ => world.random.next() % ring.file_bytes(),
    };
    world.disk.flip(byte);
    seen.rots += 1;
    let hit = recovered.iter().find(|header| {
        let start = ring.address(header.journal_offset).offset;
        (start..start + header.padded_bytes()).contains(&byte)
    });
    match world.try_open() {
        Ok(()) => {
            let head = world.vsr().status().op;
            let Some(lost) = world.applied.range(head.next()..).next().map(|(_, lost)| *lost)
            else {
                return;
            };
            assert_eq!(hit.map(|hit| hit.op), Some(lost.op), "lost, and not by the rot");
            assert!(!provable(&world.disk, &lost), "op {} dropped against evidence", lost.op);
            assert!(world.state.committed < lost.op);
            seen.unprovable += 1;
        }
        Err(VsrError::Journal(JournalError::Rotten { op, .. })) => {
            assert_eq!(hit.map(|hit| hit.op), Some(op), "refused, and not because of the rot");
            seen.rotten += 1;
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// Whether anything on the disk shows that a prepare was once durable. Written apart from the scan.
fn provable(disk: &FakeDisk, lost: &PrepareHeader) -> bool {
    let ring = Ring::new(RING_BYTES);
    let slots = (0..ring.header_area_bytes()).step_by(PREPARE_HEADER_SIZE);
    let blocks = (ring.header_area_bytes()..ring.file_bytes()).step_by(PAGE_SIZE);
    assert_eq!(ring.address(0).file, FileId::Journal);
    slots.chain(blocks).any(|byte| {
        let sector = disk.sector(byte / PAGE * PAGE);
        let Ok(found) = PrepareHeader::decode(&sector[(byte % PAGE) as usize..]) else {
            return false;
        };
        found.commit >= lost.op || (found == *lost && byte < ring.header_area_bytes())
    })
}

#[test]
fn the_model_itself_notices_a_lost_acknowledgement() {
    let mut world = World::started(1);
    let op = world.propose(Operation::Requests, 10);
    world.commit(op);
    let header = world.applied[&op];
    world.crash(|| Keep::Old);
    world.disk.put(Ring::new(RING_BYTES).address(header.journal_offset).offset, [0; PAGE_SIZE]);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        check_open(&mut world, &mut Seen::default());
    }));
    assert!(outcome.is_err());
    assert_eq!(op, Op::new(2));
}
