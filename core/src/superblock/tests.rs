//! Directed tests: every tear, rot of any copies, stale and misdirected copies, refusals.

use alloc::vec::Vec;

use super::*;
use crate::io::Effect;

const RELEASE: Release = Release::new(1);

pub(crate) fn first_state() -> SuperblockState {
    SuperblockState {
        format_version: 1,
        sequence: 0,
        previous: InternalHash::ZERO,
        cluster: ClusterId::new(7),
        origin: OriginId::new(9),
        grid: GridId::ZERO,
        syncing: false,
        replaced: false,
        replica: ReplicaId::new(0),
        replica_count: 1,
        release: RELEASE,
        constants: ClusterConstants::SMALL,
        view: View::new(0),
        log_view: View::new(0),
        generation: Generation::new(0),
        committed: Op::ZERO,
        checkpoint: CheckpointState {
            op: Op::ZERO,
            prepare_checksum: InternalHash([3; 32]),
            journal_offset: 0,
            timestamp: Timestamp(1_000),
            generation: Generation::ZERO,
            recovery_count: 0,
            system_forest: ForestRoot {
                root: PageRef::NONE,
                height: 0,
                count: 0,
                hash: ChainHash([4; 32]),
            },
            free_set: FreeSetRoot { root: PageRef::NONE, pages: 0, runs: 0 },
            grid_pages: 1,
        },
        signing_key: WrappedKey([5; 60]),
        cosigned: CosignedHead::default(),
        peers: [PeerEvidence::default(); REPLICA_PEERS_MAX],
    }
}

/// A state in which every field differs from its default and from its neighbours.
fn busy_state() -> SuperblockState {
    let page_ref = |page| PageRef {
        page: PageNumber::new(page),
        checkpoint_op: Op::new(90),
        tag: Tag([page as u8; 16]),
    };
    SuperblockState {
        sequence: 11,
        previous: InternalHash([1; 32]),
        grid: GridId::new(12),
        replica: ReplicaId::new(2),
        replica_count: 5,
        view: View::new(21),
        log_view: View::new(20),
        generation: Generation::new(19),
        committed: Op::new(101),
        checkpoint: CheckpointState {
            op: Op::new(100),
            prepare_checksum: InternalHash([2; 32]),
            journal_offset: 123 * 4096,
            timestamp: Timestamp(77),
            generation: Generation::new(18),
            recovery_count: 17,
            system_forest: ForestRoot {
                root: page_ref(31),
                height: 3,
                count: 4_000,
                hash: ChainHash([32; 32]),
            },
            free_set: FreeSetRoot { root: page_ref(41), pages: 2, runs: 500 },
            grid_pages: 6_000,
        },
        cosigned: CosignedHead { size: 55, hash: ChainHash([56; 32]) },
        peers: core::array::from_fn(|peer| PeerEvidence {
            log_view: View::new(60 + peer as u64),
            op: Op::new(70 + peer as u64),
        }),
        ..first_state()
    }
}

/// The file, and a record of each write, to be stopped or spoiled at will.
#[derive(Clone)]
struct Disk {
    copies: [Vec<u8>; SUPERBLOCK_COPIES],
    /// Copies whose reads fail, and how.
    unreadable: [bool; SUPERBLOCK_COPIES],
    refusal: IoError,
    events: Vec<Event>,
    /// Copies whose writes are acknowledged and lost.
    loses: [bool; SUPERBLOCK_COPIES],
    /// Writes still allowed; the one after it is torn at `tear_at` and the machine stops.
    writes_left: usize,
    tear_at: usize,
}

impl Disk {
    fn new() -> Disk {
        Disk {
            copies: core::array::from_fn(|_| alloc::vec![0; PAGE_SIZE]),
            unreadable: [false; 4],
            refusal: IoError::Device,
            events: Vec::new(),
            loses: [false; 4],
            writes_left: usize::MAX,
            tear_at: 0,
        }
    }

    fn formatted() -> (Disk, Superblock) {
        let mut disk = Disk::new();
        let mut effects = Effects::new();
        let mut superblock = Superblock::format(first_state(), &mut effects);
        assert_eq!(disk.run(&mut superblock, &mut effects), Ok(Some(SuperblockEvent::Updated)));
        (disk, superblock)
    }

