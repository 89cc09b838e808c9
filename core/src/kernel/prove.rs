//! Making proofs: from the state as it was attested to a file that `proof::verify` accepts.
//!
//! Restartable like a read: a fault of store or log ends the run, the driver fetches, and the same
//! call begins again. The state must be the one attested: nothing may be applied in between.
//!
//! Invariants: only what the query needs is disclosed: columns asked for, those of filter and key,
//! keys of neighbours; everything is checked by the verifier, nothing by trust in this file.

mod shared;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range as Span;

use shared::Committed;
pub use shared::Shared;

use super::canonical::proof_value;
use super::events::{OpenedEvent, open_event};
use super::payload::Subject;
use super::trees::IDEMPOTENCY;
use super::{Kernel, Keys};
use crate::crypto::commitment::{Salt, column_hash};
use crate::crypto::{ChainHash, LeafSaltKey, RowSeed, merkle, tree as hashes};
use crate::ids::{ColumnId, KeyId, Position, SchemaVersion, TableId, TenantId, TreeId};
use crate::limits::{PROOF_ENTRIES_MAX, PROOF_INDEX_GAIN};
use crate::log::{LogFault, LogHead, Logs};
use crate::proof::{
    AsOf, CanonicalQuery, Cell, Entry, EntryValue, Evidence, Filter, Included, Index as ProofIndex,
    Item, Moment, Node, Opening, ProofFile, QueryKind, Range, Record, Reject, Row, Scan, Schema,
    Since, TreeHash, Value as ProofValue, interval,
};
use crate::query::TableSchema;
use crate::query::codec::decode_columns;
use crate::query::index::row_key_of;
use crate::query::stored::StoredRow;
use crate::store::{FOREST, Fault, PrunedItem, PrunedPage, Store, TreeRef};

/// Why there is no proof, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProveStop {
    /// Pages or blocks are missing: fetch, call again.
    Fault,
    LogFault,
    /// It shows more entries than a proof may.
    TooLarge,
    /// The table, tenant, record or position is not there.
    NotThere(&'static str),
    /// What is read is not what was attested: the disk, or we, are wrong.
    Damaged(String),
}

impl From<Fault> for ProveStop {
    fn from(_: Fault) -> ProveStop {
        ProveStop::Fault
    }
}

impl From<LogFault> for ProveStop {
    fn from(fault: LogFault) -> ProveStop {
        match fault {
            LogFault::Missing => ProveStop::LogFault,
            LogFault::NoSuchPosition { .. } => ProveStop::NotThere("the position"),
            LogFault::Damaged(damage) => ProveStop::Damaged(alloc::format!("{damage}")),
        }
    }
}

impl core::fmt::Display for ProveStop {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ProveStop::Fault | ProveStop::LogFault => f.write_str("pages are not in memory"),
            ProveStop::TooLarge => write!(
                f,
                "the proof would show more than {PROOF_ENTRIES_MAX} rows; ask for a smaller range"
            ),
            ProveStop::NotThere(what) => write!(f, "{what} is not there"),
            ProveStop::Damaged(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for ProveStop {}

/// What a proof is made from.
pub struct Proving<'a> {
    pub kernel: &'a Kernel,
    pub store: &'a Store,
    pub logs: &'a Logs,
    pub keys: &'a dyn Keys,
    /// Of the proofs made before: kept from one to the next.
    pub shared: &'a RefCell<Shared>,
}

impl core::fmt::Debug for Proving<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Proving")
    }
}

/// Runs past what is missing, so that all of it is read at once and not piece by piece.
#[derive(Default)]
struct Missing(Option<ProveStop>);

impl Missing {
    /// `None`: it is missing, and noted.
    fn pass<T>(&mut self, result: Result<T, ProveStop>) -> Result<Option<T>, ProveStop> {
        match result {
            Ok(found) => Ok(Some(found)),
            Err(stop @ (ProveStop::Fault | ProveStop::LogFault)) => {
                self.0 = Some(stop);
                Ok(None)
            }
            Err(stop @ (ProveStop::TooLarge | ProveStop::NotThere(_) | ProveStop::Damaged(_))) => {
                Err(stop)
            }
        }
    }

    fn end(self) -> Result<(), ProveStop> {
        self.0.map_or(Ok(()), Err)
    }
}

