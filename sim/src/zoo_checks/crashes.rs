//! Checks of what a crash leaves: a torn prepare, one copy of the keys, a checkpoint half written.

use std::collections::BTreeSet;
use std::sync::Arc;

use verity_core::crypto::KekHash;
use verity_core::ids::{IdempotencyId, PrincipalId, TenantId};
use verity_core::io::FileId;
use verity_core::journal::PrepareHeader;
use verity_core::kernel::{Operation, Request};
use verity_core::limits::{
    ClusterConstants, JOURNAL_HEADERS_PER_PAGE, KEYS_EXTENT_PAGES, PAGE_SIZE, PREPARE_HEADER_SIZE,
};
use verity_core::log::RecordKind;

use super::bytes::{segment, verify};
use super::solo::{text, warm};
use crate::disk::Keep;

/// One INSERT of `count` rows from `first` on, each of about 130 bytes.
fn insert(first: i64, count: i64) -> String {
    let name = "n".repeat(100);
    let rows: Vec<String> = (first..first + count).map(|id| format!("({id}, '{name}')")).collect();
    format!("INSERT INTO t VALUES {}", rows.join(", "))
}

/// The newest prepare of several pages arrived without its last page, and its redundant header not
/// at all: a write that a crash tore, never acknowledged. It must go; what is before must stay.
pub(super) fn torn_prepare() -> Result<(), String> {
    let mut rig = warm()?;
    rig.write(&insert(0, 5))?;
    rig.write(&insert(5, 100))?;
    rig.solo.crash(Keep::Nothing);
    let bytes = rig.solo.disk.contents(FileId::Journal);
    let ring = ClusterConstants::SMALL.journal_ring_bytes as usize / JOURNAL_HEADERS_PER_PAGE;
    let prepares = bytes[ring..].chunks(PAGE_SIZE).enumerate();
    let newest = prepares
        .filter_map(|(page, bytes)| Some((PrepareHeader::decode(bytes).ok()?, page)))
        .filter(|(header, _)| header.size as usize > 2 * PAGE_SIZE)
        .max_by_key(|(header, _)| header.op);
    let Some((header, page)) = newest else { return Err("no prepare is large".to_owned()) };
    let first = (ring / PAGE_SIZE + page) as u64;
    let last = first + (header.size as usize).div_ceil(PAGE_SIZE) as u64 - 1;
    rig.solo.disk.put((FileId::Journal, last), Arc::new([0; PAGE_SIZE]));
    for number in 0..ring / PAGE_SIZE {
        let mut sector = [0; PAGE_SIZE];
        let at = number * PAGE_SIZE;
        sector.copy_from_slice(&bytes[at..at + PAGE_SIZE]);
        for slot in sector.chunks_mut(PREPARE_HEADER_SIZE) {
            if PrepareHeader::decode(slot).is_ok_and(|found| found.op == header.op) {
                slot.fill(0);
            }
        }
        rig.solo.disk.put((FileId::Journal, number as u64), Arc::new(sector));
    }
    rig.open()?;
    match rig.count()? {
        5 => Ok(()),
        count => Err(format!("{count} rows, 5 were whole")),
    }
}

/// A tenant was made and acknowledged; then either copy of the keys is lost.
pub(super) fn keys_copies() -> Result<(), String> {
    for lost in 0..2 {
        let mut rig = warm()?;
        let tenant = TenantId::new(2);
        let wall_ms = rig.solo.wall.as_ms();
        let create = Request {
            tenant: TenantId::SYSTEM,
            principal: PrincipalId::new(1),
            idempotency: IdempotencyId::new(wall_ms + 10_000, [200; 10]),
            after: None,
            // The node fills in the hash of the key it mints.
            operations: vec![Operation::CreateTenant { tenant, kek_hash: KekHash([0; 32]) }],
        };
        rig.send(&create)?.map_err(text)?;
        rig.solo.crash(Keep::Nothing);
        let sectors = rig.solo.disk.sectors(FileId::Keys);
        let of_copy = |sector: &u64| sector / KEYS_EXTENT_PAGES as u64 % 2 == lost;
        for sector in (0..sectors).filter(of_copy) {
            rig.solo.disk.put((FileId::Keys, sector), Arc::new([0; PAGE_SIZE]));
        }
        rig.open().map_err(|error| format!("without copy {lost} of the keys: {error}"))?;
        let mut request = rig.request("CREATE TABLE u (id BIGINT PRIMARY KEY)");
        request.tenant = tenant;
        rig.send(&request)?.map_err(|error| format!("without copy {lost}: {error}"))?;
    }
    Ok(())
}

/// Ops are acknowledged after the op of a checkpoint and before it is durable; then the power goes.
/// Replay meets the checkpoint's op again, with the later ones right behind it, and takes the
/// checkpoint; then the power goes once more. The checkpoint must hold its own ops and no other, or
/// the second replay finds the later ones done, and their records are never written.
///
/// The later ones are right behind it because the op before it, as every op here, changes a row in
/// a leaf that replay must first read: meanwhile the prepares after it come from the journal.
pub(super) fn checkpoint_boundary() -> Result<(), String> {
    const PART: i64 = 20;
    /// More rows than a leaf holds, and no divisor of the rows.
    const STRIDE: i64 = 47;
    let mut rig = warm()?;
    let mut rows = 0;
    while rig.solo.seen("CheckpointDurable") == 0 {
        if rows > 100_000 {
            return Err("no checkpoint begins".to_owned());
        }
        rig.write(&insert(rows, PART))?;
        rows += PART;
    }
    let (mut changes, mut behind) = (0, 0);
    let started = rig.solo.seen("CheckpointStarted");
    while behind < 3 {
        if changes > rows {
            return Err("no second checkpoint begins".to_owned());
        }
        let id = changes * STRIDE % rows;
        rig.acknowledge(&format!("UPDATE t SET name = 'changed' WHERE id = {id}"))?;
        changes += 1;
        if rig.solo.seen("CheckpointStarted") > started {
            if rig.solo.seen("CheckpointDurable") > started {
                return Err("no op got between a checkpoint's op and its end".to_owned());
            }
            behind += 1;
        }
    }
    rig.evict_everything();
    for _ in 0..2 {
        rig.solo.crash(Keep::Nothing);
        rig.open()?;
        rig.solo.settle().map_err(text)?;
    }
    match rig.count()? {
        count if count == rows => {}
        count => return Err(format!("{count} rows, {rows} were acknowledged")),
    }
    let bytes = segment(&mut rig)?;
    let mut puts = BTreeSet::new();
    verify(&bytes, |view| {
        let metadata = &view.record.metadata;
        if metadata.kind == RecordKind::RowPut {
            puts.insert(metadata.position);
        }
    })
    .map_err(text)?;
    if puts.len() as i64 != rows + changes {
        return Err(format!(
            "the log holds {} versions, {rows} rows and {changes} changes were acknowledged",
            puts.len(),
        ));
    }
    Ok(())
}
