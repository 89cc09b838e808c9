//! `verity rebuild`: the state that the logs give, in place of a damaged one; with `--check`, only
//! compared with the live one.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value as Json, json};
use verity::rebuild::{self as engine, HeadsFrom, Problem, Replaced};
use verity::{Error, MasterKey};

use verity_core::node::Halt;

use super::args::{Global, RebuildArgs};
use super::verify::Bar;
use super::{Failure, Outcome, Output};

pub fn run(args: &RebuildArgs, global: &Global, output: &Output) -> Outcome {
    let data = args.data.path()?;
    if args.check { check(&data, global, output) } else { replace(&data, args, global, output) }
}

fn failure(problem: Problem) -> Failure {
    match problem {
        // The state that was to be compared with is damaged: that is an answer.
        Problem::Open(
            Error::Halted { halt: Halt::Data { what: "grid" | "journal", .. }, .. }
            | Error::SuperblockStale(_),
        ) => Failure::failed(problem),
        Problem::Open(_) | Problem::Key(_) | Problem::CannotTell(_) => {
            Failure::cannot_tell(problem)
        }
        Problem::Damaged(_) | Problem::Rebuild(_) | Problem::Disk(_) => Failure::failed(problem),
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn replace(data: &Path, args: &RebuildArgs, global: &Global, output: &Output) -> Outcome {
    let started = Instant::now();
    let mut bar = Bar::new(output);
    let (io, key) = (global.io.into(), global.master_key());
    let replaced = engine::replace(data, io, &key, args.accept_missing_logs, &mut bar);
    bar.finish();
    let replaced = replaced.map_err(|problem| match problem {
        Problem::Damaged(_) | Problem::Rebuild(_) => Failure::failed(format!(
            "nothing was changed: there is no whole log to rebuild from. {problem}"
        )),
        other => failure(other),
    })?;
    let seconds = started.elapsed().as_secs_f64();
    match replaced {
        Replaced::Nothing => {
            output.object(&json!({ "rebuilt": false, "records": 0, "seconds": seconds }));
            output.line(
                "nothing to rebuild: no checkpoint was taken yet, the journal holds everything",
            );
        }
        Replaced::Done {
            report,
            checkpoint,
            heads_from,
            indexes,
            pages,
            pages_before,
            prepares,
        } => {
            let digest = hex(&report.digest.0);
            let heads_from = match heads_from {
                HeadsFrom::Grid => "grid",
                HeadsFrom::Logs => "logs",
            };
            let roots: Json = report
                .roots
                .iter()
                .map(|(tenant, root)| (tenant.to_string(), Json::from(hex(&root.0))))
                .collect::<serde_json::Map<_, _>>()
                .into();
            output.object(&json!({
                "rebuilt": true,
                "checkpoint_op": checkpoint.get(),
                "tenants": report.tenants,
                "records": report.records,
                "entries": report.entries,
                "digest": digest,
                "state_roots": roots,
                "heads_from": heads_from,
                "indexes": indexes,
                "pages": pages,
                "pages_freed": pages_before.saturating_sub(1),
                "prepares_after_checkpoint": prepares,
                "seconds": seconds,
            }));
            output.line(format!(
                "{}: {} records of {} tenants gave {} entries in {pages} grid pages, and {indexes} \
                 index file(s) (digest {}…, {seconds:.2} s)",
                output.green("rebuilt"),
                report.records,
                report.tenants,
                report.entries,
                &digest[..16],
            ));
            output.line(format!(
                "the state is that of checkpoint op {checkpoint}; {prepares} prepare(s) after it \
                 are replayed at the next open"
            ));
        }
    }
    Ok(())
}

fn check(data: &Path, global: &Global, output: &Output) -> Outcome {
    let started = Instant::now();
    if !verity::is_formatted(data)? {
        let path = data.to_path_buf();
        return Err(Failure::cannot_tell(verity::Error::NotFormatted { path }));
    }
    let key = MasterKey::load(&global.master_key(), data).map_err(Failure::cannot_tell)?;
    let bar = output.progress(0, "records and entries", "compared");
    let report = engine::check(data, key, |records, entries| bar.set_position(records + entries));
    bar.finish_and_clear();
    let report = report.map_err(failure)?;
    let seconds = started.elapsed().as_secs_f64();
    let digest = hex(&report.digest.0);
    output.object(&json!({
        "equal": report.difference.is_none(),
        "tenants": report.tenants,
        "records": report.records,
        "entries": report.entries,
        "digest": digest,
        "difference": report.difference.as_ref().map(ToString::to_string),
        "seconds": seconds,
    }));
    match &report.difference {
        None => {
            output.line(format!(
                "{}: {} records of {} tenants give the same {} entries as the live state \
                 (digest {}…, {seconds:.2} s)",
                output.green("equal"),
                report.records,
                report.tenants,
                report.entries,
                &digest[..16],
            ));
            Ok(())
        }
        Some(difference) => {
            output.line(format!("{}: {difference}", output.red("different")));
            output.line("`verity rebuild` puts what the logs say in its place");
            Err(Failure::Told(1))
        }
    }
}
