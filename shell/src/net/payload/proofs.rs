//! Proofs that are asked for, and their files in parts.

use verity_core::ids::{Position, TenantId};
use verity_core::node::ProofOf;
use verity_core::proof::QueryKind;

use super::Room;
use super::values::{read_id, read_sql, write_sql};
use crate::net::schema::{proof_part, prove};

/// What a proof is wanted of.
#[derive(Clone, Debug, PartialEq)]
pub struct Prove {
    pub tenant: TenantId,
    pub of: ProofOf,
    /// Size of an older head that the proof's own must be shown to continue.
    pub since: Option<u64>,
}

impl Prove {
    /// Queries in canonical form stay at home, but for those of one record: a server binds
    /// statements itself.
    #[must_use]
    pub fn is_for_clients(of: &ProofOf) -> bool {
        match of {
            ProofOf::Sql { .. } | ProofOf::HistoryOf { .. } => true,
            ProofOf::Query(kind) => match kind {
                QueryKind::Event { .. } | QueryKind::Commitment { .. } => true,
                QueryKind::Rows { .. } | QueryKind::Count { .. } | QueryKind::History { .. } => {
                    false
                }
            },
        }
    }
}

/// A piece of a proof file; all of them in order are the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProofPart {
    pub file: Vec<u8>,
    /// Another piece follows; then the rest is not said yet.
    pub more: bool,
    pub query: Vec<u8>,
    pub policy: String,
}

pub fn write_prove(asked: &Prove, mut to: prove::Builder<'_>) {
    // No head has size 0.
    to.set_since(asked.since.unwrap_or(0));
    let mut of = to.init_of();
    match &asked.of {
        ProofOf::Sql { text, parameters } => write_sql(text, parameters, of.init_sql()),
        ProofOf::HistoryOf { text, parameters } => write_sql(text, parameters, of.init_history()),
        ProofOf::Query(QueryKind::Event { position }) => of.set_event(position.get()),
        ProofOf::Query(QueryKind::Commitment { id }) => of.set_commitment(&id.0),
        ProofOf::Query(
            QueryKind::Rows { .. } | QueryKind::Count { .. } | QueryKind::History { .. },
        ) => unreachable!("no client asks for this"),
    }
}

pub fn read_prove(
    tenant: TenantId,
    from: prove::Reader<'_>,
    room: &mut Room,
) -> capnp::Result<Prove> {
    let of = match from.get_of().which()? {
        prove::of::Which::Sql(sql) => {
            let (text, parameters) = read_sql(sql?, room)?;
            ProofOf::Sql { text, parameters }
        }
        prove::of::Which::History(sql) => {
            let (text, parameters) = read_sql(sql?, room)?;
            ProofOf::HistoryOf { text, parameters }
        }
        prove::of::Which::Event(position) => {
            ProofOf::Query(QueryKind::Event { position: Position::new(position) })
        }
        prove::of::Which::Commitment(id) => {
            ProofOf::Query(QueryKind::Commitment { id: read_id(id?)? })
        }
    };
    let since = Some(from.get_since()).filter(|size| *size > 0);
    Ok(Prove { tenant, of, since })
}

pub fn write_proof_part(part: &ProofPart, mut to: proof_part::Builder<'_>) {
    to.set_file(&part.file);
    to.set_more(part.more);
    to.set_query(&part.query);
    to.set_policy(part.policy.as_str());
}

pub fn read_proof_part(from: proof_part::Reader<'_>) -> capnp::Result<ProofPart> {
    Ok(ProofPart {
        file: from.get_file()?.to_vec(),
        more: from.get_more(),
        query: from.get_query()?.to_vec(),
        policy: from.get_policy()?.to_string()?,
    })
}