/// How much of an entry is shown.
enum Show<'s> {
    /// Of a row, or of a small tree's value.
    Digest,
    /// The digest of an index's entry.
    Opaque,
    Plain,
    /// `None`: the row's commitment alone.
    Row {
        table: &'s TableSchema,
        columns: Option<&'s [ColumnId]>,
    },
}

impl Proving<'_> {
    /// The proof of the answer to `query` in the state last attested; `note` is its signed head.
    /// `since`: the size of an older head, which this one is shown to continue.
    pub fn prove(
        &self,
        query: &CanonicalQuery,
        note: String,
        since: Option<u64>,
    ) -> Result<ProofFile, ProveStop> {
        let tenant = query.tenant;
        let head = self.head(tenant, since)?;
        let mut trees = Vec::new();
        let evidence = match &query.kind {
            QueryKind::Rows { scan, columns, descending, offset, limit } => {
                let wanted = limit.map(|limit| offset.saturating_add(limit));
                let what = What { columns, descending: *descending, wanted, counts: false };
                self.scan(tenant, scan, &what, &mut trees)?
            }
            QueryKind::Count { scan } => {
                let counts = scan.filter.is_none() && scan.as_of.is_none();
                let what = What { columns: &[], descending: false, wanted: None, counts };
                self.scan(tenant, scan, &what, &mut trees)?
            }
            QueryKind::History { table, key } => self.history(tenant, *table, key, &mut trees)?,
            QueryKind::Event { position } => {
                let event = self.event(tenant, *position)?;
                let opening = Some(self.opening(&event)?);
                let log = self.kernel.log_head(self.store, self.logs, tenant)?;
                let inclusion = self.inclusion(tenant, &log, *position)?;
                Evidence::Event { record: record_of(&event), inclusion, opening }
            }
            QueryKind::Commitment { id } => {
                let tree = TreeRef::new(tenant, IDEMPOTENCY);
                trees.push(IDEMPOTENCY);
                let show = self.around(tree, &Range::Point(id.0.to_vec()))?;
                let node = self.cut(tree, &show, None, |key, _| {
                    if key == id.0 { Show::Plain } else { Show::Digest }
                })?;
                Evidence::Commitment { node }
            }
        };
        let state = if trees.is_empty() { None } else { Some(self.forest(tenant, &trees)?) };
        Ok(ProofFile { query: query.clone(), evidence, state, head, note })
    }

    /// An older head of the cluster log.
    fn since(&self, log: &LogHead, older: u64, newer: u64) -> Result<Since, ProveStop> {
        if older == 0 || older > newer {
            return Err(ProveStop::NotThere("the older head"));
        }
        let system = TenantId::SYSTEM;
        let mut node = |level, at| self.logs.node(system, log, level, at);
        let root = merkle::range_root(0, older, &mut node)?;
        let consistency = merkle::consistency_proof(older, newer, &mut node)?;
        Ok(Since { size: older, root, consistency })
    }

    fn inclusion(
        &self,
        tenant: TenantId,
        log: &LogHead,
        position: Position,
    ) -> Result<Vec<ChainHash>, ProveStop> {
        Ok(self.logs.inclusion(tenant, log, position, log.next.get())?)
    }

    fn event(&self, tenant: TenantId, position: Position) -> Result<OpenedEvent, ProveStop> {
        let log = self.kernel.log_head(self.store, self.logs, tenant)?;
        let record = self.logs.read(tenant, &log, position)?;
        open_event(self.keys, record).map_err(|error| ProveStop::Damaged(alloc::format!("{error}")))
    }

    /// Plaintext and salts of a record.
    fn opening(&self, event: &OpenedEvent) -> Result<Opening, ProveStop> {
        let damaged = |_| ProveStop::Damaged("a record's payload does not decode".into());
        let seed = self.seed(event)?;
        let (payload, _) =
            event.payload().map_err(|error| ProveStop::Damaged(alloc::format!("{error}")))?;
        match payload.subject() {
            Subject::Row { table, row } => {
                let columns = decode_columns(row).map_err(damaged)?;
                let columns = columns.iter().filter(|(id, _)| id.get() > 0);
                let cells = columns
                    .enumerate()
                    .map(|(at, (_, value))| Cell::Shown {
                        salt: seed.salt(at),
                        value: proof_value(value),
                    })
                    .collect();
                let schema = event.record.metadata.schema_version;
                Ok(Opening::Row { table, row: Row::Columns { schema, columns: cells } })
            }
            Subject::Appended { record, .. } => {
                Ok(Opening::Payload { salt: seed.salt(0), payload: record.to_vec() })
            }
            Subject::Plaintext => {
                let payload = event.plaintext().to_vec();
                Ok(Opening::Payload { salt: seed.salt(0), payload })
            }
        }
    }

    fn seed(&self, event: &OpenedEvent) -> Result<RowSeed, ProveStop> {
        let metadata = &event.record.metadata;
        let Some(keys) = self.keys.named(metadata.tenant, metadata.key) else {
            return Err(ProveStop::NotThere("the tenant's key"));
        };
        let salt = keys.salt(metadata.generation);
        Ok(RowSeed::new(&salt, metadata.tenant, metadata.position))
    }

    fn salts(&self, tenant: TenantId) -> Result<&LeafSaltKey, ProveStop> {
        let keys = self.keys.named(tenant, KeyId::new(1));
        keys.map(crate::crypto::TenantKeys::leaf_salt)
            .ok_or(ProveStop::NotThere("the tenant's key"))
    }

    fn cut<'s>(
        &self,
        tree: TreeRef,
        show: &[Span<u64>],
        counted: Option<Span<u64>>,
        mut how: impl FnMut(&[u8], &[u8]) -> Show<'s>,
    ) -> Result<Option<Node>, ProveStop> {
        let shown: u64 = show.iter().map(|range| range.end - range.start).sum();
        if shown > PROOF_ENTRIES_MAX {
            return Err(ProveStop::TooLarge);
        }
        let page = self.store.prune(self.salts(tree.tenant)?, tree, show, counted)?;
        page.map(|page| self.node(tree, page, &mut how)).transpose()
    }

    /// As deep as the tree is high.
    fn node<'s>(
        &self,
        tree: TreeRef,
        page: PrunedPage,
        how: &mut impl FnMut(&[u8], &[u8]) -> Show<'s>,
    ) -> Result<Node, ProveStop> {
        let PrunedPage { level, entries, shown, hashes } = page;
        let mut items = Vec::with_capacity(shown.len());
        let mut missing = Missing::default();
        for (place, item) in shown {
            let item = match item {
                PrunedItem::Counted { hash, count } => Some(Item::Counted { count, hash }),
                PrunedItem::Child { count, page } => missing
                    .pass(self.node(tree, *page, how))?
                    .map(|node| Item::Child { count, node: Box::new(node) }),
                PrunedItem::Entry { salt, value_salt, key, value } => {
                    let value = if tree.tree == FOREST {
                        Some(tree_hash(&value))
                    } else {
                        missing.pass(self.value(tree, value_salt, &value, &how(&key, &value)))?
                    };
                    value.map(|value| Item::Entry(Entry { salt, key, value }))
                }
            };
            items.extend(item.map(|item| (place, item)));
        }
        missing.end()?;
        Ok(Node { level, entries, shown: items, hashes })
    }

    fn value(
        &self,
        tree: TreeRef,
        salt: Salt,
        value: &[u8],
        show: &Show<'_>,
    ) -> Result<EntryValue, ProveStop> {
        let rows = tree.tree.get() >= crate::query::schema::FIRST_TABLE_TREE.get();
        match show {
            Show::Plain => Ok(EntryValue::Plain { salt, bytes: value.to_vec() }),
            Show::Digest if rows => {
                let prefix = StoredRow::new(value).prefix();
                let (commitment, record) =
                    (ChainHash(prefix.commitment), ChainHash(prefix.record_hash));
                Ok(EntryValue::Hidden(hashes::row_digest(&commitment, prefix.begun_at, &record)))
            }
            Show::Digest | Show::Opaque => {
                Ok(EntryValue::Hidden(hashes::value_digest(&salt, value)))
            }
            Show::Row { table, columns } => {
                let stored = StoredRow::new(value);
                let prefix = stored.prefix();
                let row = match columns {
                    None => Row::Hidden(ChainHash(prefix.commitment)),
                    Some(columns) => self.row(tree.tenant, table, stored, columns)?,
                };
                let record = ChainHash(prefix.record_hash);
                Ok(EntryValue::Row { begun_at: prefix.begun_at, record, row })
            }
        }
    }

    /// The row with these columns shown. Its salts are of the record that made it.
    fn row(
        &self,
        tenant: TenantId,
        table: &TableSchema,
        stored: StoredRow<'_>,
        columns: &[ColumnId],
    ) -> Result<Row, ProveStop> {
        let prefix = stored.prefix();
        let values: Vec<ProofValue> = stored.values().iter().map(proof_value).collect();
        let build = |seed: &RowSeed, schema: SchemaVersion| {
            let cells = values.iter().zip(1..).map(|(value, id)| {
                let (id, salt) = (ColumnId::new(id), seed.salt(id as usize - 1));
                if columns.contains(&id) || table.primary_key.contains(&id) {
                    Cell::Shown { salt, value: value.clone() }
                } else {
                    Cell::Hidden(column_hash(&salt, table.id, id, value.tag, &value.bytes))
                }
            });
            Row::Columns { schema, columns: cells.collect() }
        };
        let commitment = ChainHash(prefix.commitment);
        // Most rows were made as those proved before, or in this generation with this schema; of
        // the others the record tells.
        let newest = self.keys.newest(tenant).map(|keys| Committed {
            key: keys.id(),
            generation: self.kernel.generation(),
            schema: table.schema_version,
        });
        let known = self.shared.borrow().committed(tenant);
        for committed in known.into_iter().chain(newest) {
            let Committed { key, generation, schema } = committed;
            let Some(keys) = self.keys.named(tenant, key) else { continue };
            let seed = RowSeed::new(&keys.salt(generation), tenant, prefix.begun_at);
            let row = build(&seed, schema);
            if row.commitment(table.id) == commitment {
                self.shared.borrow_mut().was_committed(tenant, committed);
                return Ok(row);
            }
        }
        let event = self.event(tenant, prefix.begun_at)?;
        let metadata = &event.record.metadata;
        let (key, generation) = (metadata.key, metadata.generation);
        let committed = Committed { key, generation, schema: metadata.schema_version };
        let row = build(&self.seed(&event)?, committed.schema);
        if row.commitment(table.id) == commitment {
            self.shared.borrow_mut().was_committed(tenant, committed);
            Ok(row)
        } else {
            Err(ProveStop::Damaged("a row is not the one that its record committed to".into()))
        }
    }

    /// The ranks of the keys of a range.
    fn ranks(&self, tree: TreeRef, range: &Range) -> Result<Span<u64>, ProveStop> {
        Ok(match range {
            Range::Point(key) => {
                let rank = self.store.rank(tree, key)?;
                rank..rank + u64::from(self.store.contains(tree, key)?)
            }
            Range::Span { low, high } => {
                let end = match high {
                    Some(high) => self.store.rank(tree, high)?,
                    None => self.store.count(tree)?,
                };
                self.store.rank(tree, low)?..end
            }
        })
    }

    /// These ranks, and their neighbours.
    fn with_neighbours(&self, tree: TreeRef, ranks: &Span<u64>) -> Result<Span<u64>, ProveStop> {
        let count = self.store.count(tree)?;
        Ok(ranks.start.saturating_sub(1)..(ranks.end + 1).min(count))
    }

    /// What shows that a range is whole: of a point that is there, the entry alone.
    fn around(&self, tree: TreeRef, range: &Range) -> Result<Vec<Span<u64>>, ProveStop> {
        let ranks = self.ranks(tree, range)?;
        if matches!(range, Range::Point(_)) && ranks.end > ranks.start {
            return Ok(vec![ranks]);
        }
        let show = self.with_neighbours(tree, &ranks)?;
        Ok(if show.is_empty() { Vec::new() } else { vec![show] })
    }

    fn scan(
        &self,
        tenant: TenantId,
        scan: &Scan,
        what: &What<'_>,
        trees: &mut Vec<TreeId>,
    ) -> Result<Evidence, ProveStop> {
        let (table, catalog) = self.table(tenant, scan.table, trees)?;
        let mut columns = what.columns.to_vec();
        if let Some(filter) = &scan.filter {
            filter.for_each_column(&mut |column| columns.push(column));
        }
        if columns.iter().any(|id| id.get() == 0 || id.get() as usize > table.columns.len()) {
            return Err(ProveStop::NotThere("the column"));
        }
        let tree = TreeRef::new(tenant, table.rows);
        if let Some(as_of) = scan.as_of {
            return self.scan_as_of(tenant, scan, as_of, &table, &columns, catalog);
        }
        if let Some((index, interval)) = self.best_index(tenant, scan, &table)? {
            trees.push(index.entries);
            return self.scan_index(tenant, &table, catalog, &index, &interval, columns);
        }
        let mut ranges: Vec<&Range> = scan.ranges.iter().collect();
        if what.descending {
            ranges.reverse();
        }
        let filter = scan.filter.as_ref();
        let of = Scanned { tree, table: &table, filter, columns: &columns, what };
        let mut rows = Vec::with_capacity(ranges.len());
        match what.wanted {
            Some(mut wanted) => {
                for range in ranges {
                    if wanted == 0 {
                        break;
                    }
                    rows.push(self.scan_limited(&of, range, &mut wanted)?);
                }
            }
            None => {
                let mut missing = Missing::default();
                for range in ranges {
                    rows.extend(missing.pass(self.scan_range(&of, range))?);
                }
                missing.end()?;
            }
        }
        Ok(Evidence::Scan { catalog, rows, history: None, moment: None })
    }

    /// A range, whole.
    fn scan_range(&self, of: &Scanned<'_>, range: &Range) -> Result<Option<Node>, ProveStop> {
        let ranks = self.ranks(of.tree, range)?;
        if !of.what.counts {
            return self.cut_rows(of, &ranks, &self.around(of.tree, range)?, None);
        }
        let mut show: Vec<u64> = vec![
            ranks.start.saturating_sub(1),
            ranks.start,
            ranks.end.saturating_sub(1),
            ranks.end,
        ];
        let count = self.store.count(of.tree)?;
        show.retain(|rank| *rank < count);
        show.dedup();
        let show: Vec<Span<u64>> = show.into_iter().map(|rank| rank..rank + 1).collect();
        self.cut_rows(of, &ranks, &show, Some(ranks.clone()))
    }

    /// As much of a range as has the rows still wanted.
    fn scan_limited(
        &self,
        of: &Scanned<'_>,
        range: &Range,
        wanted: &mut u64,
    ) -> Result<Option<Node>, ProveStop> {
        let whole = self.ranks(of.tree, range)?;
        let mut ranks = whole.clone();
        self.limit(of, &mut ranks, wanted)?;
        let mut show = self.with_neighbours(of.tree, &ranks)?;
        // Behind the last row wanted nothing need be shown.
        if *wanted == 0 && of.what.descending && ranks.start > whole.start {
            show.start = ranks.start;
        } else if *wanted == 0 && !of.what.descending && ranks.end < whole.end {
            show.end = ranks.end;
        }
        let show = if show.is_empty() { vec![] } else { vec![show] };
        self.cut_rows(of, &ranks, &show, None)
    }

    fn cut_rows(
        &self,
        of: &Scanned<'_>,
        ranks: &Span<u64>,
        show: &[Span<u64>],
        counted: Option<Span<u64>>,
    ) -> Result<Option<Node>, ProveStop> {
        let bounds = self.bounds(of.tree, ranks)?;
        self.cut(of.tree, show, counted, |key, _| {
            let inside = bounds.as_ref().is_some_and(|bounds| bounds.hold(key));
            if inside && !of.what.counts {
                Show::Row { table: of.table, columns: Some(of.columns) }
            } else {
                Show::Digest
            }
        })
    }

    /// An index that shows much less than the ranges of rows do.
    fn best_index(
        &self,
        tenant: TenantId,
        scan: &Scan,
        table: &TableSchema,
    ) -> Result<Option<(ProofIndex, Range)>, ProveStop> {
        let Some(filter) = &scan.filter else { return Ok(None) };
        let Ok(schema) = Schema::decode(&table.encode()) else {
            unreachable!("what the catalog writes, a verifier reads");
        };
        let (mut least, mut missing) = (0, Missing::default());
        for range in &scan.ranges {
            if let Some(ranks) =
                missing.pass(self.ranks(TreeRef::new(tenant, table.rows), range))?
            {
                least += ranks.end.saturating_sub(ranks.start) / PROOF_INDEX_GAIN;
            }
        }
        missing.end()?;
        let mut best = None;
        for index in &schema.indexes {
            let Ok(Some(range)) = interval(&schema, index, filter) else { continue };
            let ranks = self.ranks(TreeRef::new(tenant, index.entries), &range)?;
            let count = ranks.end.saturating_sub(ranks.start);
            if count < least {
                least = count;
                best = Some((index.clone(), range));
            }
        }
        Ok(best)
    }

    /// The interval of the index, whole, and the rows that it names.
    fn scan_index(
        &self,
        tenant: TenantId,
        table: &TableSchema,
        catalog: Node,
        index: &ProofIndex,
        interval: &Range,
        mut columns: Vec<ColumnId>,
    ) -> Result<Evidence, ProveStop> {
        columns.extend(&index.columns);
        let tree = TreeRef::new(tenant, index.entries);
        let show = self.around(tree, interval)?;
        let entries = self.cut(tree, &show, None, |_, _| Show::Opaque)?;
        let rows_tree = TreeRef::new(tenant, table.rows);
        let (mut rows, mut missing) = (Vec::new(), Missing::default());
        for rank in self.ranks(tree, interval)? {
            let row = || -> Result<u64, ProveStop> {
                let Some((entry, value)) = self.store.nth(tree, rank)? else {
                    return Err(ProveStop::Damaged(
                        "an index has fewer entries than counts".into(),
                    ));
                };
                Ok(self.store.rank(rows_tree, row_key_of(entry, &value))?)
            };
            rows.extend(missing.pass(row())?.map(|row| row..row + 1));
        }
        missing.end()?;
        rows.sort_unstable_by_key(|rank| rank.start);
        let rows = if rows.is_empty() {
            None
        } else {
            self.cut(rows_tree, &rows, None, |_, _| Show::Row { table, columns: Some(&columns) })?
        };
        Ok(Evidence::Index { catalog, index: index.entries, entries, rows })
    }

    fn bounds(&self, tree: TreeRef, ranks: &Span<u64>) -> Result<Option<Bounds>, ProveStop> {
        if ranks.is_empty() {
            return Ok(None);
        }
        let key = |rank| -> Result<Vec<u8>, ProveStop> {
            let found = self.store.nth(tree, rank)?;
            Ok(found.map(|(key, _)| key.to_vec()).unwrap_or_default())
        };
        Ok(Some(Bounds { first: key(ranks.start)?, last: key(ranks.end - 1)? }))
    }

    /// Cuts the ranks off behind the last row wanted.
    fn limit(
        &self,
        of: &Scanned<'_>,
        ranks: &mut Span<u64>,
        wanted: &mut u64,
    ) -> Result<(), ProveStop> {
        let Scanned { tree, table, filter, what, columns: _ } = *of;
        let mut at = if what.descending { ranks.end } else { ranks.start };
        let mut seen = 0;
        while *wanted > 0 && if what.descending { at > ranks.start } else { at < ranks.end } {
            let rank = if what.descending { at - 1 } else { at };
            let Some((_, value)) = self.store.nth(tree, rank)? else { break };
            if passes(filter, table, StoredRow::new(&value))? {
                *wanted -= 1;
            }
            at = if what.descending { rank } else { rank + 1 };
            seen += 1;
            if seen > PROOF_ENTRIES_MAX {
                return Err(ProveStop::TooLarge);
            }
        }
        if what.descending {
            ranks.start = at;
        } else {
            ranks.end = at;
        }
        Ok(())
    }

    fn scan_as_of(
        &self,
        tenant: TenantId,
        scan: &Scan,
        as_of: AsOf,
        table: &TableSchema,
        columns: &[ColumnId],
        catalog: Node,
    ) -> Result<Evidence, ProveStop> {
        let (at, moment) = self.moment(tenant, as_of)?;
        if table.created_at > at {
            return Err(ProveStop::NotThere("the table, at that moment,"));
        }
        let (rows_tree, history_tree) =
            (TreeRef::new(tenant, table.rows), TreeRef::new(tenant, table.history));
        let (mut rows, mut history) = (Vec::new(), Vec::new());
        let visible = |value: &[u8]| (StoredRow::new(value).begun_at() <= at).then_some(columns);
        let of_now = |range: &Range| {
            let show = self.around(rows_tree, range)?;
            self.cut(rows_tree, &show, None, |key, value| {
                if range.holds(key) {
                    Show::Row { table, columns: visible(value) }
                } else {
                    Show::Digest
                }
            })
        };
        let of_then = |range: &Range| {
            let show = self.history_ranks(history_tree, range, at)?;
            self.cut(history_tree, &show, None, |key, value| {
                let (_, ended_at) = crate::query::key::split_history_key(key);
                if ended_at > at {
                    Show::Row { table, columns: visible(value) }
                } else {
                    Show::Digest
                }
            })
        };
        let mut missing = Missing::default();
        for range in &scan.ranges {
            rows.extend(missing.pass(of_now(range))?);
            history.extend(missing.pass(of_then(range))?);
        }
        missing.end()?;
        Ok(Evidence::Scan { catalog, rows, history: Some(history), moment: Some(moment) })
    }

    /// The position that is read, and what shows that it is the one.
    fn moment(&self, tenant: TenantId, as_of: AsOf) -> Result<(Position, Moment), ProveStop> {
        let log = self.kernel.log_head(self.store, self.logs, tenant)?;
        let included = |position| -> Result<Included, ProveStop> {
            let record = record_of(&self.event(tenant, position)?);
            Ok(Included { record, inclusion: self.inclusion(tenant, &log, position)? })
        };
        let (shown, next) = match as_of {
            AsOf::Position(position) if position >= log.next => {
                return Err(ProveStop::NotThere("the position"));
            }
            AsOf::Position(position) => (position, None),
            AsOf::Timestamp(time_ns) => {
                let shown = self.last_by(tenant, &log, time_ns)?;
                let next = shown.next();
                (shown, (next < log.next).then_some(next))
            }
        };
        let metadata = self.logs.read(tenant, &log, shown)?.metadata;
        let at = if metadata.transaction_last == shown {
            Some(shown)
        } else {
            metadata.transaction_first.previous()
        };
        let at = at.ok_or(ProveStop::NotThere("a transaction that had ended by then"))?;
        Ok((at, Moment { last: included(shown)?, next: next.map(included).transpose()? }))
    }

    /// The last record that is not younger: times never go back along a log.
    fn last_by(
        &self,
        tenant: TenantId,
        log: &LogHead,
        time_ns: u64,
    ) -> Result<Position, ProveStop> {
        let attested = self.kernel.attestation().map_or(0, |attestation| attestation.timestamp.0);
        if time_ns >= attested {
            return Err(ProveStop::NotThere("a state that covers all up to that time"));
        }
        let (mut low, mut high) = (0, log.next.get());
        while low < high {
            let middle = low + (high - low) / 2;
            let record = self.logs.read(tenant, log, Position::new(middle))?;
            if record.metadata.timestamp.0 <= time_ns {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Position::new(low).previous().ok_or(ProveStop::NotThere("a record as old as that"))
    }

    /// For each key the versions around the position: the first and the last that ended
    /// by then, the first and the last that ended later.
    fn history_ranks(
        &self,
        tree: TreeRef,
        range: &Range,
        at: Position,
    ) -> Result<Vec<Span<u64>>, ProveStop> {
        let count = self.store.count(tree)?;
        let of = |key: &[u8], ended_at: u64| [key, &ended_at.to_be_bytes()[..]].concat();
        let mut ranks: Vec<u64> = Vec::new();
        match range {
            Range::Point(key) => {
                let first = self.store.rank(tree, &of(key, at.get() + 1))?;
                ranks.extend([first.saturating_sub(1), first]);
            }
            Range::Span { low, high } => {
                let mut rank = self.store.rank(tree, low)?;
                let end = match high {
                    Some(high) => self.store.rank(tree, high)?,
                    None => count,
                };
                ranks.extend([rank.saturating_sub(1), end]);
                while rank < end {
                    let Some((key, _)) = self.store.nth(tree, rank)? else { break };
                    let (key, _) = crate::query::key::split_history_key(key);
                    let key = key.to_vec();
                    let next = self.store.rank(tree, &of(&key, u64::MAX))?;
                    let later = self.store.rank(tree, &of(&key, at.get() + 1))?;
                    ranks.extend([rank, later.saturating_sub(1).max(rank), later.min(next - 1)]);
                    ranks.push(next - 1);
                    rank = next;
                    if ranks.len() as u64 > 8 * PROOF_ENTRIES_MAX {
                        return Err(ProveStop::TooLarge);
                    }
                }
            }
        }
        ranks.retain(|rank| *rank < count);
        ranks.sort_unstable();
        ranks.dedup();
        Ok(ranks.into_iter().map(|rank| rank..rank + 1).collect())
    }

    fn history(
        &self,
        tenant: TenantId,
        table: TableId,
        key: &[u8],
        trees: &mut Vec<TreeId>,
    ) -> Result<Evidence, ProveStop> {
        let (table, catalog) = self.table(tenant, table, trees)?;
        let every: Vec<ColumnId> = table.columns.iter().map(|column| column.id).collect();
        let row = Show::Row { table: &table, columns: Some(&every) };
        let show_row = |found: bool| match (&row, found) {
            (Show::Row { table, columns }, true) => Show::Row { table, columns: *columns },
            _ => Show::Digest,
        };
        let rows_tree = TreeRef::new(tenant, table.rows);
        let show = self.around(rows_tree, &Range::Point(key.to_vec()))?;
        let current = self.cut(rows_tree, &show, None, |found, _| show_row(found == key))?;
        let history_tree = TreeRef::new(tenant, table.history);
        let of = |byte: u8| [key, &[byte; 8][..]].concat();
        let first = self.store.rank(history_tree, &of(0))?;
        let ranks = first..self.store.rank(history_tree, &of(0xff))?;
        let show = self.with_neighbours(history_tree, &ranks)?;
        let show = if show.is_empty() { vec![] } else { vec![show] };
        let versions = self.cut(history_tree, &show, None, |found, _| {
            show_row(crate::query::key::split_history_key(found).0 == key)
        })?;
        Ok(Evidence::History { catalog, row: current, versions })
    }
}

/// What a scan is for.
struct What<'a> {
    columns: &'a [ColumnId],
    descending: bool,
    /// Rows that pass, those that OFFSET skips among them.
    wanted: Option<u64>,
    counts: bool,
}

