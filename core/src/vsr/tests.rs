//! Directed tests of consensus with a quorum of one, and (in `model`) random pipelined histories
//! with crashes that keep any subset of what was not durable.

mod model;
pub(in crate::vsr) mod world;

use super::*;
use crate::io::IoError;
use crate::journal::fake_disk::Keep;
use crate::journal::{Evidence, Ring};
use crate::limits::{JOURNAL_RING_BYTES_MIN, REPLICA_COUNTS};
use crate::superblock::SuperblockState;
use crate::time::SECOND_NS;
use world::{RELEASE, World};

#[test]
fn quorums_share_a_replica_and_tolerate_f() {
    assert_eq!(REPLICA_COUNTS.map(quorum_replication), [1, 2, 3]);
    let ops = |ops: [u64; 5]| ops.map(Op::new);
    assert_eq!(quorum::committed(&ops([7, 0, 0, 0, 0]), 1), Op::new(7));
    assert_eq!(quorum::committed(&ops([7, 5, 3, 0, 0]), 3), Op::new(5));
    assert_eq!(quorum::committed(&ops([7, 0, 0, 9, 9]), 3), Op::new(0));
    assert_eq!(quorum::committed(&ops([9, 1, 8, 2, 7]), 5), Op::new(7));
}

#[test]
fn a_cluster_of_more_is_refused() {
    let state = SuperblockState { replica_count: 3, ..world::formatted() };
    let error = Vsr::open(&state, RELEASE, &mut Effects::new()).err();
    assert_eq!(error, Some(VsrError::NoPeers { replica_count: 3 }));
}

#[test]
fn recovery_comes_first_and_only_after_its_view_is_durable() {
    let mut world = World::new(1);
    world.open();
    world.run_io();
    let vsr = world.vsr();
    assert!(!vsr.ready_to_propose());
    assert_eq!(vsr.check_propose(Operation::Recovery, 0), Err(Busy::NotReady));
    let wanted = vsr.view_wanted().unwrap();
    assert_eq!((wanted.view, wanted.log_view), (View::new(1), View::new(1)));
    world.view_durable();
    let vsr = world.vsr();
    assert_eq!(vsr.view_wanted(), None);
    assert_eq!(vsr.check_propose(Operation::Requests, 0), Err(Busy::RecoveryFirst));
    assert!(!vsr.checkpoint_wanted(100, 1));
    let recovery = world.propose(Operation::Recovery, 8);
    let header = world.commit(recovery);
    assert_eq!(header.operation, Operation::Recovery);
    assert_eq!((header.view, header.generation), (View::new(1), Generation::ZERO));
    let requests = world.propose(Operation::Requests, 100);
    assert_eq!(world.commit(requests).generation, Generation::new(1));
}

#[test]
fn nothing_commits_before_it_and_all_before_it_are_durable() {
    let mut world = World::started(2);
    let ops: Vec<_> = (0..3).map(|_| world.propose(Operation::Requests, 10)).collect();
    assert_eq!(world.vsr().status().in_flight, 3);
    world.complete(2);
    assert!(world.next_committed().is_none(), "the first two are in flight");
    world.complete(0);
    let first = world.next_committed().unwrap();
    assert_eq!(first.header.op, ops[0]);
    assert!(world.next_committed().is_none(), "the second is in flight");
    world.complete(0);
    assert_eq!(world.next_committed().unwrap().header.op, ops[1]);
    assert_eq!(world.next_committed().unwrap().header.op, ops[2]);
    assert_eq!(world.vsr().commit(), ops[2]);
}

#[test]
fn the_pipeline_is_bounded() {
    let mut world = World::started(3);
    for _ in 0..PIPELINE_MAX {
        world.propose(Operation::Requests, 10);
    }
    assert_eq!(world.vsr().check_propose(Operation::Requests, 10), Err(Busy::PipelineFull));
    world.complete(0);
    assert_eq!(world.vsr().check_propose(Operation::Requests, 10), Ok(()));
}

#[test]
fn buffers_are_bounded_and_come_back() {
    let mut world = World::started(4);
    let mut taken = Vec::new();
    while let Some(buffer) = world.vsr().buffer() {
        taken.push(buffer);
    }
    assert_eq!(taken.len(), PREPARE_BUFFERS_MAX);
    for buffer in taken {
        world.vsr().recycle(buffer);
    }
    for _ in 0..3 * PREPARE_BUFFERS_MAX {
        let op = world.propose(Operation::Requests, 5000);
        world.commit(op);
    }
}

