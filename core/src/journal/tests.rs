//! Directed tests of prepares, ring, slots and recovery. The random model is in `vsr/tests`.

use alloc::vec::Vec;

use super::fake_disk::{Completion, FakeDisk, Keep};
use super::*;
use crate::crypto::hash::{ChainHash, InternalDomain, InternalHash};
use crate::ids::{Generation, ReplicaId};
use crate::io::FileId;
use crate::limits::{JOURNAL_RING_BYTES_MIN, PREPARE_HEADER_SIZE, PREPARE_SIZE_MAX};
use crate::tests::golden::golden;
use crate::time::Timestamp;

const CLUSTER: ClusterId = ClusterId::new(7);
const RELEASE: Release = Release::new(1);
const RING: u64 = JOURNAL_RING_BYTES_MIN;
const PAGE: u64 = PAGE_SIZE as u64;

fn start_at(journal_offset: u64) -> JournalStart {
    JournalStart {
        cluster: CLUSTER,
        ring_bytes: RING,
        release: RELEASE,
        op: Op::new(10),
        prepare_checksum: InternalHash([1; 32]),
        journal_offset,
        view: View::new(3),
        committed: Op::new(10),
    }
}

/// A new disk, but for the header of the checkpoint's prepare, in the last slot.
fn with_header_of(start: &JournalStart) -> FakeDisk {
    let mut disk = FakeDisk::formatted();
    let mut header = PrepareHeader {
        op: start.op,
        commit: start.op.previous().unwrap_or(Op::ZERO),
        operation: Operation::Checkpoint,
        journal_offset: RING - PAGE,
        release: RELEASE,
        ..PrepareHeader::root(start.cluster)
    };
    header.seal();
    let ring = Ring::new(RING);
    let at = ring.slot_offset(header.journal_offset);
    let mut sector = disk.sector(ring.sector_address(ring.sector_of(RING - PAGE)).offset);
    sector[at % PAGE_SIZE..][..PREPARE_HEADER_SIZE].copy_from_slice(&header.encode());
    disk.put((at - at % PAGE_SIZE) as u64, sector);
    disk
}

/// A journal and its disk.
struct Bench {
    disk: FakeDisk,
    journal: Journal,
    view: View,
    commit: Op,
}

impl Bench {
    fn open(
        mut disk: FakeDisk,
        start: JournalStart,
        replica_count: u8,
    ) -> Result<(Bench, Recovered), JournalError> {
        let mut effects = Effects::new();
        let mut recovery = JournalRecovery::start(start, replica_count, &mut effects);
        disk.submit(&mut effects);
        loop {
            assert!(disk.pending.len() <= crate::limits::JOURNAL_CHUNKS_IN_FLIGHT_MAX);
            // The last one first: completions come in any order.
            match disk.complete(disk.pending.len() - 1) {
                Completion::Done { io } => recovery.on_done(io, Ok(()), &mut effects)?,
                Completion::Read { io, pages, result } => {
                    let done = recovery.on_read_done(io, pages, result, &mut effects)?;
                    if let Some((mut journal, recovered)) = done {
                        assert!(disk.pending.is_empty());
                        journal.restore_next(&mut effects);
                        disk.submit(&mut effects);
                        let commit = journal.head_op();
                        let bench = Bench { disk, journal, view: start.view, commit };
                        return Ok((bench, recovered));
                    }
                }
                Completion::Write { .. } => unreachable!("recovery does not write"),
            }
            disk.submit(&mut effects);
        }
    }

    fn new(start: JournalStart, replica_count: u8) -> Bench {
        Bench::open(with_header_of(&start), start, replica_count).unwrap().0
    }

    /// Proposes a prepare with a body of `size` bytes.
    fn write(&mut self, size: usize) -> PrepareHeader {
        let mut buffer = PrepareBuffer::new();
        buffer.push(&alloc::vec![size as u8; size]);
        let header = PrepareHeader {
            parent: self.journal.head_checksum(),
            cluster: CLUSTER,
            op: self.journal.head_op().next(),
            view: self.view,
            commit: self.commit,
            checkpoint_op: Op::ZERO,
            checkpoint_durable: Op::ZERO,
            timestamp: Timestamp(1),
            generation: Generation::ZERO,
            journal_offset: self.journal.place(PREPARE_HEADER_SIZE + size),
            requests: 1,
            operation: Operation::Requests,
            replica: ReplicaId::ZERO,
            release: RELEASE,
            ..PrepareHeader::root(CLUSTER)
        };
        let prepare = buffer.finish(header);
        let header = *prepare.header();
        let mut effects = Effects::new();
        self.journal.write(prepare, &mut effects);
        self.disk.submit(&mut effects);
        header
    }

