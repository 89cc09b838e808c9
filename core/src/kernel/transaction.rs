//! From drafts to records: append each to the tenant's log, then make its tree changes.
//!
//! Purpose: the one way a record comes into being. A [`Transaction`] owns its drafts and remembers
//! how far it is, so a page fault anywhere suspends it and loses nothing. Invariants: positions are
//! dense; all records of a transaction name the same first and last position; a record's tree
//! changes follow its append at once, so trees are never ahead of the log.

use alloc::vec::Vec;

use super::catalogs::Catalogs;
use super::drafts::{DraftContext, Drafts};
use super::payload::Payload;
use super::record::{OpenRecord, RecordProgress, RecordScratch, apply_record, prefetch_record};
use super::{KernelError, Stall, World};
use crate::crypto::TenantKeys;
use crate::event::Event;
use crate::ids::{Generation, IdempotencyId, Op, Position, PrincipalId, TenantId};
use crate::io::Effects;
use crate::log::{Appended, Metadata, seal_record};
use crate::query::Catalog;
use crate::store::Store;
use crate::time::Timestamp;

/// What all records of a transaction say of where they come from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub tenant: TenantId,
    pub op: Op,
    pub generation: Generation,
    pub timestamp: Timestamp,
    pub principal: PrincipalId,
    pub idempotency: IdempotencyId,
}

#[derive(Debug)]
pub struct Transaction {
    origin: Origin,
    drafts: Drafts,
    first: Position,
    /// Draft whose turn it is.
    next: usize,
    /// The first record, sealed before its turn.
    sealed_ahead: Option<(Metadata, Vec<u8>)>,
    /// It is in the log already, its tree changes under way.
    appended: Option<(Metadata, Appended)>,
    progress: RecordProgress,
    /// Pages that it was estimated to dirty, and how many were dirty before it.
    pages_estimated: Option<u32>,
    dirty_before: Option<u32>,
}

/// Buffers that transactions use one after the other.
#[derive(Debug, Default)]
pub struct TransactionScratch {
    sealed: Vec<u8>,
    record: RecordScratch,
    /// Given back by the last transaction.
    pub drafts: Drafts,
}

impl Transaction {
    #[must_use]
    pub fn new(origin: Origin, first: Position, drafts: Drafts) -> Transaction {
        assert!(!drafts.is_empty(), "a transaction has records");
        Transaction {
            origin,
            drafts,
            first,
            next: 0,
            sealed_ahead: None,
            appended: None,
            progress: RecordProgress::default(),
            pages_estimated: None,
            dirty_before: None,
        }
    }

