//! Rows that a request has changed: what its later commands see of them, before any tree does.
//!
//! Keys and columns lie one after the other in buffers that requests use in turn, and an order over
//! them is kept beside: a row costs no allocation once the buffers have grown. Invariants: a key of
//! a table is there once, with its newest version; between requests all of it is empty.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ops::Range;

use crate::ids::{Position, TableId};
use crate::query::Value;
use crate::query::texts::Texts;

/// Room for so many rows, and bytes and columns of each, is kept for the next request.
pub(super) const ROWS_KEPT: usize = 2_048;
pub(super) const KEY_BYTES_KEPT: usize = 32;
pub(super) const COLUMNS_KEPT: usize = 16;

#[derive(Debug, Default)]
pub(super) struct OverlayRows {
    keys: Vec<u8>,
    columns: Vec<Value>,
    /// As they were changed first.
    rows: Vec<Changed>,
    /// Places in `rows`, in the order of tables and their keys.
    order: Vec<u32>,
}

#[derive(Debug)]
struct Changed {
    table: TableId,
    key: Range<usize>,
    position: Position,
    columns: Option<Range<usize>>,
}

/// The newest version of a row that a request has changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct OverlayRow<'a> {
    /// The record that made or deleted it.
    pub position: Position,
    /// None: deleted.
    pub row: Option<&'a [Value]>,
}

impl OverlayRows {
    pub fn get(&self, table: TableId, key: &[u8]) -> Option<OverlayRow<'_>> {
        let at = self.find(table, key).ok()?;
        Some(self.row(&self.rows[self.order[at] as usize]))
    }

    pub fn contains(&self, table: TableId, key: &[u8]) -> bool {
        self.find(table, key).is_ok()
    }

    /// Changed rows of a table, in the order of their keys.
    pub fn of(&self, table: TableId) -> impl Iterator<Item = (&[u8], OverlayRow<'_>)> {
        self.order[self.places_of(table)].iter().map(|at| {
            let changed = &self.rows[*at as usize];
            (&self.keys[changed.key.clone()], self.row(changed))
        })
    }

    pub fn count(&self, table: TableId) -> usize {
        self.places_of(table).len()
    }

    /// The row is as it says now, its columns taken; `None`: deleted.
    pub fn put(
        &mut self,
        table: TableId,
        key: &[u8],
        position: Position,
        row: Option<&mut [Value]>,
    ) {
        let columns = row.map(|row| {
            let start = self.columns.len();
            self.columns.extend(row.iter_mut().map(core::mem::take));
            start..self.columns.len()
        });
        match self.find(table, key) {
            Ok(at) => {
                let changed = &mut self.rows[self.order[at] as usize];
                changed.position = position;
                let before = core::mem::replace(&mut changed.columns, columns);
                self.columns[before.unwrap_or_default()].fill(Value::Null);
            }
            Err(at) => {
                let start = self.keys.len();
                self.keys.extend_from_slice(key);
                self.order.insert(at, self.rows.len() as u32);
                let key = start..self.keys.len();
                self.rows.push(Changed { table, key, position, columns });
            }
        }
    }

    /// The rows of a table have one more column.
    pub fn widen(&mut self, table: TableId, initial: &Value) {
        for place in self.places_of(table) {
            let changed = &mut self.rows[self.order[place] as usize];
            let Some(columns) = &mut changed.columns else { continue };
            let start = self.columns.len();
            for at in columns.clone() {
                let value = core::mem::take(&mut self.columns[at]);
                self.columns.push(value);
            }
            self.columns.push(initial.clone());
            *columns = start..self.columns.len();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.columns.is_empty()
    }

    pub fn clear(&mut self, texts: &mut Texts) {
        self.columns.drain(..).for_each(|value| texts.reuse(value));
        self.columns.shrink_to(ROWS_KEPT * COLUMNS_KEPT);
        self.keys.clear();
        self.keys.shrink_to(ROWS_KEPT * KEY_BYTES_KEPT);
        self.rows.clear();
        self.rows.shrink_to(ROWS_KEPT);
        self.order.clear();
        self.order.shrink_to(ROWS_KEPT);
    }

    fn row(&self, changed: &Changed) -> OverlayRow<'_> {
        let row = changed.columns.clone().map(|columns| &self.columns[columns]);
        OverlayRow { position: changed.position, row }
    }

    fn compare(&self, place: u32, table: TableId, key: &[u8]) -> Ordering {
        let known = &self.rows[place as usize];
        (known.table, &self.keys[known.key.clone()]).cmp(&(table, key))
    }

    /// Place in `order`; `Err`: where it belongs.
    fn find(&self, table: TableId, key: &[u8]) -> Result<usize, usize> {
        // Keys often ascend.
        match self.order.last() {
            Some(last) if self.compare(*last, table, key) == Ordering::Less => {
                Err(self.order.len())
            }
            Some(_) => self.order.binary_search_by(|place| self.compare(*place, table, key)),
            None => Err(0),
        }
    }

    fn places_of(&self, table: TableId) -> Range<usize> {
        let table_at = |place: u32| self.rows[place as usize].table;
        let start = self.order.partition_point(|place| table_at(*place) < table);
        let end = self.order.partition_point(|place| table_at(*place) <= table);
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    /// Against a map of maps, which is what it stands for.
    #[test]
    fn it_is_a_map_of_tables_and_keys() {
        let (mut rows, mut texts) = (OverlayRows::default(), Texts::default());
        for round in 0..3_u64 {
            assert!(rows.is_empty());
            let mut model = BTreeMap::<(u32, [u8; 2]), (u64, Option<Vec<Value>>)>::new();
            let mut dice = round + 1;
            for position in 0..600 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (table, key) = ((dice >> 60) as u32 % 3, [(dice >> 40) as u8 % 16, 1]);
                let value = Value::text(&alloc::format!("{position}"));
                let row = (dice >> 30).is_multiple_of(4).then(|| alloc::vec![Value::Null, value]);
                model.insert((table, key), (position, row.clone()));
                let mut row = row;
                let position = Position::new(position);
                rows.put(TableId::new(table), &key, position, row.as_deref_mut());
            }
            rows.widen(TableId::new(1), &Value::Integer(5));
            for ((table, _), (_, row)) in &mut model {
                if let (1, Some(row)) = (table, row) {
                    row.push(Value::Integer(5));
                }
            }
            let mut all = Vec::new();
            for table in 0..3 {
                let id = TableId::new(table);
                assert_eq!(rows.count(id), rows.of(id).count());
                for (key, changed) in rows.of(id) {
                    let same = rows.get(id, key).map(|same| (same.position, same.row));
                    assert_eq!(same, Some((changed.position, changed.row)));
                    let key: [u8; 2] = key.try_into().unwrap();
                    let position = changed.position.get();
                    all.push(((table, key), (position, changed.row.map(<[Value]>::to_vec))));
                }
                assert!(!rows.contains(id, &[99]));
            }
            assert_eq!(all, model.into_iter().collect::<Vec<_>>());
            rows.clear(&mut texts);
        }
    }
}
