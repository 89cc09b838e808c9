//! `verity inspect`: what a data directory holds, read from its files without changing them.

use serde_json::json;
use verity::verify::{self as engine, RecordRead, Silent, VerifiedRecord};
use verity::{MasterKey, Position, TenantId, Value, limits_by_name, paths};
use verity_core::crypto::ChainHash;
use verity_core::io::FileId;
use verity_core::journal::TornTail;
use verity_core::limits::ClusterConstants;

use super::args::{Global, InspectArgs};
use super::rebuild::hex;
use super::verify::{exit, findings, tell_findings, verdict};
use super::{Failure, Outcome, Output};

pub fn run(args: &InspectArgs, global: &Global, output: &Output) -> Outcome {
    let data = &args.data.path()?;
    let key = MasterKey::load(&global.master_key(), data);
    if let Some((tenant, position)) = args.record {
        let key = key.map_err(Failure::cannot_tell)?;
        return record(data, key, tenant, position, output);
    }
    let has_key = key.is_ok();
    let report = engine::check(data, key, &mut Silent).map_err(Failure::cannot_tell)?;
    let files = files(data)?;
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    let Some(state) = &report.superblock else {
        output.object(&json!({
            "data": data.display().to_string(),
            "verdict": verdict(&report),
            "bytes": total,
            "master_key": has_key,
            "findings": findings(&report),
        }));
        tell_findings(&report, output);
        return exit(report.verdict());
    };
    let checkpoint = &state.checkpoint;
    output.object(&json!({
        "data": data.display().to_string(),
        "verdict": verdict(&report),
        "cluster": format!("{:032x}", state.cluster.get()),
        "origin": format!("{:032x}", state.origin.get()),
        "replica": state.replica.get(),
        "replica_count": state.replica_count,
        "release": state.release.get(),
        "format_version": state.format_version,
        "superblock_sequence": state.sequence,
        "view": state.view.get(),
        "syncing": state.syncing,
        "replaced": state.replaced,
        "checkpoint": {
            "op": checkpoint.op.get(),
            "timestamp_ns": checkpoint.timestamp.0,
            "generation": checkpoint.generation.get(),
            "journal_offset": checkpoint.journal_offset,
            "grid_pages": checkpoint.grid_pages,
            "free_runs": checkpoint.free_set.runs,
        },
        "constants": constants(&state.constants),
        "prepares_after_checkpoint": report.prepares,
        "torn_tail": report.torn_tail.map(torn_tail),
        "pages": report.pages,
        "logs": report.logs.iter().map(|log| json!({
            "tenant": log.tenant.get(),
            "records": log.records,
            "segments": log.segments,
            "bytes": log.bytes,
            "tree_root": log.root,
        })).collect::<Vec<_>>(),
        "bytes": total,
        "master_key": has_key,
        "findings": findings(&report),
    }));
    output.line(format!("{}  {} in {} files", data.display(), human(total), files.len()));
    output.line(format!("cluster     {:032x}", state.cluster.get()));
    output.line(format!(
        "replica     {} of {}, release {}, format {}",
        state.replica, state.replica_count, state.release, state.format_version
    ));
    output.line(if state.syncing {
        "checkpoint  none: one is being fetched from peers".to_string()
    } else {
        format!(
            "checkpoint  op {}, generation {}, view {}, {} of {} grid pages in use",
            checkpoint.op, checkpoint.generation, state.view, report.pages, checkpoint.grid_pages
        )
    });
    if state.replaced {
        output.line(
            "replaced    not certain yet: it took the place of a lost one, and has no log yet",
        );
    }
    output.line(format!(
        "journal     ring of {}, {} prepare(s) after the checkpoint",
        human(state.constants.journal_ring_bytes),
        report.prepares
    ));
    for log in &report.logs {
        output.line(format!(
            "tenant {:<4} {} records in {} segment(s), {}",
            log.tenant,
            log.records,
            log.segments,
            human(log.bytes)
        ));
    }
    if !has_key {
        output.line("without the master key pages were not looked at");
    }
    tell_findings(&report, output);
    exit(report.verdict())
}

/// All of them, for nothing that replicas must agree on may be missing here.
fn constants(of: &ClusterConstants) -> serde_json::Value {
    limits_by_name(of).map(|(name, value)| (name.to_owned(), json!(value))).into_iter().collect()
}

