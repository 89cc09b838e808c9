//! Both backends, the same bytes, the same answers.

use super::*;
use verity_core::ids::{SegmentNumber, TenantId};
use verity_core::io::Owner;
use verity_core::limits::PAGE_SIZE;

const BACKENDS: [IoBackend; 2] = [IoBackend::Uring, IoBackend::Threads];

fn disk(root: &Path, backend: IoBackend) -> Disk {
    match Disk::open(root, backend, MasterKey::from_bytes([7; 32])) {
        Ok(disk) => disk,
        // Where io_uring is forbidden there is one backend to test.
        Err(DiskError::UringRefused(_)) => {
            Disk::open(root, IoBackend::Threads, MasterKey::from_bytes([7; 32])).unwrap()
        }
        Err(error) => panic!("{error}"),
    }
}

fn id(slot: u64) -> IoId {
    IoId { owner: Owner::Store, slot }
}

/// Runs effects to the end; completions in order of slot.
fn run(disk: &mut Disk, effects: Vec<Effect>) -> Vec<Input> {
    let mut queue = Effects::new();
    let expected = effects.len();
    effects.into_iter().for_each(|effect| queue.push(effect));
    disk.execute(&mut queue);
    let bell = disk.doorbell();
    let mut inputs = Vec::new();
    while inputs.len() < expected {
        disk.poll(&mut inputs);
        if inputs.len() < expected {
            bell.submit_and_wait(Duration::from_millis(20));
        }
    }
    inputs.sort_by_key(|input| match input {
        Input::ReadDone { io, .. }
        | Input::WriteDone { io, .. }
        | Input::Done { io, .. }
        | Input::Wrapped { io, .. }
        | Input::Unwrapped { io, .. } => io.slot,
        Input::Tick | Input::Space { .. } | Input::Received { .. } | Input::LinkClosed { .. } => {
            u64::MAX
        }
    });
    assert_eq!(disk.in_flight(), 0);
    inputs
}

fn create(slot: u64, file: FileId) -> Effect {
    Effect::Create { io: id(slot), file }
}

fn write(slot: u64, file: FileId, offset: u64, fill: u8, pages: usize, durable: bool) -> Effect {
    let pages = Pages::from_bytes(&vec![fill; pages * PAGE_SIZE]);
    Effect::Write { io: id(slot), at: Address::new(file, offset), pages, durable }
}

fn read(disk: &mut Disk, file: FileId, offset: u64, count: usize) -> Vec<u8> {
    let mut pages = Pages::zeroed(count);
    pages.as_bytes_mut().fill(0xEE);
    let effect = Effect::Read { io: id(0), at: Address::new(file, offset), pages };
    let mut inputs = run(disk, vec![effect]);
    match inputs.remove(0) {
        Input::ReadDone { pages, result: Ok(()), .. } => pages.as_bytes().to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read_and_the_rest_is_zeros() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = disk(dir.path(), backend);
        run(&mut disk, vec![create(1, FileId::Grid)]);
        let effects = (0..600)
            .map(|page| {
                let durable = page % 100 == 0;
                let fill = u8::try_from(page % 250).unwrap() + 1;
                write(page, FileId::Grid, page * PAGE_SIZE as u64, fill, 1, durable)
            })
            .collect();
        for input in run(&mut disk, effects) {
            let Input::WriteDone { result, pages, .. } = input else { panic!("{input:?}") };
            assert_eq!((result, pages.count()), (Ok(()), 1));
        }
        run(&mut disk, vec![Effect::Sync { io: id(1), file: FileId::Grid }]);
        let bytes = read(&mut disk, FileId::Grid, 0, 602);
        for page in 0..600 {
            let expected = u8::try_from(page % 250).unwrap() + 1;
            assert!(bytes[page * PAGE_SIZE..][..PAGE_SIZE].iter().all(|byte| *byte == expected));
        }
        assert!(bytes[600 * PAGE_SIZE..].iter().all(|byte| *byte == 0));
        // A tail that is no whole page, as a truncated file has it.
        let file = std::fs::File::options().write(true).open(dir.path().join("grid")).unwrap();
        file.set_len(599 * PAGE_SIZE as u64 + 100).unwrap();
        let bytes = read(&mut disk, FileId::Grid, 599 * PAGE_SIZE as u64, 2);
        assert!(bytes[..100].iter().all(|byte| *byte != 0));
        assert!(bytes[100..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_missing_file_reads_as_zeros_and_refuses_writes() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = disk(dir.path(), backend);
        let file = FileId::Index { tenant: TenantId::new(1), number: SegmentNumber::new(0) };
        assert!(read(&mut disk, file, 0, 1).iter().all(|byte| *byte == 0));
        assert_eq!(disk.problem(), None);
        let inputs = run(&mut disk, vec![write(5, file, 0, 1, 1, false)]);
        let Input::WriteDone { result, .. } = &inputs[0] else { panic!("{inputs:?}") };
        assert_eq!(*result, Err(IoError::Device));
        assert!(disk.problem().unwrap().contains("00000000.index"));
        run(&mut disk, vec![create(1, file)]);
        let inputs = run(&mut disk, vec![write(5, file, 0, 1, 1, true)]);
        let Input::WriteDone { result, .. } = &inputs[0] else { panic!("{inputs:?}") };
        assert_eq!(*result, Ok(()));
        run(&mut disk, vec![Effect::Remove { io: id(1), file }]);
        assert!(read(&mut disk, file, 0, 1).iter().all(|byte| *byte == 0));
    }
}

#[test]
fn both_backends_leave_the_same_bytes() {
    let mut images = Vec::new();
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = disk(dir.path(), backend);
        let segment = FileId::Segment { tenant: TenantId::new(9), number: SegmentNumber::new(1) };
        run(&mut disk, vec![create(1, FileId::Journal), create(2, segment)]);
        let effects = (0..40u64)
            .map(|n| {
                let file = if n % 3 == 0 { segment } else { FileId::Journal };
                let pages = usize::try_from(n % 5).unwrap() + 1;
                write(n, file, n * 5 * 4096, u8::try_from(n).unwrap(), pages, n % 2 == 0)
            })
            .collect();
        run(&mut disk, effects);
        let journal = std::fs::read(dir.path().join("journal")).unwrap();
        images.push((journal, std::fs::read(dir.path().join("log/9/00000001.segment")).unwrap()));
    }
    assert!(images[0] == images[1]);
}

#[test]
fn keys_go_round_and_only_the_right_master_key_opens_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = disk(dir.path(), IoBackend::Threads);
    let secret = verity_core::io::SecretKey([9; 32]);
    let purpose = verity_core::io::KeyPurpose::Kek;
    let inputs = run(&mut disk, vec![Effect::Wrap { io: id(1), purpose, key: secret.clone() }]);
    let Input::Wrapped { key: Ok(wrapped), .. } = inputs[0] else { panic!("{inputs:?}") };
    let inputs = run(&mut disk, vec![Effect::Unwrap { io: id(1), purpose, key: wrapped }]);
    let Input::Unwrapped { key: Ok(key), .. } = &inputs[0] else { panic!("{inputs:?}") };
    assert_eq!(*key, secret);
    let other = MasterKey::from_bytes([8; 32]);
    assert_eq!(other.unwrap(purpose, &wrapped), Err(verity_core::io::KeyError::WrongMasterKey));
    let other = verity_core::io::KeyPurpose::Cosigning;
    let inputs = run(&mut disk, vec![Effect::Unwrap { io: id(1), purpose: other, key: wrapped }]);
    let Input::Unwrapped { key, .. } = &inputs[0] else { panic!("{inputs:?}") };
    assert_eq!(*key, Err(verity_core::io::KeyError::WrongMasterKey), "of another purpose");
}

