//! From trees that were signed for to the answer of one query, or to why it is none.
//!
//! Rules, each of which is one attack's end: what is hidden must lie outside the range (*gap*); a
//! row's key must be that of its columns; the filter must be evaluable on every row in the range;
//! a count may stand for entries only where all of them lie in the range; with `AS OF`, the version
//! that covers the position must be the first that ended after it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::file::{Evidence, Included, Moment, Opening, ProofFile};
use super::index::rows_by_index;
use super::query::{AsOf, CanonicalQuery, Filter, QueryKind, Range, Scan};
use super::schema::Schema;
use super::tree::{Cell, Entry, EntryValue, Node, Row, Shown};
use super::value::{self, Value};
use super::{
    CATALOG, IDEMPOTENCY, ROW_PUT, Record, Reject, TenantHead, check_tree, entry_of_forest,
    open_payload,
};
use crate::ids::{ColumnId, IdempotencyId, Position, TableId, TreeId};
use crate::stdx::cbor::Decoder;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Rows(Vec<Vec<AnswerCell>>),
    Count(u64),
    /// Oldest first.
    History(Vec<RowVersion>),
    Event(ProvedEvent),
    /// `None`: nothing is remembered under the id.
    Commitment(Option<CommittedOutcome>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerCell {
    Value(Value),
    /// Taken out of the proof; its hash is still covered.
    Redacted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowVersion {
    pub begun_at: Position,
    /// `None`: it is the current one.
    pub ended_at: Option<Position>,
    pub cells: Vec<AnswerCell>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvedEvent {
    pub position: Position,
    pub timestamp_ns: u64,
    pub kind: u16,
    pub transaction_last: Position,
    /// What the record says, if it is shown whole.
    pub payload: Option<Vec<u8>>,
    /// Table and columns of a row's record.
    pub row: Option<(TableId, Vec<AnswerCell>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOutcome {
    /// Of the record that remembers it.
    pub position: Position,
    pub op: u64,
    pub timestamp_ns: u64,
    pub refused: bool,
    /// As it lies in the tree: `[position, op, time, outcome]`.
    pub value: Vec<u8>,
}

/// The answer; of the table asked about, what the catalog says and the same decoded.
type Checked = (Answer, Option<(Vec<u8>, Schema)>);

pub(super) fn check(
    file: &ProofFile,
    head: &TenantHead,
    redacted: &mut bool,
) -> Result<Checked, Reject> {
    let CanonicalQuery { tenant, kind } = &file.query;
    match (kind, &file.evidence) {
        (
            QueryKind::Rows { scan, columns, descending, offset, limit },
            Evidence::Scan { catalog, rows, history, moment },
        ) => {
            let table = table(file, head, catalog, scan.table)?;
            for id in columns {
                table.schema.column(*id)?;
            }
            let mut want = Want { skip: *offset, left: limit.unwrap_or(u64::MAX), out: Vec::new() };
            let project = |row: &FoundRow<'_>| project(&table.schema, row, columns);
            match (scan.as_of, history, moment) {
                (None, None, None) => {
                    let nodes = rows.as_slice();
                    current_rows(&table, scan, nodes, *descending, &mut want, project)?;
                }
                (Some(as_of), Some(history), Some(moment)) => {
                    let at = check_moment(file, head, &table.schema, moment, as_of)?;
                    let found = rows_as_of(&table, scan, rows, history, at)?;
                    of_all(&table, scan, found, *descending, &mut want, project)?;
                }
                _ => return Err(Reject::NotAsked),
            }
            *redacted = want.out.iter().flatten().any(|cell| *cell == AnswerCell::Redacted);
            Ok((Answer::Rows(want.out), Some((table.encoded, table.schema))))
        }
        (_, Evidence::Index { .. }) => check_by_index(file, head, redacted),
        (QueryKind::Count { scan }, Evidence::Scan { catalog, rows, history, moment }) => {
            let table = table(file, head, catalog, scan.table)?;
            let count = match (scan.as_of, history, moment) {
                (None, None, None) if scan.filter.is_none() => count(&table, scan, rows)?,
                (None, None, None) => {
                    let mut want = Want { skip: 0, left: u64::MAX, out: Vec::new() };
                    current_rows(&table, scan, rows, false, &mut want, |_| Ok(()))?;
                    want.out.len() as u64
                }
                (Some(as_of), Some(history), Some(moment)) => {
                    let at = check_moment(file, head, &table.schema, moment, as_of)?;
                    let mut count = 0;
                    for row in rows_as_of(&table, scan, rows, history, at)?.values() {
                        count += u64::from(passes(&table.schema, scan.filter.as_ref(), row)?);
                    }
                    count
                }
                _ => return Err(Reject::NotAsked),
            };
            Ok((Answer::Count(count), Some((table.encoded, table.schema))))
        }
        (QueryKind::History { table: id, key }, Evidence::History { catalog, row, versions }) => {
            let table = table(file, head, catalog, *id)?;
            let found = versions_of(&table, key, row.as_ref(), versions.as_ref())?;
            *redacted = found.iter().any(|version| version.cells.contains(&AnswerCell::Redacted));
            Ok((Answer::History(found), Some((table.encoded, table.schema))))
        }
        (QueryKind::Event { position }, Evidence::Event { record, inclusion, opening }) => {
            if file.state.is_some() {
                return Err(Reject::NotAsked);
            }
            record.check(*tenant, head.size, &head.root, inclusion)?;
            if record.position() != *position {
                return Err(Reject::Record { reason: "it has another position" });
            }
            Ok((Answer::Event(event(record, opening.as_ref(), redacted)?), None))
        }
        (QueryKind::Commitment { id }, Evidence::Commitment { node }) => {
            check_commitment(file, head, id, node.as_ref())
        }
        _ => Err(Reject::AnotherQuery),
    }
}

fn check_by_index(
    file: &ProofFile,
    head: &TenantHead,
    redacted: &mut bool,
) -> Result<Checked, Reject> {
    match (&file.query.kind, &file.evidence) {
        (
            QueryKind::Rows { scan, columns, descending, offset, limit },
            Evidence::Index { catalog, index, entries, rows },
        ) => {
            let table = table(file, head, catalog, scan.table)?;
            for id in columns {
                table.schema.column(*id)?;
            }
            let shown = (*index, entries.as_ref(), rows.as_ref());
            let found = rows_by_index(&table, scan, file, head, shown)?;
            let mut want = Want { skip: *offset, left: limit.unwrap_or(u64::MAX), out: Vec::new() };
            let project = |row: &FoundRow<'_>| project(&table.schema, row, columns);
            of_all(&table, scan, found, *descending, &mut want, project)?;
            *redacted = want.out.iter().flatten().any(|cell| *cell == AnswerCell::Redacted);
            Ok((Answer::Rows(want.out), Some((table.encoded, table.schema))))
        }
        (QueryKind::Count { scan }, Evidence::Index { catalog, index, entries, rows }) => {
            let table = table(file, head, catalog, scan.table)?;
            let shown = (*index, entries.as_ref(), rows.as_ref());
            let found = rows_by_index(&table, scan, file, head, shown)?;
            let mut want = Want { skip: 0, left: u64::MAX, out: Vec::new() };
            of_all(&table, scan, found, false, &mut want, |_| Ok(()))?;
            Ok((Answer::Count(want.out.len() as u64), Some((table.encoded, table.schema))))
        }
        _ => Err(Reject::AnotherQuery),
    }
}

fn check_commitment(
    file: &ProofFile,
    head: &TenantHead,
    id: &IdempotencyId,
    node: Option<&Node>,
) -> Result<Checked, Reject> {
    let root = tree_root(file, head, IDEMPOTENCY)?;
    let mut shown = Vec::new();
    check_tree(node, IDEMPOTENCY, None, &root, &mut shown)?;
    let range = Range::Point(id.0.to_vec());
    check_gaps(&shown, Counts::Refused, |before, after| range_is_whole(&range, before, after))?;
    let found = entries(&shown).find(|entry| entry.key == id.0);
    let outcome = match found {
        None => None,
        Some(entry) => Some(outcome(entry)?),
    };
    Ok((Answer::Commitment(outcome), None))
}

/// The position at which current rows are read.
pub(super) const NEWEST: Position = Position::new(u64::MAX);

/// A table whose schema and trees are proved.
pub(super) struct Table {
    encoded: Vec<u8>,
    pub schema: Schema,
    pub rows: (TreeId, super::TreeHash),
    history: (TreeId, super::TreeHash),
}

/// A row in the answer's range.
pub(super) struct FoundRow<'a> {
    begun_at: Position,
    cells: &'a [Cell],
    /// The position at which it is read: columns added later are NULL.
    at: Position,
}

/// OFFSET and LIMIT.
struct Want<T> {
    skip: u64,
    left: u64,
    out: Vec<T>,
}

impl<T> Want<T> {
    fn take(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    fn done(&self) -> bool {
        self.left == 0
    }
}

pub(super) fn tree_root(
    file: &ProofFile,
    head: &TenantHead,
    tree: TreeId,
) -> Result<super::TreeHash, Reject> {
    let state = file.state.as_ref().ok_or(Reject::TreeNotShown { tree })?;
    entry_of_forest(state, &head.state, tree)
}

fn table(
    file: &ProofFile,
    head: &TenantHead,
    catalog: &Node,
    id: TableId,
) -> Result<Table, Reject> {
    let root = tree_root(file, head, CATALOG)?;
    let mut shown = Vec::new();
    check_tree(Some(catalog), CATALOG, None, &root, &mut shown)?;
    let mut key = alloc::vec![1];
    key.extend_from_slice(&id.get().to_be_bytes());
    let entry = entries(&shown).find(|entry| entry.key == key);
    let Some(Entry { value: EntryValue::Plain { bytes, .. }, .. }) = entry else {
        return Err(Reject::EntryNotShown { what: "the table's schema" });
    };
    let schema = Schema::decode(bytes).map_err(Reject::Malformed)?;
    if schema.table != id {
        return Err(Reject::EntryNotShown { what: "the table's schema" });
    }
    let rows = (schema.rows, tree_root(file, head, schema.rows)?);
    let history = (schema.history, tree_root(file, head, schema.history)?);
    Ok(Table { encoded: bytes.clone(), schema, rows, history })
}

pub(super) fn entries<'a, 's>(
    shown: &'s [Shown<'a>],
) -> impl Iterator<Item = &'a Entry> + use<'a, 's> {
    shown.iter().filter_map(|shown| match shown {
        Shown::Entry(entry) => Some(*entry),
        Shown::Gap | Shown::Counted(_) => None,
    })
}

/// May entries stand behind a count? Only where they are only counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    Allowed,
    Refused,
}

/// Every gap lies between keys (none: the tree's edge) for which `may` holds.
pub(super) fn check_gaps(
    shown: &[Shown<'_>],
    counts: Counts,
    may: impl Fn(Option<&[u8]>, Option<&[u8]>) -> bool,
) -> Result<(), Reject> {
    for (at, token) in shown.iter().enumerate() {
        match token {
            Shown::Entry(_) => continue,
            Shown::Counted(_) if counts == Counts::Allowed => continue,
            #[cfg(verity_zoo)]
            Shown::Counted(_) if crate::zoo::is("proof_count_hides") => continue,
            Shown::Counted(_) => return Err(Reject::Gap),
            Shown::Gap => {}
        }
        let key = |shown: Option<&Shown<'_>>| match shown {
            Some(Shown::Entry(entry)) => Some(entry.key.clone()),
            Some(Shown::Gap | Shown::Counted(_)) | None => None,
        };
        let before = key(at.checked_sub(1).and_then(|at| shown.get(at)));
        let after = key(shown.get(at + 1));
        if !may(before.as_deref(), after.as_deref()) {
            return Err(Reject::Gap);
        }
    }
    Ok(())
}

/// May something be hidden between these two neighbours, and the range still be whole?
pub(super) fn range_is_whole(range: &Range, before: Option<&[u8]>, after: Option<&[u8]>) -> bool {
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_gap_ignored") {
        return true;
    }
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_neighbour_unchecked") {
        return after.is_none_or(|after| after <= range.low()) || before.is_some();
    }
    after.is_some_and(|after| after <= range.low()) || before.is_some_and(|key| range.ends_by(key))
}

