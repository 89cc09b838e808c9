//! Damage: every flipped byte is seen; an index is rebuilt, once, with one warning.

use super::*;

fn small() -> Bench {
    let mut bench = Bench::new(1_000);
    bench.append_sized(TENANT, 10);
    bench.append_sized(TENANT, 3_900);
    bench.append_checkpoint_record(TENANT);
    bench.checkpoint();
    bench.append_sized(TENANT, 100);
    bench.checkpoint();
    bench
}

#[test]
fn every_flipped_byte_of_a_segment_is_detected() {
    let mut bench = small();
    bench.verify().unwrap();
    let good = bench.segment(0);
    assert_eq!(good.len() as u64, bench.head(TENANT).segment_offset);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        bench.disk.files.insert(segment_file(0), bad);
        let damage = bench.verify().expect_err("a flipped byte goes unseen");
        assert!(damage.offset <= at as u64 && damage.checkpointed, "byte {at}: {damage}");
    }
    for length in 0..good.len() / PAGE_SIZE {
        bench.disk.files.insert(segment_file(0), good[..length * PAGE_SIZE].to_vec());
        assert_eq!(bench.verify().unwrap_err().reason, DamageReason::Truncated);
    }
}

/// Whatever a stranger hands over as a segment, a head or a claim: an error, never a panic, and
/// never more memory than one record.
#[test]
fn hostile_bytes_are_refused() {
    let bench = small();
    let good = bench.segment(0);
    let head = bench.head(TENANT).encode();
    let mut random = Random(99);
    for round in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(8) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        if round % 2 == 0 {
            // A header that is whole, but lies.
            let crc = crc32fast::hash(&bytes[16..PAGE_SIZE]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        }
        for number in [0, 1, u32::MAX] {
            let number = SegmentNumber::new(number);
            let start = SegmentStart { tenant: TENANT, number, before: None };
            let mut verifier = SegmentVerifier::new(start, SegmentExtent::Unknown);
            if verifier.push(&bytes, |_| Ok(())).is_ok() {
                let _ = verifier.finish();
            }
        }
        let mut bytes = head.clone();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] = random.next() as u8;
        let _ = LogHead::decode(&bytes[..random.below(bytes.len() as u64 + 1) as usize]);
        let _ = CheckpointRecord::decode(&bytes);
    }
}

#[test]
fn garbage_behind_the_checkpoint_is_no_damage() {
    let mut bench = small();
    let content = bench.disk.files.get_mut(&segment_file(0)).unwrap();
    content.extend_from_slice(&[0xaa; 3 * PAGE_SIZE]);
    assert_eq!(bench.verify().unwrap().len(), 4);
    // Who does not know how far the log goes is told that it may simply end there.
    let start = SegmentStart { tenant: TENANT, number: SegmentNumber::ZERO, before: None };
    let mut verifier = SegmentVerifier::new(start, SegmentExtent::Unknown);
    let damage = verifier.push(&bench.segment(0), |_| Ok(())).unwrap_err();
    assert!(!damage.checkpointed);
    assert_eq!(damage.position, Position::new(4));
}

#[test]
fn a_damaged_record_is_named_and_the_others_are_read() {
    let mut bench = small();
    let (offset, _) = bench.verify().unwrap()[1];
    bench.disk.files.get_mut(&segment_file(0)).unwrap()[offset as usize + 1_000] ^= 4;
    bench.restart();
    let Err(LogFault::Damaged(damage)) = bench.read(1) else { panic!("damage goes unseen") };
    assert_eq!((damage.position, damage.offset), (Position::new(1), offset));
    for position in [0, 2, 3] {
        bench.read(position).unwrap();
    }
    bench.logs.fetch(&mut LogPins::default(), &mut bench.effects);
    bench.run(usize::MAX);
    assert_eq!(bench.seen("BlockCorrupt"), 1);
    assert_eq!(bench.seen("IndexRebuilt"), 0);
}

fn long() -> Bench {
    let mut bench = Bench::new(400);
    for position in 0..1_000 {
        bench.append_sized(TENANT, position % 300);
        if position % 90 == 0 {
            bench.checkpoint();
        }
    }
    bench.checkpoint();
    bench
}

