//! Segments that are repaired with the blocks of peers, which lie, are late, or know nothing.

use super::*;
use crate::time::Instant;

const PEERS: u64 = 2;

/// A replica whose segments are damaged, and what its peers hold of them.
struct Repaired {
    bench: Bench,
    peers: Vec<Disk>,
    now: Instant,
    /// How often each peer was asked.
    asked: Vec<u64>,
    /// All that segment 1 may ever be.
    allowed: Option<[Vec<u8>; 2]>,
}

impl Repaired {
    /// Segments of 400 positions: two whole ones and a part.
    fn new() -> Repaired {
        let mut bench = Bench::new(400);
        fill(&mut bench);
        let copy = || Disk { files: bench.disk.files.clone(), ..Disk::default() };
        let peers = Vec::from([copy(), copy()]);
        let asked = alloc::vec![0; PEERS as usize];
        let mut repaired = Repaired { bench, peers, now: Instant(1), asked, allowed: None };
        repaired.restart();
        repaired
    }

    fn restart(&mut self) {
        self.bench.restart();
        self.bench.logs.repair_from_peers();
        self.bench.events.clear();
        self.asked.fill(0);
    }

    /// One message to a peer and back.
    fn ask(&mut self) {
        let Bench { logs, effects, .. } = &mut self.bench;
        self.now = self.now.plus_ns(100 * crate::time::MILLISECOND_NS);
        let Some(wanted) = logs.blocks_wanted(self.now, PEERS, effects) else { return };
        let nth = (wanted.turn % PEERS) as usize;
        self.asked[nth] += 1;
        let file = segment_file(wanted.segment.get());
        let offset = wanted.block * PAGE_SIZE as u64;
        let mut bytes = alloc::vec![0; wanted.count as usize * PAGE_SIZE];
        if self.peers[nth].files.contains_key(&file) {
            self.peers[nth].read(file, offset, &mut bytes);
        } else {
            bytes.clear();
        }
        logs.on_blocks(wanted.serial, &bytes, effects);
    }

    fn read(&mut self, position: u64) -> Result<Record, LogFault> {
        let mut pins = LogPins::default();
        for _ in 0..10_000 {
            let head = self.bench.head(TENANT);
            match self.bench.logs.read(TENANT, &head, Position::new(position)) {
                Err(LogFault::Missing) => {}
                result => {
                    self.bench.logs.release(&mut pins);
                    self.bench.run(usize::MAX);
                    return result;
                }
            }
            self.bench.logs.fetch(&mut pins, &mut self.bench.effects);
            while !self.bench.logs.fetched(&pins) {
                self.bench.run(1);
                self.ask();
                self.watch();
            }
        }
        panic!("a read makes no progress");
    }

    fn watch(&self) {
        if let Some(allowed) = &self.allowed {
            assert!(allowed.contains(&self.bench.segment(1)), "bytes that belong nowhere");
        }
    }

    /// All of the log, once.
    fn scrub(&mut self) {
        for _ in 0..100_000 {
            self.watch();
            let head = self.bench.head(TENANT);
            let Bench { logs, effects, .. } = &mut self.bench;
            let step = logs.scrub_step(TENANT, &head, effects);
            self.bench.run(usize::MAX);
            self.ask();
            if step == ScrubStep::Done {
                return;
            }
        }
        panic!("scrubbing a log never ends");
    }

    fn damage(&mut self, number: u32, from: usize, bytes: &[u8]) {
        let file = self.bench.disk.files.get_mut(&segment_file(number)).unwrap();
        file[from..from + bytes.len()].copy_from_slice(bytes);
    }

    /// A record of each segment that begins in, or runs through, each block.
    fn positions(&self) -> Vec<(u32, usize, u64)> {
        let mut found = Vec::new();
        for (position, (offset, metadata)) in (0_u64..).zip(self.bench.verify().unwrap()) {
            let number = (position / 400) as u32;
            let size = HEADER_SIZE + metadata.data_length as usize;
            for block in offset as usize / PAGE_SIZE..=(offset as usize + size - 1) / PAGE_SIZE {
                found.push((number, block, position));
            }
        }
        found.dedup_by_key(|(number, block, _)| (*number, *block));
        found
    }

