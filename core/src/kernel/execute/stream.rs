//! Appends: raw records to a named stream, at an expected version.

use alloc::borrow::ToOwned;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::{Execution, ExecutionContext, OverlayStream, Stop};
use crate::ids::TenantId;
use crate::kernel::payload::{Payload, STREAM_SYSTEM, stream_named};
use crate::kernel::request::{ExpectedVersion, RequestError, ResultDetail};
use crate::kernel::trees::{self, STREAMS};
use crate::limits::{ROW_SIZE_MAX, STREAM_NAME_SIZE_MAX};
use crate::store::{Fault, Store, TreeRef};

impl Execution {
    pub(super) fn append(
        &mut self,
        context: &ExecutionContext<'_>,
        name: &str,
        expected: ExpectedVersion,
        records: &[Vec<u8>],
    ) -> Result<(u64, ResultDetail), Stop> {
        check_append(name, records)?;
        let known = self.streams.get(name).copied();
        let known = match known {
            Some(stream) => Some(stream),
            None => stored_stream(context.store, context.drafts.tenant, name)?,
        };
        let actual = known.map_or(0, |stream| stream.version);
        if !expected.accepts(actual) {
            let stream = name.to_string();
            return Err(RequestError::WrongExpectedVersion { stream, expected, actual }.into());
        }
        let schema_version = self.catalog_now(context).version;
        // The last `?`: from here on it is all or nothing.
        let mut stream = match known {
            Some(stream) => stream,
            None => {
                let tree = TreeRef::new(context.drafts.tenant, STREAMS);
                // Each stream has two entries, from the transaction on that made it.
                let stored = context.store.count(tree)? / 2;
                let made = self.streams.values().filter(|stream| stream.made).count() as u64;
                let Ok(ordinal) = u32::try_from(stored + made) else {
                    unreachable!("2^32 streams outlast any disk");
                };
                let id = stream_named(ordinal);
                let payload = Payload::StreamCreated { stream: id, name };
                self.drafts.push(&payload, STREAM_SYSTEM, schema_version);
                OverlayStream { id, version: 0, made: true }
            }
        };
        for record in records {
            stream.version += 1;
            let (id, version) = (stream.id, stream.version);
            self.drafts.push_appended(&context.drafts, id, schema_version, version, record);
            self.check_drafts(context)?;
        }
        self.streams.insert(name.to_owned(), stream);
        let detail = ResultDetail::Appended { stream: stream.id, version: stream.version };
        Ok((records.len() as u64, detail))
    }
}

/// What can be refused without state; the primary asks too.
pub fn check_append(name: &str, records: &[Vec<u8>]) -> Result<(), RequestError> {
    if name.is_empty() || name.len() > STREAM_NAME_SIZE_MAX {
        let (size, max) = (name.len(), STREAM_NAME_SIZE_MAX);
        return Err(RequestError::StreamNameInvalid { size, max });
    }
    if records.is_empty() {
        return Err(RequestError::Empty);
    }
    for record in records {
        if record.len() > ROW_SIZE_MAX {
            return Err(RequestError::TooLarge { size: record.len(), max: ROW_SIZE_MAX });
        }
    }
    Ok(())
}

pub(in crate::kernel) fn stored_stream(
    store: &Store,
    tenant: TenantId,
    name: &str,
) -> Result<Option<OverlayStream>, Fault> {
    let tree = TreeRef::new(tenant, STREAMS);
    let Some(id) = store.get(tree, &trees::stream_name_key(name))? else { return Ok(None) };
    let id = trees::stream_of_value(&id);
    let Some(version) = store.get(tree, &trees::stream_version_key(id))? else {
        unreachable!("a stream is made together with its first record");
    };
    Ok(Some(OverlayStream { id, version: trees::decode_number(&version), made: false }))
}