#[test]
fn a_lost_index_is_rebuilt_byte_for_byte_with_one_warning() {
    let mut bench = long();
    let good: Vec<_> = (0..3).map(|number| bench.disk.files[&index_file(number)].clone()).collect();
    for (number, good) in good.iter().enumerate() {
        bench.disk.files.remove(&index_file(number as u32));
        bench.restart();
        bench.events.clear();
        let first = number as u64 * 400;
        for position in [first + 150, first, first + 199] {
            assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
        }
        assert_eq!(bench.seen("IndexRebuilt"), 1);
        assert!(&bench.disk.files[&index_file(number as u32)] == good, "index {number}");
    }
}

/// The rebuild goes up to where the log was when it began; what is appended meanwhile may follow in
/// the same block and is no damage.
#[test]
fn a_log_goes_on_while_its_index_is_rebuilt() {
    let mut bench = Bench::new(400);
    for _ in 0..40 {
        bench.append_sized(TENANT, 30);
    }
    bench.checkpoint();
    bench.disk.files.remove(&index_file(0));
    bench.restart();
    for _ in 0..5 {
        bench.append_sized(TENANT, 30);
    }
    let mut pins = LogPins::default();
    let head = bench.head(TENANT);
    while bench.logs.read(TENANT, &head, Position::new(7)) == Err(LogFault::Missing) {
        bench.logs.fetch(&mut pins, &mut bench.effects);
        // Between any two completions of the rebuild.
        bench.run(1);
        if bench.head(TENANT).next.get() < 60 {
            bench.append_sized(TENANT, 30);
        }
    }
    bench.logs.release(&mut pins);
    assert_eq!(bench.seen("IndexRebuilt"), 1);
    assert_eq!(bench.seen("BlockCorrupt"), 0);
    let next = bench.head(TENANT).next.get();
    assert!(next > head.next.get(), "nothing was appended while the index was rebuilt");
    for position in 0..next {
        assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
    }
}

/// Reads a record of each page of entries of segment 1 of `long`, and a proof from its tiles.
fn use_the_index(bench: &mut Bench) {
    for position in [400, 501, 502, 604, 799] {
        assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
    }
    bench.stage(|logs, head| logs.inclusion(TENANT, head, Position::new(999), 1_000)).unwrap();
}

#[test]
fn a_rotten_index_is_rebuilt_wherever_it_rots() {
    let mut bench = long();
    let good = bench.disk.files[&index_file(1)].clone();
    assert_eq!(good.len(), 6 * PAGE_SIZE, "header, four pages of entries, one of tiles");
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        bench.disk.files.insert(index_file(1), bad);
        for warnings in [1, 0] {
            bench.restart();
            bench.events.clear();
            use_the_index(&mut bench);
            assert_eq!(bench.seen("IndexRebuilt"), warnings, "byte {at}");
            assert!(bench.disk.files[&index_file(1)] == good, "byte {at}");
        }
    }
}

/// No lookup needs what a header says: whoever reads the index, or writes on in it, looks at it all
/// the same.
#[test]
fn a_rotten_header_of_an_index_is_rebuilt_by_readers_and_writers() {
    let use_it = |bench: &mut Bench, nth: usize| match nth {
        0 => assert!(bench.read(399).is_ok()),
        1 => assert!(bench.stage(|logs, head| logs.node(TENANT, head, 8, 0)).is_ok()),
        _ => {
            bench.append_sized(TENANT, 30);
            bench.checkpoint();
        }
    };
    for (nth, number) in [0, 0, 2].into_iter().enumerate() {
        let mut bench = long();
        let header = bench.disk.files[&index_file(number)][..PAGE_SIZE].to_vec();
        let zeros = alloc::vec![0; PAGE_SIZE];
        let mut flipped = header.clone();
        flipped[33] ^= 1;
        for bad in [zeros, flipped] {
            let content = bench.disk.files.get_mut(&index_file(number)).unwrap();
            content[..PAGE_SIZE].copy_from_slice(&bad);
            for warnings in [1, 0] {
                bench.restart();
                bench.events.clear();
                use_it(&mut bench, nth);
                assert_eq!(bench.seen("IndexRebuilt"), warnings, "use {nth}");
                assert!(bench.disk.files[&index_file(number)][..PAGE_SIZE] == header);
            }
        }
        bench.verify().unwrap();
        for position in (0..1_000).step_by(50) {
            bench.read(position).unwrap();
        }
        assert_eq!(bench.seen("IndexRebuilt"), 0);
    }
}