    /// Runs until nothing is in flight; `Ok(None)` when the machine stopped in a write.
    fn run(
        &mut self,
        superblock: &mut Superblock,
        effects: &mut Effects,
    ) -> Result<Option<SuperblockEvent>, SuperblockError> {
        let mut last = None;
        while !effects.is_empty() {
            for effect in effects.drain().collect::<Vec<_>>() {
                let event = match effect {
                    Effect::Read { io, at, mut pages } => {
                        let copy = copy_at(at);
                        pages.as_bytes_mut().copy_from_slice(&self.copies[copy]);
                        let result = if self.unreadable[copy] { Err(self.refusal) } else { Ok(()) };
                        superblock.on_read_done(io, pages, result, effects)?
                    }
                    Effect::Write { io, at, pages, durable } => {
                        assert!(durable);
                        let copy = copy_at(at);
                        if self.writes_left == 0 {
                            let tear_at = self.tear_at;
                            self.copies[copy][..tear_at]
                                .copy_from_slice(&pages.as_bytes()[..tear_at]);
                            return Ok(None);
                        }
                        self.writes_left -= 1;
                        if !self.loses[copy] {
                            self.copies[copy].copy_from_slice(pages.as_bytes());
                        }
                        superblock.on_write_done(io, pages, Ok(()), effects)?
                    }
                    Effect::Event(event) => {
                        self.events.push(event);
                        None
                    }
                    other => panic!("unexpected {other:?}"),
                };
                last = event.or(last);
            }
        }
        Ok(last)
    }

    fn open(&mut self, accept_single_copy: bool) -> Result<Superblock, SuperblockError> {
        let options =
            OpenOptions { cluster: None, replica: None, release: RELEASE, accept_single_copy };
        self.open_with(options)
    }

    fn open_with(&mut self, options: OpenOptions) -> Result<Superblock, SuperblockError> {
        self.writes_left = usize::MAX;
        let mut effects = Effects::new();
        let mut superblock = Superblock::open(options, &mut effects);
        let event = self.run(&mut superblock, &mut effects)?;
        assert_eq!(event, Some(SuperblockEvent::Opened));
        // After an open all four copies are the same but for their number.
        let state = superblock.state().unwrap();
        for (copy, bytes) in self.copies.iter().enumerate() {
            assert_eq!(layout::decode(bytes, copy as u8).as_ref(), Ok(state));
        }
        Ok(superblock)
    }

    fn update(&mut self, superblock: &mut Superblock, view: u64) -> Option<SuperblockEvent> {
        let mut effects = Effects::new();
        let state = SuperblockState { view: View::new(view), ..*superblock.state().unwrap() };
        superblock.update(state, &mut effects);
        self.run(superblock, &mut effects).unwrap()
    }
}

fn copy_at(at: Address) -> usize {
    assert_eq!(at.file, FileId::Superblock);
    let copy = (at.offset / SUPERBLOCK_COPY_SPACING) as usize;
    assert_eq!(copy_offset(copy as u8), at.offset);
    copy
}

/// One byte of each kind of field, and both sides of each border.
const BYTES: &[usize] = &[
    0, 1, 31, 32, 33, 39, 40, 47, 48, 52, 56, 63, 64, 96, 112, 128, 129, 130, 136, 168, 176, 184,
    192, 199, 200, 208, 240, 248, 256, 264, 271, 272, 276, 304, 305, 320, 352, 384, 400, 459, 460,
    464, 504, 511, 512, 513, 631, 632, 1024, 4095,
];

#[test]
fn encode_and_decode_are_inverse() {
    for state in [first_state(), busy_state()] {
        for copy in 0..4 {
            let pages = layout::encode(&state, copy);
            assert_eq!(layout::decode(pages.as_bytes(), copy), Ok(state));
        }
    }
    assert_eq!(first_state().checksum(), first_state().checksum());
    assert_ne!(first_state().checksum(), busy_state().checksum());
}