    /// Completes the write in flight at `index`; returns the ops that became durable.
    fn complete(&mut self, index: usize) -> Vec<Op> {
        let Completion::Write { io, pages, result } = self.disk.complete(index) else {
            panic!("only writes are in flight")
        };
        let mut effects = Effects::new();
        self.journal.on_write_done(io, pages, result, &mut effects).unwrap();
        self.disk.submit(&mut effects);
        let mut ops = Vec::new();
        while let Some(prepare) = self.journal.next_durable() {
            ops.push(prepare.header().op);
        }
        ops
    }

    fn settle(&mut self) {
        loop {
            let mut effects = Effects::new();
            self.journal.flush_headers(&mut effects);
            self.disk.submit(&mut effects);
            if self.disk.pending.is_empty() {
                return;
            }
            for op in self.complete(0) {
                self.commit = self.commit.max(op);
            }
        }
    }

    /// Power cut; every sector in flight keeps what `keep` says.
    fn crash(self, keep: Keep) -> FakeDisk {
        let mut disk = self.disk;
        disk.crash(|| keep);
        disk
    }
}

fn ops(recovered: &Recovered) -> Vec<u64> {
    recovered.headers.iter().map(|header| header.op.get()).collect()
}

fn ring_byte(header: &PrepareHeader, byte: u64) -> u64 {
    Ring::new(RING).address(header.journal_offset).offset + byte
}

fn slot_byte(header: &PrepareHeader, byte: u64) -> u64 {
    Ring::new(RING).slot_offset(header.journal_offset) as u64 + byte
}

#[test]
fn header_round_trip_and_golden() {
    let mut bench = Bench::new(start_at(5 * PAGE), 1);
    let header = bench.write(5000);
    assert_eq!(PrepareHeader::decode(&header.encode()), Ok(header));
    assert_eq!(header.padded_bytes(), 2 * PAGE);
    let hash = ChainHash::of(&[&header.encode()]);
    expect_test::expect!["4eacf56f90c60e5c299e28f31e15e0b8382b061414656b8ea5c2a2f50ad7a1a3"]
        .assert_eq(&alloc::format!("{hash}"));
    for byte in 0..PREPARE_HEADER_SIZE {
        let mut bytes = header.encode();
        bytes[byte] ^= 1 << (byte % 8);
        assert_eq!(PrepareHeader::decode(&bytes), Err(PrepareError::HeaderChecksum));
    }
    assert_eq!(PrepareHeader::decode(&header.encode()[..255]), Err(PrepareError::Short));
    let root = PrepareHeader::root(CLUSTER);
    assert_eq!(PrepareHeader::decode(&root.encode()), Ok(root));
}

/// Prepares as they lie in the ring, padded; and a sector of slots, of which two hold a header and
/// the others say that they hold none. An open finds both prepares.
#[test]
fn golden_journal() {
    let start = start_at(3 * PAGE);
    let mut bench = Bench::new(start, 1);
    let prepares = [bench.write(100), bench.write(5_000)];
    bench.settle();
    let ring = Ring::new(RING);
    let mut bytes = Vec::new();
    for prepare in &prepares {
        for page in (0..prepare.padded_bytes()).step_by(PAGE_SIZE) {
            let at = ring.address(prepare.journal_offset).offset + page;
            bytes.extend_from_slice(&bench.disk.sector(at));
        }
    }
    let slots = ring.sector_address(ring.sector_of(start.journal_offset)).offset;
    let written = golden("journal.prepares", &bytes);
    let area = golden("journal.slots", &bench.disk.sector(slots));
    let mut disk = with_header_of(&start);
    for (page, bytes) in written.chunks_exact(PAGE_SIZE).enumerate() {
        let at = ring.address(start.journal_offset).offset + (page * PAGE_SIZE) as u64;
        disk.put(at, bytes.try_into().unwrap());
    }
    disk.put(slots, area.as_slice().try_into().unwrap());
    let (_, recovered) = Bench::open(disk, start, 1).unwrap();
    assert_eq!(recovered.headers, prepares);
}

#[test]
fn values_that_cannot_be_are_refused_even_with_a_right_checksum() {
    let mut bench = Bench::new(start_at(0), 1);
    let good = bench.write(10);
    let check = |change: &dyn Fn(&mut PrepareHeader)| {
        let mut bad = good;
        change(&mut bad);
        bad.seal();
        let Err(PrepareError::HeaderMalformed(_)) = PrepareHeader::decode(&bad.encode()) else {
            panic!("accepted {bad:?}")
        };
    };
    check(&|header| header.size = 255);
    check(&|header| header.size = PREPARE_SIZE_MAX as u32 + 1);
    check(&|header| header.journal_offset = 4095);
    check(&|header| header.commit = header.op);
    check(&|header| header.checkpoint_durable = Op::new(1));
    check(&|header| header.checkpoint_op = Op::new(99));
    check(&|header| header.requests = u16::MAX);
    check(&|header| header.replica = ReplicaId::new(5));
}