/// Current rows that pass, in order, as many as are wanted.
fn current_rows<'a, T>(
    table: &Table,
    scan: &Scan,
    nodes: &'a [Option<Node>],
    descending: bool,
    want: &mut Want<T>,
    take: impl Fn(&FoundRow<'a>) -> Result<T, Reject>,
) -> Result<(), Reject> {
    let mut nodes = nodes.iter();
    let mut ranges: Vec<&Range> = scan.ranges.iter().collect();
    if descending {
        ranges.reverse();
    }
    for range in ranges {
        if want.done() {
            break;
        }
        let node = nodes.next().ok_or(Reject::EntryNotShown { what: "a range" })?;
        let mut shown = Vec::new();
        let (tree, root) = &table.rows;
        check_tree(node.as_ref(), *tree, Some(table.schema.table), root, &mut shown)?;
        let mut order: Vec<usize> = (0..shown.len()).collect();
        if descending {
            order.reverse();
        }
        for at in order {
            match &shown[at] {
                Shown::Counted(_) => return Err(Reject::Gap),
                Shown::Gap => {
                    let one = [at.checked_sub(1), Some(at), Some(at + 1)];
                    let key = |at: Option<usize>| match at.and_then(|at| shown.get(at)) {
                        Some(Shown::Entry(entry)) => Some(entry.key.as_slice()),
                        Some(Shown::Gap | Shown::Counted(_)) | None => None,
                    };
                    let whole = range_is_whole(range, key(one[0]), key(one[2]));
                    let done = want.done();
                    #[cfg(verity_zoo)]
                    let done =
                        done || (want.left < 100 && crate::zoo::is("proof_limit_excuses_gaps"));
                    if !whole && !done {
                        return Err(Reject::Gap);
                    }
                }
                Shown::Entry(entry) if range.holds(&entry.key) => {
                    if want.done() {
                        // Behind the last row wanted: only as a neighbour, without its columns.
                        if matches!(&entry.value, EntryValue::Row { .. }) {
                            return Err(Reject::NotAsked);
                        }
                        continue;
                    }
                    let row = found(table, entry, &entry.key, NEWEST)?;
                    if passes(&table.schema, scan.filter.as_ref(), &row)? && want.take() {
                        want.out.push(take(&row)?);
                    }
                }
                Shown::Entry(_) => {}
            }
        }
    }
    if nodes.next().is_some() {
        return Err(Reject::NotAsked);
    }
    Ok(())
}

