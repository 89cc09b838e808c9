//! Answers that prove themselves: the format of proofs, and the verifier, usable alone.
//!
//! Purpose: a stranger with a file, public keys and no network learns what a tenant's state or log
//! holds, that nothing is missing, and who signed for it. [`verify`] is the whole entrance; the
//! format is in `docs/PROOFS.md`.
//!
//! Invariants: no I/O, no SQL, no store; memory and recursion are bounded by the size of the file;
//! an answer is accepted only as the answer to the query that the *caller* gives; every refusal
//! has a reason.
//!
//! Fault model: the file was made by a liar who holds the whole database and none of the keys that
//! the policy names. Start reading at [`verify`], then `file`, `tree`, `answer`.

mod answer;
mod file;
mod index;
mod initial;
mod log;
mod policy;
mod query;
mod redact;
mod schema;
#[cfg(test)]
mod tests;
mod tree;
mod value;
pub mod witness;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

pub use answer::{Answer, AnswerCell, CommittedOutcome, ProvedEvent, RowVersion};
pub use file::{Evidence, Head, Included, Moment, Opening, ProofFile, Since};
pub use index::interval;
pub use log::{LOG_MAGIC, LogStart, LogTree, LogVerifier, SignedHeads, VerifiedLog};
pub use policy::{Freshness, Policy, PolicyError, Seen};
pub use query::{AsOf, CanonicalQuery, Comparison, Filter, QueryKind, Range, Scan};
pub use redact::redact;
pub use schema::{Column, Index, Schema};
pub use tree::{Cell, Entry, EntryValue, Item, Node, Row, TreeHash};
pub use value::Value;

use crate::crypto::note::SignedNote;
use crate::crypto::{ChainHash, commitment, merkle, tree as hashes};
use crate::ids::{Position, StreamId, TenantId, TreeId};
use crate::stdx::cbor::{DecodeError, Decoder};
use tree::Shown;

/// Trees with fixed ids.
const CATALOG: TreeId = TreeId::new(1);
const IDEMPOTENCY: TreeId = TreeId::new(2);
const FOREST: TreeId = TreeId::ZERO;
const ATTESTED: TreeId = TreeId::new(6);

/// Kinds of records.
const ROW_PUT: u16 = 1;
const CHECKPOINT_RECORD: u16 = 6;

