//! Which of four copies counts: pure functions over bytes, used at open and offline by `verify`.
//!
//! The rules and why they are safe are in the module's door file.

use super::layout::{self, DecodeError};
use super::{FORMAT_VERSION, SuperblockError, SuperblockState};
use crate::crypto::hash::InternalHash;
use crate::io::IoError;
use crate::limits::SUPERBLOCK_COPIES;

/// What one copy turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyVerdict {
    Good {
        sequence: u64,
        checksum: InternalHash,
    },
    /// Torn or rotten.
    Checksum,
    /// Good bytes of copy `found` in another one's place.
    Misplaced {
        found: u8,
    },
    NewerFormat {
        found: u32,
    },
    /// Never written, or values that no release writes.
    Malformed(&'static str),
    /// The disk did not give it: what it holds is not known.
    Unreadable(IoError),
}

impl CopyVerdict {
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self, CopyVerdict::Good { .. })
    }
}

impl core::fmt::Display for CopyVerdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            CopyVerdict::Good { sequence, .. } => write!(f, "whole, of update {sequence}"),
            CopyVerdict::Checksum => f.write_str("its checksum does not hold"),
            CopyVerdict::Misplaced { found } => write!(f, "it is copy {found} in the wrong place"),
            CopyVerdict::NewerFormat { found } => {
                write!(f, "format version {found} of a newer release")
            }
            CopyVerdict::Malformed(what) => f.write_str(what),
            CopyVerdict::Unreadable(error) => write!(f, "it cannot be read: {error}"),
        }
    }
}

/// All four copies, parsed.
#[derive(Clone, Debug)]
pub struct CopiesReport {
    pub verdicts: [CopyVerdict; SUPERBLOCK_COPIES],
    /// The content of those that are good.
    pub states: [Option<SuperblockState>; SUPERBLOCK_COPIES],
}

/// The state to go on with, and what must be rewritten first.
#[derive(Clone, Copy, Debug)]
pub struct Decision {
    pub state: SuperblockState,
    /// Copies that hold exactly this state.
    pub copies_agreeing: u8,
    /// `repair[..repair_count]`: copies that do not; damaged ones first.
    pub repair: [u8; SUPERBLOCK_COPIES],
    pub repair_count: usize,
    /// Highest sequence seen in any good copy; the next update goes above it.
    pub sequence_max: u64,
}

/// Parses the bytes found at the four places, all of which could be read.
#[must_use]
pub fn decode_copies(copies: &[&[u8]; SUPERBLOCK_COPIES]) -> CopiesReport {
    judge_copies(&copies.map(Ok))
}

/// Parses what the disk answered at the four places.
#[must_use]
pub fn judge_copies(copies: &[Result<&[u8], IoError>; SUPERBLOCK_COPIES]) -> CopiesReport {
    let mut states = [None; SUPERBLOCK_COPIES];
    let verdicts = core::array::from_fn(|copy| {
        let bytes = match copies[copy] {
            Ok(bytes) => bytes,
            Err(error) => return CopyVerdict::Unreadable(error),
        };
        match layout::decode(bytes, copy as u8) {
            Ok(state) => {
                states[copy] = Some(state);
                CopyVerdict::Good { sequence: state.sequence, checksum: state.checksum() }
            }
            Err(DecodeError::Checksum) => CopyVerdict::Checksum,
            Err(DecodeError::Misplaced { found }) => CopyVerdict::Misplaced { found },
            Err(DecodeError::NewerFormat { found }) => CopyVerdict::NewerFormat { found },
            Err(DecodeError::Malformed(what)) => CopyVerdict::Malformed(what),
        }
    });
    CopiesReport { verdicts, states }
}

impl CopiesReport {
    /// Chooses by the rules of the door file.
    pub fn decide(&self, accept_single_copy: bool) -> Result<Decision, SuperblockError> {
        for verdict in &self.verdicts {
            if let CopyVerdict::NewerFormat { found } = *verdict {
                return Err(SuperblockError::NewerFormat { found, known: FORMAT_VERSION });
            }
        }
        let unreadable = self.unreadable();
        match unreadable {
            // What the device lost is written again from the others. Of rights that are missing
            // nothing is known but that the file was not looked at.
            Some(SuperblockError::Unreadable { error: IoError::Device, .. }) | None => {}
            Some(refused) => return Err(refused),
        }
        // Without a decision: what could not be read may be what is missing.
        self.choose(accept_single_copy).map_err(|refusal| unreadable.unwrap_or(refusal))
    }

    /// How many copies could not be read, and why: what says least of the disk.
    fn unreadable(&self) -> Option<SuperblockError> {
        let errors = self.verdicts.iter().filter_map(|verdict| match verdict {
            CopyVerdict::Unreadable(error) => Some(*error),
            _read => None,
        });
        let copies = errors.clone().count() as u8;
        let of_rights = errors.clone().find(|error| *error != IoError::Device);
        let error = of_rights.or_else(|| errors.clone().next())?;
        Some(SuperblockError::Unreadable { copies, error })
    }

    fn choose(&self, accept_single_copy: bool) -> Result<Decision, SuperblockError> {
        let good = || self.states.iter().flatten();
        let sequence_max = good().map(|state| state.sequence).max().unwrap_or(0);
        let sequence_min = good().map(|state| state.sequence).min().unwrap_or(0);
        let count = good().count();
        let Some(newest) = good().max_by_key(|state| state.sequence) else {
            return Err(SuperblockError::AllCopiesLost);
        };
        let by_quorum =
            good().filter(|state| self.agreeing(state) >= 2).max_by_key(|state| state.sequence);
        if let Some(state) = by_quorum {
            return Ok(self.decision(state, sequence_max));
        }
        if count == 1 {
            if accept_single_copy {
                return Ok(self.decision(newest, sequence_max));
            }
            let copy = self.states.iter().take_while(|state| state.is_none()).count() as u8;
            return Err(SuperblockError::OneCopyLeft { copy, sequence: newest.sequence });
        }
        let linked = good().all(|state| state == newest || newest.previous == state.checksum());
        if linked {
            return Ok(self.decision(newest, sequence_max));
        }
        Err(SuperblockError::CopiesDisagree { sequence_min, sequence_max })
    }

    fn agreeing(&self, state: &SuperblockState) -> usize {
        self.states.iter().flatten().filter(|other| *other == state).count()
    }

    fn decision(&self, state: &SuperblockState, sequence_max: u64) -> Decision {
        let mut repair = [0; SUPERBLOCK_COPIES];
        let mut repair_count = 0;
        let mut list = |copy: usize| {
            repair[repair_count] = copy as u8;
            repair_count += 1;
        };
        // Damaged first: overwriting a stale but good copy is the riskier step.
        let damaged = |copy: &usize| self.states[*copy].is_none();
        let stale = |copy: &usize| self.states[*copy].is_some_and(|other| other != *state);
        (0..SUPERBLOCK_COPIES).filter(damaged).for_each(&mut list);
        (0..SUPERBLOCK_COPIES).filter(stale).for_each(&mut list);
        let copies_agreeing = self.agreeing(state) as u8;
        assert_eq!(repair_count + usize::from(copies_agreeing), SUPERBLOCK_COPIES);
        Decision { state: *state, copies_agreeing, repair, repair_count, sequence_max }
    }
}