#[test]
fn format_golden() {
    // Of a grid that no rebuild made: as it was before rebuilds could make one.
    let bytes = layout::encode(&SuperblockState { grid: GridId::ZERO, ..busy_state() }, 2);
    let hash = ChainHash::of(&[bytes.as_bytes()]);
    expect_test::expect!["5211be1704017f5fbf63c44cf74b07aa58b82485492e39aaa68a1a3572d1c82a"]
        .assert_eq(&alloc::format!("{hash}"));
}

#[test]
fn every_flipped_bit_of_a_copy_is_noticed() {
    let good = layout::encode(&busy_state(), 1);
    for byte in 0..PAGE_SIZE {
        let mut bytes = good.as_bytes().to_vec();
        bytes[byte] ^= 1 << (byte % 8);
        assert!(layout::decode(&bytes, 1).is_err(), "byte {byte}");
    }
}

#[test]
fn short_bytes_are_no_copy() {
    let good = layout::encode(&busy_state(), 1);
    for size in [0, 1, 32, 4095] {
        assert!(layout::decode(&good.as_bytes()[..size], 1).is_err());
    }
}

#[test]
fn a_torn_update_at_each_copy_and_each_byte_leaves_old_or_new() {
    let (disk, superblock) = Disk::formatted();
    let before = *superblock.state().unwrap();
    for copy in 0..SUPERBLOCK_COPIES {
        for tear_at in BYTES.iter().copied().chain([PAGE_SIZE]) {
            let (mut disk, superblock) = (disk.clone(), superblock.state().unwrap());
            assert_eq!(*superblock, before);
            let mut superblock = disk.open(false).unwrap();
            disk.writes_left = copy;
            disk.tear_at = tear_at;
            assert_eq!(disk.update(&mut superblock, 5), None, "the machine stopped");
            let opened = disk.open(false).unwrap();
            let view = opened.state().unwrap().view;
            // Two whole copies decide; copies before `copy` are whole, `copy` is if the tear kept
            // every byte that differs.
            match copy {
                0 => assert_eq!(view, View::new(0)),
                1 if tear_at == PAGE_SIZE => assert_eq!(view, View::new(5)),
                1 => assert!(view == View::new(0) || view == View::new(5)),
                _ => assert_eq!(view, View::new(5)),
            }
            // And life goes on.
            let mut opened = opened;
            assert_eq!(disk.update(&mut opened, 6), Some(SuperblockEvent::Updated));
            let opened = disk.open(false).unwrap();
            assert_eq!(opened.state().unwrap().view, View::new(6));
        }
    }
}

/// A crash at every point of an update, with rot of any one copy on top; then a crash at every
/// point of the repair. Nothing reported is ever undone.
#[test]
fn torn_updates_with_rot_and_torn_repairs_leave_old_or_new() {
    let (disk, _) = Disk::formatted();
    let mut opens = 0;
    for writes in 0..=SUPERBLOCK_COPIES {
        for rotten in 0..SUPERBLOCK_COPIES {
            for repairs in 0..SUPERBLOCK_COPIES {
                let mut disk = disk.clone();
                let mut superblock = disk.open(false).unwrap();
                disk.writes_left = writes;
                disk.tear_at = 300;
                let updated = disk.update(&mut superblock, 5).is_some();
                assert_eq!(updated, writes == SUPERBLOCK_COPIES);
                disk.copies[rotten][100] ^= 1;
                // The first open may be cut short in its repair.
                disk.writes_left = repairs;
                disk.tear_at = 77;
                let mut effects = Effects::new();
                let options = OpenOptions {
                    cluster: None,
                    replica: None,
                    release: RELEASE,
                    accept_single_copy: false,
                };
                let mut superblock = Superblock::open(options, &mut effects);
                let first = disk.run(&mut superblock, &mut effects).unwrap();
                let chosen = superblock.state().map(|state| state.view);
                assert_eq!(first.is_some(), chosen.is_some());
                let opened = disk.open(false).unwrap();
                let view = opened.state().unwrap().view;
                assert!(view == View::new(0) || view == View::new(5));
                assert!(!updated || view == View::new(5), "what was reported stays");
                assert!(chosen.is_none_or(|chosen| chosen == view), "what was opened stays");
                opens += 1;
            }
        }
    }
    assert_eq!(opens, 80);
}