#[test]
fn a_prepare_is_checked_whole() {
    let mut buffer = PrepareBuffer::new();
    buffer.push(b"hello");
    buffer.push(&[7; 5000]);
    assert_eq!(buffer.len(), 5005);
    buffer.truncate(5000);
    let header = PrepareHeader { op: Op::new(1), ..PrepareHeader::root(CLUSTER) };
    let prepare = buffer.finish(header);
    let header = *prepare.header();
    assert_eq!(&prepare.body()[..5], b"hello");
    assert_eq!(prepare.body().len(), 5000);
    let pages = prepare.into_pages();
    assert!(Prepare::from_pages(&header, pages.clone()).is_ok());
    let check = |byte: usize, error: PrepareError| {
        let mut bad = pages.clone();
        bad.as_bytes_mut()[byte] ^= 1;
        assert_eq!(Prepare::from_pages(&header, bad).err(), Some(error));
    };
    check(0, PrepareError::HeaderChecksum);
    check(255, PrepareError::HeaderChecksum);
    check(256, PrepareError::BodyChecksum);
    check(5255, PrepareError::BodyChecksum);
    check(5256, PrepareError::Padding);
    check(8191, PrepareError::Padding);
    let mut short = pages.clone();
    short.resize(1);
    assert_eq!(Prepare::from_pages(&header, short).err(), Some(PrepareError::Short));
    let other = PrepareHeader { op: Op::new(2), ..header };
    let error = PrepareError::OtherPrepare { found: Op::new(1) };
    assert_eq!(Prepare::from_pages(&other, pages).err(), Some(error));
}

#[test]
fn a_reused_buffer_leaves_nothing_behind() {
    let mut buffer = PrepareBuffer::new();
    buffer.push(&[0xee; 9000]);
    let mut buffer = PrepareBuffer::reuse(buffer.into_pages());
    assert!(buffer.is_empty());
    buffer.push(b"x");
    let header = PrepareHeader { op: Op::new(1), ..PrepareHeader::root(CLUSTER) };
    let prepare = buffer.finish(header);
    assert_eq!(prepare.pages().count(), 1);
    assert!(prepare.pages().as_bytes()[257..].iter().all(|&byte| byte == 0));
}

#[test]
fn format_covers_the_file_with_vacant_slots_and_zeros_in_bounded_writes() {
    let mut disk = FakeDisk::default();
    let ring = Ring::new(RING);
    for offset in (0..ring.file_bytes()).step_by(PAGE_SIZE) {
        disk.put(offset, [0xaa; PAGE_SIZE]);
    }
    let mut effects = Effects::new();
    let mut format = JournalFormat::start(RING, &mut effects);
    disk.submit(&mut effects);
    loop {
        assert!(disk.pending.len() <= crate::limits::JOURNAL_CHUNKS_IN_FLIGHT_MAX);
        match disk.complete(disk.pending.len() - 1) {
            Completion::Write { io, pages, result } => {
                format.on_write_done(io, pages, result, &mut effects).unwrap();
            }
            Completion::Done { io } => {
                format.on_done(io, Ok(())).unwrap();
                break;
            }
            Completion::Read { .. } => unreachable!("format does not read"),
        }
        disk.submit(&mut effects);
    }
    assert_eq!(format.progress(), (ring.file_bytes(), ring.file_bytes()));
    for offset in (0..ring.header_area_bytes()).step_by(PAGE_SIZE) {
        for (slot, bytes) in disk.sector(offset).chunks_exact(PREPARE_HEADER_SIZE).enumerate() {
            let number = offset as usize / PREPARE_HEADER_SIZE + slot;
            let unit = [*b"vacant\0\0", (number as u64).to_le_bytes()].concat();
            assert_eq!(bytes, unit.repeat(16));
        }
    }
    for offset in (ring.header_area_bytes()..ring.file_bytes()).step_by(PAGE_SIZE) {
        assert_eq!(disk.sector(offset), [0; PAGE_SIZE]);
    }
}

#[test]
fn what_was_written_is_recovered_in_order() {
    for offset in [0, 5 * PAGE, 7 * RING - 3 * PAGE, 7 * RING] {
        let start = start_at(offset);
        let mut bench = Bench::new(start, 1);
        let written: Vec<_> =
            [10, 5000, 3840, 3841, 100_000].map(|size| bench.write(size)).into_iter().collect();
        bench.settle();
        let disk = bench.crash(Keep::Old);
        let (bench, recovered) = Bench::open(disk, start, 1).unwrap();
        assert_eq!(recovered.headers, written);
        assert_eq!((recovered.torn, recovered.slots_repaired), (None, 0));
        assert_eq!(bench.journal.head_checksum(), written[4].checksum);
        for header in &written {
            assert_eq!(bench.journal.header(header.op).as_ref(), Some(header));
        }
    }
}