    /// A record that is in this block, which is not damaged yet.
    fn position_in(&self, number: u32, block: usize) -> u64 {
        let of = |(n, b, _): &(u32, usize, u64)| (*n, *b) == (number, block);
        self.positions().into_iter().find(of).unwrap().2
    }
}

#[test]
fn every_block_is_repaired_when_a_read_meets_it() {
    let mut repaired = Repaired::new();
    let good: Vec<_> = (0..3).map(|number| repaired.bench.segment(number)).collect();
    for (number, block, position) in repaired.positions() {
        let index = repaired.bench.disk.files[&index_file(number)].clone();
        repaired.damage(number, block * PAGE_SIZE, &[0xA5; PAGE_SIZE]);
        repaired.restart();
        let record = repaired.read(position).unwrap();
        assert_eq!(record.metadata.position.get(), position);
        let seen = repaired.bench.seen("SegmentBlocksRepaired");
        assert_eq!(seen, 1, "block {block} of segment {number}");
        assert!(repaired.bench.segment(number) == good[number as usize]);
        assert!(repaired.bench.disk.files[&index_file(number)] == index);
    }
}

/// Headers are made from the own index, whatever peers say; without an index only by a rebuild
/// that meets the header.
#[test]
fn headers_many_blocks_lost_indexes_and_files_cut_short_are_repaired() {
    let good: Vec<_> = (0..3).map(|number| Repaired::new().bench.segment(number)).collect();
    for number in 0..3 {
        for kind in 0..5 {
            let mut repaired = Repaired::new();
            let blocks = good[number as usize].len() / PAGE_SIZE;
            match kind {
                0 => repaired.damage(number, 0, &[0; PAGE_SIZE]),
                1 => {
                    for block in (1..blocks).step_by(3) {
                        repaired.damage(number, block * PAGE_SIZE + 700, &[1, 2, 3]);
                    }
                }
                2 => repaired.damage(number, PAGE_SIZE, &alloc::vec![0; 9 * PAGE_SIZE]),
                3 => {
                    let file = repaired.bench.disk.files.get_mut(&segment_file(number)).unwrap();
                    file.truncate((blocks - 7) * PAGE_SIZE - 1_000);
                }
                _ => {
                    for file in 0..=number {
                        repaired.bench.disk.files.remove(&index_file(file));
                    }
                    repaired.damage(number, 0, &[0; 3 * PAGE_SIZE]);
                    repaired.damage(number, (blocks - 2) * PAGE_SIZE, &[0; 2 * PAGE_SIZE]);
                }
            }
            if kind == 0 {
                repaired.bench.disk.files.remove(&index_file(number));
            }
            repaired.restart();
            for position in (0..1_000).filter(|position| position / 400 == u64::from(number)) {
                repaired.read(position).unwrap_or_else(|fault| {
                    panic!("segment {number}, kind {kind}, position {position}: {fault}")
                });
            }
            let here = repaired.bench.segment(number);
            assert!(here == good[number as usize], "segment {number}, kind {kind}");
        }
    }
}

/// Peers that are damaged in the same place, one or both; that have another history; that have
/// nothing. Nothing of theirs is ever written unless it is right.
#[test]
fn what_a_peer_gives_is_never_believed() {
    for liar in 0..2 {
        for kind in 0..4 {
            let mut repaired = Repaired::new();
            let position = repaired.position_in(1, 6);
            let good = repaired.bench.segment(1);
            let at = 6 * PAGE_SIZE;
            repaired.damage(1, at, &[0xA5; PAGE_SIZE]);
            let bad = repaired.bench.segment(1);
            let file = repaired.peers[liar].files.get_mut(&segment_file(1)).unwrap();
            match kind {
                0 => file[at..at + PAGE_SIZE].fill(0xA5),
                1 => file[at + 2_000] ^= 1,
                2 => *file = other_history(),
                _ => file.clear(),
            }
            repaired.restart();
            repaired.allowed = Some([bad, good.clone()]);
            repaired.read(position).unwrap();
            assert!(repaired.bench.segment(1) == good, "liar {liar}, kind {kind}");
        }
    }
}