#[test]
fn rot_of_one_or_two_copies_is_repaired() {
    for first in 0..SUPERBLOCK_COPIES {
        for second in 0..SUPERBLOCK_COPIES {
            for &byte in BYTES {
                let (mut disk, superblock) = Disk::formatted();
                disk.copies[first][byte] ^= 0x40;
                disk.copies[second][byte / 2 + 1] ^= 0x04;
                let opened = disk.open(false).unwrap();
                assert_eq!(opened.state(), superblock.state());
            }
        }
    }
}

#[test]
fn one_copy_left_needs_the_operators_word() {
    for left in 0..SUPERBLOCK_COPIES {
        let (mut disk, superblock) = Disk::formatted();
        for copy in (0..SUPERBLOCK_COPIES).filter(|&copy| copy != left) {
            disk.copies[copy][500] ^= 1;
        }
        let error = SuperblockError::OneCopyLeft { copy: left as u8, sequence: 1 };
        let untouched = disk.copies.clone();
        assert_eq!(disk.open(false).err(), Some(error));
        assert_eq!(disk.copies, untouched, "a refusal writes nothing");
        let opened = disk.open(true).unwrap();
        assert_eq!(opened.state(), superblock.state());
        assert!(disk.open(false).is_ok(), "and four copies are good again");
    }
}

#[test]
fn all_copies_lost_is_an_error() {
    let mut disk = Disk::new();
    assert_eq!(disk.open(true).err(), Some(SuperblockError::AllCopiesLost));
    let (mut disk, _) = Disk::formatted();
    disk.copies.iter_mut().for_each(|copy| copy[4000] ^= 1);
    assert_eq!(disk.open(true).err(), Some(SuperblockError::AllCopiesLost));
}

#[test]
fn unreadable_copies_count_as_lost() {
    let (mut disk, superblock) = Disk::formatted();
    disk.unreadable = [true, false, true, false];
    // Their repair cannot be read back either: a typed error, and nothing relied on it.
    let error = SuperblockError::Io { copy: 0, error: IoError::Device };
    assert_eq!(disk.open(false).err(), Some(error));
    disk.unreadable = [false; 4];
    assert_eq!(disk.open(false).unwrap().state(), superblock.state());
}

/// Whatever cannot be decided because copies cannot be read is told as that, never as a loss;
/// nothing is written, and nothing is said to be written again.
#[test]
fn what_cannot_be_read_is_not_lost() {
    let unread = |disk: &mut Disk, copies: u8, error: IoError| {
        let before = disk.copies.clone();
        disk.refusal = error;
        for accept in [false, true] {
            let told = disk.open(accept).err();
            assert_eq!(told, Some(SuperblockError::Unreadable { copies, error }));
        }
        assert_eq!(disk.copies, before, "a refusal writes nothing");
        assert_eq!(disk.events, []);
    };
    // All of them, or all that are not damaged besides.
    let (mut disk, superblock) = Disk::formatted();
    disk.unreadable = [true; 4];
    disk.events.clear();
    unread(&mut disk, 4, IoError::Device);
    let mut damaged = disk.clone();
    damaged.copies[2][700] ^= 1;
    damaged.unreadable[2] = false;
    unread(&mut damaged, 3, IoError::Device);
    // Where rights are missing three good copies do not make up for it.
    for copy in 0..SUPERBLOCK_COPIES {
        disk.unreadable = [false; 4];
        disk.unreadable[copy] = true;
        unread(&mut disk, 1, IoError::ReadOnly);
    }
    disk.unreadable = [false; 4];
    assert_eq!(disk.open(false).unwrap().state(), superblock.state());
}

/// One good copy beside three that the device does not give: only the operator can say that it is
/// the newest.
#[test]
fn one_readable_copy_needs_the_operators_word() {
    let (mut disk, _) = Disk::formatted();
    disk.unreadable = [true, true, false, true];
    let error = SuperblockError::Unreadable { copies: 3, error: IoError::Device };
    assert_eq!(disk.open(false).err(), Some(error));
    // It goes on with it, until a copy cannot be read back.
    let error = SuperblockError::Io { copy: 0, error: IoError::Device };
    assert_eq!(disk.open(true).err(), Some(error));
}

