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
//! their batch: each run tells of them, exits with 1, and writes the rejects file. A signal ends it
//! between two batches, and what it tells counts what has committed.
//!
//! Start reading at [`run`]; `infer` chooses types, `batches` cuts the file, `load` commits,
//! `record` remembers.

mod batches;
pub mod infer;
mod load;
mod record;
mod rejects;
mod target;

use std::path::PathBuf;

use serde_json::json;
use verity::TenantId;

use batches::Survey;
use rejects::Rejects;

use super::args::{Global, ImportArgs};
use super::interrupt::{self, Watch};
use super::session::Session;
use super::{Failure, Outcome, Output, open_or_make};

/// Rows that commit together, at most.
pub const ROWS_MAX: usize = 500;
/// Bytes of text that commit together, unless one row has more.
pub const BYTES_MAX: usize = 192 * 1024;

/// What an import did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Of the file, once that was read.
    pub rows: Option<u64>,
    pub imported: u64,
    /// Imported before by the same import, whether or not they were deleted since.
    pub skipped: u64,
    pub rejected: u64,
    pub batches: u64,
    pub position: Option<verity::Position>,
}

pub fn run(args: &ImportArgs, global: &Global, output: &Output) -> Outcome {
    let watch = interrupt::watch_steps();
    let started = std::time::Instant::now();
    let mut import = Import { args, output, started, rejects: None, empty_lines: 0 };
    let mut summary = Summary::default();
    let outcome = import.run(global, &watch, &mut summary);
    // Perhaps all was done before the signal came.
    let interrupted = interrupt::is_interrupted() && outcome.is_err();
    let outcome = if interrupted { Ok(()) } else { outcome };
    let told = outcome.and_then(|()| import.tell(&summary, interrupted));
    interrupt::wait_if_interrupted();
    drop(watch);
    told
}

struct Import<'a> {
    args: &'a ImportArgs,
    output: &'a Output,
    started: std::time::Instant,
    /// Where rejected rows go, once that is known.
    rejects: Option<PathBuf>,
    empty_lines: u64,
}

impl Import<'_> {
    fn run(&mut self, global: &Global, watch: &Watch, summary: &mut Summary) -> Outcome {
        let Import { args, output, .. } = *self;
        let survey = batches::survey(&args.file, output)?;
        summary.rows = Some(survey.rows);
        self.remark(&survey);
        // What cannot be meant is told before anything is made.
        target::check(args, &survey)?;
        let rejects_path = rejects::path(args, &survey.hash);
        let rejects = Rejects::new(&rejects_path, args.rejects.is_some(), &survey.header)?;
        self.rejects = Some(rejects_path);
        let load = |session: &Session, summary: &mut Summary| {
            target::resolve(session, args, &survey).and_then(|target| {
                load::load(session, args, &survey, &target, rejects, output, summary)
            })
        };
        if !args.connect.is_empty() {
            return load(&Session::connect(&args.connect, args.tenant)?, summary);
        }
        let Some(data) = &args.data else { unreachable!("one of both is required") };
        let database = open_or_make(&global.options(), data, output)?;
        watch.closes(Some(&database));
        let session = Session::Local(database.tenant(TenantId::new(args.tenant)));
        let result = load(&session, summary);
        drop(session);
        if interrupt::is_interrupted() {
            // Who serves the signal closes it.
            return result;
        }
        watch.closes(None);
        let closed = database.close();
        result?;
        Ok(closed?)
    }

    /// Tells of what may not be meant.
    fn remark(&mut self, survey: &Survey) {
        let (file, output) = (self.args.file.display(), self.output);
        if let [only] = &survey.header[..]
            && only.contains([';', '\t', '|'])
        {
            output.note(&format!(
                "note: the first line of {file} names one column; fields are separated by commas \
                 only"
            ));
        }
        let empty = survey.empty_lines;
        // Between rows of several columns they mean nothing; here one may have been meant as a row.
        self.empty_lines = if survey.header.len() == 1 { empty.count } else { 0 };
        if self.empty_lines > 0 {
            output.note(&format!(
                "note: of {file} {} line{} empty, line {} is the first; they are no rows: write \
                 \"\" for a row without a value",
                self.empty_lines,
                if self.empty_lines == 1 { " is" } else { "s are" },
                empty.first,
            ));
        }
    }

    fn tell(&self, summary: &Summary, interrupted: bool) -> Outcome {
        let Import { args, output, .. } = self;
        let seconds = self.started.elapsed().as_secs_f64();
        let Summary { rows, imported, skipped, rejected, batches, position } = summary;
        // Until it is whole it has another name.
        let whole = self.rejects.as_ref().filter(|_| *rejected > 0 && !interrupted);
        let failure = whole.map(|path| {
            format!(
                "{rejected} row{} rejected; see {} for each row and its reason",
                if *rejected == 1 { " was" } else { "s were" },
                path.display()
            )
        });
        let mut told = json!({
            "table": args.table,
            "file": args.file.display().to_string(),
            "rows": rows,
            "imported": imported,
            "already_there": skipped,
            "rejected": rejected,
            "empty_lines": self.empty_lines,
            "rejects_file": whole.map(|path| path.display().to_string()),
            "batches": batches,
            "position": position.map(|position| position.get()),
            "seconds": seconds,
            "interrupted": interrupted,
        });
        if let Some(failure) = &failure {
            told["error"] = json!(failure);
            told["sqlstate"] = json!(ROWS_REJECTED);
        }
        output.object(&told);
        output.line(format!(
            "{}: {}{imported} rows imported into {}, {skipped} imported before, {rejected} \
             rejected ({seconds:.1} s){}",
            args.file.display(),
            if interrupted { "interrupted; " } else { "" },
            super::table::printable(&args.table),
            if interrupted { "; run it again for the rest" } else { "" },
        ));
        match failure {
            None => Ok(()),
            Some(failure) => {
                output.note(&format!("error: {failure}"));
                Err(Failure::Told(1))
            }
        }
    }
}

/// `data_exception`: each row has a reason of its own.
const ROWS_REJECTED: &str = "22000";

/// The file or the arguments are not what an import can take.
fn refused(sqlstate: &'static str, why: impl ToString) -> Failure {
    Failure::Coded { code: 2, sqlstate, message: why.to_string() }
}

/// It was asked for as it should be, and cannot be done.
fn failed(sqlstate: &'static str, why: impl ToString) -> Failure {
    Failure::Coded { code: 1, sqlstate, message: why.to_string() }
}

/// What PostgreSQL says where a file cannot be used.
fn io_code(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "58P01",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "42501",
        ErrorKind::IsADirectory | ErrorKind::NotADirectory => "42809",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "53100",
        _other_errors => "58030",
    }
}

/// Between two steps: told to end, the command ends here.
fn go_on() -> Outcome {
    // Who asks knows by itself why.
    if interrupt::is_interrupted() { Err(Failure::Told(1)) } else { Ok(()) }
}
