//! On the primary: a typed request becomes a sealed, self-contained one.
//!
//! Purpose: parse, bind and lower once, refuse early what state need not decide, seal. Restartable:
//! nothing is changed but caches. Invariant: what leaves here holds no plaintext of a tenant but
//! the clear header of `batch`.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::batch::{REQUEST_HEADER_SIZE, RequestHeader, SEAL_TAG_SIZE, SealedRequest, unpack_at};
use super::envelope::{Envelope, EnvelopeWriter, fingerprint_bytes};
use super::execute::check_append;
use super::finding::{Finding, Found, Place};
use super::outcome::Commitment;
use super::request::{Operation, Reply, Request, RequestError};
use super::{Kernel, Keys};
use crate::crypto::{InternalHash, RequestKeys, Tag};
use crate::ids::{IdempotencyId, TenantId};
use crate::limits::{
    IDEMPOTENCY_AHEAD_MAX_MS, REQUEST_SIZE_MAX, STATEMENT_CACHED_SIZE_MAX, STATEMENTS_CACHED_MAX,
};
use crate::query::bind_index::{with_column, with_index, without_index};
use crate::query::cbor::DecodeError;
use crate::query::{
    Catalog, Column, Command, Insert, InsertRows, OnConflict, Prepared, SqlError, SqlState, Value,
    prepare,
};
use crate::store::{Fault, Store};
use crate::time::Timestamp;

/// Why a request was not sealed.
#[derive(Debug)]
pub enum PrepareError {
    /// Fetch and call again.
    Fault(Fault),
    /// Look for the rows of a write first, then call again with them.
    Find(Box<Finding>),
    Refused(RequestError),
    /// It cannot be bound any more, because it was applied before: the remembered answer.
    Remembered(Box<Result<Reply, RequestError>>),
}

impl From<Fault> for PrepareError {
    fn from(fault: Fault) -> PrepareError {
        PrepareError::Fault(fault)
    }
}

impl From<RequestError> for PrepareError {
    fn from(error: RequestError) -> PrepareError {
        PrepareError::Refused(error)
    }
}

impl Kernel {
    /// Lowers and seals. `nonce` is random and used for nothing else; `now` only refuses early.
    /// `found`: the rows of large writes, as far as they were looked for.
    ///
    /// A retry may be refused here for what its own first copy did (the table exists already): so
    /// no refusal is given before the id was looked up.
    pub fn prepare_request(
        &mut self,
        store: &Store,
        keys: &dyn Keys,
        request: &Request,
        now: Timestamp,
        nonce: [u8; 12],
        found: &mut Found,
    ) -> Result<SealedRequest, PrepareError> {
        let prepared = self.lower_and_seal(store, keys, request, now, nonce, found);
        if let Err(PrepareError::Refused(_) | PrepareError::Find(_)) = &prepared
            && let Some(answer) = self.remembered(store, keys, request)?
        {
            return Err(PrepareError::Remembered(Box::new(answer)));
        }
        prepared
    }

    /// The outcome on record of the request's id, if there is one: what it is answered with when
    /// it cannot be proposed.
    pub fn remembered(
        &mut self,
        store: &Store,
        keys: &dyn Keys,
        request: &Request,
    ) -> Result<Option<Result<Reply, RequestError>>, Fault> {
        let (tenant, id) = (request.tenant, request.idempotency);
        let Some(tenant_keys) = keys.newest(tenant) else { return Ok(None) };
        let commitment = self.on_record(store, tenant, id)?;
        Ok(commitment
            .map(|commitment| commitment.answer(&fingerprint(request, tenant_keys.requests()))))
    }

    /// As [`Kernel::remembered`], of a request that its caller has sealed.
    pub fn remembered_sealed(
        &mut self,
        store: &Store,
        keys: &dyn Keys,
        sealed: &SealedRequest,
    ) -> Result<Option<Result<Reply, RequestError>>, Fault> {
        let Ok((header, cipher, _)) = unpack_at(sealed.as_bytes(), 0) else {
            unreachable!("it was sealed here");
        };
        let Some(commitment) = self.on_record(store, header.tenant, header.idempotency)? else {
            return Ok(None);
        };
        let Some(tenant_keys) = keys.named(header.tenant, header.key) else { return Ok(None) };
        let Some((cipher, tag)) = cipher.split_last_chunk::<SEAL_TAG_SIZE>() else {
            unreachable!("longer than a tag");
        };
        let mut envelope = Envelope::default();
        envelope.plain().extend_from_slice(cipher);
        let request_key = tenant_keys.request();
        let opened = request_key.open(header.nonce, &header.encode(), envelope.plain(), &Tag(*tag));
        let (Ok(()), Ok(())) = (opened, envelope.decode()) else {
            unreachable!("it was sealed here");
        };
        Ok(Some(commitment.answer(&envelope.request)))
    }

