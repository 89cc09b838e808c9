//! Directed tests of the journal of a replica with peers: what a crash and what rot leave behind.

use alloc::vec::Vec;

use super::*;
use crate::ids::{ClusterId, Generation, Release, ReplicaId, View};
use crate::journal::fake_disk::{Completion, FakeDisk, Keep, Pending, Random};
use crate::journal::slots::fill_vacant;
use crate::journal::{JournalStart, Operation, PrepareBuffer};
use crate::limits::JOURNAL_RING_BYTES_MIN;
use crate::time::Timestamp;

const CLUSTER: ClusterId = ClusterId::new(7);
const RING: u64 = JOURNAL_RING_BYTES_MIN;
const PAGE: u64 = PAGE_SIZE as u64;

struct Bench {
    disk: FakeDisk,
    effects: Effects,
    journal: Option<ReplicaJournal>,
    headers: Vec<PrepareHeader>,
    erased_to: Option<Op>,
    log_view: View,
    /// Op of the checkpoint that the superblock holds.
    checkpoint: usize,
}

impl Bench {
    fn new() -> Bench {
        let (disk, effects) = (FakeDisk::formatted(), Effects::new());
        let (headers, journal) = (Vec::new(), None);
        let (erased_to, log_view, checkpoint) = (None, View::new(1), 0);
        let mut bench = Bench { disk, effects, journal, headers, erased_to, log_view, checkpoint };
        assert!(bench.open().certain);
        bench
    }

    fn with(ops: usize) -> Bench {
        let mut bench = Bench::new();
        for _ in 0..ops {
            bench.append(5_000);
        }
        bench.run();
        bench
    }

    fn open(&mut self) -> RecoveredReplica {
        let base = self.checkpoint.checked_sub(1).map(|index| self.headers[index]);
        let base = base.unwrap_or(PrepareHeader::root(CLUSTER));
        let start = JournalStart {
            cluster: CLUSTER,
            ring_bytes: RING,
            release: Release::new(1),
            op: base.op,
            prepare_checksum: base.checksum,
            journal_offset: if self.checkpoint == 0 { 0 } else { base.journal_end() },
            view: View::new(1),
            committed: Op::ZERO,
        };
        let (erased_to, effects) = (self.erased_to, &mut self.effects);
        let mut recovery = ReplicaJournalRecovery::start(start, erased_to, self.log_view, effects);
        loop {
            self.disk.submit(&mut self.effects);
            let effects = &mut self.effects;
            match self.disk.complete(0) {
                Completion::Done { io } => recovery.on_done(io, Ok(()), effects).unwrap(),
                Completion::Read { io, pages, result } => {
                    let done = recovery.on_read_done(io, pages, result, effects).unwrap();
                    if let Some((journal, recovered)) = done {
                        self.journal = Some(journal);
                        return recovered;
                    }
                }
                Completion::Write { .. } => panic!("recovery writes nothing"),
            }
        }
    }

    fn journal(&mut self) -> &mut ReplicaJournal {
        self.journal.as_mut().unwrap()
    }

    fn prepare(&mut self, size: usize, fill: u8) -> Prepare {
        let journal = self.journal();
        let head = journal.head_op();
        let mut body = PrepareBuffer::new();
        body.push(&alloc::vec![fill; size]);
        let header = PrepareHeader {
            parent: journal.head_checksum(),
            cluster: CLUSTER,
            op: head.next(),
            view: View::new(1),
            commit: head,
            journal_offset: journal.place(256 + size),
            timestamp: Timestamp(head.get() + 1),
            generation: Generation::ZERO,
            operation: Operation::Requests,
            replica: ReplicaId::ZERO,
            release: Release::new(1),
            ..PrepareHeader::root(CLUSTER)
        };
        body.finish(header)
    }

    fn append(&mut self, size: usize) {
        let prepare = self.prepare(size, 7);
        self.headers.push(*prepare.header());
        let Some(journal) = &mut self.journal else { panic!("open") };
        journal.append(prepare, &mut self.effects);
        self.disk.submit(&mut self.effects);
        if self.journal().prepares_in_flight == PIPELINE_MAX {
            self.run();
        }
    }