#[test]
fn a_prepare_that_does_not_fit_begins_at_the_start_of_the_ring() {
    let start = start_at(3 * RING - 2 * PAGE);
    let mut bench = Bench::new(start, 1);
    let small = bench.write(100);
    let large = bench.write(5000);
    assert_eq!(small.journal_offset, 3 * RING - 2 * PAGE);
    assert_eq!(large.journal_offset, 3 * RING);
    assert!(bench.disk.events.contains(&Event::JournalWrapped { op: large.op }));
    // The page that was skipped counts as used.
    assert_eq!(bench.journal.used_bytes(), 4 * PAGE);
    bench.settle();
    let (_, recovered) = Bench::open(bench.crash(Keep::Old), start, 1).unwrap();
    assert_eq!(recovered.headers, [small, large]);
}

#[test]
fn the_ring_is_never_overfilled() {
    let start = start_at(2 * RING + PAGE);
    let mut bench = Bench::new(start, 1);
    let full = PREPARE_SIZE_MAX - PREPARE_HEADER_SIZE;
    for _ in 0..3 {
        assert!(bench.journal.free_after(PREPARE_SIZE_MAX).is_some());
        bench.write(full);
        bench.settle();
    }
    // The fourth would end one page past the end of the ring, so begin at its start, and there
    // reach content above the checkpoint.
    assert_eq!(bench.journal.free_after(PREPARE_SIZE_MAX), None);
    let (op, head) = (Op::new(11), bench.journal.header(Op::new(11)).unwrap());
    bench.journal.checkpoint_durable(op);
    assert_eq!(bench.journal.used_bytes(), 2 * PREPARE_SIZE_MAX as u64);
    assert!(bench.journal.free_after(PREPARE_SIZE_MAX).is_some());
    assert_eq!(bench.journal.header(op), None, "below the checkpoint");
    bench.write(full);
    bench.settle();
    let start = JournalStart {
        op,
        prepare_checksum: head.checksum,
        journal_offset: head.journal_end(),
        committed: op,
        ..start
    };
    let (_, recovered) = Bench::open(bench.crash(Keep::Old), start, 1).unwrap();
    assert_eq!(ops(&recovered), [12, 13, 14]);
}

#[test]
#[should_panic(expected = "ring content above the durable checkpoint is never overwritten")]
fn overfilling_the_ring_is_a_bug() {
    let mut bench = Bench::new(start_at(0), 1);
    for _ in 0..5 {
        bench.write(PREPARE_SIZE_MAX - PREPARE_HEADER_SIZE);
    }
}

#[test]
fn with_one_replica_durable_does_not_wait_for_the_header() {
    let mut bench = Bench::new(start_at(0), 1);
    bench.write(10);
    assert_eq!(bench.complete(0), [Op::new(11)]);
    assert!(bench.disk.pending.is_empty(), "its header waits for company");
    assert!(bench.journal.headers_unwritten());
    // Sixteen pages further the sector is full and is written once.
    for _ in 0..15 {
        bench.write(10);
        assert_eq!(bench.complete(0).len(), 1);
    }
    assert_eq!(bench.disk.pending.len(), 1);
    assert_eq!(bench.complete(0), []);
    assert!(!bench.journal.headers_unwritten());
}

#[test]
fn with_more_replicas_durable_waits_for_the_header() {
    let mut bench = Bench::new(start_at(0), 3);
    let first = bench.write(10);
    let second = bench.write(10);
    let third = bench.write(10);
    // The second first: its header goes out, and only it is acknowledged with that write.
    assert_eq!(bench.complete(1), []);
    assert_eq!(bench.disk.pending.len(), 3);
    assert_eq!(bench.complete(0), [], "the sector is being written: no second write of it");
    assert_eq!(bench.disk.pending.len(), 2);
    assert_eq!(bench.complete(1), [second.op]);
    assert_eq!(bench.disk.pending.len(), 2, "the sector again, with the first");
    assert_eq!(bench.complete(1), [first.op]);
    assert_eq!(bench.complete(0), []);
    assert_eq!(bench.complete(0), [third.op]);
    assert!(bench.disk.pending.is_empty());
}

#[test]
fn a_torn_tail_is_dropped_with_all_after_it() {
    for keep_later in [Keep::Old, Keep::New] {
        for damage in [Keep::Old, Keep::Torn(0), Keep::Torn(100), Keep::Torn(512)] {
            let start = start_at(RING - 5 * PAGE);
            let mut bench = Bench::new(start, 1);
            let first = bench.write(10);
            bench.settle();
            bench.write(5000);
            bench.write(10);
            bench.write(10);
            let mut disk = bench.disk;
            let mut index = 0;
            disk.crash(|| {
                index += 1;
                match index {
                    1 => Keep::New,
                    2 => damage,
                    _ => keep_later,
                }
            });
            let (bench, recovered) = Bench::open(disk, start, 1).unwrap();
            assert_eq!(recovered.headers, [first]);
            let torn = recovered.torn.unwrap();
            assert_eq!(torn.op, Op::new(12));
            assert!(torn.op_max_seen >= torn.op);
            assert_eq!(bench.journal.head_op(), first.op);
        }
    }
}