/// Each replica lost other blocks of one stretch: together they have it.
#[test]
fn peers_that_are_damaged_next_to_it_help_all_the_same() {
    for (own, first, second) in [(4..9, 9..14, 14..19), (4..20, 20..24, 1..4), (6..7, 5..6, 7..8)] {
        let mut repaired = Repaired::new();
        let good = repaired.bench.segment(1);
        for block in own {
            repaired.damage(1, block * PAGE_SIZE, &[0xA5; PAGE_SIZE]);
        }
        for (peer, blocks) in [(0, first), (1, second)] {
            let file = repaired.peers[peer].files.get_mut(&segment_file(1)).unwrap();
            for block in blocks {
                file[block * PAGE_SIZE..(block + 1) * PAGE_SIZE].fill(0x5A);
            }
        }
        repaired.restart();
        repaired.scrub();
        assert!(repaired.bench.segment(1) == good);
        assert_eq!(repaired.bench.seen("SegmentRepairFailed"), 0);
    }
}

#[test]
fn what_nobody_has_is_named_and_tried_again_later() {
    let mut repaired = Repaired::new();
    let good = repaired.bench.segment(1);
    let position = repaired.position_in(1, 6);
    repaired.damage(1, 6 * PAGE_SIZE, &[0xA5; PAGE_SIZE]);
    let bad = repaired.bench.segment(1);
    for peer in 0..2 {
        let file = repaired.peers[peer].files.get_mut(&segment_file(1)).unwrap();
        file[6 * PAGE_SIZE..7 * PAGE_SIZE].fill(0x11);
    }
    repaired.restart();
    let Err(LogFault::Damaged(damage)) = repaired.read(position) else { panic!("nobody has it") };
    assert_eq!((damage.tenant, damage.segment.get()), (TENANT, 1));
    assert_eq!(damage.position.get(), position);
    assert_eq!(repaired.bench.seen("SegmentRepairFailed"), 1);
    assert!(repaired.bench.segment(1) == bad, "nothing was written");
    assert!(repaired.asked.iter().all(|asked| *asked > 1), "{:?}", repaired.asked);
    // Others are read as before.
    repaired.read(401).unwrap();
    // Soon after, the same: no peer is asked.
    let asked = repaired.asked.clone();
    assert!(matches!(repaired.read(position), Err(LogFault::Damaged(_))));
    assert_eq!(repaired.asked, asked);
    for peer in &mut repaired.peers {
        peer.files.insert(segment_file(1), good.clone());
    }
    for _ in 0..110 {
        repaired.ask();
    }
    repaired.read(position).unwrap();
    assert!(repaired.bench.segment(1) == good);
}

/// Any byte of any block, padding and headers among them, and whole blocks.
#[test]
fn what_nobody_reads_is_found_and_repaired() {
    let mut repaired = Repaired::new();
    let good: Vec<_> = (0..3).map(|number| repaired.bench.segment(number)).collect();
    repaired.scrub();
    assert_eq!(repaired.bench.logs.scrubbed().1, 0);
    let mut random = Random(4711);
    for number in 0..3 {
        let blocks = good[number as usize].len() / PAGE_SIZE;
        for block in 0..blocks {
            let at = block * PAGE_SIZE + random.below(PAGE_SIZE as u64) as usize;
            let flipped = good[number as usize][at] ^ (1 << random.below(8));
            repaired.damage(number, at, &[flipped]);
            repaired.restart();
            repaired.scrub();
            assert_eq!(repaired.bench.logs.scrubbed().1, 1, "byte {at} of segment {number}");
            assert!(repaired.bench.segment(number) == good[number as usize]);
        }
    }
    for number in 0..3 {
        repaired.damage(number, 3 * PAGE_SIZE, &[0; 2 * PAGE_SIZE]);
    }
    repaired.restart();
    repaired.scrub();
    assert!((0..3).all(|number| repaired.bench.segment(number) == good[number as usize]));
}