/// Of rows by their keys those that pass, in order, as many as are wanted.
fn of_all<'a, T>(
    table: &Table,
    scan: &Scan,
    found: BTreeMap<&'a [u8], FoundRow<'a>>,
    descending: bool,
    want: &mut Want<T>,
    take: impl Fn(&FoundRow<'a>) -> Result<T, Reject>,
) -> Result<(), Reject> {
    let mut found: Vec<FoundRow<'_>> = found.into_values().collect();
    if descending {
        found.reverse();
    }
    for row in &found {
        if passes(&table.schema, scan.filter.as_ref(), row)? && want.take() {
            want.out.push(take(row)?);
        }
    }
    Ok(())
}

/// COUNT without a filter.
fn count(table: &Table, scan: &Scan, nodes: &[Option<Node>]) -> Result<u64, Reject> {
    if nodes.len() != scan.ranges.len() {
        return Err(Reject::EntryNotShown { what: "a range" });
    }
    let mut total = 0_u64;
    for (range, node) in scan.ranges.iter().zip(nodes) {
        let mut shown = Vec::new();
        let (tree, root) = &table.rows;
        check_tree(node.as_ref(), *tree, Some(table.schema.table), root, &mut shown)?;
        check_gaps(&shown, Counts::Allowed, |before, after| range_is_whole(range, before, after))?;
        // Of each count the nearest thing on both sides that is none: in one pass each way.
        let mut rights: Vec<Option<&Shown<'_>>> = Vec::with_capacity(shown.len());
        let mut right = None;
        for token in shown.iter().rev() {
            rights.push(right);
            if !matches!(token, Shown::Counted(_)) {
                right = Some(token);
            }
        }
        let mut left = None;
        for (token, right) in shown.iter().zip(rights.into_iter().rev()) {
            let count = match token {
                Shown::Gap => 0,
                Shown::Entry(entry) => u64::from(range.holds(&entry.key)),
                Shown::Counted(count) => {
                    if !counted_within(range, left, right) {
                        return Err(Reject::Gap);
                    }
                    *count
                }
            };
            if !matches!(token, Shown::Counted(_)) {
                left = Some(token);
            }
            total = total.checked_add(count).ok_or(Reject::Tree { reason: "counts overflow" })?;
        }
    }
    Ok(total)
}