    fn on_record(
        &mut self,
        store: &Store,
        tenant: TenantId,
        id: IdempotencyId,
    ) -> Result<Option<Commitment>, Fault> {
        if id.is_none() || self.catalog(store, tenant)?.is_none() {
            return Ok(None);
        }
        self.commitment(store, tenant, id)
    }

    fn lower_and_seal(
        &mut self,
        store: &Store,
        keys: &dyn Keys,
        request: &Request,
        now: Timestamp,
        nonce: [u8; 12],
        found: &mut Found,
    ) -> Result<SealedRequest, PrepareError> {
        let tenant = request.tenant;
        check(request, now)?;
        let Some(catalog) = self.catalog(store, tenant)? else {
            return Err(RequestError::TenantUnknown(tenant).into());
        };
        let Some(tenant_keys) = keys.newest(tenant) else {
            return Err(RequestError::KeyMissing(tenant).into());
        };
        let mut writer = EnvelopeWriter::new();
        let (pages_max, mut writes) = (self.constants.transaction_pages_read_max, 0);
        // What earlier statements of the request do to the schema, later ones are bound to.
        let mut changed: Option<Catalog> = None;
        for (index, operation) in request.operations.iter().enumerate() {
            let index = index as u32;
            match operation {
                Operation::Sql { text, params } => {
                    let statements = match &changed {
                        None => self.statements.prepared(tenant, &catalog, text)?,
                        // Ids of what is yet to be made may become another's.
                        Some(changed) => {
                            Arc::new(prepare(changed, text).map_err(RequestError::Sql)?)
                        }
                    };
                    for statement in statements.iter() {
                        if !statement.is_write() {
                            return Err(RequestError::Sql(not_a_write()).into());
                        }
                        let mut command = statement.lower(params).map_err(RequestError::Sql)?;
                        if let Command::Update(_) | Command::Delete(_) = &command {
                            let place = Place { store, tenant, catalog: &catalog, pages_max };
                            if let Some(finding) = found.of(writes, &place, &mut command)? {
                                return Err(PrepareError::Find(Box::new(finding)));
                            }
                            writes += 1;
                        }
                        follow(&command, &catalog, &mut changed);
                        writer.command(index, &command);
                    }
                }
                Operation::InsertRows { table, columns, rows } => {
                    let catalog = changed.as_ref().unwrap_or(&catalog);
                    let command = lower_rows(catalog, table, columns, rows)?;
                    writer.command(index, &command);
                }
                Operation::Append { stream, expected, records } => {
                    check_append(stream, records.iter().map(Vec::as_slice))?;
                    writer.append(index, stream, *expected, records);
                }
                Operation::CreateTenant { tenant, kek_hash } => {
                    writer.create_tenant(index, *tenant, kek_hash);
                }
                Operation::Attest => writer.attest(index),
                Operation::JobStep { job } => writer.job_step(index, *job),
            }
            check_size(writer.size())?;
        }
        let fingerprint = fingerprint(request, tenant_keys.requests());
        Ok(seal(request, writer, &fingerprint, tenant_keys.requests(), nonce)?)
    }
}

/// Room for what a request of one row usually has, so that it does not grow step by step.
const FINGERPRINT_BYTES_USUAL: usize = 1_024;
const CELL_BYTES_USUAL: usize = 32;

/// What tells the same request from another one with the same id.
pub(super) fn fingerprint(request: &Request, keys: &RequestKeys) -> InternalHash {
    if request.idempotency.is_none() {
        return InternalHash::ZERO;
    }
    let mut bytes = Vec::with_capacity(FINGERPRINT_BYTES_USUAL);
    fingerprint_bytes(request, &mut bytes);
    keys.fingerprint().of(&[&bytes])
}

