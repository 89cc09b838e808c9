//! Zeros and pages never meet, on a real disk and step by step.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::disk::files::FileTable;
use crate::disk::master_key::MasterKey;
use crate::disk::{Disk, IoBackend};
use rustix::io::Errno;
use verity_core::io::{Address, Effect, Effects, Input};

const PAGE: u64 = PAGE_SIZE as u64;

fn grid(root: &Path) -> Arc<OpenFile> {
    let mut files = FileTable::new(root);
    files.create(FileId::Grid).unwrap();
    files.get(FileId::Grid).unwrap().unwrap()
}

fn write(file: &Arc<OpenFile>, page: u64, count: usize) -> Job {
    Job {
        io: IoId { owner: Owner::Store, slot: page },
        kind: Kind::Write { durable: false },
        file: Arc::clone(file),
        offset: page * PAGE,
        pages: Pages::zeroed(count),
        moved: 0,
        name: FileId::Grid,
    }
}

fn room() -> Option<u64> {
    Some(FREE_MIN_BYTES)
}

#[test]
fn what_meets_zeros_on_their_way_waits_for_them_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let file = grid(dir.path());
    let mut ahead = Ahead::default();
    assert!(ahead.admit(write(&file, 1, 1)).is_some());
    let zeros = ahead.next(&file, || Some(0), room).unwrap();
    assert_eq!((zeros.offset, zeros.pages.count()), (2 * PAGE, CHUNK_PAGES));
    assert!(ahead.next(&file, || Some(0), room).is_none(), "one at a time");
    let last = 1 + CHUNK_PAGES as u64;
    for page in [0, 1, last + 1] {
        assert!(ahead.admit(write(&file, page, 1)).is_some(), "{page} is not under way");
    }
    for (page, count) in [(2, 1), (last, 1), (1, 2), (last, 2)] {
        assert!(ahead.admit(write(&file, page, count)).is_none(), "{page} and {count}");
    }
    let held: Vec<u64> =
        ahead.finished(zeros, true).into_iter().map(|job| job.offset / PAGE).collect();
    assert_eq!(held, [2, last, 1, last]);
    assert_eq!(ahead.held(), 0);
    // What was written behind the zeros stays: the next ones begin behind it.
    let zeros = ahead.next(&file, || Some(0), room).unwrap();
    assert_eq!(zeros.offset, (last + 2) * PAGE);
}

#[test]
fn zeros_begin_behind_the_end_of_the_file_and_end_far_enough_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let file = grid(dir.path());
    let mut ahead = Ahead::default();
    assert!(ahead.admit(write(&file, 0, 1)).is_some());
    // Somebody's bytes, and a torn page at the end.
    let mut length = 5 * PAGE + 1;
    let mut begin = 6 * PAGE;
    while let Some(zeros) = ahead.next(&file, || Some(length), room) {
        assert_eq!(zeros.offset, begin);
        begin += CHUNK_BYTES;
        length = begin;
        ahead.finished(zeros, true);
    }
    assert!((PAGE + AHEAD_BYTES..PAGE + AHEAD_BYTES + CHUNK_BYTES).contains(&begin), "{begin}");
}

#[test]
fn with_little_room_or_an_error_pages_go_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let file = grid(dir.path());
    let mut ahead = Ahead::default();
    assert!(ahead.admit(write(&file, 0, 1)).is_some());
    assert!(ahead.next(&file, || Some(0), || Some(FREE_MIN_BYTES - 1)).is_none());
    assert!(ahead.next(&file, || Some(0), || None).is_none());
    assert!(ahead.next(&file, || None, room).is_none());
    let zeros = ahead.next(&file, || Some(0), room).unwrap();
    assert!(ahead.admit(write(&file, 3, 1)).is_none());
    assert_eq!(ahead.finished(zeros, false).len(), 1);
    assert!(ahead.admit(write(&file, 3, 1)).is_some());
    assert!(ahead.next(&file, || Some(0), room).is_none(), "given up");
}

/// Pages in no order, over and over, and far ahead at times: nothing is overwritten by zeros.
#[test]
fn a_grid_that_grows_ahead_holds_what_was_written() {
    for backend in [IoBackend::Auto, IoBackend::Threads] {
        let dir = tempfile::tempdir().unwrap();
        drop(grid(dir.path()));
        // Pages of before, that this process never writes.
        let before = vec![0xEE; 40 * PAGE_SIZE];
        std::fs::write(dir.path().join("grid"), &before).unwrap();
        let mut model = before;
        let mut state = 7_u64;
        let mut draw = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            (state >> 33) % below
        };
        let mut disk = Disk::open(dir.path(), backend, MasterKey::from_bytes([7; 32])).unwrap();
        let bell = disk.doorbell();
        for round in 0..60_u8 {
            let mut effects = Effects::new();
            let mut pages: Vec<u64> = (0..draw(40)).map(|_| draw(30)).collect();
            let end = model.len() as u64 / PAGE;
            pages.extend((0..draw(20)).map(|_| end + draw(2 * CHUNK_PAGES as u64)));
            pages.sort_unstable();
            pages.dedup();
            for &page in &pages {
                let to = ((page + 1) * PAGE) as usize;
                model.resize(model.len().max(to), 0);
                model[to - PAGE_SIZE..to].fill(round + 1);
                effects.push(Effect::Write {
                    io: IoId { owner: Owner::Store, slot: page },
                    at: Address::new(FileId::Grid, page * PAGE),
                    pages: Pages::from_bytes(&[round + 1; PAGE_SIZE]),
                    durable: draw(4) == 0,
                });
            }
            disk.execute(&mut effects);
            let mut inputs = Vec::new();
            while inputs.len() < pages.len() {
                disk.poll(&mut inputs);
                if inputs.len() < pages.len() {
                    bell.submit_and_wait(Duration::from_millis(20));
                }
            }
            let done = |input: &Input| matches!(input, Input::WriteDone { result: Ok(()), .. });
            assert!(inputs.iter().all(done), "{inputs:?}");
            assert_eq!(disk.in_flight(), 0);
        }
        let mut inputs = Vec::new();
        while disk.ahead.in_flight() > 0 {
            bell.submit_and_wait(Duration::from_millis(20));
            disk.poll(&mut inputs);
        }
        assert!(inputs.is_empty(), "nobody asked for zeros: {inputs:?}");
        let bytes = std::fs::read(dir.path().join("grid")).unwrap();
        assert!(bytes[..model.len()] == model, "what was written is there");
        assert!(bytes[model.len()..].iter().all(|byte| *byte == 0));
        if disk.free_bytes() > Some(2 * FREE_MIN_BYTES) {
            assert!(bytes.len() as u64 >= model.len() as u64 + AHEAD_BYTES);
        }
    }
}

#[test]
fn an_error_of_the_zeros_is_no_problem_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk =
        Disk::open(dir.path(), IoBackend::Threads, MasterKey::from_bytes([7; 32])).unwrap();
    let file = grid(dir.path());
    assert!(disk.ahead.admit(write(&file, 0, 1)).is_some());
    let zeros = disk.ahead.next(&file, || Some(0), room).unwrap();
    assert!(disk.ahead.admit(write(&file, 2, 1)).is_none());
    disk.grew(zeros, Err(Errno::NOSPC));
    assert_eq!(disk.problem(), None);
    let mut inputs = Vec::new();
    while inputs.is_empty() {
        disk.doorbell().submit_and_wait(Duration::from_millis(20));
        disk.poll(&mut inputs);
    }
    assert!(matches!(inputs[..], [Input::WriteDone { result: Ok(()), .. }]), "{inputs:?}");
}
