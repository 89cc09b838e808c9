//! Formats: round trips, padding, straddling, rotation, the golden segment.

use super::super::record::{decode_record, encode_record};
use super::super::segment::LENGTH_SIZE;
use super::*;
use crate::tests::golden::golden;

#[test]
fn metadata_round_trips_through_its_138_bytes() {
    let mut one = metadata(TENANT, Position::new(77), RecordKind::RowDelete, Op::new(4));
    one.caused_by = Some(Position::new(3));
    one.transaction_first = Position::new(70);
    one.transaction_last = Position::new(80);
    one.data_length = 99;
    assert_eq!(one.encode().len(), 134 + 4);
    assert_eq!(Metadata::decode(&one.encode()), Some(one.clone()));
    let mut unknown = one.encode();
    unknown[60] = 200;
    assert_eq!(Metadata::decode(&unknown), None);
    for number in 0..100 {
        if let Some(kind) = RecordKind::from_number(number) {
            assert_eq!(kind.number(), number);
        }
    }
}

#[test]
fn a_record_that_was_changed_anywhere_does_not_decode_to_itself() {
    let mut metadata = metadata(TENANT, Position::new(1), RecordKind::RowPut, Op::new(4));
    let mut data = b"some plaintext".to_vec();
    seal_record(&key(), &mut metadata, &mut data);
    let mut bytes = Vec::new();
    let hash = encode_record(&ChainHash([1; 32]), &metadata, &data, &mut bytes);
    let record = decode_record(&bytes).unwrap();
    assert_eq!(record.hash, hash);
    assert_eq!(open_record(&key(), &record.metadata, record.data).unwrap(), b"some plaintext");
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert!(decode_record(&changed).is_err(), "byte {at}, bit {bit}");
        }
        assert!(decode_record(&bytes[..at]).is_err());
    }
}