/// Whoever is asked whether it holds must not say that the op was never there.
#[test]
fn a_bit_flipped_in_the_newest_prepare_is_not_silence() {
    // In the header's checksum, body's checksum, parent, op, commit, size; in the body; in both laps.
    for start_offset in [0, 3 * RING] {
        for byte in [0, 40, 70, 112, 130, 178, 260] {
            let start = start_at(start_offset);
            let mut bench = Bench::new(start, 1);
            let first = bench.write(10);
            bench.settle();
            let newest = bench.write(100);
            let mut disk = bench.crash(Keep::New);
            disk.flip(Ring::new(RING).address(newest.journal_offset).offset + byte);
            let (_, recovered) = Bench::open(disk, start, 1).unwrap();
            assert_eq!(recovered.headers, [first], "byte {byte}");
            let torn = TornTail { op: newest.op, op_max_seen: newest.op, damaged: true };
            assert_eq!(recovered.torn, Some(torn), "byte {byte}");
        }
    }
}

/// Prepares 11 to 13 after a checkpoint of op 10 whose own prepare is in the ring, all with their
/// headers on the disk.
fn journal_of_three() -> (FakeDisk, JournalStart, PrepareHeader) {
    let start = JournalStart { op: Op::new(9), committed: Op::new(9), ..start_at(0) };
    let mut bench = Bench::new(start, 1);
    let checkpoint = bench.write(10);
    for _ in 0..3 {
        bench.write(10);
    }
    bench.settle();
    let disk = bench.crash(Keep::Old);
    let start = JournalStart {
        op: checkpoint.op,
        prepare_checksum: checkpoint.checksum,
        journal_offset: checkpoint.journal_end(),
        ..start_at(0)
    };
    (disk, start, checkpoint)
}

#[test]
fn a_journal_that_ends_before_the_checkpoint_is_not_that_of_the_checkpoint() {
    let (disk, start, checkpoint) = journal_of_three();
    assert_eq!(Bench::open(disk, start, 1).unwrap().1.headers.len(), 3);
    let of = |newest| Evidence::Checkpoint { op: checkpoint.op, newest };
    let rotten = |newest| {
        let (op, offset) = (checkpoint.op.next(), start.journal_offset);
        Err(JournalError::Rotten { op, offset, evidence: of(newest) })
    };
    let open = |disk| Bench::open(disk, start, 1).map(|(_, recovered)| recovered.headers.len());
    // Zeros, a new one, noise, and that of another cluster.
    assert_eq!(open(FakeDisk::default()), rotten(Op::ZERO));
    assert_eq!(open(FakeDisk::formatted()), rotten(Op::ZERO));
    let mut noise = FakeDisk::default();
    for offset in (0..Ring::new(RING).file_bytes()).step_by(PAGE_SIZE) {
        let seed = InternalHash::of(InternalDomain::Fingerprint, &[&offset.to_le_bytes()]).0;
        noise.put(offset, core::array::from_fn(|at| seed[at % 32] ^ (at / 32) as u8));
    }
    assert_eq!(open(noise), rotten(Op::ZERO));
    let (other, ..) = journal_of_three();
    let stranger = JournalStart { cluster: ClusterId::new(99), ..start };
    let found = Bench::open(other, stranger, 1).map(|_| ());
    assert_eq!(found, rotten(Op::ZERO).map(|_: usize| ()));
    // An older one of its own: up to op 8.
    let old = JournalStart { op: Op::new(6), committed: Op::new(6), ..start_at(0) };
    let mut bench = Bench::new(old, 1);
    bench.write(10);
    bench.write(10);
    bench.settle();
    assert_eq!(open(bench.crash(Keep::Old)), rotten(Op::new(8)));
    // The checkpoint's own prepare may rot: it is not needed.
    let near = JournalStart { op: Op::new(8), committed: Op::new(8), ..start_at(0) };
    let mut bench = Bench::new(near, 1);
    bench.write(10);
    let (_, recovered) = Bench::open(bench.crash(Keep::New), start, 1).unwrap();
    assert!(recovered.headers.is_empty());
}

/// Slots are never zeros, nor noise, unless they were damaged: what was there may have counted.
#[test]
fn a_tail_that_was_lost_with_its_headers_is_not_silence() {
    for lost in [[0; PAGE_SIZE], [0xA5; PAGE_SIZE]] {
        let (mut disk, start, _) = journal_of_three();
        let (_, whole) = Bench::open(disk.clone(), start, 1).unwrap();
        disk.put(0, lost);
        for header in &whole.headers[1..] {
            disk.put(Ring::new(RING).address(header.journal_offset).offset, lost);
        }
        let (_, recovered) = Bench::open(disk, start, 1).unwrap();
        assert_eq!(recovered.headers, whole.headers[..1]);
        let op = whole.headers[1].op;
        assert_eq!(recovered.torn, Some(TornTail { op, op_max_seen: op, damaged: true }));
    }
}