#[test]
fn time_grows_strictly_and_steps_at_most_one_limit() {
    let mut world = World::started(5);
    let stamp = |world: &mut World, wall: u64| {
        world.now.wall = Timestamp(wall);
        let op = world.propose(Operation::Requests, 1);
        world.commit(op).timestamp.0
    };
    let hour = CLOCK_STEP_MAX_NS;
    let base = stamp(&mut world, 100 * SECOND_NS);
    assert_eq!(base, 100 * SECOND_NS);
    assert_eq!(stamp(&mut world, base), base + 1, "the same reading");
    assert_eq!(stamp(&mut world, base - 50), base + 2, "a clock that goes back");
    assert_eq!(world.vsr().status().clock_behind_ns, 51);
    assert_eq!(stamp(&mut world, 0), base + 3);
    let last = stamp(&mut world, base + hour);
    assert_eq!(last, base + hour);
    assert_eq!(world.vsr().status().clock_ahead_ns, 0);
    let far = last + 3 * hour;
    assert_eq!(stamp(&mut world, far), last + hour);
    assert_eq!(world.vsr().status().clock_ahead_ns, 2 * hour);
    let limited = |event: &Event| matches!(event, Event::ClockStepLimited { .. });
    assert_eq!(world.disk.events.iter().filter(|event| limited(event)).count(), 1);
    assert_eq!(stamp(&mut world, far), last + 2 * hour);
    assert_eq!(stamp(&mut world, far), last + 3 * hour);
    assert_eq!(world.vsr().status().clock_ahead_ns, 0);
    // Also across a restart.
    world.crash_keeping_all();
    world.start();
    assert!(stamp(&mut world, 5) > far);
}

/// A server that nobody asked anything for ten days: its monotonic clock knows that they passed.
#[test]
fn time_that_passed_does_not_count_as_a_step() {
    let mut world = World::started(15);
    let days = 10 * 24 * CLOCK_STEP_MAX_NS;
    let op = world.propose(Operation::Requests, 1);
    let before = world.commit(op).timestamp;
    world.now.monotonic = world.now.monotonic.plus_ns(days);
    world.now.wall = before.plus_ns(days + 5 * CLOCK_STEP_MAX_NS);
    let op = world.propose(Operation::Requests, 1);
    assert_eq!(world.commit(op).timestamp, before.plus_ns(days + CLOCK_STEP_MAX_NS));
}

#[test]
fn the_recovery_op_goes_to_the_wall_clock_and_an_absurd_one_is_told() {
    let mut world = World::started(16);
    let op = world.propose(Operation::Requests, 1);
    let before = world.commit(op).timestamp;
    world.crash_keeping_all();
    let recovery = op.next();
    world.now.wall = before.plus_ns(CLOCK_JUMP_MAX_NS);
    world.start();
    assert_eq!(world.applied[&recovery].timestamp, world.now.wall);
    assert_eq!(world.vsr().status().clock_ahead_ns, 0);
    let now = world.now;
    let at = |wall| Clock { wall, ..now };
    assert!(world.vsr().clock_is_plausible(at(now.wall.plus_ns(CLOCK_JUMP_MAX_NS))));
    assert!(!world.vsr().clock_is_plausible(at(now.wall.plus_ns(CLOCK_JUMP_MAX_NS + 1))));
    // A clock that went back does not take time back.
    world.crash_keeping_all();
    world.now.wall = Timestamp(5);
    assert!(world.applied[&recovery].timestamp > world.now.wall);
    world.start();
    assert_eq!(world.applied[&recovery.next()].timestamp, now.wall.plus_ns(1));
}

#[test]
fn replay_gives_all_committed_ops_in_order_through_the_same_queue() {
    let mut world = World::started(6);
    for size in [10, 5000, 300_000, 1, 3840] {
        let op = world.propose(Operation::Requests, size);
        world.commit(op);
    }
    let before = world.applied.clone();
    world.crash_keeping_all();
    world.open();
    world.run_io();
    let status = world.vsr().status();
    assert_eq!(status.replaying_to, Some(Op::new(6)));
    let mut replayed = 0;
    while let Some(committed) = world.next_committed_with_io() {
        assert!(committed.replay);
        assert_eq!(before[&committed.header.op], committed.header);
        replayed += 1;
        world.apply(committed);
    }
    assert_eq!(replayed, 6);
    assert_eq!(world.vsr().status().replaying_to, None);
}