/// Why a proof shows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reject {
    TooLarge {
        size: usize,
    },
    /// Not a proof file of this version, or not in its one encoding.
    Malformed(DecodeError),
    /// It answers something else than what was asked.
    AnotherQuery,
    /// The query cannot be evaluated on the table as it is.
    QueryMeaningless {
        reason: &'static str,
    },
    /// The head is not a signed note of a log.
    Note {
        reason: &'static str,
    },
    /// The head's origin is not the policy's log.
    AnotherCluster,
    /// The log's key did not sign the head.
    NotSigned,
    TooFewCosigners {
        cosigners: usize,
    },
    /// The head is older than one that was seen, or has another root at the same size.
    Rollback {
        seen: u64,
        size: u64,
    },
    /// The head is newer than one that was seen, and does not show that it continues it.
    Fork {
        seen: u64,
        size: u64,
    },
    /// A part of a tree does not have the form of one.
    Tree {
        reason: &'static str,
    },
    /// A tree's hash is not the one that is signed for.
    TreeMismatch {
        tree: TreeId,
    },
    /// A tree is said to be empty and is not, or the other way around.
    EmptyMismatch {
        tree: TreeId,
    },
    /// The forest does not show a tree that is needed.
    TreeNotShown {
        tree: TreeId,
    },
    /// An entry that everything hangs on is not shown.
    EntryNotShown {
        what: &'static str,
    },
    /// A record is not what it must be: its kind, tenant, place or content.
    Record {
        reason: &'static str,
    },
    /// A record is not in the log it is said to be in.
    NotInLog(merkle::ProofError),
    /// A record of an exported log is not what must stand there, or the log is another one than
    /// was signed for.
    Log {
        position: Position,
        reason: &'static str,
    },
    /// The log is another tenant's than the one wanted.
    AnotherTenant {
        tenant: TenantId,
    },
    /// Entries of a range are not in order.
    OutOfOrder,
    /// Something may be hidden within the range.
    Gap,
    /// A row's key is not that of its columns.
    KeyMismatch,
    /// A value is not of its column's type.
    WrongType,
    /// A column that the query looks at is hidden.
    ColumnHidden,
    /// More is shown than the query asks for.
    NotAsked,
    /// The state does not reach the position asked for.
    PositionNotReached {
        position: Position,
    },
    /// No transaction had ended by the position.
    BeforeAll {
        position: Position,
    },
    /// The table was created after the moment asked for: another one may have had its name.
    TableNotThere {
        created_at: Position,
    },
    /// Another position than the time asked for means.
    AnotherTime,
    /// What was signed for may still change up to the time asked for.
    TimeNotReached,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reject::TooLarge { size } => write!(f, "the proof has {size} bytes, too many"),
            Reject::Malformed(error) => write!(f, "not a proof: {error}"),
            Reject::AnotherQuery => f.write_str("the proof answers another query"),
            Reject::QueryMeaningless { reason } => write!(f, "the query has no meaning: {reason}"),
            Reject::Note { reason } => write!(f, "the signed head: {reason}"),
            Reject::AnotherCluster => f.write_str("the head is that of another cluster's log"),
            Reject::NotSigned => f.write_str("the cluster's key did not sign the head"),
            Reject::TooFewCosigners { cosigners } => {
                write!(f, "{cosigners} cosigners of the policy signed the head: too few")
            }
            Reject::Rollback { seen, size } => write!(
                f,
                "a head of {seen} records was seen before; this one, of {size}, is older or differs"
            ),
            Reject::Fork { seen, size } => write!(
                f,
                "a head of {seen} records was seen before; this one, of {size}, is not shown to \
                 continue it"
            ),
            Reject::Tree { reason } => write!(f, "a part of a tree is malformed: {reason}"),
            Reject::TreeMismatch { tree } => {
                write!(f, "what is shown of tree {tree} is not what was signed for")
            }
            Reject::EmptyMismatch { tree } => write!(f, "tree {tree} is not empty as is claimed"),
            Reject::TreeNotShown { tree } => write!(f, "the state does not show tree {tree}"),
            Reject::EntryNotShown { what } => write!(f, "{what} is not shown"),
            Reject::Record { reason } => write!(f, "a record is not what it must be: {reason}"),
            Reject::NotInLog(error) => write!(f, "a record is not in the log: {error}"),
            Reject::Log { position, reason } => {
                write!(f, "the log, at position {position}: {reason}")
            }
            Reject::AnotherTenant { tenant } => write!(f, "the log is that of tenant {tenant}"),
            Reject::OutOfOrder => f.write_str("entries are not in order"),
            Reject::Gap => f.write_str("rows may be missing from the answer"),
            Reject::KeyMismatch => f.write_str("a row lies under a key that is not its own"),
            Reject::WrongType => f.write_str("a value is not of its column's type"),
            Reject::ColumnHidden => f.write_str("a column that the query looks at is hidden"),
            Reject::NotAsked => f.write_str("the proof shows more than was asked"),
            Reject::PositionNotReached { position } => {
                write!(f, "the state that was signed for does not reach position {position}")
            }
            Reject::BeforeAll { position } => {
                write!(f, "no transaction had ended by position {position}")
            }
            Reject::TableNotThere { created_at } => {
                write!(f, "the table was created at position {created_at}, after what is asked for")
            }
            Reject::AnotherTime => f.write_str("the position shown is not that of the time"),
            Reject::TimeNotReached => {
                f.write_str("the state that was signed for does not reach the time")
            }
        }
    }
}

impl core::error::Error for Reject {}

/// A record as it lies in a log: what its hash covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub previous: ChainHash,
    pub metadata: [u8; METADATA_SIZE],
    /// Sealed.
    pub data: Vec<u8>,
}

impl Record {
    #[must_use]
    pub fn hash(&self) -> ChainHash {
        ChainHash::of(&[&self.previous.0, &self.metadata, &self.data])
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64_at(&self.metadata, at)
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32_at(&self.metadata, at)
    }