/// Blocks of segments and indexes that answer EIO until they are written, one and several at once.
#[test]
fn what_the_device_does_not_give_is_repaired_as_if_it_had_rotted() {
    let mut repaired = Repaired::new();
    let good: Vec<_> = (0..3).map(|number| repaired.bench.segment(number)).collect();
    for (number, block, position) in repaired.positions() {
        let file = segment_file(number);
        repaired.bench.disk.unreadable.insert((file, block as u64));
        repaired.bench.disk.unreadable.insert((index_file(number), 1));
        repaired.restart();
        let record = repaired.read(position).unwrap();
        assert_eq!(record.metadata.position.get(), position);
        assert!(repaired.bench.seen("BlocksUnreadable") > 1, "block {block} of {number}");
        assert_eq!(repaired.bench.seen("SegmentBlocksRepaired"), 1, "block {block} of {number}");
        assert!(repaired.bench.disk.unreadable.is_empty());
        assert!(repaired.bench.segment(number) == good[number as usize]);
    }
    for number in 0..3 {
        for block in [0, 2, 3, 5] {
            repaired.bench.disk.unreadable.insert((segment_file(number), block));
        }
    }
    repaired.restart();
    repaired.scrub();
    assert!(repaired.bench.disk.unreadable.is_empty());
    assert!((0..3).all(|number| repaired.bench.segment(number) == good[number as usize]));
}

/// One read gives other blocks than those that were asked for, whichever it is. What was verified is
/// not believed a second time: all that is written is what belongs there.
#[test]
fn a_read_that_went_astray_is_never_repaired_into_the_segment() {
    let good = Repaired::new().bench.segment(1);
    for block in [1, 4, 6] {
        for nth in 0.. {
            let mut repaired = Repaired::new();
            let position = repaired.position_in(1, block);
            repaired.damage(1, block * PAGE_SIZE + 3_000, &[0xA5; PAGE_SIZE - 3_000]);
            let bad = repaired.bench.segment(1);
            repaired.restart();
            repaired.bench.misread = Some(nth);
            repaired.allowed = Some([good.clone(), bad]);
            assert_eq!(repaired.read(position).unwrap().metadata.position.get(), position);
            repaired.scrub();
            assert!(repaired.bench.segment(1) == good, "block {block}, read {nth}");
            if repaired.bench.misread.is_some() {
                assert!(nth > 4, "{nth} reads are too few to go astray");
                break;
            }
        }
    }
}

/// Alone it is told, once a tour, and the rest is looked at.
#[test]
fn on_one_node_damage_is_counted_by_scrubbing() {
    let mut repaired = Repaired::new();
    for number in 0..3 {
        repaired.damage(number, 3 * PAGE_SIZE, &[0; PAGE_SIZE]);
    }
    repaired.bench.restart();
    repaired.bench.events.clear();
    for tour in 1..3 {
        repaired.scrub();
        assert_eq!(repaired.bench.logs.scrubbed().1, 3 * tour);
        assert_eq!(repaired.bench.seen("BlockCorrupt") as u64, 3 * tour);
    }
}

#[test]
fn on_one_node_damage_is_named_at_once() {
    let mut repaired = Repaired::new();
    let position = repaired.position_in(1, 6);
    repaired.damage(1, 6 * PAGE_SIZE, &[0xA5; PAGE_SIZE]);
    repaired.bench.restart();
    assert!(matches!(repaired.read(position), Err(LogFault::Damaged(_))));
    assert_eq!(repaired.asked, [0, 0]);
}

/// The same records in the same places, of other ops: another chain.
fn other_history() -> Vec<u8> {
    let mut other = Bench::new(400);
    other.op = 5_000;
    fill(&mut other);
    other.segment(1)
}

fn fill(bench: &mut Bench) {
    for position in 0..1_000 {
        bench.append_sized(TENANT, if position % 97 == 5 { 9_000 } else { position % 300 });
        if position % 90 == 0 {
            bench.checkpoint();
        }
    }
    bench.checkpoint();
}