#[test]
fn replay_is_a_bounded_number_ahead() {
    let mut world = World::started(7);
    for _ in 0..40 {
        let op = world.propose(Operation::Requests, 10);
        world.commit(op);
    }
    world.crash_keeping_all();
    world.open();
    world.run_io();
    let mut held = Vec::new();
    while let Some(committed) = world.next_committed_with_io() {
        held.push(committed);
    }
    assert_eq!(held.len(), REPLAY_AHEAD_MAX, "no more until some are applied");
    for committed in held {
        world.apply(committed);
    }
    assert!(world.next_committed_with_io().is_some());
}

#[test]
fn a_checkpoint_is_wanted_at_half_and_frees_the_ring() {
    let mut world = World::started(8);
    assert!(!world.vsr().checkpoint_wanted(49, 100));
    assert!(world.vsr().checkpoint_wanted(50, 100));
    while !world.vsr().checkpoint_wanted(0, 100) {
        let op = world.propose(Operation::Requests, 100_000);
        world.commit(op);
    }
    let used = world.vsr().status().journal_used_bytes;
    let half = JOURNAL_RING_BYTES_MIN / 2;
    assert!((half / 2..=half + (1 << 20)).contains(&used));
    let op = world.propose(Operation::Checkpoint, 0);
    assert!(!world.vsr().checkpoint_wanted(100, 100), "one at a time");
    assert_eq!(world.vsr().check_propose(Operation::Checkpoint, 0), Err(Busy::CheckpointPending));
    world.commit(op);
    let after = world.propose(Operation::Requests, 10);
    let header = world.commit(after);
    assert_eq!((header.checkpoint_op, header.checkpoint_durable), (op, Op::ZERO));
    world.checkpoint_durable(op);
    assert_eq!(world.vsr().status().journal_used_bytes, PAGE_SIZE as u64);
    let after = world.propose(Operation::Requests, 10);
    assert_eq!(world.commit(after).checkpoint_durable, op);
    // A restart begins there.
    world.crash_keeping_all();
    world.open();
    world.run_io();
    assert_eq!(world.next_committed_with_io().unwrap().header.op, op.next());
}

#[test]
fn a_full_ring_leaves_room_for_recovery_checkpoint_and_shutdown() {
    let mut world = World::started(9);
    for size in [1_000_000, 100_000, 9_000, 10] {
        while world.vsr().can_propose(Operation::Requests, size) {
            let op = world.propose(Operation::Requests, size);
            world.commit(op);
        }
        assert_eq!(world.vsr().check_propose(Operation::Requests, size), Err(Busy::JournalFull));
    }
    // Restarts in a row, none of which gets to a checkpoint.
    for _ in 0..30 {
        world.crash_keeping_all();
        world.start();
    }
    assert!(world.vsr().checkpoint_wanted(0, 100));
    let op = world.propose(Operation::Checkpoint, 0);
    world.commit(op);
    world.checkpoint_durable(op);
    assert!(world.vsr().can_propose(Operation::Requests, 1_000_000));
    let op = world.propose(Operation::Shutdown, 0);
    world.commit(op);
    assert_eq!(world.vsr().check_propose(Operation::Requests, 0), Err(Busy::NotReady));
    world.checkpoint_durable(op);
    world.crash_keeping_all();
    world.start();
    assert!(world.vsr().can_propose(Operation::Requests, 1_000_000));
}

