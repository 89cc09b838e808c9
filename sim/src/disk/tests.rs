//! Tests of the lying disk.

use std::collections::BTreeSet;

use verity_core::io::{Address, FileId, Input, IoError, IoId, Owner, Pages};
use verity_core::limits::PAGE_SIZE;

use super::{Disk, DiskFaults, FaultKind, Keep, Request};
use crate::atlas::{Atlas, Layout, Mode};
use crate::random::Random;

const LAYOUT: Layout = Layout { superblock_copy: 1, keys_extent: 1, journal_ring_from: 64 };

fn disk(seed: u64, faults: DiskFaults, mode: Mode) -> Disk {
    let mut disk = Disk::new(Random::new(seed), faults, Atlas::new(mode, LAYOUT));
    disk.submit(0, Request::Create { io: io(0), file: FileId::Grid });
    disk.complete(u64::MAX);
    disk
}

fn io(slot: u64) -> IoId {
    IoId { owner: Owner::Store, slot }
}

fn filled(byte: u8, count: usize) -> Pages {
    Pages::from_bytes(&vec![byte; count * PAGE_SIZE])
}

fn write(disk: &mut Disk, sector: u64, byte: u8, durable: bool) -> Result<(), IoError> {
    let at = Address::new(FileId::Grid, sector * PAGE_SIZE as u64);
    disk.submit(0, Request::Write { io: io(1), at, pages: filled(byte, 1), durable });
    match disk.complete(u64::MAX) {
        Some(Input::WriteDone { result, .. }) => result,
        other => panic!("a write answers with WriteDone, not {other:?}"),
    }
}

fn read(disk: &mut Disk, sector: u64) -> Result<Pages, IoError> {
    let at = Address::new(FileId::Grid, sector * PAGE_SIZE as u64);
    disk.submit(0, Request::Read { io: io(2), at, pages: Pages::zeroed(1) });
    match disk.complete(u64::MAX) {
        Some(Input::ReadDone { pages, result, .. }) => result.map(|()| pages),
        other => panic!("a read answers with ReadDone, not {other:?}"),
    }
}

fn sync(disk: &mut Disk) {
    disk.submit(0, Request::Sync { io: io(3), file: FileId::Grid });
    while disk.complete(u64::MAX).is_some() {}
}

#[test]
fn a_crash_keeps_what_was_durable_and_any_subset_of_the_rest() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..64 {
        let mut disk = disk(seed, DiskFaults::NONE, Mode::Safety);
        write(&mut disk, 0, 1, true).unwrap();
        write(&mut disk, 1, 2, false).unwrap();
        sync(&mut disk);
        write(&mut disk, 2, 3, false).unwrap();
        write(&mut disk, 3, 4, false).unwrap();
        assert_eq!(read(&mut disk, 3).unwrap().as_bytes()[0], 4, "reads see the latest");
        disk.crash(Keep::Any);
        assert_eq!(read(&mut disk, 0).unwrap().as_bytes()[0], 1);
        assert_eq!(read(&mut disk, 1).unwrap().as_bytes()[0], 2);
        let two = read(&mut disk, 2).unwrap().as_bytes()[0];
        let three = read(&mut disk, 3).unwrap().as_bytes()[0];
        outcomes.insert((two, three));
    }
    assert_eq!(outcomes.len(), 4, "every subset: {outcomes:?}");
}

#[test]
fn a_killed_process_leaves_writes_that_a_power_cut_may_still_undo() {
    let mut disk = disk(1, DiskFaults::NONE, Mode::Safety);
    write(&mut disk, 0, 1, false).unwrap();
    disk.crash(Keep::Process);
    assert_eq!(read(&mut disk, 0).unwrap().as_bytes()[0], 1);
    disk.crash(Keep::Nothing);
    assert_eq!(read(&mut disk, 0).unwrap().as_bytes()[0], 0);
}

#[test]
fn a_sync_covers_only_what_had_completed_when_it_was_issued() {
    let mut disk = disk(1, DiskFaults::NONE, Mode::Safety);
    write(&mut disk, 0, 1, false).unwrap();
    disk.submit(0, Request::Sync { io: io(3), file: FileId::Grid });
    let at = Address::new(FileId::Grid, PAGE_SIZE as u64);
    disk.submit(0, Request::Write { io: io(1), at, pages: filled(2, 1), durable: false });
    while disk.complete(u64::MAX).is_some() {}
    disk.crash(Keep::Nothing);
    assert_eq!(read(&mut disk, 0).unwrap().as_bytes()[0], 1);
    assert_eq!(read(&mut disk, 1).unwrap().as_bytes()[0], 0);
}

#[test]
fn writes_in_flight_may_tear() {
    let faults = DiskFaults { torn_at_crash_ppm: 1_000_000, ..DiskFaults::NONE };
    let (mut torn, mut lost) = (0, 0);
    for seed in 0..64 {
        let mut disk = disk(seed, faults, Mode::Safety);
        write(&mut disk, 0, 1, true).unwrap();
        let at = Address::new(FileId::Grid, 0);
        disk.submit(0, Request::Write { io: io(1), at, pages: filled(9, 1), durable: true });
        let report = disk.crash(Keep::Any);
        assert_eq!(report.writes_in_flight, 1);
        let pages = read(&mut disk, 0).unwrap();
        let bytes: BTreeSet<u8> = pages.as_bytes().iter().copied().collect();
        torn += u32::from(bytes.len() == 2);
        lost += u32::from(bytes == BTreeSet::from([1]));
    }
    assert!(torn > 10 && lost > 10, "torn {torn}, lost {lost}");
}