#[test]
fn later_prepares_whole_and_with_headers_do_not_prove_an_earlier_one() {
    let start = start_at(0);
    let mut bench = Bench::new(start, 1);
    bench.write(10);
    bench.write(10);
    bench.write(10);
    // 12 and 13 become durable, with their headers; 11 stays in flight.
    bench.complete(2);
    bench.complete(1);
    let mut effects = Effects::new();
    bench.journal.flush_headers(&mut effects);
    bench.disk.submit(&mut effects);
    assert_eq!(bench.complete(1), []);
    let disk = bench.crash(Keep::Old);
    let (mut bench, recovered) = Bench::open(disk, start, 1).unwrap();
    assert!(recovered.headers.is_empty());
    let torn = TornTail { op: Op::new(11), op_max_seen: Op::new(13), damaged: false };
    assert_eq!(recovered.torn, Some(torn));
    // A new history over the old one, same sizes: 12 of the old one neither joins nor proves.
    bench.view = View::new(4);
    let start = JournalStart { view: View::new(4), ..start };
    let new = bench.write(10);
    bench.settle();
    bench.write(10);
    let mut torn = bench.disk.clone();
    torn.crash(|| Keep::Torn(100));
    let (_, recovered) = Bench::open(torn, start, 1).unwrap();
    assert_eq!(recovered.headers, [new]);
    // And when the new 12 did not reach the disk at all, the old 12 is still there, whole.
    let (_, recovered) = Bench::open(bench.crash(Keep::Old), start, 1).unwrap();
    assert_eq!(recovered.headers, [new]);
}

#[test]
fn a_redundant_header_makes_a_damaged_prepare_rotten() {
    let start = start_at(0);
    let mut bench = Bench::new(start, 1);
    bench.write(10);
    let last = bench.write(5000);
    bench.settle();
    let disk = bench.crash(Keep::Old);
    for byte in [256, 4095, 4096, 8191] {
        let mut disk = disk.clone();
        disk.flip(ring_byte(&last, byte));
        let error = Bench::open(disk, start, 1).err();
        let (op, offset) = (last.op, last.journal_offset);
        let evidence = Evidence::Header;
        assert_eq!(error, Some(JournalError::Rotten { op, offset, evidence }), "byte {byte}");
    }
    // Without the header it cannot be told from a torn write: the risk that remains.
    let mut disk = disk.clone();
    disk.flip(ring_byte(&last, 0));
    disk.flip(slot_byte(&last, 0));
    let (_, recovered) = Bench::open(disk, start, 1).unwrap();
    assert_eq!(ops(&recovered), [11]);
}

#[test]
fn a_damaged_header_is_restored_from_the_redundant_one() {
    let start = start_at(RING - 3 * PAGE);
    let mut bench = Bench::new(start, 1);
    let written: Vec<_> = [10, 5000, 0, 9000, 10].map(|size| bench.write(size)).into();
    bench.settle();
    let disk = bench.crash(Keep::Old);
    for damaged in 0..written.len() {
        for byte in [0, 40, 255] {
            let mut disk = disk.clone();
            disk.flip(ring_byte(&written[damaged], byte));
            let (mut bench, recovered) = Bench::open(disk, start, 1).unwrap();
            assert_eq!(recovered.headers, written, "prepare {damaged}, byte {byte}");
            assert!(bench.journal.is_restoring());
            // A crash in the middle of the repair harms nothing.
            let mut torn = bench.disk.clone();
            torn.crash(|| Keep::Torn(128));
            let (_, recovered) = Bench::open(torn, start, 1).unwrap();
            assert_eq!(recovered.headers, written);
            bench.settle();
            assert!(!bench.journal.is_restoring());
            let mut disk = bench.crash(Keep::Old);
            // The ring is whole again: now the redundant header may go.
            disk.flip(slot_byte(&written[damaged], byte));
            let (bench, recovered) = Bench::open(disk, start, 1).unwrap();
            assert_eq!(recovered.headers, written);
            assert!(!bench.journal.is_restoring());
        }
    }
    // A whole page of something else in its place: the body is not there, nothing is invented.
    let mut disk = disk.clone();
    disk.put(ring_byte(&written[1], 0), [0x55; PAGE_SIZE]);
    let (op, offset) = (written[1].op, written[1].journal_offset);
    let evidence = Evidence::Header;
    let error = Bench::open(disk, start, 1).err();
    assert_eq!(error, Some(JournalError::Rotten { op, offset, evidence }));
}

