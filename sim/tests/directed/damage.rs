//! Bytes that changed at rest: repaired where there is a second copy, refused where there is none,
//! and never a wrong answer.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use verity_core::ids::{SegmentNumber, TenantId};
use verity_core::io::{FileId, IoError, KeyError};
use verity_core::journal::PrepareHeader;
use verity_core::limits::{
    JOURNAL_HEADERS_PER_PAGE, KEYS_EXTENT_PAGES, PAGE_SIZE, SUPERBLOCK_COPY_SPACING,
};
use verity_core::node::Halt;
use verity_core::query::Value;
use verity_sim::disk::{DiskFaults, Keep};
use verity_sim::keys::MasterKey;
use verity_sim::random::Random;
use verity_sim::solo::Solo;

use crate::rig::{COLD, WARM, again, closed, count, insert, recovers};

const HEADER_SECTORS: u64 = (4 << 20) / JOURNAL_HEADERS_PER_PAGE as u64 / PAGE_SIZE as u64;

#[test]
fn any_one_superblock_copy_and_any_one_copy_of_the_keys_may_be_lost() {
    let base = closed(31, 2);
    let spacing = SUPERBLOCK_COPY_SPACING / PAGE_SIZE as u64;
    let superblocks = (0..4).map(|copy| (FileId::Superblock, copy * spacing));
    let keys = (0..2).map(|copy| (FileId::Keys, copy * KEYS_EXTENT_PAGES as u64));
    for id in superblocks.chain(keys) {
        for unreadable in [false, true] {
            let mut solo = again(&base, 1, DiskFaults::NONE);
            if unreadable {
                solo.disk.make_unreadable(id);
            } else {
                solo.disk.rot(id);
            }
            solo.open(WARM, [3; 32]).unwrap();
            assert_eq!(count(&mut solo), 2, "{id:?}");
            // It was repaired: the next one may be lost too.
            solo.shutdown().unwrap();
        }
    }
}

#[test]
fn two_of_four_superblock_copies_may_be_lost() {
    let base = closed(32, 2);
    let spacing = SUPERBLOCK_COPY_SPACING / PAGE_SIZE as u64;
    for one in 0..4 {
        for two in one + 1..4 {
            let mut solo = again(&base, 1, DiskFaults::NONE);
            for copy in [one, two] {
                solo.disk.put((FileId::Superblock, copy * spacing), Arc::new([0; PAGE_SIZE]));
            }
            recovers(&mut solo, WARM, 2, &[], &[]);
        }
    }
}

#[test]
fn both_copies_of_the_keys_or_all_superblocks_lost_is_a_clear_error() {
    let base = closed(33, 1);
    for file in [FileId::Superblock, FileId::Keys] {
        let mut solo = again(&base, 1, DiskFaults::NONE);
        for sector in 0..solo.disk.sectors(file) {
            solo.disk.put((file, sector), Arc::new([0x5a; PAGE_SIZE]));
        }
        match solo.open(WARM, [3; 32]) {
            Err(Halt::Data { detail, .. }) => assert!(!detail.is_empty()),
            other => panic!("{file:?} is lost, and the answer is {other:?}"),
        }
    }
}

/// What the device does not give may be whole: it is not called lost, and nothing is written.
#[test]
fn keys_or_superblocks_that_cannot_be_read_are_no_loss() {
    let base = closed(33, 1);
    for file in [FileId::Superblock, FileId::Keys] {
        let mut solo = again(&base, 1, DiskFaults::NONE);
        let before = solo.disk.contents(file);
        for sector in 0..solo.disk.sectors(file) {
            solo.disk.make_unreadable((file, sector));
        }
        match solo.open(WARM, [3; 32]) {
            Err(Halt::Io { error: IoError::Device, .. }) => {}
            other => panic!("{file:?} cannot be read, and the answer is {other:?}"),
        }
        assert_eq!(solo.disk.contents(file), before);
    }
}