#[test]
fn jobs_from_many_threads_all_complete_while_one_waits() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = disk(dir.path(), backend);
        run(&mut disk, vec![create(1, FileId::Journal)]);
        let bell = disk.doorbell();
        let shared = std::sync::Arc::new(std::sync::Mutex::new(disk));
        let writers: Vec<_> = (0..8u64)
            .map(|writer| {
                let (shared, bell) = (std::sync::Arc::clone(&shared), bell.clone());
                std::thread::spawn(move || {
                    for n in 0..50 {
                        let slot = writer * 100 + n;
                        let mut effects = Effects::new();
                        effects.push(write(slot, FileId::Journal, slot * 4096, 1, 1, false));
                        shared.lock().unwrap().execute(&mut effects);
                        bell.submit();
                    }
                })
            })
            .collect();
        let mut inputs = Vec::new();
        while inputs.len() < 400 {
            bell.submit_and_wait(Duration::from_millis(10));
            shared.lock().unwrap().poll(&mut inputs);
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(inputs.len(), 400);
    }
}

/// As where a container forbids io_uring.
#[test]
fn where_the_ring_is_refused_threads_do_the_work_unless_it_was_asked_for() {
    let refused = || Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
    assert!(matches!(choose(IoBackend::Auto, refused), Ok(Backend::Threads(_))));
    assert!(matches!(choose(IoBackend::Uring, refused), Err(DiskError::UringRefused(_))));
    let told = choose(IoBackend::Uring, refused).unwrap_err().to_string();
    assert!(told.contains("--io=threads"), "{told}");
    let never = || panic!("nobody asked for a ring");
    assert!(matches!(choose(IoBackend::Threads, never), Ok(Backend::Threads(_))));
    // Where the kernel gives one it is taken.
    let Ok(_) = ring::Ring::new() else { return skipped("the kernel gives no io_uring") };
    for backend in [IoBackend::Auto, IoBackend::Uring] {
        assert!(matches!(choose(backend, ring::Ring::new), Ok(Backend::Ring(_))), "{backend}");
    }
}

/// The runner of tests keeps what macros print of a test that passes.
fn skipped(why: &str) {
    use std::io::Write;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _nobody_listens = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

/// Without the flag everything works, until the power fails.
#[test]
fn what_is_open_goes_past_the_page_cache() {
    use rustix::fs::{OFlags, fcntl_getfl};
    let dir = tempfile::tempdir().unwrap();
    let probe = rustix::fs::open(
        dir.path().join("probe"),
        OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    );
    if probe.is_err() {
        return skipped("this file system has no direct I/O");
    }
    let mut files = FileTable::new(dir.path());
    let segment = FileId::Segment { tenant: TenantId::new(1), number: SegmentNumber::new(0) };
    for file in [FileId::Superblock, FileId::Journal, FileId::Grid, FileId::Keys, segment] {
        files.create(file).unwrap();
        let made = files.get(file).unwrap().unwrap();
        assert!(fcntl_getfl(&made.fd).unwrap().contains(OFlags::DIRECT), "{file:?} made");
    }
    drop(files);
    let mut files = FileTable::new(dir.path());
    for file in [FileId::Superblock, FileId::Journal, FileId::Grid, FileId::Keys, segment] {
        let opened = files.get(file).unwrap().unwrap();
        assert!(fcntl_getfl(&opened.fd).unwrap().contains(OFlags::DIRECT), "{file:?} opened");
    }
    assert!(files.is_direct());
}
