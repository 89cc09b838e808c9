//! Superblock, keys and journal.

use std::path::Path;

use verity_core::ids::Op;
use verity_core::io::{Address, Effects, FileId, Input, IoError};
use verity_core::journal::{self, JournalError, JournalStart, PrepareHeader, Recovered, Ring};
use verity_core::keyring::format::{Image, extent_offset, image_size};
use verity_core::keyring::{CopyFault, Keyring, KeyringError, KeyringEvent};
use verity_core::limits::{KEYS_MAX, PAGE_SIZE, PREPARE_HEADER_SIZE, SUPERBLOCK_COPIES};
use verity_core::node::CURRENT_RELEASE;
use verity_core::superblock::{
    CopiesReport, CopyVerdict, SuperblockError, SuperblockState, copy_offset, judge_copies,
};

use super::{Progress, Report};
use crate::disk::master_key::MasterKeyProblem;
use crate::format::found::journal_cut;
use crate::offline::Offline;

/// Reads all four copies; the state that an open would take.
pub fn superblock(files: &mut Offline, report: &mut Report) -> Option<SuperblockState> {
    let decoded = superblock_copies(files);
    let mut unread = Vec::new();
    for (number, verdict) in decoded.verdicts.iter().enumerate() {
        if let CopyVerdict::Unreadable(error) = *verdict {
            unread.push((number, files.why(FileId::Superblock, error)));
        }
    }
    match unread.as_slice() {
        [] => {}
        [(_, why), ..] if unread.len() == SUPERBLOCK_COPIES => {
            report.unknown("superblock", format!("none of its copies can be read: {why}"));
        }
        some => {
            for (number, why) in some {
                report.unknown("superblock", format!("copy {number} cannot be read: {why}"));
            }
        }
    }
    let decision = match decoded.decide(false) {
        Ok(decision) => decision,
        Err(
            error @ (SuperblockError::NewerFormat { .. } | SuperblockError::NewerRelease { .. }),
        ) => {
            report.unknown("superblock", error);
            return None;
        }
        // It was told which copies, and why.
        Err(SuperblockError::Unreadable { .. }) => return None,
        Err(error) => {
            report.damage("superblock", error);
            return None;
        }
    };
    if decision.state.release > CURRENT_RELEASE {
        let (found, known) = (decision.state.release, CURRENT_RELEASE);
        report.unknown("superblock", SuperblockError::NewerRelease { found, known });
        return None;
    }
    for (number, verdict) in decoded.verdicts.iter().enumerate() {
        match verdict {
            CopyVerdict::Good { sequence, .. } if *sequence < decision.state.sequence => {
                report.note(
                    "superblock",
                    format!("copy {number} is of an earlier update (sequence {sequence})"),
                );
            }
            CopyVerdict::Good { .. } | CopyVerdict::Unreadable(_) => {}
            bad => report.damage(
                "superblock",
                format!("copy {number} is damaged ({bad}); the next open repairs it"),
            ),
        }
    }
    Some(decision.state)
}

/// All four copies, and which of them could not be read.
pub(crate) fn superblock_copies(files: &mut Offline) -> CopiesReport {
    let mut copies = vec![[0; PAGE_SIZE]; SUPERBLOCK_COPIES];
    let mut answers = [Ok(()); SUPERBLOCK_COPIES];
    for (number, (copy, answer)) in (0..).zip(copies.iter_mut().zip(&mut answers)) {
        *answer = files.read(Address::new(FileId::Superblock, copy_offset(number)), copy);
    }
    judge_copies(&std::array::from_fn(|copy| answers[copy].map(|()| &copies[copy][..])))
}

/// Both copies of the keys file; the keyring, if the master key opens it.
pub fn keys(
    files: &mut Offline,
    state: &SuperblockState,
    no_key: Option<&MasterKeyProblem>,
    report: &mut Report,
) -> Option<Keyring> {
    let readable = check_key_copies(files, report);
    if let Some(problem) = no_key {
        report.unknown("keys", problem);
        return None;
    }
    match open_keyring(files, state) {
        Ok(keyring) => Some(keyring),
        Err(error @ (KeyringError::WrongMasterKey { .. } | KeyringError::NewerFormat { .. })) => {
            report.unknown("keys", error);
            None
        }
        // What could not be read may be whole; it was told which copy, and why.
        Err(KeyringError::Unreadable { .. }) => None,
        Err(_) if !readable => None,
        Err(error) => {
            report.damage("keys", error);
            None
        }
    }
}