    fn complete(&mut self, index: usize) {
        let Some(journal) = &mut self.journal else { panic!("open") };
        match self.disk.complete(index) {
            Completion::Write { io, pages, result } => {
                journal.on_write_done(io, pages, result, &mut self.effects).unwrap();
            }
            Completion::Read { io, pages, result } => {
                journal.on_read_done(io, pages, result, &mut self.effects).unwrap();
            }
            Completion::Done { .. } => panic!("nothing is synced"),
        }
        self.disk.submit(&mut self.effects);
    }

    fn run(&mut self) {
        while !self.disk.pending.is_empty() {
            self.complete(0);
        }
    }

    fn reopen(&mut self, keep: impl FnMut() -> Keep) -> RecoveredReplica {
        self.disk.crash(keep);
        self.open()
    }

    fn reopen_at(&mut self, mut keep: impl FnMut(u64) -> Keep) -> RecoveredReplica {
        self.disk.crash_at(&mut keep);
        self.open()
    }

    /// The prepare of an op whose write is in flight.
    fn prepare_of(&self, op: usize) -> Prepare {
        let header = &self.headers[op - 1];
        let at = self.prepare_offset(op);
        let pages = self.disk.pending.iter().find_map(|pending| match pending {
            Pending::Write { offset, pages, .. } if *offset == at => Some(pages.clone()),
            Pending::Write { .. } | Pending::Read { .. } | Pending::Sync { .. } => None,
        });
        Prepare::from_pages(header, pages.unwrap()).unwrap()
    }

    fn prepare_offset(&self, op: usize) -> u64 {
        Ring::new(RING).address(self.headers[op - 1].journal_offset).offset
    }

    fn slot_offset(&self, op: usize) -> u64 {
        Ring::new(RING).slot_offset(self.headers[op - 1].journal_offset) as u64
    }

    fn rot_prepare(&mut self, op: usize) {
        self.disk.flip(self.prepare_offset(op) + 300);
    }

    fn rot_header(&mut self, op: usize) {
        self.disk.flip(self.slot_offset(op) + 100);
    }

    fn states(&mut self) -> Vec<State> {
        let journal = self.journal();
        (1..=journal.head_op().get()).map(|op| journal.state(Op::new(op)).unwrap()).collect()
    }
}

use State::{Held, Rotten};

#[test]
fn what_was_written_is_held_after_a_crash() {
    let mut bench = Bench::with(3);
    let recovered = bench.reopen(|| Keep::Old);
    assert_eq!(bench.states(), [Held, Held, Held]);
    assert_eq!((recovered.certain, recovered.floor, recovered.rotten), (true, Op::new(2), 0));
}

/// Its slot says that it was never acknowledged.
#[test]
fn a_prepare_without_its_header_does_not_count() {
    let mut bench = Bench::with(2);
    bench.append(5_000);
    bench.complete(0);
    assert_eq!(bench.journal().state(Op::new(3)), Some(State::Writing));
    assert!(bench.reopen(|| Keep::Old).certain);
    assert_eq!(bench.states(), [Held, Held]);
}

/// Zeros say nothing of what was there, nor do the slots of another place: the prepares do. Where
/// the next one may begin there is none, so one more may have been acknowledged.
#[test]
fn a_sector_of_headers_that_was_lost_is_replaced_by_the_prepares() {
    for (sector, ops, certain) in [(0, 8, true), (1, 4, false)] {
        for nothing in [true, false] {
            let mut bench = Bench::with(12);
            let rot = if nothing { [0; PAGE_SIZE] } else { bench.disk.sector(3 * PAGE) };
            bench.disk.put(sector * PAGE, rot);
            let recovered = bench.reopen(|| Keep::Old);
            assert_eq!((recovered.certain, recovered.slots_repaired), (certain, ops), "{sector}");
            assert_eq!(bench.states(), [Held; 12]);
        }
    }
}

/// What was there may have been acknowledged: without headers, and the last prepare without a body,
/// the replica cannot say how far its log went.
#[test]
fn a_log_whose_end_was_lost_with_its_headers_is_not_certain() {
    let mut bench = Bench::with(3);
    bench.disk.put(0, [0; PAGE_SIZE]);
    bench.rot_prepare(3);
    let recovered = bench.reopen(|| Keep::Old);
    assert_eq!((recovered.certain, recovered.slots_repaired), (false, 2));
    assert_eq!(bench.states(), [Held, Held]);
}