    /// What `Store::room_for` was asked for it: held to that in debug builds.
    pub fn estimated(&mut self, pages: u32) {
        self.pages_estimated = Some(pages);
    }

    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.origin.tenant
    }

    #[must_use]
    pub fn first(&self) -> Position {
        self.first
    }

    /// Grows with everything that will not be done again.
    #[must_use]
    pub fn steps(&self) -> u64 {
        ((self.next as u64) << 8) + u64::from(self.appended.is_some()) + self.progress.steps()
    }

    #[must_use]
    pub fn last(&self) -> Position {
        Position::new(self.first.get() + self.drafts.len() as u64 - 1)
    }

    /// Goes on until all is done. After a stall call it again, all else the same.
    pub fn run(
        &mut self,
        world: &mut World<'_>,
        catalogs: &mut Catalogs,
        scratch: &mut TransactionScratch,
        effects: &mut Effects,
    ) -> Result<(), Stall> {
        let Origin { tenant, op, generation, .. } = self.origin;
        let before = *self.dirty_before.get_or_insert(world.store.dirty_pages());
        let Some(keys) = world.keys.newest(tenant) else {
            return Err(KernelError::KeyMissing { tenant }.into());
        };
        let salt = keys.salt(generation);
        let context = DraftContext { tenant, first: self.first, salt: &salt };
        let mut chain = [0; 8];
        while self.next < self.drafts.len() {
            if self.appended.is_none() {
                self.append(world, keys, &context, &mut scratch.sealed);
            }
            let Some((metadata, appended)) = &self.appended else { unreachable!("just set") };
            let (_, plaintext) = self.drafts.get(self.next);
            let Ok((payload, outcome)) = Payload::decode(metadata.kind, plaintext) else {
                unreachable!("a draft holds what was encoded");
            };
            let made = self.drafts.made_row(self.next);
            let record =
                OpenRecord { metadata, hash: appended.hash, payload: &payload, made, outcome };
            catalogs.announce(metadata, &payload);
            let (catalog, progress) = (catalogs.applied(), &mut self.progress);
            let applied =
                apply_record(world.store, catalog, &record, progress, &mut scratch.record);
            if let Err(fault) = applied {
                self.prefetch(world.store, catalog);
                return Err(fault.into());
            }
            chain.copy_from_slice(&appended.hash.0[..8]);
            catalogs.follow(&payload, self.next + 1 == self.drafts.len());
            if let Payload::TenantCreated { tenant, .. } = payload {
                effects.event(Event::TenantCreated { tenant });
            }
            if self.progress.trimmed() > 0 {
                effects.event(Event::IdempotencyTrimmed { tenant, count: self.progress.trimmed() });
            }
            self.progress = RecordProgress::default();
            self.appended = None;
            self.next += 1;
        }
        if let Some(estimated) = self.pages_estimated {
            let after = world.store.dirty_pages();
            debug_assert!(
                after <= before.saturating_add(estimated),
                "{} pages dirtied, {estimated} estimated",
                after - before
            );
        }
        let records = self.drafts.len() as u32;
        let last = self.last();
        effects.event(Event::TransactionApplied { tenant, op, records, last, chain });
        Ok(())
    }

    /// The buffer, for the next one.
    #[must_use]
    pub fn into_drafts(mut self) -> Drafts {
        assert_eq!(self.next, self.drafts.len(), "all of it is applied");
        self.drafts.clear();
        self.drafts
    }

    /// After a fault: notes what the records to come will miss, so that one fetch serves many.
    fn prefetch(&self, store: &Store, catalog: &Catalog) {
        for at in self.next + 1..self.drafts.len() {
            let (draft, plaintext) = self.drafts.get(at);
            let position = Position::new(self.first.get() + at as u64);
            if let Ok((payload, _)) = Payload::decode(draft.kind, plaintext) {
                prefetch_record(store, catalog, self.origin.tenant, position, &payload);
            }
        }
    }

    /// Seals the first record, of a transaction whose place in the log is certain if it is applied
    /// at all.
    pub fn seal_ahead(&mut self, keys: &TenantKeys, scratch: &mut TransactionScratch) {
        assert!(self.next == 0 && self.appended.is_none(), "before it is run");
        let Origin { tenant, generation, .. } = self.origin;
        let salt = keys.salt(generation);
        let context = DraftContext { tenant, first: self.first, salt: &salt };
        let mut sealed = core::mem::take(&mut scratch.sealed);
        let metadata = self.seal_next(keys, &context, &mut sealed);
        self.sealed_ahead = Some((metadata, sealed));
    }

    fn append(
        &mut self,
        world: &mut World<'_>,
        keys: &TenantKeys,
        context: &DraftContext<'_>,
        sealed: &mut Vec<u8>,
    ) {
        let metadata = match self.sealed_ahead.take() {
            Some((metadata, ahead)) => {
                *sealed = ahead;
                metadata
            }
            None => self.seal_next(keys, context, sealed),
        };
        let appended = world.logs.append(&metadata, sealed);
        assert_eq!(appended.position, metadata.position, "positions are dense");
        self.appended = Some((metadata, appended));
    }

    fn seal_next(
        &self,
        keys: &TenantKeys,
        context: &DraftContext<'_>,
        sealed: &mut Vec<u8>,
    ) -> Metadata {
        let (draft, plaintext) = self.drafts.get(self.next);
        let mut metadata = Metadata {
            position: Position::new(self.first.get() + self.next as u64),
            tenant: self.origin.tenant,
            op: self.origin.op,
            generation: self.origin.generation,
            timestamp: self.origin.timestamp,
            transaction_first: self.first,
            transaction_last: self.last(),
            stream: draft.stream,
            kind: draft.kind,
            key: keys.id(),
            principal: self.origin.principal,
            caused_by: None,
            idempotency: self.origin.idempotency,
            schema_version: draft.schema_version,
            commitment: self.drafts.commitment(context, self.next),
            data_length: 0,
        };
        sealed.clear();
        sealed.extend_from_slice(plaintext);
        seal_record(&keys.record(self.origin.generation), &mut metadata, sealed);
        metadata
    }
}
