//! Salted column hashes and the commitment of a row (or of an appended record).
//!
//! Purpose: one hash in a record's clear metadata that binds every column of the row it made, so
//! that some columns can be shown, with their salts, and checked against the log, while the others
//! stay hidden. Bytes, little endian, in `docs/PROOFS.md`:
//!
//! ```text
//! column hash = SHA-256(0x02 ‖ salt [16] ‖ table u32 ‖ column u32 ‖ type u8 ‖ length u32 ‖ value)
//! commitment  = SHA-256(0x03 ‖ table u32 ‖ schema version u32 ‖ column hashes ‖ count u32)
//! row seed    = keyed BLAKE3(salt key; tenant u64 ‖ position u64)
//! salts       = keyed BLAKE3(row seed; nothing), extended output; column i has bytes 16i..16i + 16
//! ```
//!
//! Why 16 bytes of salt: what hides a value is that its salt cannot be guessed, for which 128 bits
//! are plenty; and up to 25 bytes of value then fit one block of SHA-256, which halves the cost of
//! a typical column. Why the count comes last: columns stream, nothing is kept. No two inputs of
//! different lists are equal: hashes have a fixed size.
//!
//! Invariants: a row seed discloses all salts of its row and none of another. Nothing allocates.

use alloc::vec::Vec;
use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::hash::{ChainHash, ChainHasher};
use crate::ids::{ColumnId, Position, SchemaVersion, StreamId, TableId, TenantId, TreeId};
use crate::limits::{COLUMNS_MAX, KEY_SIZE_MAX};

pub const SALT_SIZE: usize = 16;

const COLUMN_DOMAIN: u8 = 0x02;
const ROW_DOMAIN: u8 = 0x03;
const PAYLOAD_DOMAIN: u8 = 0x04;
const RECORD_DOMAIN: u8 = 0x05;

/// Salts made at once: two blocks of BLAKE3's extended output, which vector units make as fast as
/// one.
const SALTS_AT_ONCE: usize = 8;

/// Hides one column's value until disclosed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub [u8; SALT_SIZE]);

/// The key that row seeds are made with; of one tenant and generation, never disclosed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SaltKey([u8; 32]);

impl SaltKey {
    #[must_use]
    pub fn new(key: [u8; 32]) -> SaltKey {
        SaltKey(key)
    }
}

impl fmt::Debug for SaltKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SaltKey(..)")
    }
}

/// The key that entries of a tenant's trees are salted with; of one tenant, never disclosed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LeafSaltKey([u8; 32]);

impl LeafSaltKey {
    #[must_use]
    pub fn new(key: [u8; 32]) -> LeafSaltKey {
        LeafSaltKey(key)
    }

    /// The salts of the entry under `key`: of the entry itself, and of its value where that is no
    /// row. A function of tree and key alone, so that any replica and any rebuild finds the same.
    #[must_use]
    pub fn salts(&self, tree: TreeId, key: &[u8]) -> (Salt, Salt) {
        let mut buffer = [0; 4 + KEY_SIZE_MAX];
        buffer[..4].copy_from_slice(&tree.get().to_le_bytes());
        buffer[4..4 + key.len()].copy_from_slice(key);
        let hash = blake3::keyed_hash(&self.0, &buffer[..4 + key.len()]);
        let (mut entry, mut value) = (Salt([0; SALT_SIZE]), Salt([0; SALT_SIZE]));
        entry.0.copy_from_slice(&hash.as_bytes()[..SALT_SIZE]);
        value.0.copy_from_slice(&hash.as_bytes()[SALT_SIZE..]);
        (entry, value)
    }
}

impl fmt::Debug for LeafSaltKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafSaltKey(..)")
    }
}

/// Discloses every salt of one row, and nothing else.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct RowSeed(pub [u8; 32]);

impl RowSeed {
    #[must_use]
    pub fn new(key: &SaltKey, tenant: TenantId, position: Position) -> RowSeed {
        let mut row = [0; 16];
        row[..8].copy_from_slice(&tenant.get().to_le_bytes());
        row[8..].copy_from_slice(&position.get().to_le_bytes());
        #[cfg(verity_zoo)]
        if crate::zoo::is("salts_reused") {
            row[8..].fill(0);
        }
        RowSeed(*blake3::keyed_hash(&key.0, &row).as_bytes())
    }

    /// Salt of the `at`-th column of the list.
    #[must_use]
    pub fn salt(&self, at: usize) -> Salt {
        assert!(at < COLUMNS_MAX, "a row has at most {COLUMNS_MAX} columns");
        let mut salt = Salt([0; SALT_SIZE]);
        let mut stream = self.stream();
        stream.set_position((at * SALT_SIZE) as u64);
        stream.fill(&mut salt.0);
        salt
    }

    fn stream(&self) -> blake3::OutputReader {
        blake3::Hasher::new_keyed(&self.0).finalize_xof()
    }
}

impl fmt::Debug for RowSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowSeed(..)")
    }
}

/// Builds the commitment of one row, column by column in the order of the table.
pub struct RowCommitment {
    list: CommitmentList,
    stream: blake3::OutputReader,
    salts: [[u8; SALT_SIZE]; SALTS_AT_ONCE],
}

impl RowCommitment {
    #[must_use]
    pub fn new(
        key: &SaltKey,
        tenant: TenantId,
        position: Position,
        table: TableId,
        schema: SchemaVersion,
    ) -> RowCommitment {
        RowCommitment::from_seed(&RowSeed::new(key, tenant, position), table, schema)
    }

    /// As an auditor does who was given the whole row and its seed.
    #[must_use]
    pub fn from_seed(seed: &RowSeed, table: TableId, schema: SchemaVersion) -> RowCommitment {
        RowCommitment {
            list: CommitmentList::new(table, schema),
            stream: seed.stream(),
            salts: [[0; SALT_SIZE]; SALTS_AT_ONCE],
        }
    }