/// Of an older view than the log view, a prepare whose header was lost may be one that was never
/// acknowledged, and that our log view left out: what joins it above says that it is not.
#[test]
fn a_prepare_of_an_older_view_is_proven_by_what_joins_it() {
    // Slots 0 to 15 are lost. With 12 ops of two pages their headers are of ops 1 to 8.
    for (ops, erased_to, certain, head) in
        [(12, None, true, 12), (8, None, false, 0), (8, Some(0), true, 0), (8, Some(8), false, 0)]
    {
        let mut bench = Bench::with(ops);
        bench.disk.put(0, [0; PAGE_SIZE]);
        bench.log_view = View::new(2);
        bench.erased_to = erased_to.map(Op::new);
        let recovered = bench.reopen(|| Keep::Old);
        assert_eq!((recovered.certain, bench.journal().head_op()), (certain, Op::new(head)));
        assert_eq!(bench.states(), [Held; 12][..head as usize]);
    }
}

/// Nor does a later header prove it from the other side of a hole.
#[test]
fn a_prepare_of_an_older_view_is_not_proven_across_a_hole() {
    let mut bench = Bench::with(12);
    bench.disk.put(0, [0; PAGE_SIZE]);
    bench.rot_prepare(4);
    bench.log_view = View::new(2);
    assert!(bench.reopen(|| Keep::Old).certain);
    let mut expected = [Rotten; 12];
    expected[8..].fill(Held);
    assert_eq!(bench.states(), expected);
}

/// What a later view left out, and was about to be erased, is not there again.
#[test]
fn a_prepare_that_was_erased_in_half_does_not_come_back() {
    let mut bench = Bench::with(3);
    let at = bench.slot_offset(3) / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    let mut sector = bench.disk.sector(at);
    let slot = (bench.slot_offset(3) - at) as usize;
    fill_vacant(&mut sector[slot..slot + 256], bench.slot_offset(3) as usize);
    bench.disk.put(at, sector);
    assert!(bench.reopen(|| Keep::Old).certain);
    assert_eq!(bench.states(), [Held, Held]);
}

#[test]
fn a_torn_header_is_written_again_from_its_prepare() {
    for torn in [1, 31, 100, 180] {
        let mut bench = Bench::with(2);
        bench.append(5_000);
        bench.complete(0);
        let slot = bench.slot_offset(3) as usize % PAGE_SIZE;
        let recovered = bench.reopen(|| Keep::Torn(slot + torn));
        assert!(recovered.certain, "torn at {torn}");
        assert_eq!((bench.states().len(), recovered.slots_repaired), (3, 1));
    }
}

#[test]
fn a_damaged_prepare_with_a_header_is_rotten_and_can_be_written_again() {
    let mut bench = Bench::with(3);
    let copy = {
        let mut pages = Pages::zeroed(2);
        bench.disk.read(bench.prepare_offset(2), pages.as_bytes_mut());
        Prepare::from_pages(&bench.headers[1].clone(), pages).unwrap()
    };
    bench.rot_prepare(2);
    let recovered = bench.reopen(|| Keep::Old);
    assert!(recovered.certain);
    assert_eq!(bench.states(), [Held, Rotten, Held]);
    assert!(bench.journal().wants(copy.header()));
    let Some(journal) = &mut bench.journal else { panic!("open") };
    journal.rewrite(copy, &mut bench.effects);
    bench.disk.submit(&mut bench.effects);
    bench.run();
    assert_eq!(bench.states(), [Held, Held, Held]);
    bench.reopen(|| Keep::Old);
    assert_eq!(bench.states(), [Held, Held, Held]);
}

#[test]
fn header_and_prepare_gone_in_the_middle_leave_a_hole_that_is_named() {
    let mut bench = Bench::with(4);
    bench.rot_prepare(2);
    bench.rot_header(2);
    assert!(bench.reopen(|| Keep::Old).certain, "the op above names it");
    assert_eq!(bench.states(), [Held, Rotten, Held, Held]);
    let checksum = bench.headers[1].checksum;
    assert_eq!(bench.journal().checksum(Op::new(2)), Some(checksum));
    assert_eq!(bench.journal().header(Op::new(2)), None);
}

