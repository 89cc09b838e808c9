//! An exported log: every record of a tenant, and the signed head that they come to.
//!
//! ```text
//! file   = "verity log 1\n" ‖ n u32 ‖ start [n] ‖ record …
//! start  = [tenant uint, head | null, note text]      head as in a proof; null for tenant 0
//! record = metadata [138] ‖ data [m]                  m: the last field of the metadata
//! ```
//!
//! What it shows: these are the records of the tenant's log from the first on, all of them, up to
//! the head that was signed for, each as it was written. Of tenant 0, whose log is the cluster's,
//! the note itself is that head. No key is needed: data are ciphertexts.
//!
//! Invariants: no byte of the file is outside a hash; memory is bounded by the start and one
//! record, however long the log; the verdict does not depend on how the bytes came. Fault model: as
//! of a proof, the file is a liar's.

mod tree;

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

pub use tree::LogTree;

use super::{
    Head, METADATA_SIZE, Policy, ProofFile, Reject, Seen, TenantHead, check_continued, signed_note,
    tenant_head, u32_at, u64_at,
};
use crate::crypto::ChainHash;
use crate::ids::{Position, TenantId};
use crate::limits::{EXPORT_START_SIZE_MAX, LOG_RECORD_DATA_SIZE_MAX};
use crate::stdx::cbor::{DecodeError, Decoder, Encoder};

/// First bytes of the file.
pub const LOG_MAGIC: &[u8; 13] = b"verity log 1\n";
/// Magic and the length of the start.
const PREFIX_SIZE: usize = LOG_MAGIC.len() + 4;

/// What stands before the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStart {
    pub tenant: TenantId,
    /// From the cluster's head to the tenant's; none for tenant 0.
    pub head: Option<Head>,
    /// C2SP signed note.
    pub note: String,
}

impl LogStart {
    /// With magic and length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut start = Vec::new();
        let encoder = &mut Encoder::new(&mut start);
        encoder.array(3).uint(self.tenant.get());
        encoder.option(self.head.as_ref(), |encoder, head| head.encode(encoder));
        encoder.text(&self.note);
        let mut out = LOG_MAGIC.to_vec();
        out.extend_from_slice(&(start.len() as u32).to_le_bytes());
        out.extend_from_slice(&start);
        out
    }

    /// The start, without what is before it.
    fn decode(bytes: &[u8]) -> Result<LogStart, DecodeError> {
        let decoder = &mut Decoder::new(bytes);
        decoder.record(3)?;
        let tenant = TenantId::new(decoder.uint()?);
        let head = decoder.option(Head::decode)?;
        let note = decoder.text()?.to_owned();
        decoder.finish()?;
        Ok(LogStart { tenant, head, note })
    }

    /// Of a whole file, or as much of it as holds the start.
    fn of_file(bytes: &[u8]) -> Result<LogStart, Reject> {
        let Length::Whole(size) = size_of_start(bytes)? else {
            return Err(TRUNCATED_START);
        };
        let start = bytes.get(PREFIX_SIZE..size).ok_or(TRUNCATED_START)?;
        LogStart::decode(start).map_err(Reject::Malformed)
    }

    /// What the log's head is, if the policy's quorum stands behind it.
    fn check(&self, policy: &Policy) -> Result<SignedHeads, Reject> {
        let (note, cosigners) = signed_note(&self.note, policy)?;
        let (size, root) = (note.checkpoint.size, note.checkpoint.root);
        let mut heads = SignedHeads {
            origin: note.checkpoint.origin,
            size,
            root,
            fresh: policy.is_young(&cosigners),
            cosigners,
            seen: policy.seen,
            tenant: None,
            attested_ns: None,
        };
        match &self.head {
            None if self.tenant == TenantId::SYSTEM => {
                if let Some(seen) = policy.seen
                    && seen.size > size
                {
                    return Err(Reject::Rollback { seen: seen.size, size });
                }
            }
            Some(head) if self.tenant != TenantId::SYSTEM => {
                check_continued(head, size, &root, policy)?;
                // That is shown already.
                heads.seen = None;
                heads.tenant = Some((self.tenant, tenant_head(head, self.tenant, size, &root)?));
                heads.attested_ns = Some(head.record.timestamp_ns());
                heads.fresh &= head.is_newest(size);
            }
            Some(_) | None => {
                return Err(Reject::Record {
                    reason: "a tenant's log has a head, the cluster's none",
                });
            }
        }
        Ok(heads)
    }
}