/// Crashes after the recovery op and before any checkpoint, without end: there is always room for
/// the next recovery, because a checkpoint comes first when there is little.
#[test]
fn no_number_of_crashes_fills_the_ring() {
    let mut world = World::started(17);
    for size in [1_000_000, 100_000, 9_000, 10] {
        while world.vsr().can_propose(Operation::Requests, size) {
            let op = world.propose(Operation::Requests, size);
            world.commit(op);
        }
    }
    let (mut first, mut unused) = (0, 0);
    for turn in 0..200 {
        world.crash_keeping_all();
        world.open();
        world.run_io();
        while let Some(committed) = world.next_committed_with_io() {
            let header = committed.header;
            world.apply(committed);
            // As the node does: a checkpoint met in replay is taken.
            if header.operation.is_checkpoint() {
                world.checkpoint_durable(header.op);
            }
        }
        world.view_durable();
        if world.vsr().checkpoint_first() {
            first += 1;
            assert!(!world.vsr().can_propose(Operation::Requests, 1));
            let op = world.propose(Operation::Checkpoint, 0);
            // Every second time it is lost.
            if turn % 2 == 0 {
                world.crash(|| Keep::Old);
                unused += 1;
                continue;
            }
            world.commit(op);
            if turn % 4 == 1 {
                continue;
            }
            world.checkpoint_durable(op);
        }
        assert_eq!(world.vsr().check_propose(Operation::Recovery, 8), Ok(()), "turn {turn}");
        let op = world.propose(Operation::Recovery, 8);
        world.commit(op);
        // Fill what the last checkpoint freed.
        while first > 0 && world.vsr().can_propose(Operation::Requests, 1_000_000) {
            let op = world.propose(Operation::Requests, 1_000_000);
            world.commit(op);
        }
        while first > 0 && world.vsr().can_propose(Operation::Requests, 3_000) {
            let op = world.propose(Operation::Requests, 3_000);
            world.commit(op);
        }
    }
    assert!(first >= 4 && unused >= 1, "{first} {unused}");
}

#[test]
fn the_largest_prepares_never_leave_a_ring_too_full_for_one_and_not_full_enough_for_a_checkpoint() {
    let mut world = World::started(10);
    let sizes = [PREPARE_SIZE_MAX - PREPARE_HEADER_SIZE, 10, 600_000, 1_040_000, 3_000];
    for turn in 0..200 {
        let size = sizes[turn * 7 % 5];
        if world.vsr().can_propose(Operation::Requests, size) {
            let op = world.propose(Operation::Requests, size);
            world.commit(op);
            continue;
        }
        assert!(world.vsr().checkpoint_wanted(0, 100), "stuck at turn {turn}");
        let op = world.propose(Operation::Checkpoint, 0);
        world.commit(op);
        world.checkpoint_durable(op);
    }
}

#[test]
fn redundant_headers_of_a_quiet_journal_are_written_in_time() {
    let mut world = World::started(11);
    let op = world.propose(Operation::Requests, 10);
    world.commit(op);
    assert!(world.disk.pending.is_empty());
    let due = world.vsr().deadline().unwrap();
    assert!(due <= world.now.monotonic.plus_ns(JOURNAL_HEADER_DELAY_NS));
    world.now.monotonic = due;
    world.tick();
    assert_eq!(world.disk.pending.len(), 1);
    assert_eq!(world.vsr().deadline(), None);
}

#[test]
fn a_disk_error_stops_everything() {
    let mut world = World::started(12);
    world.propose(Operation::Requests, 10);
    world.disk.write_error = Some(IoError::Device);
    let error = world.try_complete(0).unwrap_err();
    assert!(matches!(error, VsrError::Journal(JournalError::Io { .. })));
    assert!(world.next_committed().is_none());
    assert_eq!(world.vsr().check_propose(Operation::Requests, 0), Err(Busy::NotReady));
}

/// An op that one open showed to anybody stays, also when the journal loses it later.
#[test]
fn what_an_open_took_as_committed_is_rotten_when_it_is_gone() {
    let mut world = World::started(13);
    let op = world.propose(Operation::Requests, 10);
    world.commit(op);
    let header = world.applied[&op];
    world.crash_keeping_all();
    world.open();
    world.run_io();
    // The superblock gets the next view and with it the recovered head.
    world.view_durable();
    world.crash_keeping_all();
    let ring = Ring::new(JOURNAL_RING_BYTES_MIN);
    world.disk.flip(ring.address(header.journal_offset).offset);
    world.disk.flip(ring.slot_offset(header.journal_offset) as u64);
    let error = world.try_open().unwrap_err();
    let VsrError::Journal(JournalError::Rotten { op: rotten, evidence, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!((rotten, evidence), (op, Evidence::Superblock { committed: op }));
}

/// The newest copies of the superblock are lost: the journal knows better and says so.
#[test]
fn an_older_superblock_is_noticed() {
    let mut world = World::started(14);
    let old = world.state;
    let op = world.propose(Operation::Checkpoint, 0);
    world.commit(op);
    world.checkpoint_durable(op);
    let op = world.propose(Operation::Requests, 10);
    world.commit(op);
    world.crash_keeping_all();
    world.state = old;
    let error = world.try_open().unwrap_err();
    assert!(matches!(error, VsrError::Journal(JournalError::SuperblockStale { .. })), "{error:?}");
}