/// Puts the envelope under the tenant's request key, behind its clear header.
pub(super) fn seal(
    request: &Request,
    writer: EnvelopeWriter,
    fingerprint: &InternalHash,
    keys: &RequestKeys,
    nonce: [u8; 12],
) -> Result<SealedRequest, RequestError> {
    let mut bytes = Vec::with_capacity(REQUEST_HEADER_SIZE + writer.size() + 128);
    bytes.resize(REQUEST_HEADER_SIZE, 0);
    let intricate = writer.is_intricate();
    writer.finish(fingerprint, request.after, &mut bytes);
    check_size(bytes.len() + SEAL_TAG_SIZE)?;
    if intricate {
        let mut envelope = Envelope::default();
        envelope.plain().extend_from_slice(&bytes[REQUEST_HEADER_SIZE..]);
        envelope.decode().map_err(|error| RequestError::Sql(not_readable(&error)))?;
    }
    let header = RequestHeader {
        tenant: request.tenant,
        principal: request.principal,
        idempotency: request.idempotency,
        key: keys.id(),
        nonce,
        length: (bytes.len() - REQUEST_HEADER_SIZE + SEAL_TAG_SIZE) as u32,
    };
    let clear = header.encode();
    bytes[..REQUEST_HEADER_SIZE].copy_from_slice(&clear);
    #[cfg(verity_zoo)]
    let plain = bytes[REQUEST_HEADER_SIZE..].to_vec();
    let tag = keys.request().seal(nonce, &clear, &mut bytes[REQUEST_HEADER_SIZE..]);
    #[cfg(verity_zoo)]
    if crate::zoo::is("request_not_sealed") {
        bytes[REQUEST_HEADER_SIZE..].copy_from_slice(&plain);
    }
    bytes.extend_from_slice(&tag.0);
    Ok(SealedRequest::new(bytes))
}

/// What needs no state to be refused.
pub(super) fn check(request: &Request, now: Timestamp) -> Result<(), RequestError> {
    if request.operations.is_empty() {
        return Err(RequestError::Empty);
    }
    for operation in &request.operations {
        let of_the_system = matches!(operation, Operation::CreateTenant { .. } | Operation::Attest);
        // An outcome to remember would change the state that was just attested.
        let fit = *operation != Operation::Attest
            || request.operations.len() == 1 && request.idempotency.is_none();
        if of_the_system != (request.tenant == TenantId::SYSTEM) || !fit {
            return Err(RequestError::NotPermitted { tenant: request.tenant });
        }
    }
    let id = request.idempotency;
    let now_ms = now.as_ms();
    // A little slack: the prepare's clock decides, and a remembered id is answered whatever it
    // says.
    if !id.is_none() && id.not_after_ms() > now_ms.saturating_add(2 * IDEMPOTENCY_AHEAD_MAX_MS) {
        let max_ahead_ms = IDEMPOTENCY_AHEAD_MAX_MS;
        return Err(RequestError::IdempotencyTooFarAhead { id, now_ms, max_ahead_ms });
    }
    Ok(())
}

/// What the command will do to the schema, for the operations after it.
fn follow(command: &Command, catalog: &Catalog, changed: &mut Option<Catalog>) {
    match command {
        Command::CreateTable { schema, .. } => {
            let catalog = changed.get_or_insert_with(|| catalog.clone());
            if catalog.table_named(&schema.name).is_none() && schema.id == catalog.next_table {
                catalog.create(schema.clone());
            }
        }
        Command::DropTable { table, .. } => {
            changed.get_or_insert_with(|| catalog.clone()).drop_table(*table);
        }
        Command::CreateIndex(create) => {
            let catalog = changed.get_or_insert_with(|| catalog.clone());
            let next = catalog.next_tree;
            if catalog.index_named(&create.name).is_none()
                && let Some(schema) = catalog.table(create.table)
            {
                let altered = with_index(schema, create, next);
                catalog.alter(altered);
            }
        }
        Command::DropIndex { table, entries } => {
            let catalog = changed.get_or_insert_with(|| catalog.clone());
            if let Some(schema) = catalog.table(*table) {
                let altered = without_index(schema, *entries);
                catalog.alter(altered);
            }
        }
        Command::AddColumn { table, column, .. } => {
            let catalog = changed.get_or_insert_with(|| catalog.clone());
            if let Some(schema) = catalog.table(*table) {
                let altered = with_column(schema, column, catalog);
                catalog.alter(altered);
            }
        }
        Command::Insert(_)
        | Command::Update(_)
        | Command::Delete(_)
        | Command::CancelJob { .. }
        | Command::Nothing => {}
    }
}