#[test]
fn a_wrong_master_key_is_named_and_damages_nothing() {
    let base = closed(34, 1);
    let before = base.disk.contents(FileId::Keys);
    let wrong = MasterKey::new(Random::new(99));
    let mut solo = Solo::new(base.disk.fork(Random::new(1), DiskFaults::NONE), wrong);
    assert_eq!(solo.open(WARM, [3; 32]), Err(Halt::Key(KeyError::WrongMasterKey)));
    solo.crash(Keep::Process);
    assert_eq!(solo.disk.contents(FileId::Keys), before);
    solo.master = base.master.clone();
    solo.open(WARM, [3; 32]).unwrap();
    assert_eq!(count(&mut solo), 1);
}

#[test]
fn a_lost_index_is_rebuilt_with_one_warning() {
    let mut base = closed(35, 20);
    let file = FileId::Index { tenant: TenantId::DEFAULT, number: SegmentNumber::ZERO };
    base.disk.shorten(file, 0);
    base.open(WARM, [3; 32]).unwrap();
    let text = "SELECT COUNT(*) FROM __events";
    let (_, rows) = base.query(TenantId::DEFAULT, text, Vec::new()).unwrap();
    assert!(matches!(rows[0][0], Value::Integer(count) if count >= 21), "{rows:?}");
    assert_eq!(base.seen("IndexRebuilt"), 1);
}

#[test]
fn all_redundant_headers_may_be_lost() {
    let mut solo = closed(36, 3);
    solo.open(WARM, [3; 32]).unwrap();
    solo.request(insert(10)).unwrap().unwrap();
    solo.crash(Keep::Nothing);
    for sector in 0..HEADER_SECTORS {
        solo.disk.put((FileId::Journal, sector), Arc::new([0; PAGE_SIZE]));
    }
    recovers(&mut solo, WARM, 3, &[10], &[10]);
}

/// Every prepare but the newest is proven by the one behind it: rot of it is told, not dropped.
#[test]
fn a_rotten_middle_of_the_ring_is_refused() {
    let mut solo = closed(37, 1);
    solo.open(WARM, [3; 32]).unwrap();
    for row in 10..14 {
        solo.request(insert(row)).unwrap().unwrap();
    }
    solo.crash(Keep::Nothing);
    let header = |sector: &[u8; PAGE_SIZE]| PrepareHeader::decode(&sector[..]).ok();
    let mut prepares: Vec<(u64, u64)> = solo
        .disk
        .sectors_of(FileId::Journal)
        .filter(|(number, _)| *number >= HEADER_SECTORS)
        .filter_map(|(number, sector)| Some((header(&sector)?.op.get(), number)))
        .collect();
    prepares.sort_unstable();
    let newest = prepares.len() - 1;
    let mut refused = 0;
    for (op, number) in &prepares[newest - 3..newest] {
        let mut hurt = again(&solo, *op, DiskFaults::NONE);
        let mut sector = **hurt.disk.newest((FileId::Journal, *number)).unwrap();
        sector[PAGE_SIZE / 8] ^= 1;
        hurt.disk.put((FileId::Journal, *number), Arc::new(sector));
        match hurt.open(WARM, [4; 32]) {
            Err(Halt::Data { detail, .. }) => {
                assert!(detail.contains(&op.to_string()), "{detail}");
                refused += 1;
            }
            other => panic!("op {op} is rotten, and the answer is {other:?}"),
        }
    }
    assert_eq!(refused, 3);
}

const QUERIES: [&str; 2] =
    ["SELECT COUNT(*) FROM t WHERE v LIKE 'value%'", "SELECT COUNT(*) FROM __events"];

fn counted(solo: &mut Solo, text: &str) -> Result<i64, String> {
    let (_, rows) = solo.query(TenantId::DEFAULT, text, Vec::new())?;
    match rows[0][0] {
        Value::Integer(count) => Ok(count),
        ref other => panic!("{other:?}"),
    }
}