/// Rows that a scan looks at.
struct Scanned<'a> {
    tree: TreeRef,
    table: &'a TableSchema,
    filter: Option<&'a Filter>,
    columns: &'a [ColumnId],
    what: &'a What<'a>,
}

/// First and last key of a range of ranks.
struct Bounds {
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Bounds {
    fn hold(&self, key: &[u8]) -> bool {
        key >= self.first.as_slice() && key <= self.last.as_slice()
    }
}

fn passes(
    filter: Option<&Filter>,
    table: &TableSchema,
    row: StoredRow<'_>,
) -> Result<bool, ProveStop> {
    let Some(filter) = filter else { return Ok(true) };
    let initial = table.initial_values(Position::new(u64::MAX));
    let row = row.with_initial(&initial);
    let held = filter.holds(&mut |id| -> Result<ProofValue, Reject> {
        Ok(proof_value(&row.column(table.ordinal(id)).to_value()))
    });
    held.map(|held| held == Some(true))
        .map_err(|error| ProveStop::Damaged(alloc::format!("{error}")))
}

fn record_of(event: &OpenedEvent) -> Record {
    Record {
        previous: event.record.prev_hash,
        metadata: event.record.metadata.encode(),
        data: event.record.data.clone(),
    }
}

/// What the store shows of a tree in its forest: shape u16 ‖ height u8 ‖ entries u64 ‖ hash [32].
fn tree_hash(value: &[u8]) -> EntryValue {
    let mut entries = [0; 8];
    entries.copy_from_slice(&value[3..11]);
    let mut hash = ChainHash::ZERO;
    hash.0.copy_from_slice(&value[11..43]);
    EntryValue::Tree(TreeHash { height: value[2], entries: u64::from_le_bytes(entries), hash })
}
