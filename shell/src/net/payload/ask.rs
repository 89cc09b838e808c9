//! What a client asks.

use capnp::message::Builder;
use capnp::serialize;
use verity_core::crypto::KekHash;
use verity_core::ids::{IdempotencyId, PrincipalId, TenantId};
use verity_core::kernel::{ExpectedVersion, Operation, Request};
use verity_core::query::Value;

use super::proofs::{Prove, read_prove, write_prove};
use super::values::{
    read_id, read_rows, read_sql, read_texts, read_values, write_rows, write_sql, write_texts,
    write_values,
};
use super::{Room, TooLong, length, options, to_frame};
use crate::net::schema::{append, execute, operation, query, request};

/// A request with the number that its answer repeats.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub id: u64,
    pub ask: Ask,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Execute(Request),
    Query(Query),
    Commitment {
        tenant: TenantId,
        id: IdempotencyId,
    },
    Status,
    Prove(Prove),
    /// Of the query with the number of this request: so many parts of its answer were taken.
    Taken(u32),
    /// Nothing more is wanted of the query with the number of this request.
    Cancel,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    pub tenant: TenantId,
    pub text: String,
    pub params: Vec<Value>,
    /// Positions that the client has seen, as a count: the answer is not older.
    pub seen: u64,
    /// Whoever is asked may answer.
    pub anywhere: bool,
    /// The rows of RETURNING are asked for, of a write that committed there, as a count; 0: it is a
    /// SELECT.
    pub returning: u64,
    /// Parts of the answer that may be on their way or not taken yet; 0: all of them.
    pub window: u32,
}

impl Asked {
    /// The whole frame.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let mut message = Builder::new_default();
        let mut to: request::Builder<'_> = message.init_root();
        to.set_id(self.id);
        match &self.ask {
            Ask::Execute(request) => {
                to.set_tenant(request.tenant.get());
                write_execute(request, to.init_execute());
            }
            Ask::Query(asked) => {
                to.set_tenant(asked.tenant.get());
                write_query(asked, to.init_query());
            }
            Ask::Commitment { tenant, id } => {
                to.set_tenant(tenant.get());
                to.set_commitment(&id.0);
            }
            Ask::Status => to.set_status(()),
            Ask::Prove(asked) => {
                to.set_tenant(asked.tenant.get());
                write_prove(asked, to.init_prove());
            }
            Ask::Taken(parts) => to.set_taken(*parts),
            Ask::Cancel => to.set_cancel(()),
        }
        to_frame(&message)
    }

    pub fn decode(payload: &[u8]) -> capnp::Result<Asked> {
        let mut bytes = payload;
        let message = serialize::read_message_from_flat_slice(&mut bytes, options(payload))?;
        let from: request::Reader<'_> = message.get_root()?;
        let tenant = TenantId::new(from.get_tenant());
        let room = &mut Room::of(payload);
        let ask = match from.which()? {
            request::Which::Execute(execute) => Ask::Execute(read_execute(tenant, execute?, room)?),
            request::Which::Query(query) => {
                let query = query?;
                Ask::Query(Query {
                    tenant,
                    text: query.get_text()?.to_string()?,
                    params: read_values(query.get_params()?, room)?,
                    seen: query.get_seen(),
                    anywhere: query.get_anywhere(),
                    returning: query.get_returning(),
                    window: query.get_window(),
                })
            }
            request::Which::Commitment(id) => Ask::Commitment { tenant, id: read_id(id?)? },
            request::Which::Status(()) => Ask::Status,
            request::Which::Prove(asked) => Ask::Prove(read_prove(tenant, asked?, room)?),
            request::Which::Taken(parts) => Ask::Taken(parts),
            request::Which::Cancel(()) => Ask::Cancel,
        };
        Ok(Asked { id: from.get_id(), ask })
    }
}

fn write_query(asked: &Query, mut to: query::Builder<'_>) {
    to.set_text(asked.text.as_str());
    to.set_seen(asked.seen);
    to.set_anywhere(asked.anywhere);
    to.set_returning(asked.returning);
    to.set_window(asked.window);
    write_values(&asked.params, to.init_params(length(asked.params.len())));
}

