//! Proofs for who uses the library: what the core's verifier gives, and a client's own query.
//!
//! Invariant: nothing here reads a file, a clock or the network.

use verity_core::ids::TenantId;
use verity_core::kernel::{canonical_query, history_query};
use verity_core::query::{Catalog, TableSchema, Value, prepare_one};

pub use verity_core::crypto::note::{Checkpoint, SignedNote, Verifier};
pub use verity_core::ids::{ColumnId, IdempotencyId};
pub use verity_core::kernel::value_of;
pub use verity_core::limits::PROOF_SIZE_MAX;
pub use verity_core::node::{ProofError, ProofOf, Proved};
pub use verity_core::proof::witness::add_checkpoint_request;
pub use verity_core::proof::{
    Answer, AnswerCell, AsOf, CanonicalQuery, Entry, EntryValue, Evidence, Freshness, Item,
    LOG_MAGIC, LogStart, LogTree, LogVerifier, Node, Policy, PolicyError, ProofFile, QueryKind,
    Reject, Scan, Schema, Seen, SignedHeads, TenantHead, Verified, VerifiedLog, redact, verify,
    verify_file,
};

/// Is what was verified the answer to this statement? It is bound to the table that was proved.
/// `history`: are they all versions of the one row that it names? Gives the names of its columns.
pub fn answers_sql(
    tenant: TenantId,
    sql: &str,
    parameters: &[Value],
    history: bool,
    verified: &Verified,
) -> Result<Vec<String>, String> {
    let Some(schema) = &verified.schema_encoded else {
        return Err("the proof is not of a table's rows".to_string());
    };
    let schema = TableSchema::decode(schema)
        .map_err(|error| format!("the schema in the proof does not decode: {error}"))?;
    let mut catalog = Catalog::new();
    catalog.insert(schema);
    let prepared = prepare_one(&catalog, sql).map_err(|error| error.to_string())?;
    prepared.check_parameters(parameters).map_err(|error| error.to_string())?;
    let as_of = prepared.as_of(parameters, verified.position).map_err(|error| error.to_string())?;
    let query = canonical_query(tenant, &prepared, parameters, as_of);
    let query = if history { query.and_then(|query| history_query(&query)) } else { query };
    let query = query.ok_or_else(|| "this statement cannot be proved".to_string())?;
    if query != verified.query {
        return Err(Reject::AnotherQuery.to_string());
    }
    Ok(prepared.columns.iter().map(|column| column.name.clone()).collect())
}