/// Whatever happens to one sector of grid or segment: the right answer or an error.
fn never_a_wrong_answer(seed: u64, file: FileId, hurt: impl Fn(&mut Solo, u64)) {
    const ROWS: u64 = 40;
    let base = closed(seed, ROWS);
    let sectors: Vec<u64> = base.disk.sectors_of(file).map(|(number, _)| number).collect();
    assert!(!sectors.is_empty());
    // Of the events there are those of the schema, too, and what is attested at the end.
    let mut whole = again(&base, 0, DiskFaults::NONE);
    whole.open(COLD, [3; 32]).unwrap();
    let right = QUERIES.map(|text| counted(&mut whole, text).unwrap());
    assert_eq!(right[0], ROWS as i64);
    assert!(right[1] > ROWS as i64);
    let mut noticed = 0;
    for number in sectors {
        let mut solo = again(&base, number, DiskFaults::NONE);
        hurt(&mut solo, number);
        if let Err(halt) = solo.open(COLD, [3; 32]) {
            assert!(matches!(halt, Halt::Data { .. }), "{halt:?}");
            noticed += 1;
            continue;
        }
        for (text, right) in QUERIES.into_iter().zip(right) {
            match counted(&mut solo, text) {
                Ok(count) => assert_eq!(count, right, "{text}, sector {number} of {file:?}"),
                Err(error) => {
                    assert!(!error.is_empty());
                    noticed += 1;
                    break;
                }
            }
        }
    }
    assert!(noticed > 0, "some sector of {file:?} matters");
}

const SEGMENT: FileId = FileId::Segment { tenant: TenantId::DEFAULT, number: SegmentNumber::ZERO };

#[test]
fn a_flip_in_any_page_of_the_grid() {
    never_a_wrong_answer(38, FileId::Grid, |solo, number| solo.disk.rot((FileId::Grid, number)));
}

#[test]
fn a_flip_in_any_block_of_a_segment() {
    never_a_wrong_answer(39, SEGMENT, |solo, number| solo.disk.rot((SEGMENT, number)));
}

/// A misdirected write: each page holds its neighbour's bytes.
#[test]
fn a_page_of_the_grid_in_the_place_of_another() {
    never_a_wrong_answer(40, FileId::Grid, |solo, number| {
        let other = solo.disk.newest((FileId::Grid, number ^ 1)).cloned();
        let bytes = other.unwrap_or_else(|| Arc::new([0; PAGE_SIZE]));
        solo.disk.put((FileId::Grid, number), bytes);
    });
}

/// A lost write: after a second checkpoint the page is what it was before it.
#[test]
fn a_stale_page_of_the_grid() {
    let mut solo = closed(41, 40);
    let before: Vec<_> = solo.disk.sectors_of(FileId::Grid).collect();
    for round in 0..4 {
        solo.open(WARM, [3; 32]).unwrap();
        let text = format!("UPDATE t SET v = 'round {round}'");
        solo.request(crate::rig::sql(&text, Vec::new(), 2_000 + round)).unwrap().unwrap();
        solo.shutdown().unwrap();
    }
    let mut refused = 0;
    for (number, sector) in before {
        let mut stale = again(&solo, number, DiskFaults::NONE);
        if stale.disk.newest((FileId::Grid, number)) == Some(&sector) {
            continue;
        }
        stale.disk.put((FileId::Grid, number), sector);
        let answer = stale.open(COLD, [4; 32]).map_err(|halt| halt.to_string()).and_then(|()| {
            let text = "SELECT COUNT(*) FROM t WHERE v = 'round 3'";
            stale.query(TenantId::DEFAULT, text, Vec::new())
        });
        match answer {
            Ok((_, rows)) => assert_eq!(rows, [[Value::Integer(40)]], "page {number}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "some page was written again");
}