/// Do all entries that a count stands for lie within the range? Told by the nearest entries on both
/// sides, or the edges of the tree (`None`).
fn counted_within(range: &Range, left: Option<&Shown<'_>>, right: Option<&Shown<'_>>) -> bool {
    let Range::Span { low, high } = range else { return false };
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_count_past_range") {
        return true;
    }
    let left = match left {
        None => low.is_empty(),
        Some(Shown::Entry(entry)) => entry.key >= *low,
        Some(Shown::Gap | Shown::Counted(_)) => false,
    };
    let right = match (right, high) {
        (None | Some(Shown::Entry(_)), None) => true,
        (Some(Shown::Entry(entry)), Some(high)) => entry.key <= *high,
        (None, Some(_)) | (Some(Shown::Gap | Shown::Counted(_)), _) => false,
    };
    left && right
}

/// For each key in the ranges, the version that covers the position.
fn rows_as_of<'a>(
    table: &Table,
    scan: &Scan,
    rows: &'a [Option<Node>],
    history: &'a [Option<Node>],
    at: Position,
) -> Result<BTreeMap<&'a [u8], FoundRow<'a>>, Reject> {
    let count = scan.ranges.len();
    if rows.len() != count || history.len() != count {
        return Err(Reject::EntryNotShown { what: "a range" });
    }
    let mut answer: BTreeMap<&[u8], FoundRow<'_>> = BTreeMap::new();
    let id = Some(table.schema.table);
    for (range, (rows, history)) in scan.ranges.iter().zip(rows.iter().zip(history)) {
        let mut shown = Vec::new();
        check_tree(rows.as_ref(), table.rows.0, id, &table.rows.1, &mut shown)?;
        check_gaps(&shown, Counts::Refused, |before, after| range_is_whole(range, before, after))?;
        for entry in entries(&shown).filter(|entry| range.holds(&entry.key)) {
            if begun_at(entry)? <= at {
                answer.insert(&entry.key, found(table, entry, &entry.key, at)?);
            }
        }
        let mut shown = Vec::new();
        check_tree(history.as_ref(), table.history.0, id, &table.history.1, &mut shown)?;
        check_gaps(&shown, Counts::Refused, |before, after| {
            history_is_whole(range, at, before, after)
        })?;
        let mut last: Option<(&[u8], Position)> = None;
        for token in &shown {
            let Shown::Entry(entry) = token else { continue };
            let (key, ended_at) = split(&entry.key).ok_or(Reject::OutOfOrder)?;
            let later = last.is_some_and(|(last, ended)| last == key && ended > at);
            last = Some((key, ended_at));
            // Of the versions that ended after the position, only the first may have covered it.
            if !range.holds(key) || ended_at <= at || later {
                continue;
            }
            if begun_at(entry)? <= at {
                let other = answer.insert(key, found(table, entry, key, at)?);
                if other.is_some() {
                    return Err(Reject::Tree { reason: "two versions of a row at one position" });
                }
            }
        }
    }
    Ok(answer)
}