/// Where the segment is damaged, too, nothing can be made anew: what the index has, it keeps.
#[test]
fn a_rotten_header_costs_no_entry_where_the_segment_is_damaged() {
    let mut bench = long();
    let at = 5 * PAGE_SIZE + 100;
    bench.disk.files.get_mut(&segment_file(2)).unwrap()[at] ^= 1;
    bench.disk.files.get_mut(&index_file(2)).unwrap()[40] ^= 1;
    bench.restart();
    bench.append_sized(TENANT, 30);
    bench.checkpoint();
    assert_eq!((bench.seen("IndexRebuilt"), bench.seen("BlockCorrupt")), (1, 1));
    for position in [800, 905, 950, 999, 1_000] {
        assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
    }
    bench.restart();
    for position in [800, 905, 950, 999, 1_000] {
        assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
    }
}

/// A proof asks for tiles, and for the entries of a few positions only.
#[test]
fn rotten_tiles_are_rebuilt() {
    let mut bench = long();
    let good = bench.disk.files[&index_file(0)].clone();
    let proof = |bench: &mut Bench| {
        bench.stage(|logs, head| logs.inclusion(TENANT, head, Position::new(999), 1_000)).unwrap()
    };
    let of_good = proof(&mut bench);
    let mut rebuilt = 0;
    for bad in (0..good.len()).step_by(61).map(Some).chain([None]) {
        let mut file = good.clone();
        match bad {
            Some(at) => file[at] ^= 0x10,
            // A file that was lost and made anew.
            None => file.fill(0),
        }
        bench.disk.files.insert(index_file(0), file);
        bench.restart();
        bench.events.clear();
        assert!(proof(&mut bench) == of_good, "{bad:?}");
        assert!(bench.seen("IndexRebuilt") <= 1);
        rebuilt += bench.seen("IndexRebuilt");
    }
    assert!(rebuilt > 50, "tiles were hit {rebuilt} times");
}

#[test]
fn an_index_page_that_missed_its_writes_is_rebuilt() {
    let mut bench = Bench::new(400);
    for _ in 0..10 {
        bench.append_sized(TENANT, 30);
    }
    bench.checkpoint();
    let stale = bench.disk.files[&index_file(0)].clone();
    for _ in 0..10 {
        bench.append_sized(TENANT, 30);
    }
    bench.checkpoint();
    let good = bench.disk.files[&index_file(0)].clone();
    bench.disk.files.insert(index_file(0), stale.clone());
    bench.restart();
    assert_eq!(bench.read(15).unwrap().metadata.position.get(), 15);
    assert_eq!(bench.seen("IndexRebuilt"), 1);
    assert!(bench.disk.files[&index_file(0)] == good);
    // The same while the log goes on.
    bench.disk.files.insert(index_file(0), stale);
    bench.restart();
    for _ in 0..300 {
        bench.append_sized(TENANT, 30);
    }
    bench.checkpoint();
    assert_eq!(bench.seen("IndexRebuilt"), 2);
    for position in 0..320 {
        assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
    }
    assert_eq!(bench.seen("IndexRebuilt"), 2);
}

/// Tiles of the upper levels share a page, which a log of many records continues.
#[test]
fn a_page_of_upper_tiles_that_missed_a_write_is_rebuilt() {
    use crate::crypto::merkle::{leaf_hash, root_of};
    let mut bench = Bench::new(200_000);
    let mut leaves = Vec::new();
    let mut up_to = |bench: &mut Bench, count: usize| {
        while leaves.len() < count {
            leaves.push(leaf_hash(&bench.append_sized(TENANT, 1).hash.0));
            if leaves.len().is_multiple_of(100) {
                bench.logs.flush_step(&mut bench.effects);
                bench.run(usize::MAX);
            }
        }
        // The log goes on meanwhile: its pages stay in memory.
        bench.op += 1;
        let changed = bench.logs.checkpoint_begin(Op::new(bench.op));
        bench.append_sized(TENANT, 1);
        bench.finish_checkpoint(changed);
        root_of(&leaves[65_536.min(count)..131_072.min(count)])
    };
    up_to(&mut bench, 65_600);
    bench.restart();
    let slot = super::super::index::Layout::new(200_000).tile(0, 2, 1);
    let at = slot.page as usize * PAGE_SIZE..(slot.page as usize + 1) * PAGE_SIZE;
    let stale = bench.disk.files[&index_file(0)][at.clone()].to_vec();
    let tile = up_to(&mut bench, 131_100);
    let good = bench.disk.files[&index_file(0)][at.clone()].to_vec();
    assert!(stale != good && page_is_good(index_of(0), slot.page, &stale));
    for missed in [false, true] {
        if missed {
            bench.disk.files.get_mut(&index_file(0)).unwrap()[at.clone()].copy_from_slice(&stale);
        }
        bench.restart();
        bench.events.clear();
        // The page is in memory again, and has got one more tile.
        up_to(&mut bench, if missed { 196_700 } else { 131_150 });
        let node = bench.stage(|logs, head| logs.node(TENANT, head, 16, 1));
        assert_eq!(node, Ok(tile));
        assert_eq!(bench.seen("IndexRebuilt"), usize::from(missed));
    }
}