fn not_readable(error: &DecodeError) -> SqlError {
    let message = format!("the statement is too intricate to be sent: {error}");
    SqlError::new(SqlState::StatementTooComplex, message).hint("write it in several steps")
}

fn not_a_write() -> SqlError {
    let message =
        "SELECT and EXPLAIN read a snapshot; a transaction holds only statements that write";
    SqlError::new(SqlState::FeatureNotSupported, message).hint("send it as a query of its own")
}

/// Statements that were bound before and may be again: parsing costs more than all the rest.
///
/// Only a cache: what it gives is what `query::prepare` would give.
#[derive(Debug, Default)]
pub(super) struct Statements {
    bound: BTreeMap<(TenantId, String), Arc<Vec<Prepared>>>,
}

impl Statements {
    fn prepared(
        &mut self,
        tenant: TenantId,
        catalog: &Catalog,
        text: &str,
    ) -> Result<Arc<Vec<Prepared>>, RequestError> {
        if text.len() > STATEMENT_CACHED_SIZE_MAX {
            let bound = prepare(catalog, text).map_err(RequestError::Sql)?;
            return Ok(Arc::new(bound));
        }
        let key = (tenant, text.to_string());
        if let Some(bound) = self.bound.get(&key)
            && bound.iter().all(|statement| statement.is_fresh(catalog))
        {
            return Ok(bound.clone());
        }
        let bound = Arc::new(prepare(catalog, text).map_err(RequestError::Sql)?);
        // The names of tables that are not there yet, or no more, may mean others tomorrow.
        if bound.iter().all(|statement| statement.bound_to().is_some() && statement.is_write()) {
            if self.bound.len() >= STATEMENTS_CACHED_MAX {
                self.bound.clear();
            }
            self.bound.insert(key, bound.clone());
        }
        Ok(bound)
    }
}

/// What `INSERT INTO table (columns) VALUES …` lowers to, without text.
pub(super) fn lower_rows(
    catalog: &Catalog,
    table: &str,
    columns: &[String],
    rows: &[Vec<Value>],
) -> Result<Command, RequestError> {
    let Some(schema) = catalog.table_named(table) else {
        let message = format!("there is no table \"{table}\"");
        return Err(RequestError::Sql(SqlError::new(SqlState::UndefinedTable, message)));
    };
    let mut targets: Vec<&Column> = Vec::with_capacity(columns.len());
    for name in columns {
        let Some(column) = schema.column_named(name) else {
            let message = format!("table \"{table}\" has no column \"{name}\"");
            return Err(RequestError::Sql(SqlError::new(SqlState::UndefinedColumn, message)));
        };
        if targets.iter().any(|other| other.id == column.id) {
            let message = format!("column \"{name}\" is given twice");
            return Err(RequestError::Sql(SqlError::new(SqlState::DuplicateColumn, message)));
        }
        targets.push(column);
    }
    if rows.is_empty() || targets.is_empty() {
        return Err(RequestError::Empty);
    }
    let mut cells = InsertRows::default();
    cells.cells.reserve((rows.len() * columns.len() * CELL_BYTES_USUAL).min(REQUEST_SIZE_MAX));
    for row in rows {
        if row.len() != targets.len() {
            let message = format!("{} values for {} columns", row.len(), targets.len());
            return Err(RequestError::Sql(SqlError::new(SqlState::SyntaxError, message)));
        }
        for value in row {
            cells.push_value(value);
        }
        cells.count += 1;
        check_size(cells.cells.len())?;
    }
    Ok(Command::Insert(Insert {
        table: schema.id,
        schema_version: schema.schema_version,
        columns: targets.iter().map(|column| column.id).collect(),
        rows: cells,
        on_conflict: OnConflict::Fail,
    }))
}

pub(super) fn check_size(size: usize) -> Result<(), RequestError> {
    if size <= REQUEST_SIZE_MAX {
        return Ok(());
    }
    Err(RequestError::TooLarge { size, max: REQUEST_SIZE_MAX })
}