/// May versions be hidden between these two, and the one that covers the position not be missed?
fn history_is_whole(
    range: &Range,
    at: Position,
    before: Option<&[u8]>,
    after: Option<&[u8]>,
) -> bool {
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_past_gap_ignored") {
        return before.is_some() || after.is_some();
    }
    match range {
        Range::Point(key) => {
            let mut first = key.clone();
            first.extend_from_slice(&at.get().saturating_add(1).to_be_bytes());
            after.is_some_and(|after| after <= first.as_slice())
                || before.is_some_and(|before| before >= first.as_slice())
        }
        Range::Span { low, high } => {
            let (left, right) = (before.and_then(split), after.and_then(split));
            let of_one_row = match (left, right) {
                (Some((left, left_ended)), Some((right, right_ended))) => {
                    left == right && (right_ended <= at || left_ended > at)
                }
                _ => false,
            };
            // The row's key, not the version's: a row's key may be below the range's end while
            // that of its versions is above.
            of_one_row
                || after.is_some_and(|after| after <= low.as_slice())
                || left.is_some_and(|(key, _)| {
                    high.as_ref().is_some_and(|high| key >= high.as_slice())
                })
        }
    }
}

/// Row key and the position that ended the version.
fn split(key: &[u8]) -> Option<(&[u8], Position)> {
    let (key, ended_at) = key.split_last_chunk::<8>()?;
    Some((key, Position::new(u64::from_be_bytes(*ended_at))))
}