    #[must_use]
    pub fn position(&self) -> Position {
        Position::new(self.u64_at(0))
    }

    #[must_use]
    pub fn tenant(&self) -> TenantId {
        TenantId::new(self.u64_at(8))
    }

    #[must_use]
    pub fn timestamp_ns(&self) -> u64 {
        self.u64_at(32)
    }

    #[must_use]
    pub fn transaction_first(&self) -> Position {
        Position::new(self.u64_at(40))
    }

    #[must_use]
    pub fn transaction_last(&self) -> Position {
        Position::new(self.u64_at(48))
    }

    #[must_use]
    pub fn stream(&self) -> StreamId {
        StreamId::new(self.u32_at(56))
    }

    #[must_use]
    pub fn kind(&self) -> u16 {
        u16::from_le_bytes([self.metadata[60], self.metadata[61]])
    }

    #[must_use]
    pub fn commitment(&self) -> ChainHash {
        let mut hash = ChainHash::ZERO;
        hash.0.copy_from_slice(&self.metadata[102..134]);
        hash
    }

    /// Is it a record of this tenant, at its place in the log with this head?
    fn check(
        &self,
        tenant: TenantId,
        size: u64,
        root: &ChainHash,
        inclusion: &[ChainHash],
    ) -> Result<(), Reject> {
        if self.tenant() != tenant {
            return Err(Reject::Record { reason: "it is another tenant's" });
        }
        if self.u32_at(134) as usize != self.data.len() {
            return Err(Reject::Record { reason: "its data has another length" });
        }
        #[cfg(verity_zoo)]
        if crate::zoo::is("proof_inclusion_unchecked") {
            return Ok(());
        }
        let leaf = merkle::leaf_hash(&self.hash().0);
        let index = self.position().get();
        merkle::verify_inclusion(&leaf, index, size, inclusion, root).map_err(Reject::NotInLog)
    }
}

/// Of a record, as its hash covers them.
const METADATA_SIZE: usize = 138;

fn u64_at(metadata: &[u8; METADATA_SIZE], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&metadata[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn u32_at(metadata: &[u8; METADATA_SIZE], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&metadata[at..at + 4]);
    u32::from_le_bytes(bytes)
}

/// What a proof shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub query: CanonicalQuery,
    pub answer: Answer,
    /// Of the table asked about.
    pub schema: Option<Schema>,
    /// The same as the catalog holds it: what a reader binds their own statement to.
    pub schema_encoded: Option<Vec<u8>>,
    /// The last position of the tenant's log that the state covers.
    pub position: Position,
    /// When the state was attested: the record's time, in nanoseconds after 1970.
    pub attested_ns: u64,
    pub origin: String,
    /// Of the cluster log.
    pub size: u64,
    pub root: ChainHash,
    /// Who cosigned the head, and when, in seconds after 1970.
    pub cosigners: Vec<(String, u64)>,
    /// The state is that of the newest record of the head, and the head is as young as the policy
    /// wants.
    pub fresh: bool,
    /// Columns asked for were taken out.
    pub redacted: bool,
}

/// Checks a proof file: is it, under this policy, the answer to this query? `query`: in its
/// canonical encoding, made by the caller from what the caller asked.
pub fn verify(query: &[u8], file: &[u8], policy: &Policy) -> Result<Verified, Reject> {
    let file = ProofFile::decode(file)?;
    let another = file.query.encode() != query;
    #[cfg(verity_zoo)]
    let another = another && !crate::zoo::is("proof_query_ignored");
    if another {
        return Err(Reject::AnotherQuery);
    }
    verify_file(&file, policy)
}