fn torn_tail(torn: TornTail) -> serde_json::Value {
    let TornTail { op, op_max_seen, damaged } = torn;
    json!({ "op": op.get(), "op_max_seen": op_max_seen.get(), "damaged": damaged })
}

/// One record, through its chain.
fn record(
    data: &std::path::Path,
    key: MasterKey,
    tenant: TenantId,
    position: Position,
    output: &Output,
) -> Outcome {
    match engine::read_record(data, key, tenant, position).map_err(Failure::cannot_tell)? {
        RecordRead::Holds(found) => {
            show_record(&found, output);
            Ok(())
        }
        RecordRead::Damaged { position: damaged, reason } => {
            output.object(&json!({
                "verdict": "broken",
                "tenant": tenant.get(),
                "position": position.get(),
                "damaged_position": damaged.get(),
                "reason": reason,
            }));
            output.note(&format!("record {tenant}:{position} does not verify: {reason}"));
            Err(Failure::Told(1))
        }
        RecordRead::NoSuchPosition { next } => Err(Failure::cannot_tell(format!(
            "the log of tenant {tenant} has no position {position}: it has {next} records"
        ))),
        RecordRead::CouldNotTell(why) => Err(Failure::cannot_tell(format!(
            "record {tenant}:{position} cannot be read: {why}; `verity verify` tells what else is \
             wrong"
        ))),
    }
}

fn show_record(found: &VerifiedRecord, output: &Output) {
    let VerifiedRecord { record, plain, records_read } = found;
    let metadata = &record.metadata;
    let (first, last) = (metadata.transaction_first, metadata.transaction_last);
    let time = i64::try_from(metadata.timestamp.0).unwrap_or(i64::MAX);
    let time = Value::Timestamp(time).to_string();
    let commitment = Some(metadata.commitment).filter(|hash| *hash != ChainHash::ZERO);
    let idempotency = Some(metadata.idempotency).filter(|id| !id.is_none());
    output.object(&json!({
        "verdict": "holds",
        "tenant": metadata.tenant.get(),
        "position": metadata.position.get(),
        "kind": metadata.kind.name(),
        "time": time,
        "op": metadata.op.get(),
        "generation": metadata.generation.get(),
        "transaction_first": first.get(),
        "transaction_last": last.get(),
        "stream": metadata.stream.get(),
        "caused_by": metadata.caused_by.map(|position| position.get()),
        "idempotency_id": idempotency.map(|id| id.to_string()),
        "schema_version": metadata.schema_version.get(),
        "commitment": commitment.map(|hash| hex(&hash.0)),
        "hash": hex(&record.hash().0),
        "prev_hash": hex(&record.prev_hash.0),
        "data_bytes": record.data.len(),
        "data_hex": plain.as_ref().map(|bytes| hex(bytes)),
        "records_read": records_read,
    }));
    output.line(format!("record      {}:{}", metadata.tenant, metadata.position));
    output.line(format!("kind        {}, {} bytes", metadata.kind.name(), record.data.len()));
    output.line(format!("time        {time}, op {}", metadata.op));
    output.line(format!("transaction positions {first} to {last}"));
    if let Some(id) = idempotency {
        output.line(format!("id          {id}"));
    }
    output.line(format!("hash        {}", hex(&record.hash().0)));
    output.line(format!("before it   {}", hex(&record.prev_hash.0)));
    let opens = if plain.is_some() { "opens" } else { "has no key any more" };
    output.line(format!(
        "{}: its chain was followed over {records_read} records, its data {opens}",
        output.green("holds")
    ));
}

/// Files and their sizes, those of the logs included.
fn files(data: &std::path::Path) -> Result<Vec<(String, u64)>, Failure> {
    let mut found = Vec::new();
    let mut add = |file: FileId| {
        let name = paths::relative(file);
        if let Ok(metadata) = std::fs::metadata(data.join(&name)) {
            found.push((name.display().to_string(), metadata.len()));
        }
    };
    for file in [FileId::Superblock, FileId::Journal, FileId::Grid, FileId::Keys] {
        add(file);
    }
    // What cannot be listed is among the findings.
    for (tenant, number) in paths::segments(data).unwrap_or_default() {
        add(FileId::Segment { tenant, number });
        add(FileId::Index { tenant, number });
    }
    Ok(found)
}

/// `12.3 MiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