/// False: a copy could not be read.
fn check_key_copies(files: &mut Offline, report: &mut Report) -> bool {
    let mut readable = true;
    let mut sequences = [None; 2];
    let mut faults = Vec::new();
    for (copy, sequence) in sequences.iter_mut().enumerate() {
        match read_key_copy(files, copy) {
            Ok(image) => *sequence = Some(image.sequence),
            Err(CopyFault::Unreadable(error)) => {
                readable = false;
                let why = files.why(FileId::Keys, error);
                report.unknown("keys", format!("copy {copy} cannot be read: {why}"));
            }
            Err(fault) => faults.push((copy, fault)),
        }
    }
    let next = match (sequences, readable) {
        // An open writes the one anew from the other.
        ([None, None], true) => {
            "no copy is whole, so an open is refused: restore the file from a copy of the directory"
        }
        ([None, None], false) => "an open needs the other copy, which cannot be read",
        _one_is_whole => "the next open repairs it",
    };
    for (copy, fault) in faults {
        report.damage("keys", format!("copy {copy}: {fault}; {next}"));
    }
    if let [Some(first), Some(second)] = sequences
        && first != second
    {
        report.note("keys", format!("copies are of updates {first} and {second}"));
    }
    readable
}

/// The better copy of the keys file, still wrapped.
pub fn key_image(files: &mut Offline) -> Result<Image, CopyFault> {
    let copies = [read_key_copy(files, 0), read_key_copy(files, 1)];
    match copies {
        [Ok(first), Ok(second)] if second.sequence > first.sequence => Ok(second),
        [Ok(first), _] => Ok(first),
        [Err(_), second] => second,
    }
}

fn read_key_copy(files: &mut Offline, copy: usize) -> Result<Image, CopyFault> {
    let mut page = vec![0; PAGE_SIZE];
    let first = Address::new(FileId::Keys, extent_offset(copy, 0));
    files.read(first, &mut page).map_err(CopyFault::Unreadable)?;
    let size = Image::peek_size(&page)?.min(image_size(KEYS_MAX));
    let mut bytes = vec![0; size.next_multiple_of(PAGE_SIZE)];
    for (extent, page) in bytes.chunks_mut(PAGE_SIZE).enumerate() {
        let at = Address::new(FileId::Keys, extent_offset(copy, extent));
        files.read(at, page).map_err(CopyFault::Unreadable)?;
    }
    Image::decode(&bytes)
}

fn open_keyring(files: &mut Offline, state: &SuperblockState) -> Result<Keyring, KeyringError> {
    let mut effects = Effects::new();
    let mut keyring =
        Keyring::open(state.cluster, state.origin, state.checkpoint.generation, &mut effects)
            .of_grid(state.grid);
    let mut inputs = Vec::new();
    let mut opened = false;
    loop {
        files.execute(&mut effects, &mut inputs);
        if inputs.is_empty() {
            assert!(opened, "a keyring that waits for nothing is open");
            return Ok(keyring);
        }
        for input in std::mem::take(&mut inputs) {
            let event = match input {
                Input::ReadDone { io, pages, result } => {
                    keyring.on_read_done(io, pages, result, &mut effects)?
                }
                Input::WriteDone { io, pages, result } => {
                    keyring.on_write_done(io, pages, result, &mut effects)?
                }
                Input::Done { io, result } => keyring.on_done(io, result, &mut effects)?,
                Input::Wrapped { io, key } => keyring.on_wrapped(io, key, &mut effects)?,
                Input::Unwrapped { io, key } => keyring.on_unwrapped(io, key, &mut effects)?,
                Input::Tick
                | Input::Space { .. }
                | Input::Received { .. }
                | Input::LinkClosed { .. } => KeyringEvent::Pending,
            };
            opened |= matches!(event, KeyringEvent::Opened { .. });
        }
    }
}