#[test]
fn header_and_prepare_gone_at_the_tail_are_not_certain_until_erased() {
    let mut bench = Bench::with(3);
    bench.rot_prepare(3);
    bench.rot_header(3);
    let recovered = bench.reopen(|| Keep::Old);
    assert_eq!((recovered.certain, bench.states().len()), (false, 2));
    // Also the next time, and after something else in its sector was written.
    bench.disk.submit(&mut bench.effects);
    bench.run();
    assert!(!bench.reopen(|| Keep::Old).certain);
    let Some(journal) = &mut bench.journal else { panic!("open") };
    assert!(journal.tail_is_damaged());
    journal.erase_damaged_tail(&mut bench.effects);
    assert!(journal.erasing());
    bench.disk.submit(&mut bench.effects);
    bench.run();
    assert!(!bench.journal().erasing());
    assert!(bench.reopen(|| Keep::Old).certain);
    assert_eq!(bench.states().len(), 2);
}

#[test]
fn a_whole_sector_of_headers_is_replaced_by_the_prepares() {
    let mut bench = Bench::with(12);
    for op in 1..=12 {
        bench.rot_header(op);
    }
    let recovered = bench.reopen(|| Keep::Old);
    assert_eq!((recovered.certain, recovered.slots_repaired), (true, 12));
    assert_eq!(bench.states(), [Held; 12]);
}

#[test]
fn what_is_erased_does_not_come_back_when_its_slot_rots() {
    let mut bench = Bench::with(4);
    let Some(journal) = &mut bench.journal else { panic!("open") };
    journal.truncate(Op::new(2), &mut bench.effects);
    bench.disk.submit(&mut bench.effects);
    assert!(bench.journal().erasing());
    bench.run();
    assert!(!bench.journal().erasing());
    bench.rot_header(3);
    let recovered = bench.reopen(|| Keep::Old);
    assert_eq!(bench.states().len(), 2, "the prepare's first page is gone too");
    assert!(!recovered.certain, "the rot of an empty slot cannot be told from that of a full one");
}

/// Any subset of an erasure: what stays is a log that joins, or is named as rotten.
#[test]
fn a_crash_in_an_erasure_leaves_a_log() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut bench = Bench::with(5);
        let Some(journal) = &mut bench.journal else { panic!("open") };
        journal.truncate(Op::new(2), &mut bench.effects);
        bench.disk.submit(&mut bench.effects);
        for _ in 0..random.below(4) {
            if !bench.disk.pending.is_empty() {
                let index = random.below(bench.disk.pending.len());
                bench.complete(index);
            }
        }
        let recovered = bench.reopen(|| match random.below(3) {
            0 => Keep::Old,
            1 => Keep::New,
            _ => Keep::Torn(random.below(PAGE_SIZE)),
        });
        let states = bench.states();
        assert!(states.len() >= 2 && states[..2] == [Held, Held], "seed {seed}: {states:?}");
        assert!(recovered.floor >= Op::new(1));
    }
}

#[test]
fn old_prepares_stay_readable_until_the_ring_needs_their_place() {
    let mut bench = Bench::with(20);
    bench.journal().checkpoint_durable(Op::new(15));
    assert_eq!(bench.journal().first_op(), Op::new(1));
    let mut wrapped = false;
    for _ in 0..900 {
        let head = bench.journal().head_op();
        bench.append(9_000);
        bench.run();
        bench.journal().checkpoint_durable(head.next());
        wrapped |= bench.journal().first_op() > Op::new(1);
    }
    assert!(wrapped);
    let first = bench.journal().first_op();
    assert!(bench.journal().is_held(first), "the oldest that is known can still be read");
    let Some(journal) = &mut bench.journal else { panic!("open") };
    assert!(journal.read(first, Pages::default(), &mut bench.effects));
    bench.disk.submit(&mut bench.effects);
    bench.run();
    let back = bench.journal().next_read().unwrap();
    assert_eq!((back.header.op, back.outcome.is_ok()), (first, true));
}

/// Seed 43 of the clusters: a peer that was away is given old prepares while new ones come round.
#[test]
fn what_is_being_read_is_not_written_over() {
    let mut bench = Bench::with(20);
    let (mut checked, mut refused) = (0, 0);
    for _ in 0..900 {
        let head = bench.journal().head_op();
        let (first, ring) = (bench.journal().first_op(), bench.journal().ring_bytes());
        let oldest = bench.journal().header(first).map(|header| header.journal_offset % ring);
        let next = bench.prepare(9_000, 7);
        let over = oldest == Some(next.header().journal_offset % ring);
        if over && bench.journal().head_op() > first {
            let Some(journal) = &mut bench.journal else { panic!("open") };
            assert!(journal.takes(next.header()) && journal.free_after(9_256).is_some());
            assert!(journal.read(first, Pages::default(), &mut bench.effects));
            refused +=
                u64::from(!journal.takes(next.header()) && journal.free_after(9_256).is_none());
            bench.disk.submit(&mut bench.effects);
            bench.run();
            let journal = bench.journal();
            assert!(journal.next_read().is_some() && journal.takes(next.header()));
            checked += 1;
        }
        bench.append(9_000);
        bench.run();
        bench.journal().checkpoint_durable(head.next());
    }
    assert!(checked > 10 && refused == checked, "{refused} of {checked}");
}