/// As [`verify`], for the query that the file itself names: the reader judges if it is theirs.
pub fn verify_file(file: &ProofFile, policy: &Policy) -> Result<Verified, Reject> {
    let (note, cosigners) = signed_note(&file.note, policy)?;
    let (size, root) = (note.checkpoint.size, note.checkpoint.root);
    check_continued(&file.head, size, &root, policy)?;
    let tenant = file.query.tenant;
    let head = tenant_head(&file.head, tenant, size, &root)?;
    let mut redacted = false;
    let (answer, table) = answer::check(file, &head, &mut redacted)?;
    let (schema_encoded, schema) = table.unzip();
    let fresh = file.head.is_newest(size) && policy.is_young(&cosigners);
    let Some(position) = Position::new(head.size).previous() else {
        return Err(Reject::Record { reason: "a tenant without records was attested" });
    };
    Ok(Verified {
        query: file.query.clone(),
        answer,
        schema,
        schema_encoded,
        position,
        attested_ns: file.head.record.timestamp_ns(),
        origin: note.checkpoint.origin,
        size,
        root,
        cosigners,
        fresh,
        redacted,
    })
}

impl Head {
    /// Is what it shows that of the last record of a log of this size?
    fn is_newest(&self, size: u64) -> bool {
        self.record.position().get().checked_add(1) == Some(size)
    }
}

/// The head of the cluster log, and who stands behind it, and since when.
fn signed_note(text: &str, policy: &Policy) -> Result<(SignedNote, Vec<(String, u64)>), Reject> {
    let note = SignedNote::parse(text)
        .map_err(|_| Reject::Note { reason: "not a signed checkpoint of a log" })?;
    let cosigners = policy.check(&note)?;
    Ok((note, cosigners))
}

/// What the head says of an older one, and what the reader has seen.
fn check_continued(
    head: &Head,
    size: u64,
    root: &ChainHash,
    policy: &Policy,
) -> Result<(), Reject> {
    if let Some(since) = &head.since {
        let Since { size: older, root: older_root, consistency } = since;
        merkle::verify_consistency(*older, size, older_root, root, consistency)
            .map_err(Reject::NotInLog)?;
    }
    match policy.seen {
        Some(seen) => continues(seen, size, root, head.since.as_ref()),
        None => Ok(()),
    }
}

/// Is the head one that a reader who saw another one may believe? `since` holds.
fn continues(seen: Seen, size: u64, root: &ChainHash, since: Option<&Since>) -> Result<(), Reject> {
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_rollback_ignored") {
        return Ok(());
    }
    if size < seen.size || (size == seen.size && *root != seen.root) {
        return Err(Reject::Rollback { seen: seen.size, size });
    }
    let shown = since.is_some_and(|since| since.size == seen.size && since.root == seen.root);
    #[cfg(verity_zoo)]
    let shown = shown || (since.is_some() && crate::zoo::is("proof_fork_ignored"));
    if size == seen.size || seen.size == 0 || shown {
        Ok(())
    } else {
        Err(Reject::Fork { seen: seen.size, size })
    }
}

/// What was attested of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantHead {
    /// Records in the tenant's log.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: ChainHash,
    /// Hash of the last of them.
    pub chain: ChainHash,
    /// Of the tenant's state after them.
    pub state: ChainHash,
}

/// From the head of the cluster log to the tenant's.
fn tenant_head(
    head: &Head,
    tenant: TenantId,
    size: u64,
    root: &ChainHash,
) -> Result<TenantHead, Reject> {
    let record = &head.record;
    record.check(TenantId::SYSTEM, size, root, &head.inclusion)?;
    let bad = |reason| Reject::Record { reason };
    if record.kind() != CHECKPOINT_RECORD {
        return Err(bad("no checkpoint record"));
    }
    let Opening::Payload { salt, payload } = &head.opening else {
        return Err(bad("a checkpoint record has no columns"));
    };
    open_payload(record, salt, payload)?;
    let state = system_state(payload, record.position()).ok_or(bad("no state root"))?;
    let heads = entry_of_forest(&head.forest, &state, ATTESTED)?;
    let mut shown = Vec::new();
    check_tree(Some(&head.heads), ATTESTED, None, &heads, &mut shown)?;
    let key = tenant.get().to_be_bytes();
    let value = shown.iter().find_map(|shown| match shown {
        Shown::Entry(Entry { key: found, value: EntryValue::Plain { bytes, .. }, .. })
            if is_of_tenant(found, &key) =>
        {
            Some(bytes)
        }
        Shown::Entry(_) | Shown::Gap | Shown::Counted(_) => None,
    });
    let value = value.ok_or(Reject::EntryNotShown { what: "the tenant's head" })?;
    parse_head(value).map_err(Reject::Malformed)
}

