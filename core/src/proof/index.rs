//! Rows that an index finds: one interval of it is shown whole, and each entry's row.
//!
//! What interval is told by the filter alone, so that whoever proves and whoever verifies come to
//! the same one. The rest follows from what was signed for: an index that is ready has an entry for
//! a row if and only if the row is there, under the values of its columns and the row's key.
//!
//! Invariants: every row that passes the filter has its entry in the interval; entries and rows
//! shown are one to one.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::answer::{
    Counts, FoundRow, NEWEST, Table, check_gaps, entries, found, range_is_whole, tree_root,
    value_of,
};
use super::file::ProofFile;
use super::query::{Comparison, Filter, Range, Scan};
use super::schema::{Index, Schema};
use super::tree::{Node, Shown};
use super::value::{self, Value, push_key};
use super::{Reject, TenantHead, check_tree};
use crate::ids::{ColumnId, TreeId};

/// Keys of the index between which the entries of all rows lie that pass the filter; `None`: the
/// filter does not bound them.
pub fn interval(schema: &Schema, index: &Index, filter: &Filter) -> Result<Option<Range>, Reject> {
    let mut terms = Vec::new();
    joined(filter, &mut terms);
    let mut prefix = Vec::new();
    for id in &index.columns {
        let column = schema.column(*id)?;
        let (mut equal, mut low, mut high) = (None, None, None);
        for (operator, value) in
            terms.iter().filter(|(of, ..)| of == id).map(|(_, operator, value)| (operator, value))
        {
            let mut key: Vec<u8> = prefix.clone();
            push_key(value, column.tag, column.scale, &mut key)?;
            match operator {
                Comparison::Equal => equal = equal.max(Some(key)),
                Comparison::GreaterOrEqual => low = low.max(Some(key)),
                Comparison::Greater => low = low.max(Some(after(key))),
                Comparison::Less => high = least(high, key),
                Comparison::LessOrEqual => high = least(high, after(key)),
                Comparison::NotEqual => {}
            }
        }
        if let Some(key) = equal {
            prefix = key;
            continue;
        }
        if low.is_none() && high.is_none() {
            break;
        }
        // NULLs come first and pass no comparison.
        let mut first = prefix.clone();
        first.push(1);
        let high = high.unwrap_or_else(|| after(first.clone()));
        let low = low.unwrap_or(first);
        return Ok((low < high).then_some(Range::Span { low, high: Some(high) }));
    }
    let high = Some(after(prefix.clone()));
    Ok((!prefix.is_empty()).then_some(Range::Span { low: prefix, high }))
}

/// Comparisons of a column with a value that every row passing the filter passes.
fn joined<'f>(filter: &'f Filter, into: &mut Vec<(ColumnId, Comparison, &'f Value)>) {
    match filter {
        Filter::Compare { column, operator, value } if value.tag != value::NULL => {
            into.push((*column, *operator, value));
        }
        // As deep as a filter may be.
        Filter::And(terms) => terms.iter().for_each(|term| joined(term, into)),
        Filter::Compare { .. }
        | Filter::In { .. }
        | Filter::IsNull { .. }
        | Filter::Or(_)
        | Filter::Not(_) => {}
    }
}

fn least(known: Option<Vec<u8>>, key: Vec<u8>) -> Option<Vec<u8>> {
    Some(known.map_or(key.clone(), |known| known.min(key)))
}

/// The first key behind all that begin with this one. A value's key begins with 1.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    while let Some(last) = key.pop() {
        if last < 0xff {
            key.push(last + 1);
            break;
        }
    }
    key
}

/// What the proof shows of an index, checked: rows by their keys, those outside the query's ranges
/// left out.
pub(super) fn rows_by_index<'a>(
    table: &Table,
    scan: &Scan,
    file: &'a ProofFile,
    head: &TenantHead,
    shown: (TreeId, Option<&'a Node>, Option<&'a Node>),
) -> Result<BTreeMap<&'a [u8], FoundRow<'a>>, Reject> {
    let (tree, entry_node, row_node) = shown;
    let (Some(filter), None) = (&scan.filter, scan.as_of) else { return Err(Reject::NotAsked) };
    let unfit = Reject::EntryNotShown { what: "an index that the filter bounds" };
    let index = table.schema.indexes.iter().find(|index| index.entries == tree);
    let index = index.ok_or(unfit.clone())?;
    let range = interval(&table.schema, index, filter)?.ok_or(unfit)?;
    let root = tree_root(file, head, tree)?;
    let mut shown = Vec::new();
    check_tree(entry_node, tree, None, &root, &mut shown)?;
    check_gaps(&shown, Counts::Refused, |before, after| {
        #[cfg(verity_zoo)]
        if crate::zoo::is("proof_index_hides") {
            return true;
        }
        range_is_whole(&range, before, after)
    })?;
    let mut wanted: BTreeSet<&[u8]> =
        entries(&shown).map(|entry| entry.key.as_slice()).filter(|key| range.holds(key)).collect();
    let mut rows = BTreeMap::new();
    let mut shown = Vec::new();
    if row_node.is_some() {
        let (tree, root) = &table.rows;
        check_tree(row_node, *tree, Some(table.schema.table), root, &mut shown)?;
    }
    for token in &shown {
        let entry = match token {
            Shown::Gap => continue,
            Shown::Counted(_) => return Err(Reject::Gap),
            Shown::Entry(entry) => entry,
        };
        let row = found(table, entry, &entry.key, NEWEST)?;
        let mut key =
            table.schema.keys_of(&index.columns, |id| value_of(&table.schema, &row, id))?;
        key.extend_from_slice(&entry.key);
        if !wanted.remove(key.as_slice()) {
            return Err(Reject::NotAsked);
        }
        rows.insert(entry.key.as_slice(), row);
    }
    #[cfg(verity_zoo)]
    if crate::zoo::is("proof_index_rows_missing") {
        wanted.clear();
    }
    if !wanted.is_empty() {
        return Err(Reject::EntryNotShown { what: "a row that the index names" });
    }
    rows.retain(|key, _| scan.ranges.iter().any(|range| range.holds(key)));
    Ok(rows)
}
