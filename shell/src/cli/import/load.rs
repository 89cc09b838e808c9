//! Commits batches; on a refused batch, finds the rows at fault.
//!
//! How a bad row is found: a probe is a transaction that inserts some rows and then appends to the
//! import's stream with a version that cannot be right. It never commits; if its error is about the
//! version, the rows are good, otherwise the reason is theirs. Bisection over prefixes finds the
//! first bad row; rows before it count as good, it is rejected, and the search goes on behind it.
//!
//! What is known of rejected rows: a batch appends, in its transaction, a record for each of its
//! rejected rows to a second stream, `…/rejected`. That stream begins with a head, so one that has
//! no record is of an import that an older release began.

use std::time::{Duration, Instant};

use verity::{Error, ExpectedVersion, Operation, Reply, RequestError, Value};

use super::batches::{Batches, CsvRow, Survey};
use super::infer::convert;
use super::record::{Reason, Record};
use super::rejects::Rejects;
use super::target::Target;
use super::{Summary, failed, go_on};
use crate::cli::args::ImportArgs;
use crate::cli::session::Session;
use crate::cli::{Failure, Outcome, Output};

/// How long a request is sent again when the node asks for it: a disk may be slow, a checkpoint
/// long.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// How long it is sent again without a word.
const RETRY_SILENT: Duration = Duration::from_secs(1);
/// The node knows best when to ask again; this only keeps a busy one from being asked in a loop.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(50);

struct Loader<'a> {
    session: &'a Session,
    target: &'a Target,
    record: Record<'a>,
    output: Output,
}

/// A row on its way in, with the line it came from.
struct Candidate {
    row: CsvRow,
    values: Vec<Value>,
}

/// A row that is none of the table.
struct Refused {
    row: CsvRow,
    reason: Reason,
}

pub fn load(
    session: &Session,
    args: &ImportArgs,
    survey: &Survey,
    target: &Target,
    mut rejects: Rejects,
    output: &Output,
    summary: &mut Summary,
) -> Outcome {
    // By the table's own name, however the command line spelled it.
    let record = Record::new(session, &target.table, &survey.hash)?;
    let mut loader = Loader { session, target, record, output: *output };
    // Batches below this were committed by an earlier run.
    let mut version = loader.version(&loader.record.stream)?;
    if version == 0 {
        // Until the first batch every run decides this anew, from what does not change.
        let older = loader.record.older();
        let batches = loader.version(&older.stream)?;
        if batches > 0 && older.is_of_this_table(loader.version(&older.rejected)?)? {
            (loader.record, version) = (older, batches);
        }
    }
    let recorded = loader.version(&loader.record.rejected)?;
    let known = loader.record.load(version, recorded)?;
    let mut batches = Batches::open(&args.file)?;
    let bar = output.progress(survey.rows, "rows", "importing");
    while let Some(rows) = batches.next()? {
        go_on()?;
        let number = summary.batches;
        let read = rows.len() as u64;
        if number < version {
            for row in rows {
                let reason = match known.reasons.get(&row.line) {
                    Some(reason) => Some(reason.clone()),
                    // Nobody wrote it down: found by looking again.
                    None if number < known.from => {
                        loader.values(&row, &survey.header).err().map(|reason| Reason::new(&reason))
                    }
                    None => None,
                };
                match reason {
                    Some(reason) => {
                        rejects.add(row.line, &row.fields, reason.as_str())?;
                        summary.rejected += 1;
                    }
                    None => summary.skipped += 1,
                }
            }
        } else {
            let (candidates, refused) = loader.convert(rows, &survey.header);
            let (imported, refused, reply) = loader.commit(number, candidates, refused)?;
            summary.imported += imported;
            summary.position = reply.position;
            for Refused { row, reason } in refused {
                rejects.add(row.line, &row.fields, reason.as_str())?;
                summary.rejected += 1;
            }
        }
        summary.batches += 1;
        bar.inc(read);
    }
    bar.finish_and_clear();
    if known.from > 0 {
        output.note(
            "note: an older release began this import and kept no record of the rows that the \
             database refused; of its batches, rejected rows are those that are no rows of the \
             table",
        );
    }
    rejects.finish()
}