/// Pages that cannot be read stop an open only where an acknowledged prepare may be.
#[test]
fn unreadable_pages_matter_where_the_chain_goes_on() {
    let start = start_at(PAGE * 100);
    let mut bench = Bench::new(start, 1);
    let written: Vec<_> = [10, 5000, 10].map(|size| bench.write(size)).into();
    bench.settle();
    let disk = bench.crash(Keep::Old);
    let ring = Ring::new(RING);
    let check = |offset: u64, readable: bool| {
        let mut disk = disk.clone();
        disk.unreadable = Some(offset);
        let opened = Bench::open(disk, start, 1);
        if readable {
            let (bench, recovered) = opened.unwrap();
            assert_eq!(recovered.headers, written, "byte {offset}");
            assert_eq!(recovered.pages_unreadable, 1);
            assert!(bench.disk.events.contains(&Event::JournalPageUnreadable { offset }));
        } else {
            let error = JournalError::Io { error: IoError::Device, what: "read", offset };
            assert_eq!(opened.err(), Some(error), "byte {offset}");
        }
    };
    // In the chain, in a body, and where the next prepare would be.
    check(ring_byte(&written[0], 0), false);
    check(ring_byte(&written[1], 0), false);
    check(ring_byte(&written[1], PAGE), false);
    check(ring_byte(&written[2], PAGE), false);
    // Before the chain, after its end, and redundant headers.
    check(ring.address(99 * PAGE).offset, true);
    check(ring_byte(&written[2], 2 * PAGE), true);
    check(ring.address(0).offset, true);
    for sector in 0..ring.sectors() as u64 {
        check(sector * PAGE, true);
    }
    // Redundant headers that could not be read are written again.
    let mut bad = disk.clone();
    bad.unreadable = Some(ring.slot_offset(written[0].journal_offset) as u64 / PAGE * PAGE);
    let (mut bench, recovered) = Bench::open(bad, start, 1).unwrap();
    assert_eq!(recovered.slots_repaired, 3);
    bench.disk.unreadable = None;
    bench.settle();
    let (_, recovered) = Bench::open(bench.crash(Keep::Old), start, 1).unwrap();
    assert_eq!(recovered.slots_repaired, 0);
}

/// Near the end of the ring the next prepare has two places.
#[test]
fn both_places_of_the_next_prepare_must_be_readable() {
    let start = start_at(RING - 100 * PAGE);
    let mut bench = Bench::new(start, 1);
    let last = bench.write(10);
    bench.settle();
    let mut disk = bench.crash(Keep::Old);
    disk.unreadable = Some(Ring::new(RING).address(0).offset);
    assert!(matches!(Bench::open(disk.clone(), start, 1), Err(JournalError::Io { .. })));
    disk.unreadable = Some(Ring::new(RING).address(PAGE).offset);
    assert_eq!(Bench::open(disk, start, 1).unwrap().1.headers, [last]);
}

#[test]
fn a_later_commit_number_makes_a_damaged_prepare_rotten() {
    let start = start_at(0);
    let mut bench = Bench::new(start, 1);
    let first = bench.write(10);
    bench.settle();
    let second = bench.write(10);
    bench.settle();
    let mut disk = bench.crash(Keep::Old);
    disk.flip(ring_byte(&first, 0));
    disk.flip(slot_byte(&first, 0));
    let (op, offset) = (first.op, first.journal_offset);
    let evidence = Evidence::Later { op: second.op, commit: first.op };
    let error = JournalError::Rotten { op, offset, evidence };
    assert_eq!(Bench::open(disk.clone(), start, 1).err(), Some(error));
    // The redundant header of the later one is proof enough.
    disk.flip(ring_byte(&second, 0));
    assert_eq!(Bench::open(disk, start, 1).err(), Some(error));
}

#[test]
fn the_superblocks_word_makes_a_missing_prepare_rotten() {
    let start = JournalStart { committed: Op::new(12), ..start_at(0) };
    let mut bench = Bench::new(start_at(0), 1);
    bench.write(10);
    bench.settle();
    let disk = bench.crash(Keep::Old);
    let (op, offset) = (Op::new(12), PAGE);
    let evidence = Evidence::Superblock { committed: op };
    let error = JournalError::Rotten { op, offset, evidence };
    assert_eq!(Bench::open(disk, start, 1).err(), Some(error));
}

#[test]
fn damaged_redundant_headers_are_written_again() {
    let start = start_at(0);
    let mut bench = Bench::new(start, 1);
    let written: Vec<_> = (0..20)
        .map(|_| {
            let header = bench.write(10);
            bench.settle();
            header
        })
        .collect();
    let mut disk = bench.crash(Keep::Old);
    disk.flip(slot_byte(&written[3], 9));
    disk.put(PAGE, [0x55; PAGE_SIZE]);
    let (mut bench, recovered) = Bench::open(disk, start, 1).unwrap();
    assert_eq!(recovered.headers, written);
    assert_eq!(recovered.slots_repaired, 5);
    bench.settle();
    let (_, recovered) = Bench::open(bench.crash(Keep::Old), start, 1).unwrap();
    assert_eq!(recovered.slots_repaired, 0);
}