fn versions_of(
    table: &Table,
    key: &[u8],
    current: Option<&Node>,
    versions: Option<&Node>,
) -> Result<Vec<RowVersion>, Reject> {
    let id = Some(table.schema.table);
    let every: Vec<ColumnId> = (1..=table.schema.columns.len() as u32).map(ColumnId::new).collect();
    let mut answer = Vec::new();
    let mut shown = Vec::new();
    check_tree(versions, table.history.0, id, &table.history.1, &mut shown)?;
    let bound = |byte| [key, &[byte; 8]].concat();
    let (low, high) = (bound(0), bound(0xff));
    check_gaps(&shown, Counts::Refused, |before, after| {
        after.is_some_and(|after| after <= low.as_slice())
            || before.is_some_and(|before| before >= high.as_slice())
    })?;
    for entry in entries(&shown) {
        let Some((found_key, ended_at)) = split(&entry.key) else { return Err(Reject::OutOfOrder) };
        if found_key == key {
            let last = ended_at.previous().ok_or(Reject::OutOfOrder)?;
            let row = found(table, entry, key, last)?;
            let cells = project(&table.schema, &row, &every)?;
            let begun_at = row.begun_at;
            answer.push(RowVersion { begun_at, ended_at: Some(ended_at), cells });
        }
    }
    let mut shown = Vec::new();
    check_tree(current, table.rows.0, id, &table.rows.1, &mut shown)?;
    let range = Range::Point(key.to_vec());
    check_gaps(&shown, Counts::Refused, |before, after| range_is_whole(&range, before, after))?;
    for entry in entries(&shown).filter(|entry| entry.key == key) {
        let row = found(table, entry, key, NEWEST)?;
        let cells = project(&table.schema, &row, &every)?;
        answer.push(RowVersion { begun_at: row.begun_at, ended_at: None, cells });
    }
    Ok(answer)
}