    /// `value` is the column's value alone, in the encoding that `docs/PROOFS.md` gives its type.
    pub fn column(&mut self, column: ColumnId, type_tag: u8, value: &[u8]) -> &mut RowCommitment {
        let at = self.list.count as usize % SALTS_AT_ONCE;
        if at == 0 {
            self.stream.fill(self.salts.as_flattened_mut());
        }
        let salt = Salt(self.salts[at]);
        self.list.push(&column_hash(&salt, self.list.table, column, type_tag, value));
        self
    }

    #[must_use]
    pub fn finish(self) -> ChainHash {
        self.list.finish()
    }
}

impl fmt::Debug for RowCommitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowCommitment {{ columns: {} }}", self.list.count)
    }
}

/// Commitment of a record that a client appended to a stream: one payload, one salt.
#[must_use]
pub fn record_commitment(
    key: &SaltKey,
    tenant: TenantId,
    position: Position,
    stream: StreamId,
    payload: &[u8],
) -> ChainHash {
    record_commitment_with(&RowSeed::new(key, tenant, position).salt(0), stream, payload)
}

/// As an auditor does who was given the payload and its salt.
#[must_use]
pub fn record_commitment_with(salt: &Salt, stream: StreamId, payload: &[u8]) -> ChainHash {
    let mut hasher = ChainHasher::new();
    hasher.update(&[PAYLOAD_DOMAIN]).update(&salt.0).update(&stream.get().to_le_bytes());
    hasher.update(&length(payload)).update(payload);
    let payload_hash = hasher.finish();
    ChainHash::of(&[&[RECORD_DOMAIN], &stream.get().to_le_bytes(), &payload_hash.0])
}

/// One column of a row as an auditor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column<'a> {
    Hidden(ChainHash),
    Shown { salt: Salt, column: ColumnId, type_tag: u8, value: &'a [u8] },
}

/// Why a partly shown row is not the one committed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitmentError {
    TooManyColumns {
        count: usize,
    },
    /// A shown value, its salt, place or type, or a hidden hash, is not what was committed to.
    Mismatch,
}

impl fmt::Display for CommitmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitmentError::TooManyColumns { count } => {
                write!(f, "a row has at most {COLUMNS_MAX} columns, not {count}")
            }
            CommitmentError::Mismatch => f.write_str("the row shown is not the one committed to"),
        }
    }
}

impl core::error::Error for CommitmentError {}

/// Checks all columns of a row, some shown, some hidden, in the order of the table.
pub fn verify_row(
    commitment: &ChainHash,
    table: TableId,
    schema: SchemaVersion,
    columns: &[Column<'_>],
) -> Result<(), CommitmentError> {
    if columns.len() > COLUMNS_MAX {
        return Err(CommitmentError::TooManyColumns { count: columns.len() });
    }
    if row_commitment_of(table, schema, columns) == *commitment {
        Ok(())
    } else {
        Err(CommitmentError::Mismatch)
    }
}

/// The commitment of a row of which some columns are shown, in the order of the table.
#[must_use]
pub fn row_commitment_of(
    table: TableId,
    schema: SchemaVersion,
    columns: &[Column<'_>],
) -> ChainHash {
    let mut list = CommitmentList::new(table, schema);
    for column in columns {
        list.push(&match column {
            Column::Hidden(hash) => *hash,
            Column::Shown { salt, column, type_tag, value } => {
                column_hash(salt, table, *column, *type_tag, value)
            }
        });
    }
    list.finish()
}

/// What hides and binds one column.
#[must_use]
pub fn column_hash(
    salt: &Salt,
    table: TableId,
    column: ColumnId,
    type_tag: u8,
    value: &[u8],
) -> ChainHash {
    let mut head = [0; 30];
    head[0] = COLUMN_DOMAIN;
    head[1..17].copy_from_slice(&salt.0);
    head[17..21].copy_from_slice(&table.get().to_le_bytes());
    head[21..25].copy_from_slice(&column.get().to_le_bytes());
    head[25] = type_tag;
    head[26..].copy_from_slice(&length(value));
    ChainHash::of(&[&head, value])
}

fn length(value: &[u8]) -> [u8; 4] {
    let Ok(length) = u32::try_from(value.len()) else {
        unreachable!("a value is no longer than a row, which is below 1 MiB");
    };
    length.to_le_bytes()
}

/// The running hash over column hashes.
struct CommitmentList {
    hasher: ChainHasher,
    table: TableId,
    count: u32,
}

impl CommitmentList {
    fn new(table: TableId, schema: SchemaVersion) -> CommitmentList {
        let mut head = [0; 9];
        head[0] = ROW_DOMAIN;
        head[1..5].copy_from_slice(&table.get().to_le_bytes());
        head[5..].copy_from_slice(&schema.get().to_le_bytes());
        let mut hasher = ChainHasher::new();
        hasher.update(&head);
        CommitmentList { hasher, table, count: 0 }
    }

    fn push(&mut self, hash: &ChainHash) {
        assert!((self.count as usize) < COLUMNS_MAX, "a row has at most {COLUMNS_MAX} columns");
        self.hasher.update(&hash.0);
        self.count += 1;
    }

    fn finish(mut self) -> ChainHash {
        self.hasher.update(&self.count.to_le_bytes());
        self.hasher.finish()
    }
}

/// All salts of a row, for a holder of the seed who discloses some columns.
#[must_use]
pub fn salts(seed: &RowSeed, count: usize) -> Vec<Salt> {
    (0..count).map(|at| seed.salt(at)).collect()
}

#[cfg(test)]
mod tests;