impl Loader<'_> {
    /// Records of a stream; of the import's own: how many batches are committed.
    fn version(&self, stream: &str) -> Result<u64, Failure> {
        let append = Operation::Append {
            stream: stream.to_string(),
            expected: ExpectedVersion::Exact(u64::MAX),
            records: vec![b"{}".to_vec()],
        };
        match self.send_operations(vec![append])? {
            Sent::OtherVersion { actual } => Ok(actual),
            Sent::Committed(_) => unreachable!("no stream has the last version"),
            Sent::Refused { sqlstate, reason } => Err(failed(sqlstate, reason)),
        }
    }

    /// Fields to values; and what is no row of the table.
    fn convert(&self, rows: Vec<CsvRow>, header: &[String]) -> (Vec<Candidate>, Vec<Refused>) {
        let mut candidates = Vec::with_capacity(rows.len());
        let mut refused = Vec::new();
        for row in rows {
            match self.values(&row, header) {
                Ok(values) => candidates.push(Candidate { row, values }),
                Err(reason) => refused.push(Refused { row, reason: Reason::new(&reason) }),
            }
        }
        (candidates, refused)
    }

    fn values(&self, row: &CsvRow, header: &[String]) -> Result<Vec<Value>, String> {
        if row.fields.len() != header.len() {
            let (found, expected) = (row.fields.len(), header.len());
            return Err(format!("{found} fields, the first line has {expected}"));
        }
        let columns = header.iter().zip(&self.target.types);
        row.fields
            .iter()
            .zip(columns)
            .map(|(field, (name, column))| {
                let text =
                    std::str::from_utf8(field).map_err(|_| format!("column {name}: not UTF-8"))?;
                convert(text, *column).map_err(|reason| format!("column {name}: {reason}"))
            })
            .collect()
    }

    /// Commits a batch; rows that the database refuses are taken out one by one.
    fn commit(
        &mut self,
        number: u64,
        mut candidates: Vec<Candidate>,
        mut refused: Vec<Refused>,
    ) -> Result<(u64, Vec<Refused>, Reply), Failure> {
        // Rows before this one are good together.
        let mut good = 0;
        loop {
            let count = candidates.len() as u64;
            refused.sort_by_key(|refused| refused.row.line);
            let lines = refused.iter().map(|refused| (refused.row.line, &refused.reason));
            let records = self.record.of_batch(number, lines);
            let (rejected, recorded) = (refused.len(), records.len());
            let sent = self.send_batch(&candidates, number, rejected, records)?;
            let (sqlstate, reason) = match sent {
                Sent::Committed(reply) => {
                    self.record.has_committed(&reply, rejected, recorded);
                    return Ok((count, refused, reply));
                }
                Sent::OtherVersion { actual } => {
                    return Err(failed(
                        "VY002",
                        format!(
                            "the import's stream \"{}\" is at version {actual}, batch {number} was \
                             to follow; is another import of the same file running?",
                            self.record.stream
                        ),
                    ));
                }
                Sent::Refused { sqlstate, reason } => (sqlstate, reason),
            };
            // A batch that is refused although all of its rows are good one after the other has a
            // reason that is not in a row.
            let bad = self.first_bad(&candidates, good, reason.clone())?;
            let Some((bad, reason)) = bad else {
                return Err(failed(sqlstate, format!("batch {number} was refused: {reason}")));
            };
            let row = candidates.remove(bad).row;
            refused.push(Refused { row, reason: Reason::new(&reason) });
            good = bad;
        }
    }

    /// The first row that is refused after those before it, and why.
    fn first_bad(
        &self,
        candidates: &[Candidate],
        good: usize,
        reason: String,
    ) -> Result<Option<(usize, String)>, Failure> {
        // Invariant: the prefix of `low` rows is accepted, that of `high` rows is refused.
        let (mut low, mut high) = (good, candidates.len());
        let mut reason = reason;
        if low >= high {
            return Ok(None);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.probe(&candidates[..middle])? {
                Sent::Refused { reason: error, .. } => {
                    high = middle;
                    reason = error;
                }
                Sent::OtherVersion { .. } => low = middle,
                Sent::Committed(_) => unreachable!("no stream has the last version"),
            }
        }
        Ok(Some((low, reason)))
    }

    /// `rejected`: rows of the batch that are not among the candidates.
    fn send_batch(
        &self,
        candidates: &[Candidate],
        number: u64,
        rejected: usize,
        records: Vec<Vec<u8>>,
    ) -> Result<Sent, Failure> {
        let note = self.record.note(number, candidates.len(), rejected, records.len());
        let mut operations = self.insert(candidates);
        operations.push(Operation::Append {
            stream: self.record.stream.clone(),
            expected: ExpectedVersion::Exact(number),
            records: vec![note],
        });
        if !records.is_empty() {
            operations.push(Operation::Append {
                stream: self.record.rejected.clone(),
                expected: ExpectedVersion::Any,
                records,
            });
        }
        self.send_operations(operations)
    }

    /// Says whether the rows are good, and never commits.
    fn probe(&self, candidates: &[Candidate]) -> Result<Sent, Failure> {
        let mut operations = self.insert(candidates);
        operations.push(Operation::Append {
            stream: self.record.stream.clone(),
            expected: ExpectedVersion::Exact(u64::MAX),
            records: vec![b"{}".to_vec()],
        });
        self.send_operations(operations)
    }

    /// Nothing, of no rows.
    fn insert(&self, candidates: &[Candidate]) -> Vec<Operation> {
        if candidates.is_empty() {
            return Vec::new();
        }
        vec![Operation::InsertRows {
            table: self.target.table.clone(),
            columns: self.target.columns.clone(),
            rows: candidates.iter().map(|candidate| candidate.values.clone()).collect(),
        }]
    }

    fn send_operations(&self, operations: Vec<Operation>) -> Result<Sent, Failure> {
        let began = Instant::now();
        let mut told = false;
        let mut pause = Duration::from_millis(1);
        // One id for all tries: what an earlier one did is not done again, and not denied.
        let id = self.session.new_id()?;
        loop {
            go_on()?;
            match self.session.transaction_with_id(id, operations.clone()) {
                Ok(reply) => return Ok(Sent::Committed(reply)),
                Err(Error::Request(RequestError::WrongExpectedVersion { actual, .. })) => {
                    return Ok(Sent::OtherVersion { actual });
                }
                Err(Error::Request(RequestError::Sql(error))) if !error.retryable() => {
                    let (sqlstate, reason) = (error.code.code(), error.to_string());
                    return Ok(Sent::Refused { sqlstate, reason });
                }
                // Batches are cut so that only a row that is too large by itself gets here.
                Err(Error::Request(RequestError::TooLarge { size, max })) => {
                    let reason = format!("the row takes {size} bytes, at most {max} fit");
                    return Ok(Sent::Refused { sqlstate: "54000", reason });
                }
                Err(error) if may_go_again(&error) && began.elapsed() < RETRY_TIME_MAX => {
                    if !told && began.elapsed() >= RETRY_SILENT {
                        told = true;
                        self.output.note(&format!(
                            "waiting: {error}. The import goes on by itself then; it gives up \
                             after {} s, and can be run again",
                            RETRY_TIME_MAX.as_secs()
                        ));
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
                Err(error) => return Err(Failure::from(error)),
            }
        }
    }
}

fn may_go_again(error: &Error) -> bool {
    error.retryable() || matches!(error, Error::OutcomeUnknown { .. })
}

enum Sent {
    Committed(Reply),
    OtherVersion { actual: u64 },
    Refused { sqlstate: &'static str, reason: String },
}
