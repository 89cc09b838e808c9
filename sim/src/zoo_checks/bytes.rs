//! Checks of bytes: what a log says of itself, what a seal hides.

use std::collections::BTreeSet;

use verity_core::crypto::{DataKey, TenantKeys};
use verity_core::ids::{Generation, KeyId, Op, OriginId, PageNumber, SegmentNumber};
use verity_core::io::{FileId, Page, SecretKey};
use verity_core::limits::PAGE_SIZE;
use verity_core::log::{
    Damage, RecordKind, RecordView, SegmentExtent, SegmentStart, SegmentVerifier,
};

use super::solo::{Rig, TENANT, text, warm};

const SEGMENT: SegmentNumber = SegmentNumber::ZERO;

/// The first segment of the tenant, after a graceful end.
pub(super) fn segment(rig: &mut Rig) -> Result<Vec<u8>, String> {
    rig.solo.shutdown().map_err(text)?;
    Ok(rig.solo.disk.contents(FileId::Segment { tenant: TENANT, number: SEGMENT }))
}

pub(super) fn verify(bytes: &[u8], each: impl FnMut(&RecordView<'_>)) -> Result<(), Damage> {
    verify_to(bytes, SegmentExtent::Unknown, each)
}

fn verify_to(
    bytes: &[u8],
    extent: SegmentExtent,
    mut each: impl FnMut(&RecordView<'_>),
) -> Result<(), Damage> {
    let start = SegmentStart { tenant: TENANT, number: SEGMENT, before: None };
    let mut verifier = SegmentVerifier::new(start, extent);
    verifier.push(bytes, |view| {
        each(view);
        Ok(())
    })?;
    verifier.finish().map(drop)
}

/// The chain proves every record but the last: nothing after it names its hash. There the crc must
/// do it. The length in front is not under the crc; it is checked against what is.
pub(super) fn flipped_record() -> Result<(), String> {
    let mut rig = warm()?;
    rig.write("INSERT INTO t VALUES (1, 'one')")?;
    let good = segment(&mut rig)?;
    let mut last = None;
    verify(&good, |view| {
        let metadata = &view.record.metadata;
        last = Some((view.offset as usize, metadata.record_size(), metadata.position));
    })
    .map_err(text)?;
    let Some((offset, size, position)) = last else { return Err("the log is empty".to_owned()) };
    let extent = SegmentExtent::To(position.next());
    verify_to(&good, extent, |_| {}).map_err(text)?;
    for at in offset..offset + size {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        if verify_to(&bytes, extent, |_| {}).is_ok() {
            return Err(format!("byte {} of the last record was flipped unseen", at - offset));
        }
    }
    Ok(())
}

/// The seal is deterministic in key, nonce and text, so equal tags of equal texts tell of equal
/// nonces.
pub(super) fn page_nonces() -> Result<(), String> {
    let data_key = DataKey::new(SecretKey([7; 32]));
    let origin = OriginId::new(3);
    let keys = TenantKeys::derive(origin, TENANT, KeyId::new(1), &data_key, Generation::ZERO);
    let mut tags = BTreeSet::new();
    for number in [1, 2, 0x0100_0000] {
        for op in [1, 2, 0x0100, 1 << 40] {
            let mut page = Page([0; PAGE_SIZE]);
            let tag = keys.page().seal(PageNumber::new(number), Op::new(op), &mut page);
            if !tags.insert(tag.0) {
                return Err(format!("page {number} at checkpoint {op} uses a nonce again"));
            }
        }
    }
    Ok(())
}

/// Equal rows, equal appends of one view: whoever reads the log's clear metadata must not see it.
pub(super) fn salts_differ() -> Result<(), String> {
    let mut rig = warm()?;
    rig.write("CREATE TABLE same (name TEXT)")?;
    for _ in 0..3 {
        rig.write("INSERT INTO same VALUES ('same'), ('same')")?;
    }
    let bytes = segment(&mut rig)?;
    let (mut rows, mut commitments) = (0, BTreeSet::new());
    verify(&bytes, |view| {
        let metadata = &view.record.metadata;
        if metadata.kind == RecordKind::RowPut {
            rows += 1;
            commitments.insert(metadata.commitment.0);
        }
    })
    .map_err(text)?;
    if (rows, commitments.len()) != (6, 6) {
        return Err(format!("{} commitments of {rows} rows, expected 6 of 6", commitments.len()));
    }
    Ok(())
}
