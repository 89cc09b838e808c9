//! What an append costs: `cargo run --release -p verity-core --example log_cost`.
//!
//! Encoding, chain, tree, index and the copies on the way to the disk, for sealed records of about
//! 200 bytes; the disk itself takes no time. Sealing and commitments are measured by `crypto_cost`.
#![allow(clippy::disallowed_types, reason = "a benchmark measures time; the core never does")]

use std::time::Instant;

use verity_core::crypto::ChainHash;
use verity_core::ids::*;
use verity_core::io::{Effect, Effects};
use verity_core::limits::SEGMENT_POSITIONS;
use verity_core::log::{LogCheckpoint, LogHead, Logs, Metadata, RecordKind};
use verity_core::time::Timestamp;

const RECORDS: u64 = 1_000_000;

fn main() {
    let mut logs = Logs::new(SEGMENT_POSITIONS, OriginId::new(1));
    let mut effects = Effects::new();
    let tenant = TenantId::DEFAULT;
    logs.open(tenant, LogHead::empty());
    let data = [0x5a; 216];
    let start = Instant::now();
    for position in (0..RECORDS).map(Position::new) {
        logs.append(&metadata(tenant, position, data.len() as u32), &data);
        if position.get().is_multiple_of(100) {
            logs.flush_step(&mut effects);
            complete(&mut logs, &mut effects);
        }
    }
    logs.checkpoint_begin(Op::new(1));
    while logs.checkpoint_step(&mut effects) == LogCheckpoint::Working {
        complete(&mut logs, &mut effects);
    }
    logs.checkpoint_done(Op::new(1));
    let nanoseconds = start.elapsed().as_nanos() as f64;
    println!("append of {} B: {:.0} ns", data.len(), nanoseconds / RECORDS as f64);
}

fn complete(logs: &mut Logs, effects: &mut Effects) {
    let pending: Vec<Effect> = effects.drain().collect();
    for effect in pending {
        let done = match effect {
            Effect::Write { io, pages, .. } => logs.on_write_done(io, pages, Ok(()), effects),
            Effect::Create { io, .. } | Effect::Sync { io, .. } => {
                logs.on_done(io, Ok(()), effects)
            }
            _ => Ok(()),
        };
        assert_eq!(done, Ok(()));
    }
}

fn metadata(tenant: TenantId, position: Position, data_length: u32) -> Metadata {
    Metadata {
        position,
        tenant,
        op: Op::new(1),
        generation: Generation::new(1),
        timestamp: Timestamp(1),
        transaction_first: position,
        transaction_last: position,
        stream: StreamId::new(16),
        kind: RecordKind::RowPut,
        key: KeyId::new(1),
        principal: PrincipalId::new(0),
        caused_by: None,
        idempotency: IdempotencyId::NONE,
        schema_version: SchemaVersion::new(1),
        commitment: ChainHash::ZERO,
        data_length,
    }
}