#[test]
fn a_journal_ahead_of_the_superblock_is_refused() {
    let start = start_at(0);
    let mut bench = Bench::new(start, 1);
    bench.view = View::new(4);
    let header = bench.write(10);
    bench.settle();
    let disk = bench.crash(Keep::Old);
    let error = JournalError::SuperblockStale {
        op: header.op,
        view: View::new(4),
        checkpoint_durable: Op::ZERO,
    };
    assert_eq!(Bench::open(disk.clone(), start, 1).err(), Some(error));
    let ours = JournalStart { release: Release::ZERO, view: View::new(4), ..start };
    let error = JournalError::NewerRelease { op: header.op, found: RELEASE, known: Release::ZERO };
    assert_eq!(Bench::open(disk.clone(), ours, 1).err(), Some(error));
    // Prepares of another cluster are so many random bytes.
    let other = JournalStart { cluster: ClusterId::new(8), ..start };
    // Nothing of another cluster counts, and then nothing is left.
    let evidence = Evidence::Checkpoint { op: other.op, newest: Op::ZERO };
    let error = JournalError::Rotten { op: other.op.next(), offset: 0, evidence };
    assert_eq!(Bench::open(disk, other, 1).err(), Some(error));
}

#[test]
fn of_two_places_the_later_view_wins() {
    // The old op 12 fits before the end of the ring; the new one, of a later view, does not.
    let start = start_at(RING - 2 * PAGE);
    let mut bench = Bench::new(start, 1);
    let first = bench.write(10);
    bench.settle();
    let before = bench.disk.clone();
    let old = bench.write(10);
    bench.settle();
    let (sector, at) = (bench.disk.sector(ring_byte(&old, 0)), ring_byte(&old, 0));
    // As if the old 12 had been misread once: dropped, and written over by a larger one.
    let later = JournalStart { view: View::new(4), ..start };
    let (mut bench, _) = Bench::open(before, later, 1).unwrap();
    let new = bench.write(5000);
    let next = bench.write(10);
    bench.settle();
    assert_eq!((old.op, new.journal_offset), (new.op, RING));
    let mut disk = bench.crash(Keep::Old);
    disk.put(at, sector);
    let (_, recovered) = Bench::open(disk.clone(), later, 1).unwrap();
    assert_eq!(recovered.headers, [first, new, next]);
    // And if the new one rots, the old one does not stand in for it.
    disk.flip(ring_byte(&new, 5000));
    let error = Bench::open(disk, later, 1).err();
    let (op, offset) = (new.op, new.journal_offset);
    assert_eq!(error, Some(JournalError::Rotten { op, offset, evidence: Evidence::Header }));
}

#[test]
fn reads_are_checked_against_what_was_recovered() {
    let start = start_at(0);
    let mut bench = Bench::new(start, 1);
    let header = bench.write(5000);
    bench.settle();
    let mut effects = Effects::new();
    let mut read = |bench: &mut Bench| {
        bench.journal.read(header.op, Pages::zeroed(0), &mut effects);
        bench.disk.submit(&mut effects);
        let Completion::Read { io, pages, result } = bench.disk.complete(0) else {
            panic!("a read")
        };
        bench.journal.on_read_done(io, pages, result, &mut effects)
    };
    assert_eq!(read(&mut bench), Ok(()));
    assert_eq!(bench.journal.next_read().unwrap().header(), &header);
    bench.disk.flip(ring_byte(&header, 4000));
    let (op, offset) = (header.op, header.journal_offset);
    let error = JournalError::Rotten { op, offset, evidence: Evidence::Opened };
    assert_eq!(read(&mut bench), Err(error));
}

#[test]
fn disk_errors_stop_the_journal() {
    let start = start_at(0);
    let mut bench = Bench::new(start, 1);
    let header = bench.write(10);
    bench.disk.write_error = Some(IoError::NoSpace);
    let Completion::Write { io, pages, result } = bench.disk.complete(0) else { panic!("a write") };
    let outcome = bench.journal.on_write_done(io, pages, result, &mut Effects::new());
    let offset = ring_byte(&header, 0);
    let error = JournalError::Io { error: IoError::NoSpace, what: "write", offset };
    assert_eq!(outcome, Err(error));
    assert!(bench.journal.next_durable().is_none(), "nothing is acknowledged");
}

#[test]
fn walk_offline_finds_the_same() {
    let start = start_at(3 * RING - 7 * PAGE);
    let mut bench = Bench::new(start, 1);
    let written: Vec<_> = [10, 20_000, 90_000, 3_000].map(|size| bench.write(size)).into();
    bench.settle();
    let disk = bench.crash(Keep::Old);
    let walked = walk(start, |offset, bytes| {
        disk.read(offset, bytes);
        Ok::<(), ()>(())
    });
    assert_eq!(walked.unwrap().unwrap().headers, written);
    assert_eq!(walk(start, |_, _| Err("unreadable")).err(), Some("unreadable"));
    assert_eq!(Ring::new(RING).address(0).file, FileId::Journal);
}
