//! Appends: raw records to a named stream, at an expected version.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use super::{Execution, ExecutionContext, Stop};
use crate::ids::{StreamId, TenantId};
use crate::kernel::envelope::AppendSent;
use crate::kernel::payload::{Payload, STREAM_SYSTEM, stream_named};
use crate::kernel::request::{RequestError, ResultDetail};
use crate::kernel::trees::{self, STREAMS};
use crate::limits::{ROW_SIZE_MAX, STREAM_NAME_SIZE_MAX};
use crate::store::{Fault, Store, TreeRef};

#[derive(Clone, Copy, Debug)]
pub(super) struct OverlayStream {
    pub id: StreamId,
    pub version: u64,
    /// By this request.
    made: bool,
}

/// Streams that a request has appended to.
#[derive(Debug, Default)]
pub(super) struct OverlayStreams {
    /// One after the other.
    names: String,
    /// With the places of their names, in the order of these.
    list: Vec<(Range<usize>, OverlayStream)>,
}

impl OverlayStreams {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn clear(&mut self) {
        self.names.clear();
        self.list.clear();
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.list.binary_search_by(|(known, _)| self.names[known.clone()].cmp(name))
    }

    fn get(&self, name: &str) -> Option<OverlayStream> {
        self.find(name).ok().map(|at| self.list[at].1)
    }

    fn set(&mut self, name: &str, stream: OverlayStream) {
        match self.find(name) {
            Ok(at) => self.list[at].1 = stream,
            Err(at) => {
                let start = self.names.len();
                self.names.push_str(name);
                self.list.insert(at, (start..self.names.len(), stream));
            }
        }
    }

    fn made(&self) -> u64 {
        self.list.iter().filter(|(_, stream)| stream.made).count() as u64
    }
}

impl Execution {
    pub(super) fn append(
        &mut self,
        context: &ExecutionContext<'_>,
        append: &AppendSent<'_>,
    ) -> Result<(u64, ResultDetail), Stop> {
        let (name, expected) = (append.stream, append.expected);
        check_append(name, append.records())?;
        let known = match self.scratch.streams.get(name) {
            Some(stream) => Some(stream),
            None => {
                let key = &mut self.scratch.key;
                stored_stream(context.store, context.drafts.tenant, name, key)?
            }
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
                let Ok(ordinal) = u32::try_from(stored + self.scratch.streams.made()) else {
                    unreachable!("2^32 streams outlast any disk");
                };
                let id = stream_named(ordinal);
                let payload = Payload::StreamCreated { stream: id, name };
                self.drafts.push(&payload, STREAM_SYSTEM, schema_version);
                OverlayStream { id, version: 0, made: true }
            }
        };
        for record in append.records() {
            stream.version += 1;
            let (id, version) = (stream.id, stream.version);
            self.drafts.push_appended(&context.drafts, id, schema_version, version, record);
            self.check_drafts(context)?;
        }
        self.scratch.streams.set(name, stream);
        let detail = ResultDetail::Appended { stream: stream.id, version: stream.version };
        Ok((append.records().len() as u64, detail))
    }
}

/// What can be refused without state; the primary asks too.
pub fn check_append<'r>(
    name: &str,
    records: impl ExactSizeIterator<Item = &'r [u8]>,
) -> Result<(), RequestError> {
    if name.is_empty() || name.len() > STREAM_NAME_SIZE_MAX {
        let (size, max) = (name.len(), STREAM_NAME_SIZE_MAX);
        return Err(RequestError::StreamNameInvalid { size, max });
    }
    if records.len() == 0 {
        return Err(RequestError::Empty);
    }
    for record in records {
        if record.len() > ROW_SIZE_MAX {
            return Err(RequestError::TooLarge { size: record.len(), max: ROW_SIZE_MAX });
        }
    }
    Ok(())
}

fn stored_stream(
    store: &Store,
    tenant: TenantId,
    name: &str,
    key: &mut Vec<u8>,
) -> Result<Option<OverlayStream>, Fault> {
    let tree = TreeRef::new(tenant, STREAMS);
    let Some(id) = store.get(tree, trees::stream_name_key(name, key))? else { return Ok(None) };
    let id = trees::stream_of_value(&id);
    let Some(version) = store.get(tree, &trees::stream_version_key(id))? else {
        unreachable!("a stream is made together with its first record");
    };
    Ok(Some(OverlayStream { id, version: trees::decode_number(&version), made: false }))
}