#[test]
fn checkpoint_records_have_one_encoding() {
    let mut bench = Bench::new(100);
    bench.append_sized(TENANT, 10);
    let mut claim = CheckpointRecord::of(&bench.head(TENANT), Timestamp(5), None);
    assert_eq!(CheckpointRecord::decode(&claim.encode()), Ok(claim.clone()));
    claim.state_root =
        Some(StateRootAt { root: ChainHash([4; 32]), position: Position::new(u64::MAX) });
    let bytes = claim.encode();
    assert_eq!(CheckpointRecord::decode(&bytes), Ok(claim.clone()));
    for at in 0..bytes.len() {
        assert!(CheckpointRecord::decode(&bytes[..at]).is_err());
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(CheckpointRecord::decode(&longer).is_err());
    // 0 as a two-byte integer: the same value, another encoding.
    let mut other = bytes;
    assert_eq!(other[1], 0);
    other.splice(1..2, [0x18, 0]);
    assert!(CheckpointRecord::decode(&other).is_err());
}

#[test]
fn heads_round_trip() {
    let mut bench = Bench::new(7);
    assert_eq!(LogHead::decode(&LogHead::empty().encode()), Ok(LogHead::empty()));
    for _ in 0..20 {
        bench.append_sized(TENANT, 300);
        let head = bench.head(TENANT);
        assert_eq!(LogHead::decode(&head.encode()), Ok(head.clone()));
        let bytes = head.encode();
        assert!(LogHead::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}

#[test]
fn every_distance_to_the_end_of_a_block_works() {
    // The second record starts 0 to 200 bytes before, at, or behind the block's end.
    for distance in 0..200 {
        let mut bench = Bench::new(100);
        let size = PAGE_SIZE - HEADER_SIZE - 16 - distance;
        bench.append_sized(TENANT, size);
        bench.append_sized(TENANT, 100);
        bench.append_sized(TENANT, 3 * PAGE_SIZE);
        bench.checkpoint();
        let seen = bench.verify().unwrap();
        let expected = match distance {
            1..LENGTH_SIZE => 2 * PAGE_SIZE,
            _ => 2 * PAGE_SIZE - distance,
        };
        assert_eq!(seen[1].0, expected as u64, "distance {distance}");
        for position in 0..3 {
            assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
        }
    }
}

#[test]
fn checkpoints_pad_and_the_next_record_starts_a_block() {
    let mut bench = Bench::new(1_000);
    for size in [1, 2_000, 10_000, 0] {
        bench.append_sized(TENANT, size);
        bench.checkpoint();
        bench.checkpoint();
        let head = bench.head(TENANT);
        assert_eq!(head.segment_offset % PAGE_SIZE as u64, 0);
        assert!(!bench.logs.is_open(TENANT), "a quiet log is forgotten");
    }
    let offsets: Vec<u64> = bench.verify().unwrap().iter().map(|seen| seen.0 / 4096).collect();
    assert_eq!(offsets, [1, 2, 3, 6]);
}

#[test]
fn segments_rotate_and_follow_each_other() {
    let mut bench = Bench::new(10);
    for position in 0..95 {
        bench.append_sized(TENANT, 50 + 37 * position);
        if position % 17 == 0 {
            bench.checkpoint();
        }
        if position % 5 == 0 {
            bench.logs.flush_step(&mut bench.effects);
            bench.run(3);
        }
    }
    bench.checkpoint();
    assert_eq!(bench.head(TENANT).segment, SegmentNumber::new(9));
    assert_eq!(bench.seen("SegmentRotated"), 9);
    assert_eq!(bench.verify().unwrap().len(), 95);
    // A segment alone, with nothing but its own header to believe.
    let start = SegmentStart { tenant: TENANT, number: SegmentNumber::new(4), before: None };
    let mut verifier = SegmentVerifier::new(start, SegmentExtent::Unknown);
    verifier.push(&bench.segment(4), |_| Ok(())).unwrap();
    let end = verifier.finish().unwrap();
    assert_eq!(end.next, Position::new(50));
    for position in 0..95 {
        assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
    }
    bench.restart();
    for position in (0..95).rev() {
        assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
    }
    assert_eq!(bench.seen("IndexRebuilt"), 0);
}

#[test]
fn tenants_do_not_meet() {
    let other = TenantId::new(8);
    let mut bench = Bench::new(1_000);
    for _ in 0..50 {
        bench.append_sized(TENANT, 100);
        bench.append_sized(other, 100);
    }
    bench.checkpoint();
    let file = FileId::Segment { tenant: other, number: SegmentNumber::ZERO };
    let foreign = bench.disk.files[&file].clone();
    bench.disk.files.insert(segment_file(0), foreign);
    let damage = bench.verify().unwrap_err();
    assert_eq!(damage.reason, DamageReason::HeaderMisplaced);
}

#[test]
fn tiles_are_the_subtrees_of_rfc_6962() {
    use super::super::index::Layout;
    use crate::crypto::merkle::{leaf_hash, root_of};
    // Misaligned with 256 on purpose; 65,536 leaves reach the second level.
    let positions = 33_000;
    let mut bench = Bench::new(positions);
    let mut leaves = Vec::new();
    for nth in 0..66_100 {
        let appended = bench.append_sized(TENANT, 1);
        leaves.push(leaf_hash(&appended.hash.0));
        if nth % 10_000 == 0 {
            bench.checkpoint();
            bench.restart();
        }
        if nth % 100 == 0 {
            bench.logs.flush_step(&mut bench.effects);
            bench.run(usize::MAX);
        }
    }
    bench.checkpoint();
    let layout = Layout::new(positions);
    for (level, width) in [(1, 256), (2, 65_536)] {
        for tile in 0..leaves.len() / width {
            let last = (tile + 1) * width - 1;
            let segment = last as u64 / positions;
            let slot = layout.tile(segment * positions, level, tile as u64);
            let index = &bench.disk.files[&index_file(segment as u32)];
            let page = &index[slot.page as usize * PAGE_SIZE..][..PAGE_SIZE];
            assert!(page_is_good(index_of(segment as u32), slot.page, page));
            let stored = &page[slot.at as usize..][..32];
            assert_eq!(stored, root_of(&leaves[tile * width..(tile + 1) * width]).0);
        }
    }
    assert_eq!(bench.head(TENANT).frontier.root(), root_of(&leaves));
    // With a tile of the second level; the small ones are in golden files.
    let hash = ChainHash::of(&[&bench.disk.files[&index_file(1)]]);
    expect_test::expect!["b8d084dec8346e002baa07dbe19982f100a86ef3355c8210aa6ec9ca33e86a57"]
        .assert_eq(&alloc::format!("{hash}"));
}

/// A small segment as this release writes it. A later release must still read it, and this one must
/// still write it.
#[test]
fn golden_segment() {
    let mut bench = Bench::new(1_000);
    bench.append(TENANT, RecordKind::RowPut, b"a row");
    bench.append(TENANT, RecordKind::RowDelete, b"");
    bench.append_sized(TENANT, 4_000);
    bench.append_checkpoint_record(TENANT);
    bench.checkpoint();
    bench.append_sized(TENANT, 1);
    bench.checkpoint();
    bench.verify().unwrap();
    golden("log.segment", &bench.segment(0));
    let head = bench.head(TENANT);
    golden("log.root", std::format!("{}\n", head.frontier.root()).as_bytes());
    assert_eq!(LogHead::decode(&golden("log.head", &head.encode())), Ok(head));
}

/// Indexes with pages of all kinds: the header, entries, tiles, and what is above. Reads go by them,
/// and nothing is made anew.
#[test]
fn golden_index() {
    let mut bench = Bench::new(300);
    for position in 0..560 {
        bench.append_sized(TENANT, 20);
        if position == 200 {
            bench.checkpoint();
        }
    }
    bench.checkpoint();
    bench.restart();
    for number in [0, 1] {
        let bytes = bench.disk.files[&index_file(number)].clone();
        let written = golden(&std::format!("log.index.{number}"), &bytes);
        bench.disk.files.insert(index_file(number), written);
    }
    for position in 0..560 {
        assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
    }
    assert_eq!(bench.seen("IndexRebuilt"), 0);
}