/// Is it this tenant's entry?
fn is_of_tenant(found: &[u8], key: &[u8]) -> bool {
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_tenant_ignored") {
        return true;
    }
    found == key
}

fn parse_head(value: &[u8]) -> Result<TenantHead, DecodeError> {
    let decoder = &mut Decoder::new(value);
    decoder.record(4)?;
    let (size, root) = (decoder.uint()?, ChainHash(decoder.fixed()?));
    let (chain, state) = (ChainHash(decoder.fixed()?), ChainHash(decoder.fixed()?));
    decoder.finish()?;
    Ok(TenantHead { size, root, chain, state })
}

/// The state root in a checkpoint record: that of the state right before the record.
fn system_state(payload: &[u8], position: Position) -> Option<ChainHash> {
    let decoder = &mut Decoder::new(payload);
    decoder.record(7).ok()?;
    let covers = decoder.uint().ok()?;
    let _chain: [u8; 32] = decoder.fixed().ok()?;
    let _root: [u8; 32] = decoder.fixed().ok()?;
    let (_count, _time) = (decoder.uint().ok()?, decoder.uint().ok()?);
    let state = ChainHash(decoder.fixed().ok()?);
    let state_position = decoder.uint().ok()?;
    decoder.finish().ok()?;
    (covers == state_position && position.get() == covers.checked_add(1)?).then_some(state)
}

fn open_payload(record: &Record, salt: &commitment::Salt, payload: &[u8]) -> Result<(), Reject> {
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_opening_unchecked") {
        return Ok(());
    }
    let committed = commitment::record_commitment_with(salt, record.stream(), payload);
    if committed == record.commitment() {
        Ok(())
    } else {
        Err(Reject::Record { reason: "it does not hold the payload shown" })
    }
}

/// The root of a tree, from the forest that has this hash.
fn entry_of_forest(forest: &Node, state: &ChainHash, tree: TreeId) -> Result<TreeHash, Reject> {
    let mut shown = Vec::new();
    if forest.hash(FOREST, None, &mut shown)? != *state {
        return Err(Reject::TreeMismatch { tree: FOREST });
    }
    let key = tree.get().to_be_bytes();
    let found = shown.iter().find_map(|shown| match shown {
        Shown::Entry(Entry { key: found, value: EntryValue::Tree(root), .. }) if *found == key => {
            Some(*root)
        }
        Shown::Entry(_) | Shown::Gap | Shown::Counted(_) => None,
    });
    found.ok_or(Reject::TreeNotShown { tree })
}

/// Is this the tree that the forest knows? Gives what it shows, in order.
fn check_tree<'a>(
    node: Option<&'a Node>,
    tree: TreeId,
    table: Option<crate::ids::TableId>,
    root: &TreeHash,
    into: &mut Vec<Shown<'a>>,
) -> Result<(), Reject> {
    let Some(node) = node else {
        #[cfg(verity_zoo)]
        if crate::zoo::is("proof_empty_accepted") {
            return Ok(());
        }
        let empty = root.entries == 0 && root.height == 0 && root.hash == hashes::empty_tree();
        return if empty { Ok(()) } else { Err(Reject::EmptyMismatch { tree }) };
    };
    if node.level != root.height {
        return Err(Reject::Tree { reason: "the top page has another level than its tree" });
    }
    let mismatch = node.hash(tree, table, into)? != root.hash;
    #[cfg(verity_zoo)]
    let mismatch = mismatch && !(tree == CATALOG && crate::zoo::is("proof_schema_unbound"));
    if mismatch {
        return Err(Reject::TreeMismatch { tree });
    }
    let mut last: Option<&[u8]> = None;
    for shown in into.iter() {
        if let Shown::Entry(entry) = shown {
            if last.is_some_and(|last| last >= entry.key.as_slice()) {
                return Err(Reject::OutOfOrder);
            }
            last = Some(&entry.key);
        }
    }
    Ok(())
}