fn begun_at(entry: &Entry) -> Result<Position, Reject> {
    match &entry.value {
        EntryValue::Row { begun_at, .. } => Ok(*begun_at),
        EntryValue::Hidden(_) | EntryValue::Plain { .. } | EntryValue::Tree(_) => {
            Err(Reject::EntryNotShown { what: "a row in the range" })
        }
    }
}

/// The row of an entry; its key must be that of its columns.
pub(super) fn found<'a>(
    table: &Table,
    entry: &'a Entry,
    key: &[u8],
    at: Position,
) -> Result<FoundRow<'a>, Reject> {
    let EntryValue::Row { begun_at, row: Row::Columns { columns, .. }, .. } = &entry.value else {
        return Err(Reject::EntryNotShown { what: "a row in the range" });
    };
    if columns.len() > table.schema.columns.len() {
        return Err(Reject::Tree { reason: "a row has more columns than its table" });
    }
    let row = FoundRow { begun_at: *begun_at, cells: columns, at };
    if table.schema.primary_key.is_empty() {
        if key.len() != 8 {
            return Err(Reject::KeyMismatch);
        }
    } else {
        let columns = &table.schema.primary_key;
        if table.schema.keys_of(columns, |id| value_of(&table.schema, &row, id))? != key {
            return Err(Reject::KeyMismatch);
        }
    }
    Ok(row)
}

pub(super) fn value_of(schema: &Schema, row: &FoundRow<'_>, id: ColumnId) -> Result<Value, Reject> {
    match cell_of(schema, row, id)? {
        AnswerCell::Value(value) => Ok(value),
        AnswerCell::Redacted => Err(Reject::ColumnHidden),
    }
}

/// A column of the row; what the schema says of it if the table gained it since.
fn cell_of(schema: &Schema, row: &FoundRow<'_>, id: ColumnId) -> Result<AnswerCell, Reject> {
    let column = schema.column(id)?;
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_initial_ignored") && id.get() as usize > row.cells.len() {
        return Ok(AnswerCell::Value(Value::null()));
    }
    let value = match row.cells.get(id.get() as usize - 1) {
        Some(Cell::Hidden(_)) => return Ok(AnswerCell::Redacted),
        Some(Cell::Shown { value, .. }) => value.clone(),
        None if column.added_at <= row.at => column.initial.clone(),
        None => Value::null(),
    };
    if value.tag == column.tag || value.tag == value::NULL {
        Ok(AnswerCell::Value(value))
    } else {
        Err(Reject::WrongType)
    }
}

fn project(
    schema: &Schema,
    row: &FoundRow<'_>,
    columns: &[ColumnId],
) -> Result<Vec<AnswerCell>, Reject> {
    columns.iter().map(|id| cell_of(schema, row, *id)).collect()
}

fn passes(schema: &Schema, filter: Option<&Filter>, row: &FoundRow<'_>) -> Result<bool, Reject> {
    let Some(filter) = filter else { return Ok(true) };
    Ok(filter.holds(&mut |id| value_of(schema, row, id))? == Some(true))
}

/// The position that is read: where the last transaction ended by the moment asked for.
fn check_moment(
    file: &ProofFile,
    head: &TenantHead,
    schema: &Schema,
    moment: &Moment,
    as_of: AsOf,
) -> Result<Position, Reject> {
    let Moment { last: Included { record, inclusion }, next } = moment;
    let (tenant, shown) = (file.query.tenant, record.position());
    if let AsOf::Position(position) = as_of {
        if position.get() >= head.size {
            return Err(Reject::PositionNotReached { position });
        }
        let another = position != shown;
        #[cfg(verity_zoo)]
        let another = another && !crate::zoo::is("proof_moment_ignored");
        if another {
            return Err(Reject::Record { reason: "it has another position" });
        }
    }
    record.check(tenant, head.size, &head.root, inclusion)?;
    if let AsOf::Timestamp(time_ns) = as_of {
        is_last_by(file, head, time_ns, record, next.as_ref())?;
    } else if next.is_some() {
        return Err(Reject::NotAsked);
    }
    let at = if record.transaction_last() == shown {
        shown
    } else {
        let before = record.transaction_first().previous();
        before.ok_or(Reject::BeforeAll { position: shown })?
    };
    let created_at = schema.created_at;
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_table_too_young") {
        return Ok(at);
    }
    if created_at <= at { Ok(at) } else { Err(Reject::TableNotThere { created_at }) }
}

