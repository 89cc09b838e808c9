//! `verity inspect`: what a data directory holds, read from its files without changing them.

use serde_json::json;
use verity::verify::{self as engine, Silent};
use verity::{MasterKey, paths};
use verity_core::io::FileId;

use super::args::{Global, InspectArgs};
use super::{Failure, Outcome, Output};

pub fn run(args: &InspectArgs, global: &Global, output: &Output) -> Outcome {
    let data = &args.data.path()?;
    let key = MasterKey::load(&global.master_key(), data).ok();
    let has_key = key.is_some();
    let report = engine::check(data, key, &mut Silent).map_err(Failure::cannot_tell)?;
    let files = files(data)?;
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    let Some(state) = &report.superblock else {
        let reasons: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        return Err(Failure::Failed(reasons.join("\n")));
    };
    let checkpoint = &state.checkpoint;
    output.object(&json!({
        "data": data.display().to_string(),
        "cluster": format!("{:032x}", state.cluster.get()),
        "origin": format!("{:032x}", state.origin.get()),
        "replica": state.replica.get(),
        "replica_count": state.replica_count,
        "release": state.release.get(),
        "format_version": state.format_version,
        "superblock_sequence": state.sequence,
        "view": state.view.get(),
        "checkpoint": {
            "op": checkpoint.op.get(),
            "timestamp_ns": checkpoint.timestamp.0,
            "generation": checkpoint.generation.get(),
            "journal_offset": checkpoint.journal_offset,
            "grid_pages": checkpoint.grid_pages,
            "free_runs": checkpoint.free_set.runs,
        },
        "constants": {
            "journal_ring_bytes": state.constants.journal_ring_bytes,
            "grid_pages_max": state.constants.grid_pages_max,
            "dirty_pages_max": state.constants.dirty_pages_max,
            "transaction_events_max": state.constants.transaction_events_max,
            "transaction_bytes_max": state.constants.transaction_bytes_max,
        },
        "prepares_after_checkpoint": report.prepares,
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
    }));
    output.line(format!("{}  {} in {} files", data.display(), human(total), files.len()));
    output.line(format!("cluster     {:032x}", state.cluster.get()));
    output.line(format!(
        "replica     {} of {}, release {}, format {}",
        state.replica, state.replica_count, state.release, state.format_version
    ));
    output.line(format!(
        "checkpoint  op {}, generation {}, view {}, {} of {} grid pages in use",
        checkpoint.op, checkpoint.generation, state.view, report.pages, checkpoint.grid_pages
    ));
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
        output.line("no master key was given: pages were not looked at");
    }
    for finding in &report.findings {
        output.line(format!("{finding}"));
    }
    Ok(())
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
    let segments = paths::segments(data).map_err(Failure::cannot_tell)?;
    for (tenant, number) in segments {
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
