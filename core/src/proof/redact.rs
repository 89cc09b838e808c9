//! A copy of a proof with columns taken out, which still verifies for the columns left.

use super::file::{Evidence, Opening, ProofFile};
use super::query::{QueryKind, Scan};
use super::schema::Schema;
use super::tree::{Entry, EntryValue, Item, Node, Row};
use crate::ids::{ColumnId, TableId};

/// Takes the columns out of every row. Refused (`None`) for columns of the filter, the key and the
/// index, without which the proof shows nothing, and for proofs that show no rows.
#[must_use]
pub fn redact(file: &ProofFile, columns: &[ColumnId], key: &[ColumnId]) -> Option<ProofFile> {
    let mut kept = key.to_vec();
    match &file.query.kind {
        QueryKind::Rows { scan: Scan { filter: Some(filter), .. }, .. }
        | QueryKind::Count { scan: Scan { filter: Some(filter), .. } } => {
            filter.for_each_column(&mut |column| kept.push(column));
        }
        QueryKind::Rows { .. }
        | QueryKind::Count { .. }
        | QueryKind::History { .. }
        | QueryKind::Event { .. }
        | QueryKind::Commitment { .. } => {}
    }
    if let Evidence::Index { catalog, index, .. } = &file.evidence {
        let schema = shown(catalog).and_then(|bytes| Schema::decode(bytes).ok())?;
        let used = schema.indexes.into_iter().find(|known| known.entries == *index)?;
        kept.extend(used.columns);
    }
    if columns.iter().any(|column| kept.contains(column)) {
        return None;
    }
    let mut file = file.clone();
    let table = match &file.query.kind {
        QueryKind::Rows { scan, .. } | QueryKind::Count { scan } => scan.table,
        QueryKind::History { table, .. } => *table,
        QueryKind::Event { .. } | QueryKind::Commitment { .. } => TableId::ZERO,
    };
    match &mut file.evidence {
        Evidence::Scan { rows, history, .. } => {
            let history = history.iter_mut().flatten();
            for node in rows.iter_mut().chain(history).flatten() {
                redact_node(node, table, columns);
            }
        }
        Evidence::History { row, versions, .. } => {
            for node in row.iter_mut().chain(versions) {
                redact_node(node, table, columns);
            }
        }
        Evidence::Event { opening: Some(Opening::Row { table, row }), .. } => {
            redact_row(row, *table, columns);
        }
        Evidence::Index { rows: Some(node), .. } => redact_node(node, table, columns),
        Evidence::Index { rows: None, .. } => {}
        Evidence::Event { .. } | Evidence::Commitment { .. } => return None,
    }
    Some(file)
}

/// The value of the one entry that a node shows.
fn shown(node: &Node) -> Option<&[u8]> {
    node.shown.iter().find_map(|(_, item)| match item {
        Item::Entry(Entry { value: EntryValue::Plain { bytes, .. }, .. }) => Some(bytes.as_slice()),
        Item::Child { node, .. } => shown(node), // As deep as the file.
        Item::Entry(_) | Item::Counted { .. } => None,
    })
}

fn redact_node(node: &mut Node, table: TableId, columns: &[ColumnId]) {
    for (_, item) in &mut node.shown {
        match item {
            Item::Entry(Entry { value: EntryValue::Row { row, .. }, .. }) => {
                redact_row(row, table, columns);
            }
            Item::Entry(_) | Item::Counted { .. } => {}
            Item::Child { node, .. } => redact_node(node, table, columns), // As deep as the file.
        }
    }
}

fn redact_row(row: &mut Row, table: TableId, columns: &[ColumnId]) {
    let Row::Columns { columns: cells, .. } = row else { return };
    for column in columns {
        let cell = (column.get() as usize).checked_sub(1).and_then(|at| cells.get_mut(at));
        if let Some(cell) = cell {
            cell.hide(table, *column);
        }
    }
}