/// Is this the last record that is not younger? Times never go back along a log; what follows the
/// last one is at least as young as the attestation.
fn is_last_by(
    file: &ProofFile,
    head: &TenantHead,
    time_ns: u64,
    record: &Record,
    next: Option<&Included>,
) -> Result<(), Reject> {
    if record.timestamp_ns() > time_ns {
        return Err(Reject::AnotherTime);
    }
    match next {
        None if record.position().get() + 1 < head.size => {
            Err(Reject::EntryNotShown { what: "the next record" })
        }
        None if file.head.record.timestamp_ns() <= time_ns => Err(Reject::TimeNotReached),
        None => Ok(()),
        Some(Included { record: next, inclusion }) => {
            next.check(file.query.tenant, head.size, &head.root, inclusion)?;
            if next.position() != record.position().next() {
                return Err(Reject::Record { reason: "it is not the next one" });
            }
            if next.timestamp_ns() > time_ns { Ok(()) } else { Err(Reject::AnotherTime) }
        }
    }
}

fn event(
    record: &Record,
    opening: Option<&Opening>,
    redacted: &mut bool,
) -> Result<ProvedEvent, Reject> {
    let mut event = ProvedEvent {
        position: record.position(),
        timestamp_ns: record.timestamp_ns(),
        kind: record.kind(),
        transaction_last: record.transaction_last(),
        payload: None,
        row: None,
    };
    match opening {
        None => {}
        Some(Opening::Payload { salt, payload }) => {
            if record.kind() == ROW_PUT {
                return Err(Reject::Record { reason: "a row is shown by its columns" });
            }
            open_payload(record, salt, payload)?;
            event.payload = Some(payload.clone());
        }
        Some(Opening::Row { table, row }) => {
            if record.kind() != ROW_PUT || row.commitment(*table) != record.commitment() {
                return Err(Reject::Record { reason: "it does not hold the row shown" });
            }
            let Row::Columns { columns, .. } = row else {
                return Err(Reject::Record { reason: "a row is shown by its columns" });
            };
            let cells = columns.iter().map(|cell| match cell {
                Cell::Hidden(_) => AnswerCell::Redacted,
                Cell::Shown { value, .. } => AnswerCell::Value(value.clone()),
            });
            let cells: Vec<AnswerCell> = cells.collect();
            *redacted = cells.contains(&AnswerCell::Redacted);
            event.row = Some((*table, cells));
        }
    }
    Ok(event)
}

fn outcome(entry: &Entry) -> Result<CommittedOutcome, Reject> {
    let EntryValue::Plain { bytes, .. } = &entry.value else {
        return Err(Reject::EntryNotShown { what: "the outcome" });
    };
    let parse = || {
        let decoder = &mut Decoder::new(bytes);
        decoder.record(4)?;
        let position = Position::new(decoder.uint()?);
        let (op, timestamp_ns) = (decoder.uint()?, decoder.uint()?);
        decoder.record(3)?;
        decoder.skip()?;
        let refused = decoder.uint()? != 0;
        decoder.skip()?;
        decoder.finish()?;
        let value = bytes.clone();
        Ok(CommittedOutcome { position, op, timestamp_ns, refused, value })
    };
    parse().map_err(Reject::Malformed)
}
