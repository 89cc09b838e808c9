//! Sealing where the request comes from: by callers, beside the node instead of in it.
//!
//! Purpose: lowering and sealing cost as much as a third of an insert and need nothing but a schema
//! and a key. A [`Sealer`] is a copy of both that any thread may use, so that many callers seal at
//! the same time while the node applies.
//!
//! Invariants: what a sealer makes is what [`Kernel::prepare_request`] would make of the same
//! request, schema and nonce, or nothing at all: whatever it would have to refuse, or does not know
//! how to lower, is left to the node. A sealer of an older schema does no harm: apply refuses a
//! command of another schema version, as it does for a request that was overtaken in the queue.

use alloc::sync::Arc;

use super::batch::SealedRequest;
use super::envelope::EnvelopeWriter;
use super::execute::check_append;
use super::prepare::{check, check_size, fingerprint, lower_rows, seal};
use super::request::{Operation, Request};
use super::{Kernel, Keys};
use crate::crypto::RequestKeys;
use crate::ids::TenantId;
use crate::query::Catalog;
use crate::time::Timestamp;

/// Seals plain requests of one tenant without the node.
#[derive(Clone, Debug)]
pub struct Sealer {
    tenant: TenantId,
    catalog: Arc<Catalog>,
    keys: Arc<RequestKeys>,
}

impl Sealer {
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Rows to insert and records to append, sealed; `None`: submit the request itself. `nonce` is
    /// random and used for nothing else; `now` only refuses early.
    #[must_use]
    pub fn seal(
        &self,
        request: &Request,
        now: Timestamp,
        nonce: [u8; 12],
    ) -> Option<SealedRequest> {
        assert_eq!(request.tenant, self.tenant, "a sealer is of one tenant");
        check(request, now).ok()?;
        let mut writer = EnvelopeWriter::new();
        for (index, operation) in request.operations.iter().enumerate() {
            match operation {
                Operation::InsertRows { table, columns, rows } => {
                    let command = lower_rows(&self.catalog, table, columns, rows).ok()?;
                    writer.command(index as u32, &command);
                }
                Operation::Append { stream, expected, records } => {
                    check_append(stream, records.iter().map(|record| &**record)).ok()?;
                    writer.append(index as u32, stream, *expected, records);
                }
                Operation::Sql { .. }
                | Operation::CreateTenant { .. }
                | Operation::Attest
                | Operation::JobStep { .. } => {
                    return None;
                }
            }
            check_size(writer.size()).ok()?;
        }
        let fingerprint = fingerprint(request, &self.keys);
        seal(request, writer, &fingerprint, &self.keys, nonce).ok()
    }
}

impl Kernel {
    /// A sealer of the schema as it is now; `None` when it is not at hand.
    #[must_use]
    pub fn sealer(&self, keys: &dyn Keys, tenant: TenantId) -> Option<Sealer> {
        let catalog = Arc::clone(self.tenants.get(&tenant)?.catalogs.applied());
        let keys = Arc::clone(keys.newest(tenant)?.requests());
        Some(Sealer { tenant, catalog, keys })
    }

    /// Whether it would still be made the same.
    #[must_use]
    pub fn sealer_holds(&self, keys: &dyn Keys, sealer: &Sealer) -> bool {
        let schema = self.tenants.get(&sealer.tenant).map(|state| state.catalogs.applied().version);
        let key = keys.newest(sealer.tenant).map(|keys| keys.id());
        schema == Some(sealer.catalog.version) && key == Some(sealer.keys.id())
    }
}