fn write_execute(request: &Request, mut to: execute::Builder<'_>) {
    to.set_idempotency(&request.idempotency.0);
    if let Some(after) = &request.after {
        to.set_after(&after.0);
    }
    let mut list = to.init_operations(length(request.operations.len()));
    for (at, operation) in (0..).zip(&request.operations) {
        write_operation(operation, list.reborrow().get(at));
    }
}

fn write_operation(operation: &Operation, to: operation::Builder<'_>) {
    match operation {
        Operation::Sql { text, params } => write_sql(text, params, to.init_sql()),
        Operation::InsertRows { table, columns, rows } => {
            let mut to = to.init_insert_rows();
            to.set_table(table.as_str());
            write_texts(columns, to.reborrow().init_columns(length(columns.len())));
            write_rows(rows, to.init_rows(length(rows.len())));
        }
        Operation::Append { stream, expected, records } => {
            let mut to = to.init_append();
            to.set_stream(stream.as_str());
            let mut expecting = to.reborrow().init_expected();
            match expected {
                ExpectedVersion::Any => expecting.set_any(()),
                ExpectedVersion::None => expecting.set_none(()),
                ExpectedVersion::Exists => expecting.set_exists(()),
                ExpectedVersion::Exact(version) => expecting.set_exact(*version),
            }
            let mut list = to.init_records(length(records.len()));
            for (at, record) in (0..).zip(records) {
                list.set(at, record);
            }
        }
        // Whoever leads chooses the keys.
        Operation::CreateTenant { tenant, kek_hash: _ } => {
            let mut to = to;
            to.set_create_tenant(tenant.get());
        }
        Operation::JobStep { .. } | Operation::Attest => {
            unreachable!("no client asks for this")
        }
    }
}

fn read_execute(
    tenant: TenantId,
    from: execute::Reader<'_>,
    room: &mut Room,
) -> capnp::Result<Request> {
    let after = match from.get_after()? {
        [] => None,
        id => Some(read_id(id)?),
    };
    let operations = from.get_operations()?;
    room.take(operations.len())?;
    let operations = operations.iter().map(|operation| read_operation(operation, room));
    Ok(Request {
        tenant,
        principal: PrincipalId::ZERO,
        idempotency: read_id(from.get_idempotency()?)?,
        after,
        operations: operations.collect::<capnp::Result<Vec<Operation>>>()?,
    })
}

fn read_operation(from: operation::Reader<'_>, room: &mut Room) -> capnp::Result<Operation> {
    Ok(match from.which()? {
        operation::Which::Sql(sql) => {
            let (text, params) = read_sql(sql?, room)?;
            Operation::Sql { text, params }
        }
        operation::Which::CreateTenant(tenant) => {
            Operation::CreateTenant { tenant: TenantId::new(tenant), kek_hash: KekHash([0; 32]) }
        }
        operation::Which::InsertRows(insert) => {
            let insert = insert?;
            Operation::InsertRows {
                table: insert.get_table()?.to_string()?,
                columns: read_texts(insert.get_columns()?, room)?,
                rows: read_rows(insert.get_rows()?, room)?,
            }
        }
        operation::Which::Append(append) => {
            let append = append?;
            let expected = match append.get_expected().which()? {
                append::expected::Which::Any(()) => ExpectedVersion::Any,
                append::expected::Which::None(()) => ExpectedVersion::None,
                append::expected::Which::Exists(()) => ExpectedVersion::Exists,
                append::expected::Which::Exact(version) => ExpectedVersion::Exact(version),
            };
            let records = append.get_records()?;
            room.take(records.len())?;
            let records = records.iter().map(|record| Ok(record?.to_vec()));
            Operation::Append {
                stream: append.get_stream()?.to_string()?,
                expected,
                records: records.collect::<capnp::Result<Vec<Vec<u8>>>>()?,
            }
        }
    })
}
