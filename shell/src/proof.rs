//! Proofs for who uses the library: what the core's verifier gives, and a client's own query.
//!
//! Invariant: nothing here reads a file, a clock or the network.

use verity_core::ids::{Position, TenantId};
use verity_core::kernel::canonical_query;
use verity_core::query::{Catalog, Decimal, TableSchema, prepare_one};

pub use verity_core::ids::ColumnId;
pub use verity_core::node::{ProofError, ProofOf, Proved};
pub use verity_core::proof::{
    Answer, AnswerCell, CanonicalQuery, Entry, EntryValue, Evidence, Freshness, Item, Node, Policy,
    PolicyError, ProofFile, QueryKind, Reject, Scan, Schema, Seen, Verified, redact, verify,
    verify_file,
};

use crate::Value;

/// The canonical query of a SELECT, bound to the table whose encoded schema a proof shows. The
/// proof must then hold for exactly this query: so the schema it was made with is proved too.
pub fn canonical_of_sql(
    tenant: TenantId,
    schema: &[u8],
    sql: &str,
    as_of: Option<Position>,
) -> Result<CanonicalQuery, String> {
    let schema = TableSchema::decode(schema)
        .map_err(|error| format!("the schema in the proof does not decode: {error}"))?;
    let mut catalog = Catalog::new();
    catalog.insert(schema);
    let prepared = prepare_one(&catalog, sql).map_err(|error| error.to_string())?;
    let wanted = prepared.as_of(&[], as_of.unwrap_or(Position::ZERO));
    match (wanted, as_of) {
        (Ok(None), None) => {}
        (Ok(Some(verity_core::query::AsOf::Position(wanted))), Some(as_of)) if wanted == as_of => {}
        (Ok(_), _) => {
            return Err(match as_of {
                Some(as_of) => format!("the proof is as of position {as_of}; say so in the SQL"),
                None => "the proof is of the newest state, not AS OF a position".to_string(),
            });
        }
        (Err(error), _) => return Err(error.to_string()),
    }
    canonical_query(tenant, &prepared, &[], as_of)
        .ok_or_else(|| "this statement cannot be proved".to_string())
}

/// A value of a proof as SQL has it; `None`: a decimal out of range.
#[must_use]
pub fn value_of(value: &verity_core::proof::Value) -> Option<Value> {
    let bytes = value.bytes.as_slice();
    let text = || String::from_utf8_lossy(bytes).into_owned();
    let eight = || bytes.try_into().ok().map(i64::from_be_bytes);
    Some(match value.tag {
        0 => Value::Null,
        1 => Value::Boolean(bytes == [1]),
        2 => Value::Integer(eight()?),
        3 => Value::Double(f64::from_bits(eight()? as u64)),
        4 => {
            let (scale, mantissa) = bytes.split_first()?;
            Value::Decimal(Decimal::new(i128::from_be_bytes(mantissa.try_into().ok()?), *scale)?)
        }
        5 => Value::Text(text()),
        6 => Value::Blob(bytes.to_vec()),
        7 => Value::Date(i32::from_be_bytes(bytes.try_into().ok()?)),
        8 => Value::Timestamp(eight()?),
        9 => Value::Uuid(bytes.try_into().ok()?),
        10 => Value::Json(text()),
        _ => return None,
    })
}