#[test]
fn a_damaged_segment_without_index_says_so_and_does_not_stop_the_log() {
    let mut bench = long();
    let at = 5 * PAGE_SIZE + 100;
    bench.disk.files.get_mut(&segment_file(2)).unwrap()[at] ^= 1;
    bench.disk.files.remove(&index_file(2));
    bench.restart();
    let Err(LogFault::Damaged(damage)) = bench.read(950) else { panic!("damage goes unseen") };
    assert!(damage.offset <= at as u64 && damage.segment == SegmentNumber::new(2));
    for _ in 0..200 {
        bench.append_sized(TENANT, 30);
    }
    bench.checkpoint();
    assert_eq!(bench.read(1_150).unwrap().metadata.position.get(), 1_150);
    assert!(matches!(bench.read(950), Err(LogFault::Damaged(_))));
    bench.read(100).unwrap();
}

/// As `long`, with records of other sizes.
fn of_another_history(origin: OriginId) -> Bench {
    let mut bench = Bench::new(400);
    bench.logs = Logs::new(400, origin);
    for position in 0..1_000 {
        bench.append_sized(TENANT, (position * 7) % 311);
        if position % 70 == 0 {
            bench.checkpoint();
        }
    }
    bench.checkpoint();
    bench
}

/// Every page of it is whole, and leads to the wrong places: it is made anew, with one warning, and
/// the segment is not blamed. So is one of the same directory that has gone another way.
#[test]
fn an_index_of_another_log_is_rebuilt_before_the_segment_is_blamed() {
    for origin in [OriginId::new(5), ORIGIN] {
        let other = of_another_history(origin);
        for number in 0..3 {
            let mut bench = long();
            let good = bench.disk.files[&index_file(number)].clone();
            let foreign = other.disk.files[&index_file(number)].clone();
            for last_first in [false, true] {
                bench.disk.files.insert(index_file(number), foreign.clone());
                bench.restart();
                bench.events.clear();
                let all = u64::from(number) * 400..(u64::from(number) * 400 + 400).min(1_000);
                let mut positions: Vec<u64> = all.collect();
                if last_first {
                    positions.reverse();
                }
                for position in positions {
                    assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
                }
                bench.run(usize::MAX);
                assert_eq!(bench.seen("IndexRebuilt"), 1, "index {number}");
                assert_eq!(bench.seen("BlockCorrupt"), 0, "index {number}");
                assert!(bench.disk.files[&index_file(number)] == good, "index {number}");
            }
        }
    }
}

/// Nobody compares the tiles of a proof with the records: the binding of each page does it.
#[test]
fn tiles_of_another_directory_are_no_proof() {
    let other = of_another_history(OriginId::new(5));
    let mut bench = long();
    let proof = |bench: &mut Bench| {
        bench.stage(|logs, head| logs.inclusion(TENANT, head, Position::new(999), 1_000)).unwrap()
    };
    let good = proof(&mut bench);
    for number in 0..3 {
        bench.disk.files.insert(index_file(number), other.disk.files[&index_file(number)].clone());
    }
    bench.restart();
    assert!(proof(&mut bench) == good);
}