/// Reads the journal as an open would; the outer error: it cannot be read.
pub fn walk(
    files: &mut Offline,
    state: &SuperblockState,
    progress: &mut dyn Progress,
) -> Result<Result<Recovered, JournalError>, IoError> {
    let checkpoint = &state.checkpoint;
    let start = JournalStart {
        cluster: state.cluster,
        ring_bytes: state.constants.journal_ring_bytes,
        release: CURRENT_RELEASE,
        op: checkpoint.op,
        prepare_checksum: checkpoint.prepare_checksum,
        journal_offset: checkpoint.journal_offset,
        view: state.view,
        committed: state.committed,
    };
    progress.part("journal", state.constants.journal_ring_bytes);
    journal::walk(start, |offset, bytes| {
        progress.bytes(bytes.len() as u64);
        files.read(Address::new(FileId::Journal, offset), bytes)
    })
}

/// What is in the journal after the checkpoint; its newest op, or that of the checkpoint. None: it
/// could not be told.
pub fn journal(
    root: &Path,
    files: &mut Offline,
    state: &SuperblockState,
    report: &mut Report,
    progress: &mut dyn Progress,
) -> Option<Op> {
    if let Some(cut) = journal_cut(root, state) {
        report.damage("journal", cut);
    }
    let walked = walk(files, state, progress);
    match walked {
        Err(error) => {
            report.unknown("journal", files.why(FileId::Journal, error));
            None
        }
        Ok(Err(error @ JournalError::NewerRelease { .. })) => {
            report.unknown("journal", error);
            None
        }
        Ok(Err(error)) => {
            report.damage("journal", error);
            None
        }
        Ok(Ok(recovered)) => {
            let newest = recovered.headers.last().map_or(state.checkpoint.op, |last| last.op);
            report.prepares = recovered.headers.len() as u64;
            report.torn_tail = recovered.torn;
            for op in recovered.restored() {
                report.note(
                    "journal",
                    format!("the header of op {op} is damaged; the next open restores it"),
                );
            }
            check_redundant_headers(files, state, &recovered, report);
            if let Some(torn) = recovered.torn {
                let op = torn.op;
                if !torn.damaged {
                    report.note(
                        "journal",
                        format!(
                            "op {op} is not there, though op {} is: it was on its way when the \
                             process stopped, and was never acknowledged",
                            torn.op_max_seen
                        ),
                    );
                    return Some(newest);
                }
                report.unknown(
                    "journal",
                    format!(
                        "the header slot or the prepare of op {op} does not verify, and nothing \
                         shows that it was ever whole: there never was such an op, and only the \
                         slot is damaged; or it was being written when the process or the machine \
                         stopped, and was never acknowledged; or it is the newest write, and \
                         damaged since. What there may be of it the next open drops"
                    ),
                );
            }
            Some(newest)
        }
    }
}

/// A vacant slot begins so; nothing was written there since the format, or it was erased.
const VACANT: &[u8] = b"vacant\0\0";

/// Redundant headers of prepares that are whole. After a kill the newest may not have been written
/// yet, and their slots hold what was there before: that is no damage.
fn check_redundant_headers(
    files: &mut Offline,
    state: &SuperblockState,
    recovered: &Recovered,
    report: &mut Report,
) {
    let ring = Ring::new(state.constants.journal_ring_bytes);
    let mut damaged: Vec<Op> = Vec::new();
    let mut page = vec![0; PAGE_SIZE];
    let mut page_at = None;
    for header in &recovered.headers {
        let slot = ring.slot_offset(header.journal_offset);
        let (at, within) = (slot / PAGE_SIZE * PAGE_SIZE, slot % PAGE_SIZE);
        if page_at != Some(at) {
            let address = Address::new(FileId::Journal, at as u64);
            // It was read a moment ago.
            if let Err(error) = files.read(address, &mut page) {
                return report.unknown("journal", files.why(FileId::Journal, error));
            }
            page_at = Some(at);
        }
        let found = &page[within..within + PREPARE_HEADER_SIZE];
        if PrepareHeader::decode(found).is_err() && !found.starts_with(VACANT) {
            damaged.push(header.op);
        }
    }
    let Some((first, more)) = damaged.split_first() else { return };
    let whose = match more.len() {
        0 => format!("the redundant header of op {first} is"),
        count => format!("the redundant headers of op {first} and of {count} more are"),
    };
    report.note(
        "journal",
        format!("{whose} damaged; the prepares are whole, and the next open writes them anew"),
    );
}