const TRUNCATED_START: Reject =
    Reject::Log { position: Position::ZERO, reason: "the file ends before its records" };

/// A head of the cluster log that the policy's quorum stands behind, and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeads {
    pub origin: String,
    /// Records in the cluster log, and the root over them.
    pub size: u64,
    pub root: ChainHash,
    /// Who cosigned the head, and when, in seconds after 1970.
    pub cosigners: Vec<(String, u64)>,
    /// A head that the reader has seen, which the log must have passed through too: to be held
    /// against the log.
    pub seen: Option<Seen>,
    /// A tenant's head that the file shows.
    pub tenant: Option<(TenantId, TenantHead)>,
    /// When that was attested, in nanoseconds after 1970.
    pub attested_ns: Option<u64>,
    /// What is shown is that of the newest record of the head, and the head is as young as the
    /// policy wants.
    pub fresh: bool,
}

impl SignedHeads {
    /// From a proof, an exported log, or a signed note.
    pub fn read(bytes: &[u8], policy: &Policy) -> Result<SignedHeads, Reject> {
        let start = if bytes.starts_with(LOG_MAGIC) {
            LogStart::of_file(bytes)?
        } else if let Ok(text) = core::str::from_utf8(bytes)
            && text.starts_with(policy.log.name.as_str())
        {
            LogStart { tenant: TenantId::SYSTEM, head: None, note: text.to_owned() }
        } else {
            let ProofFile { query, head, note, .. } = ProofFile::decode(bytes)?;
            LogStart { tenant: query.tenant, head: Some(head), note }
        };
        // What it shows of a head that was seen is not needed: the log itself is at hand.
        let mut unseen = policy.clone();
        unseen.seen = None;
        let heads = start.check(&unseen)?;
        match policy.seen {
            Some(seen) if seen.size > heads.size => {
                Err(Reject::Rollback { seen: seen.size, size: heads.size })
            }
            seen => Ok(SignedHeads { seen, ..heads }),
        }
    }
}

/// What an exported log shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedLog {
    pub tenant: TenantId,
    /// Of the tenant.
    pub records: u64,
    pub log_root: ChainHash,
    /// Hash of the last record.
    pub chain: ChainHash,
    pub heads: SignedHeads,
}

/// Checks an exported log, of which the caller pushes the bytes in order.
#[derive(Debug)]
pub struct LogVerifier {
    policy: Policy,
    tenant: TenantId,
    log: Option<Log>,
    leaves: Leaves,
    /// The beginning of an item that is not whole yet.
    begun: Vec<u8>,
}

/// Where the hashes of records go.
#[derive(Debug)]
enum Leaves {
    Tree(Box<LogTree>),
    /// To a tree that is elsewhere, when they are asked for.
    Kept(Vec<ChainHash>),
}

/// How long an item is, as far as its first bytes tell.
enum Length {
    Whole(usize),
    /// So many bytes tell more.
    Needs(usize),
}

impl LogVerifier {
    /// Of the log of this tenant, and of no other.
    #[must_use]
    pub fn new(policy: Policy, tenant: TenantId) -> LogVerifier {
        let leaves = Leaves::Tree(Box::new(LogTree::new(policy.seen)));
        LogVerifier { policy, tenant, log: None, leaves, begun: Vec::new() }
    }

    /// As [`LogVerifier::new`], and the tree of the log apart from its chain, for another thread:
    /// after each push the caller brings [`LogVerifier::take_leaves`] to [`LogTree::extend`].
    #[must_use]
    pub fn apart(policy: Policy, tenant: TenantId) -> (LogVerifier, LogTree) {
        let tree = LogTree::new(policy.seen);
        let leaves = Leaves::Kept(Vec::new());
        (LogVerifier { policy, tenant, log: None, leaves, begun: Vec::new() }, tree)
    }

