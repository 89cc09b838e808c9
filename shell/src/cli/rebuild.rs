//! `verity rebuild --check`: is the state what the logs say? Changes nothing.

use serde_json::json;
use verity::MasterKey;
use verity::rebuild::{self as engine, Problem};

use super::args::{Global, RebuildArgs};
use super::{Failure, Outcome, Output};

pub fn run(args: &RebuildArgs, global: &Global, output: &Output) -> Outcome {
    if !args.check {
        return Err(Failure::cannot_tell(
            "only --check is there: it derives all state again and compares. To replace a damaged \
             grid, restore a copy of the directory",
        ));
    }
    let started = std::time::Instant::now();
    let key = MasterKey::load(&global.master_key(), &args.data).map_err(Failure::cannot_tell)?;
    let bar = output.progress(0, "steps");
    let report = engine::check(&args.data, key, |records, entries| {
        bar.set_length(records + entries);
        bar.set_position(records + entries);
    });
    bar.finish_and_clear();
    let report = match report {
        Ok(report) => report,
        Err(problem @ Problem::Open(_)) => return Err(Failure::cannot_tell(problem)),
        Err(problem) => return Err(Failure::failed(problem)),
    };
    let seconds = started.elapsed().as_secs_f64();
    let digest: String = report.digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let equal = report.difference.is_none();
    output.object(&json!({
        "equal": equal,
        "tenants": report.tenants,
        "records": report.records,
        "entries": report.entries,
        "digest": digest,
        "difference": report.difference.as_ref().map(|difference| format!("{difference:?}")),
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
            output.line(format!(
                "{}: tenant {}, tree {}, key {:02x?}: in the live state {}, in the rebuilt one {}",
                output.red("different"),
                difference.tenant,
                difference.tree,
                difference.key,
                difference.live,
                difference.rebuilt,
            ));
            Err(Failure::Told(1))
        }
    }
}