#[test]
fn old_prepares_stay_readable_after_a_restart() {
    let mut bench = Bench::with(20);
    bench.checkpoint = 15;
    let recovered = bench.reopen(|| Keep::Old);
    assert_eq!((recovered.certain, recovered.rotten), (true, 0));
    let journal = bench.journal();
    assert_eq!((journal.first_op(), journal.head_op()), (Op::new(1), Op::new(20)));
    assert_eq!(journal.checksum(Op::new(15)), Some(bench.headers[14].checksum));
    let Some(journal) = &mut bench.journal else { panic!("open") };
    assert!(journal.read(Op::new(3), Pages::default(), &mut bench.effects));
    bench.disk.submit(&mut bench.effects);
    bench.run();
    let back = bench.journal().next_read().unwrap();
    assert_eq!((back.header.op, back.outcome.is_ok()), (Op::new(3), true));
}

/// The end of a log that was erased on the superblock's record: where the crash left the first
/// pages gone and half of a header, nothing is named that nobody could repair.
#[test]
fn a_recorded_erasure_leaves_no_rot() {
    for (recorded, states) in [(false, 5), (true, 2)] {
        let mut bench = Bench::with(5);
        let Some(journal) = &mut bench.journal else { panic!("open") };
        journal.truncate(Op::new(2), &mut bench.effects);
        bench.disk.submit(&mut bench.effects);
        bench.erased_to = recorded.then_some(Op::new(2));
        let torn = Keep::Torn(bench.slot_offset(3) as usize % PAGE_SIZE + 100);
        let header_area = Ring::new(RING).header_area_bytes();
        let recovered =
            bench.reopen_at(|offset| if offset < header_area { torn } else { Keep::New });
        assert_eq!((recovered.certain, bench.states().len()), (true, states));
    }
}

/// Seed 10469 of the campaign: op 4 is dropped for what is left of op 3, and its slot is damaged too.
#[test]
fn what_is_dropped_for_two_reasons_is_erased_once() {
    let mut bench = Bench::with(5);
    bench.rot_prepare(3);
    bench.rot_header(4);
    bench.erased_to = Some(Op::new(2));
    let recovered = bench.reopen(|| Keep::Old);
    assert_eq!((recovered.certain, bench.states().len()), (true, 2));
    let Some(journal) = &mut bench.journal else { panic!("open") };
    journal.flush_headers(&mut bench.effects);
    bench.disk.submit(&mut bench.effects);
    bench.run();
    bench.erased_to = None;
    assert!(bench.reopen(|| Keep::Old).certain);
    assert_eq!(bench.states().len(), 2);
}

/// Prepare 4 and a part of its header are durable, prepare 3 is not. Op 4 is dropped; when another
/// view writes the same op 3 again, it must not come back.
#[test]
fn a_torn_header_beyond_a_gap_is_erased() {
    let mut bench = Bench::with(2);
    bench.append(5_000);
    bench.append(5_000);
    let third = bench.prepare_of(3);
    // Of what is in flight, op 4 is written first.
    bench.complete(1);
    let torn = bench.slot_offset(4) as usize % PAGE_SIZE + 100;
    let header_area = Ring::new(RING).header_area_bytes();
    let recovered =
        bench.reopen_at(|offset| if offset < header_area { Keep::Torn(torn) } else { Keep::Old });
    assert_eq!((recovered.certain, bench.states()), (true, alloc::vec![Held, Held]));
    let Some(journal) = &mut bench.journal else { panic!("open") };
    journal.flush_headers(&mut bench.effects);
    bench.disk.submit(&mut bench.effects);
    bench.run();
    let Some(journal) = &mut bench.journal else { panic!("open") };
    journal.append(third, &mut bench.effects);
    bench.disk.submit(&mut bench.effects);
    bench.run();
    bench.reopen(|| Keep::Old);
    assert_eq!(bench.states(), [Held, Held, Held]);
}