    /// Hashes of the records that were pushed since; none while the tree is not apart.
    #[must_use]
    pub fn take_leaves(&mut self) -> Vec<ChainHash> {
        match &mut self.leaves {
            Leaves::Tree(_) => Vec::new(),
            Leaves::Kept(leaves) => core::mem::take(leaves),
        }
    }

    /// Records to come in all, once the start was read.
    #[must_use]
    pub fn records(&self) -> Option<u64> {
        self.log.as_ref().map(|log| log.size)
    }

    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Reject> {
        loop {
            if self.begun.is_empty() {
                bytes = self.take_whole(bytes)?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let wanted = match self.size_of(&self.begun)? {
                Length::Whole(size) | Length::Needs(size) => size,
            };
            let (more, rest) = bytes.split_at((wanted - self.begun.len()).min(bytes.len()));
            self.begun.extend_from_slice(more);
            bytes = rest;
            // What it needed may be all there is: a record without data.
            if let Length::Whole(wanted) = self.size_of(&self.begun)?
                && self.begun.len() == wanted
            {
                let mut item = core::mem::take(&mut self.begun);
                self.take(&item)?;
                item.clear();
                self.begun = item;
            }
        }
    }

    /// The verdict, when all bytes were pushed.
    pub fn finish(mut self) -> Result<VerifiedLog, Reject> {
        match core::mem::replace(&mut self.leaves, Leaves::Kept(Vec::new())) {
            Leaves::Tree(tree) => self.finish_with(&tree),
            Leaves::Kept(_) => unreachable!("a tree that is apart is brought to the end"),
        }
    }

    /// The same with the tree that was apart, which took all leaves.
    pub fn finish_with(self, tree: &LogTree) -> Result<VerifiedLog, Reject> {
        let Some(log) = self.log else { return Err(TRUNCATED_START) };
        if !self.begun.is_empty() {
            return Err(log.refuse("the file ends amid a record"));
        }
        log.finish(tree)
    }

    /// Takes items as long as they lie whole in `bytes`; gives the rest.
    fn take_whole<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Reject> {
        while let Length::Whole(size) = self.size_of(bytes)?
            && let Some((item, rest)) = bytes.split_at_checked(size)
        {
            self.take(item)?;
            bytes = rest;
        }
        Ok(bytes)
    }

    fn size_of(&self, begun: &[u8]) -> Result<Length, Reject> {
        match &self.log {
            Some(log) => log.size_of(begun),
            None => size_of_start(begun),
        }
    }

    fn take(&mut self, item: &[u8]) -> Result<(), Reject> {
        match &mut self.log {
            Some(log) => {
                log.take(item)?;
                match &mut self.leaves {
                    Leaves::Tree(tree) => tree.push(&log.chain),
                    Leaves::Kept(leaves) => leaves.push(log.chain),
                }
                Ok(())
            }
            None => {
                let start = LogStart::of_file(item)?;
                if start.tenant != self.tenant {
                    return Err(Reject::AnotherTenant { tenant: start.tenant });
                }
                self.log = Some(Log::new(start.tenant, start.check(&self.policy)?));
                Ok(())
            }
        }
    }
}

fn size_of_start(begun: &[u8]) -> Result<Length, Reject> {
    let magic = &LOG_MAGIC[..LOG_MAGIC.len().min(begun.len())];
    if !begun.starts_with(magic) {
        let reason = "the file is not an exported log";
        return Err(Reject::Log { position: Position::ZERO, reason });
    }
    let Some(length) = begun[magic.len()..].first_chunk::<4>() else {
        return Ok(Length::Needs(PREFIX_SIZE));
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > EXPORT_START_SIZE_MAX {
        return Err(Reject::TooLarge { size: length });
    }
    Ok(Length::Whole(PREFIX_SIZE + length))
}

/// A log on its way past.
#[derive(Debug)]
struct Log {
    tenant: TenantId,
    heads: SignedHeads,
    /// What the records must come to.
    size: u64,
    root: ChainHash,
    chain: ChainHash,
    /// Records so far.
    next: u64,
    last: Option<Last>,
}

/// What the next record must follow.
#[derive(Clone, Copy, Debug)]
struct Last {
    transaction_first: u64,
    transaction_last: u64,
    op: u64,
    generation: u64,
    timestamp_ns: u64,
}

impl Log {
    fn new(tenant: TenantId, heads: SignedHeads) -> Log {
        let (size, root) = match &heads.tenant {
            Some((_, head)) => (head.size, head.root),
            None => (heads.size, heads.root),
        };
        Log { tenant, heads, size, root, chain: ChainHash::ZERO, next: 0, last: None }
    }

    fn refuse(&self, reason: &'static str) -> Reject {
        Reject::Log { position: Position::new(self.next), reason }
    }

    fn size_of(&self, begun: &[u8]) -> Result<Length, Reject> {
        let Some(metadata) = begun.first_chunk::<METADATA_SIZE>() else {
            return Ok(Length::Needs(METADATA_SIZE));
        };
        let length = u32_at(metadata, 134) as usize;
        if length > LOG_RECORD_DATA_SIZE_MAX {
            return Err(self.refuse("a record is longer than any may be"));
        }
        Ok(Length::Whole(METADATA_SIZE + length))
    }

    fn take(&mut self, record: &[u8]) -> Result<(), Reject> {
        let Some(metadata) = record.first_chunk::<METADATA_SIZE>() else {
            unreachable!("it is whole")
        };
        let at = self.next;
        if at == self.size {
            return Err(self.refuse("more records follow than were signed for"));
        }
        if u64_at(metadata, 0) != at || u64_at(metadata, 8) != self.tenant.get() {
            return Err(self.refuse("another record stands here"));
        }
        let this = Last {
            transaction_first: u64_at(metadata, 40),
            transaction_last: u64_at(metadata, 48),
            op: u64_at(metadata, 16),
            generation: u64_at(metadata, 24),
            timestamp_ns: u64_at(metadata, 32),
        };
        if !follows(self.last.as_ref(), &this, at) {
            return Err(self.refuse("a transaction is not whole, or time goes back"));
        }
        self.last = Some(this);
        self.chain = ChainHash::of(&[&self.chain.0, record]);
        self.next += 1;
        Ok(())
    }

    fn finish(self, tree: &LogTree) -> Result<VerifiedLog, Reject> {
        if self.next < self.size {
            return Err(self.refuse("the file ends before the last record that was signed for"));
        }
        assert_eq!(tree.size(), self.next, "the tree took the leaves of this very log");
        // The log went through the head that the reader has seen.
        if let Some(seen) = self.heads.seen
            && !tree.passed(seen)
        {
            return Err(Reject::Fork { seen: seen.size, size: self.heads.size });
        }
        let of_tenant = self.heads.tenant.map(|(_, head)| head.chain);
        #[cfg(verity_zoo)]
        let unchecked = crate::zoo::is("log_root_unchecked");
        #[cfg(not(verity_zoo))]
        let unchecked = false;
        let same = tree.root() == self.root && of_tenant.is_none_or(|is| is == self.chain);
        if !same && !unchecked {
            return Err(self.refuse("the records are not those that were signed for"));
        }
        let ends = |last: Last| last.transaction_last.checked_add(1) == Some(self.size);
        if !self.last.is_none_or(ends) {
            return Err(self.refuse("the last transaction is not whole"));
        }
        Ok(VerifiedLog {
            tenant: self.tenant,
            records: self.size,
            log_root: self.root,
            chain: self.chain,
            heads: self.heads,
        })
    }
}

/// May a record at this position stand where the one before it was `before`?
fn follows(before: Option<&Last>, this: &Last, position: u64) -> bool {
    if this.transaction_first > position || position > this.transaction_last {
        return false;
    }
    let Some(before) = before else { return this.transaction_first == position };
    let bounds = if position <= before.transaction_last {
        this.transaction_first == before.transaction_first
            && this.transaction_last == before.transaction_last
            && this.op == before.op
    } else {
        this.transaction_first == position
    };
    bounds
        && before.op <= this.op
        && before.generation <= this.generation
        && before.timestamp_ns <= this.timestamp_ns
}