#[test]
fn a_file_exists_for_sure_only_when_done() {
    let mut kept = 0;
    for seed in 0..64 {
        let mut disk = disk(seed, DiskFaults::NONE, Mode::Safety);
        disk.submit(0, Request::Create { io: io(4), file: FileId::Scratch });
        disk.crash(Keep::Any);
        kept += u32::from(disk.exists(FileId::Scratch));
        assert!(disk.exists(FileId::Grid));
    }
    assert!((10..54).contains(&kept), "kept {kept}");
}

#[test]
fn each_fault_happens_where_it_may() {
    let all = DiskFaults {
        read_error_ppm: 50_000,
        write_error_ppm: 20_000,
        no_space_ppm: 20_000,
        lost_write_ppm: 50_000,
        torn_write_ppm: 50_000,
        misdirected_write_ppm: 50_000,
        misdirected_read_ppm: 50_000,
        stale_read_ppm: 50_000,
        rot_ppm: 50_000,
        latent_error_ppm: 1_000,
        slow_ppm: 1_000,
        slow_factor: 10,
        ..DiskFaults::NONE
    };
    let mut damaged = disk(5, all, Mode::Damage);
    let mut peaceful = disk(5, all, Mode::Peaceful);
    for round in 0..4_000 {
        for disk in [&mut damaged, &mut peaceful] {
            let _ = write(disk, round % 32, round as u8, true);
            let _ = read(disk, (round + 7) % 32);
            disk.decay();
        }
    }
    let seen: Vec<&str> = damaged.stats().faults.keys().copied().collect();
    let expected = [
        "latent_error",
        "lost_write",
        "misdirected_read",
        "misdirected_write",
        "no_space",
        "read_error",
        "rot",
        "slow_spell",
        "stale_read",
        "torn_write",
        "write_error",
    ];
    assert_eq!(seen, expected);
    let seen: Vec<&str> = peaceful.stats().faults.keys().copied().collect();
    assert_eq!(seen, ["slow_spell"], "slowness loses nothing");
}

#[test]
fn a_latent_error_stays_until_the_sector_is_written() {
    let mut disk = disk(1, DiskFaults::NONE, Mode::Damage);
    write(&mut disk, 0, 1, true).unwrap();
    assert!(disk.atlas.allows(FaultKind::AtRest, (FileId::Grid, 0)));
    disk.make_unreadable((FileId::Grid, 0));
    assert_eq!(read(&mut disk, 0).err(), Some(IoError::Device));
    disk.crash(Keep::Process);
    assert_eq!(read(&mut disk, 0).err(), Some(IoError::Device));
    write(&mut disk, 0, 2, true).unwrap();
    assert_eq!(read(&mut disk, 0).unwrap().as_bytes()[0], 2);
}

#[test]
fn an_empty_disk_works_until_something_is_on_it() {
    let always = 1_000_000;
    let faults = DiskFaults { sync_error_ppm: always, write_error_ppm: always, ..DiskFaults::NONE };
    let lost = disk(1, faults, Mode::Safety);
    let mut disk = lost.empty(Random::new(2));
    disk.submit(0, Request::Create { io: io(0), file: FileId::Grid });
    disk.complete(u64::MAX);
    write(&mut disk, 0, 1, true).unwrap();
    let synced = |disk: &mut Disk| {
        disk.submit(0, Request::Sync { io: io(3), file: FileId::Grid });
        match disk.complete(u64::MAX) {
            Some(Input::Done { result, .. }) => result,
            other => panic!("a sync answers with Done, not {other:?}"),
        }
    };
    assert_eq!(synced(&mut disk), Ok(()));
    disk.atlas.set_mode(Mode::Safety);
    assert_eq!(synced(&mut disk), Err(IoError::Device));
}

#[test]
fn a_core_that_overlaps_its_own_io_is_caught() {
    let mut disk = disk(1, DiskFaults::NONE, Mode::Safety);
    let at = Address::new(FileId::Grid, 0);
    disk.submit(0, Request::Write { io: io(1), at, pages: filled(1, 2), durable: true });
    assert_eq!(disk.misuse(), None);
    let at = Address::new(FileId::Grid, PAGE_SIZE as u64);
    disk.submit(0, Request::Write { io: io(2), at, pages: filled(2, 1), durable: true });
    assert!(disk.misuse().is_some());
    let mut disk = super::Disk::new(Random::new(1), DiskFaults::NONE, Atlas::peaceful());
    disk.submit(0, Request::Write { io: io(1), at, pages: filled(1, 1), durable: true });
    assert!(disk.misuse().is_some(), "the file was never created");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let faults = DiskFaults { rot_ppm: 300_000, lost_write_ppm: 100_000, ..DiskFaults::NONE };
    let run = || {
        let mut disk = disk(11, faults, Mode::Damage);
        for round in 0..200 {
            let _ = write(&mut disk, round % 16, round as u8, round % 3 == 0);
            disk.decay();
        }
        disk.crash(Keep::Any);
        (disk.contents(FileId::Grid), disk.stats().clone())
    };
    assert_eq!(run(), run());
}