/// An open that writes nothing says of no copy that it is written again.
#[test]
fn copies_are_told_as_bad_only_when_they_are_written_again() {
    let (mut disk, _) = Disk::formatted();
    disk.copies[1][300] ^= 1;
    disk.events.clear();
    disk.open(false).unwrap();
    assert!(disk.events.contains(&Event::SuperblockCopyBad { copy: 1 }));
    for copy in 0..3 {
        disk.copies[copy][300] ^= 1;
    }
    disk.events.clear();
    assert!(disk.open(false).is_err());
    assert_eq!(disk.events, []);
}

#[test]
fn a_stale_copy_is_outvoted_and_repaired() {
    for stale in 0..SUPERBLOCK_COPIES {
        let (mut disk, mut superblock) = Disk::formatted();
        let old = disk.copies[stale].clone();
        assert_eq!(disk.update(&mut superblock, 5), Some(SuperblockEvent::Updated));
        disk.copies[stale] = old;
        let opened = disk.open(false).unwrap();
        assert_eq!(opened.state().unwrap().view, View::new(5));
    }
}

#[test]
fn a_misdirected_copy_does_not_count() {
    for from in 0..SUPERBLOCK_COPIES {
        for to in (0..SUPERBLOCK_COPIES).filter(|&to| to != from) {
            let (mut disk, superblock) = Disk::formatted();
            disk.copies[to] = disk.copies[from].clone();
            let report = decode_copies(&core::array::from_fn(|copy| &disk.copies[copy][..]));
            assert_eq!(report.verdicts[to], CopyVerdict::Misplaced { found: from as u8 });
            assert_eq!(disk.open(false).unwrap().state(), superblock.state());
        }
    }
    // Misdirected copies of a newer version do not make a quorum.
    let (mut disk, mut superblock) = Disk::formatted();
    disk.writes_left = 1;
    assert_eq!(disk.update(&mut superblock, 5), None);
    disk.copies[1] = disk.copies[0].clone();
    assert_eq!(disk.open(false).unwrap().state().unwrap().view, View::new(0));
}

#[test]
fn the_newer_of_two_linked_single_copies_counts() {
    let (mut disk, mut superblock) = Disk::formatted();
    disk.writes_left = 1;
    assert_eq!(disk.update(&mut superblock, 5), None);
    disk.copies[1][9] ^= 1;
    disk.copies[3][9] ^= 1;
    // The repair touches no good copy before it has made others: it may be cut short anywhere.
    for repairs in 0..3 {
        for tear_at in [100, PAGE_SIZE] {
            let mut disk = disk.clone();
            let mut effects = Effects::new();
            let options = OpenOptions {
                cluster: None,
                replica: None,
                release: RELEASE,
                accept_single_copy: false,
            };
            let mut cut_short = Superblock::open(options, &mut effects);
            (disk.writes_left, disk.tear_at) = (repairs, tear_at);
            assert_eq!(disk.run(&mut cut_short, &mut effects), Ok(None));
            assert_eq!(disk.open(false).unwrap().state().unwrap().view, View::new(5));
        }
    }
    assert_eq!(disk.open(false).unwrap().state().unwrap().view, View::new(5));
}

#[test]
fn two_single_copies_of_different_histories_are_refused() {
    let (mut disk, _) = Disk::formatted();
    disk.copies[1][9] ^= 1;
    disk.copies[3][9] ^= 1;
    let other = SuperblockState { sequence: 9, previous: InternalHash([9; 32]), ..first_state() };
    disk.copies[2] = layout::encode(&other, 2).as_bytes().to_vec();
    let error = SuperblockError::CopiesDisagree { sequence_min: 1, sequence_max: 9 };
    assert_eq!(disk.open(true).err(), Some(error));
}

