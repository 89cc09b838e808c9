//! The hot path: one row by its whole primary key, now or as of a position.
//!
//! Invariants: gives what a [`crate::query::ReadTask`] would give of the same statement, or says
//! that it is no such statement; allocates nothing but what the values themselves take.

use alloc::vec::Vec;

use crate::query::bind::Source;
use crate::query::expr::Expr;
use crate::query::prepared::{Prepared, Statement};
use crate::query::source::RowSource;
use crate::query::stored::StoredRow;
use crate::query::value::Value;
use crate::store::Fault;

/// Buffers of [`read_point`], kept by the caller between lookups.
#[derive(Debug, Default)]
pub struct PointScratch {
    key: Vec<u8>,
}

/// The hot path: SELECT of plain columns by the whole primary key. `None`: not such a statement,
/// use a [`ReadTask`]. `Some(found)`: `out` holds the row's columns if found.
pub fn read_point(
    prepared: &Prepared,
    source: &RowSource<'_>,
    parameters: &[Value],
    scratch: &mut PointScratch,
    out: &mut Vec<Value>,
) -> Result<Option<bool>, Fault> {
    out.clear();
    let Statement::Select(select) = &prepared.statement else { return Ok(None) };
    let (Source::Table(schema), Some(plain)) = (&select.source, &select.plain) else {
        return Ok(None);
    };
    let simple = select.conditions.is_lookup
        && !prepared.is_explained()
        && !select.distinct
        && select.order.is_empty()
        && select.limit.is_none()
        && select.offset.is_none()
        && schema.created_at <= source.position;
    if !simple || !prepared.still_holds(source.catalog) {
        return Ok(None);
    }
    scratch.key.clear();
    for (conditions, id) in select.conditions.columns.iter().zip(&schema.primary_key) {
        let value = match &conditions.equal {
            Some(Expr::Literal(value)) => value,
            Some(Expr::Parameter(index)) => match parameters.get(usize::from(*index)) {
                Some(value) => value,
                None => return Ok(None),
            },
            Some(_) | None => return Ok(None),
        };
        let column_type = schema.column(*id).column_type;
        if !crate::query::prepared::fits_as_is(value, column_type) {
            return Ok(None);
        }
        crate::query::key::encode_key_value(value, column_type, &mut scratch.key);
    }
    let Some(bytes) = source.get(schema, &scratch.key)? else { return Ok(Some(false)) };
    let initial = schema.initial_values(source.position);
    let row = StoredRow::new(&bytes).with_initial(&initial);
    out.extend(plain.iter().map(|ordinal| row.column(*ordinal).to_value()));
    Ok(Some(true))
}
