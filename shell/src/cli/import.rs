//! `verity import`: a CSV file into a table, safe to run again whenever it was cut off.
//!
//! How: the file is cut into batches by a rule that depends on the file alone (`ROWS_MAX` rows or
//! `BYTES_MAX` bytes of text, whichever comes first). Batch *n* commits in one transaction together
//! with an append to the stream `import/<table>/<hash of the file>@<where the table was made>` that
//! expects version *n*. So a batch that was committed before a crash is refused and skipped, one
//! that was not is done; the version of the stream is the place to go on.
//!
//! Invariants: every row of the file is in the table once or in the rejects file with a reason,
//! never both. Which rows were rejected is on record in the database (`record`), and commits with
//! their batch: each run tells of them, exits with 1, and writes the rejects file.
//!
//! Start reading at [`run`]; `infer` chooses types, `batches` cuts the file, `load` commits,
//! `record` remembers.

mod batches;
pub mod infer;
mod load;
mod record;
mod rejects;
mod target;

use serde_json::json;
use verity::TenantId;

use rejects::Rejects;

use super::args::{Global, ImportArgs};
use super::session::Session;
use super::{Failure, Outcome, Output, interrupt, open_or_make};

/// Rows that commit together, at most.
pub const ROWS_MAX: usize = 500;
/// Bytes of text that commit together, unless one row has more.
pub const BYTES_MAX: usize = 192 * 1024;

/// What an import did.
#[derive(Debug, Default)]
pub struct Summary {
    pub rows: u64,
    pub imported: u64,
    /// Imported before by the same import, whether or not they were deleted since.
    pub skipped: u64,
    pub rejected: u64,
    pub batches: u64,
    pub position: Option<verity::Position>,
}

pub fn run(args: &ImportArgs, global: &Global, output: &Output) -> Outcome {
    let survey = batches::survey(&args.file, output)?;
    if let [only] = &survey.header[..]
        && only.contains([';', '\t', '|'])
    {
        output.note(&format!(
            "note: the first line of {} names one column; fields are separated by commas only",
            args.file.display()
        ));
    }
    let empty = survey.empty_lines;
    // Between rows of several columns they mean nothing; here one may have been meant as a row.
    let empty_lines = if survey.header.len() == 1 { empty.count } else { 0 };
    if empty_lines > 0 {
        output.note(&format!(
            "note: of {} {empty_lines} line{} empty, line {} is the first; they are no rows: write \
             \"\" for a row without a value",
            args.file.display(),
            if empty_lines == 1 { " is" } else { "s are" },
            empty.first,
        ));
    }
    // What cannot be meant is told before anything is made.
    target::check(args, &survey)?;
    let rejects_path = rejects::path(args, &survey.hash);
    let rejects = Rejects::new(&rejects_path, args.rejects.is_some(), &survey.header)?;
    let started = std::time::Instant::now();
    let load = |session: &Session| {
        target::resolve(session, args, &survey)
            .and_then(|target| load::load(session, args, &survey, &target, rejects, output))
    };
    let summary = if args.connect.is_empty() {
        let Some(data) = &args.data else { unreachable!("one of both is required") };
        let database = open_or_make(&global.options(), data, output)?;
        let watch = interrupt::watch(&database);
        let session = Session::Local(database.tenant(TenantId::new(args.tenant)));
        let result = load(&session);
        drop(session);
        interrupt::wait_if_interrupted();
        drop(watch);
        let closed = database.close();
        let summary = result?;
        closed?;
        summary
    } else {
        load(&Session::connect(&args.connect, args.tenant)?)?
    };
    let seconds = started.elapsed().as_secs_f64();
    let failure = (summary.rejected > 0).then(|| {
        format!(
            "{} row{} rejected; see {} for each row and its reason",
            summary.rejected,
            if summary.rejected == 1 { " was" } else { "s were" },
            rejects_path.display()
        )
    });
    let mut told = json!({
        "table": args.table,
        "file": args.file.display().to_string(),
        "rows": summary.rows,
        "imported": summary.imported,
        "already_there": summary.skipped,
        "rejected": summary.rejected,
        "empty_lines": empty_lines,
        "rejects_file": (summary.rejected > 0).then(|| rejects_path.display().to_string()),
        "batches": summary.batches,
        "position": summary.position.map(|position| position.get()),
        "seconds": seconds,
    });
    if let Some(failure) = &failure {
        told["error"] = json!(failure);
    }
    output.object(&told);
    output.line(format!(
        "{}: {} rows imported into {}, {} imported before, {} rejected ({seconds:.1} s)",
        args.file.display(),
        summary.imported,
        super::table::printable(&args.table),
        summary.skipped,
        summary.rejected,
    ));
    match failure {
        None => Ok(()),
        Some(failure) => {
            output.note(&format!("error: {failure}"));
            Err(Failure::Told(1))
        }
    }
}