#[test]
fn sequences_of_abandoned_updates_are_not_used_again() {
    let (mut disk, mut superblock) = Disk::formatted();
    disk.writes_left = 1;
    assert_eq!(disk.update(&mut superblock, 5), None);
    let abandoned = disk.copies[0].clone();
    let mut superblock = disk.open(false).unwrap();
    assert_eq!(superblock.state().unwrap().sequence, 1);
    assert_eq!(disk.update(&mut superblock, 6), Some(SuperblockEvent::Updated));
    assert_eq!(superblock.state().unwrap().sequence, 3);
    disk.copies[0] = abandoned;
    assert_eq!(disk.open(false).unwrap().state().unwrap().view, View::new(6));
}

#[test]
fn a_lost_write_is_noticed_when_it_is_read_back() {
    for copy in 0..SUPERBLOCK_COPIES {
        let (mut disk, mut superblock) = Disk::formatted();
        disk.loses[copy] = true;
        let mut effects = Effects::new();
        let state = SuperblockState { view: View::new(5), ..*superblock.state().unwrap() };
        superblock.update(state, &mut effects);
        let error = SuperblockError::ReadBackMismatch { copy: copy as u8 };
        assert_eq!(disk.run(&mut superblock, &mut effects), Err(error));
        assert_eq!(superblock.state().unwrap().view, View::new(0), "nothing may rely on it");
    }
}

#[test]
fn strangers_and_newer_versions_are_refused_untouched() {
    let options = OpenOptions {
        cluster: Some(ClusterId::new(7)),
        replica: Some(ReplicaId::new(0)),
        release: RELEASE,
        accept_single_copy: true,
    };
    let check = |state: SuperblockState, options: OpenOptions, error: SuperblockError| {
        let mut disk = Disk::new();
        for copy in 0..SUPERBLOCK_COPIES {
            disk.copies[copy] = layout::encode(&state, copy as u8).as_bytes().to_vec();
        }
        disk.copies[3][0] ^= 1;
        let untouched = disk.copies.clone();
        assert_eq!(disk.open_with(options).err(), Some(error));
        assert_eq!(disk.copies, untouched);
    };
    let (found, expected) = (ClusterId::new(7), ClusterId::new(8));
    check(
        first_state(),
        OpenOptions { cluster: Some(expected), ..options },
        SuperblockError::WrongCluster { found, expected },
    );
    let (found, expected) = (ReplicaId::new(0), ReplicaId::new(1));
    check(
        first_state(),
        OpenOptions { replica: Some(expected), ..options },
        SuperblockError::WrongReplica { found, expected },
    );
    let found = Release::new(2);
    check(
        SuperblockState { release: found, ..first_state() },
        options,
        SuperblockError::NewerRelease { found, known: RELEASE },
    );
    let found = FORMAT_VERSION + 1;
    check(
        SuperblockState { format_version: found, ..first_state() },
        options,
        SuperblockError::NewerFormat { found, known: FORMAT_VERSION },
    );
}

/// A state without marks is written as it always was; one with a mark is refused by a release that
/// does not know of it.
#[test]
fn a_mark_raises_the_format_version() {
    let state = |format_version, syncing, replaced| SuperblockState {
        format_version,
        syncing,
        replaced,
        ..busy_state()
    };
    for state in
        [state(1, false, false), state(2, true, false), state(3, false, true), state(3, true, true)]
    {
        let bytes = layout::encode(&state, 2);
        assert_eq!(layout::decode(bytes.as_bytes(), 2), Ok(state));
        let marks = [u8::from(state.syncing), u8::from(state.replaced)];
        assert_eq!(bytes.as_bytes()[656..658], marks);
    }
    for mixed in [state(1, true, false), state(2, false, true), state(3, true, false)] {
        let bytes = layout::encode(&mixed, 2);
        assert!(matches!(
            layout::decode(bytes.as_bytes(), 2),
            Err(layout::DecodeError::Malformed("another format version than its content has"))
        ));
    }
}

/// Four good copies of one state, for the fuzz target.
pub(crate) fn encoded_copies() -> Vec<crate::io::Pages> {
    (0..SUPERBLOCK_COPIES as u8).map(|copy| layout::encode(&busy_state(), copy)).collect()
}