/// A scan asks the index once, for its first record.
#[test]
fn a_scan_begins_in_the_right_place_whatever_the_index_says() {
    let other = of_another_history(ORIGIN);
    let mut bench = long();
    bench.disk.files.insert(index_file(1), other.disk.files[&index_file(1)].clone());
    bench.restart();
    let mut scan = LogScan::new(TENANT, Position::new(555), Position::new(900));
    for position in 555..900 {
        let record = bench.stage(|logs, head| scan.next(logs, head)).unwrap().unwrap();
        assert_eq!(record.metadata.position.get(), position);
    }
    bench.run(usize::MAX);
    assert_eq!((bench.seen("IndexRebuilt"), bench.seen("BlockCorrupt")), (1, 0));
}

/// What `verify` tells of an index that it holds against the records of its segment.
#[test]
fn an_index_is_held_against_its_segment() {
    let bench = long();
    let check = |number: u32, index: &[u8]| {
        let head = bench.head(TENANT);
        let segment = SegmentNumber::new(number);
        let start = SegmentStart { tenant: TENANT, number: segment, before: None };
        let mut verifier = SegmentVerifier::new(start, SegmentExtent::To(head.next));
        let mut check = IndexCheck::new(index_of(number), 400);
        let pushed = verifier.push(&bench.segment(number), |view| {
            check.record(view, &mut |page, bytes| {
                let at = (page as usize * PAGE_SIZE).min(index.len());
                let there = (index.len() - at).min(PAGE_SIZE);
                bytes.0.fill(0);
                bytes.0[..there].copy_from_slice(&index[at..at + there]);
                true
            });
            Ok(())
        });
        pushed.unwrap();
        check.wrong()
    };
    let other = of_another_history(ORIGIN);
    for number in 0..3 {
        let first = Position::new(u64::from(number) * 400);
        let good = &bench.disk.files[&index_file(number)];
        assert_eq!(check(number, good), None);
        let records = if number == 2 { 200 } else { 400 };
        assert_eq!(check(number, &[]), Some((records, first)), "a file without content");
        let foreign = &other.disk.files[&index_file(number)];
        // Both begin with the same record.
        let equal = u64::from(number == 0);
        let wrong = Some((records - equal, Position::new(first.get() + equal)));
        assert_eq!(check(number, foreign), wrong);
        // Of another directory no page counts: that is told by its checksum.
        let stranger = of_another_history(OriginId::new(5));
        assert_eq!(check(number, &stranger.disk.files[&index_file(number)]), None);
    }
    // One entry, in a page that is whole.
    let mut bad = bench.disk.files[&index_file(1)].clone();
    let page = &mut bad[PAGE_SIZE..2 * PAGE_SIZE];
    page[16 + 40 * 3 + 9] ^= 1;
    super::super::index::stamp(index_of(1), 1, page);
    assert_eq!(check(1, &bad), Some((1, Position::new(403))));
    // One tile: the record that completes it is named.
    let mut bad = bench.disk.files[&index_file(1)].clone();
    let slot = super::super::index::Layout::new(400).tile(400, 1, 2);
    let at = slot.page as usize * PAGE_SIZE;
    let page = &mut bad[at..at + PAGE_SIZE];
    page[slot.at as usize] ^= 1;
    super::super::index::stamp(index_of(1), slot.page, page);
    assert_eq!(check(1, &bad), Some((1, Position::new(767))));
}

/// A log goes on after a restart, and pages of the index that it continues cannot be taken over
/// from the disk, in any order of what is under way: none is written while it is still being read.
#[test]
fn a_page_of_an_index_is_not_written_while_it_is_being_read() {
    // Of the header, the last page of entries and that of the tiles.
    let pages = [0, 9, 20, 21, 22];
    for (bad, slow) in pages.into_iter().flat_map(|bad| pages.map(|slow| (bad, slow))) {
        let mut bench = Bench::new(2_000);
        for _ in 0..900 {
            bench.append_sized(TENANT, 40);
        }
        bench.checkpoint();
        bench.restart();
        let index = bench.disk.files.get_mut(&index_file(0)).unwrap();
        if let Some(page) = index.chunks_mut(PAGE_SIZE).nth(bad) {
            page.fill(0xA5);
        }
        bench.slow = Some((index_file(0), (slow * PAGE_SIZE) as u64));
        for _ in 0..700 {
            bench.append_sized(TENANT, 40);
        }
        bench.checkpoint();
        for position in (0..1_600).step_by(97) {
            assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
        }
    }
}
