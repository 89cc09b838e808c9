//! What the database remembers of an import: batches that committed, and rows that were rejected.
//!
//! Two streams: `import/<table>/<hash of the file>@<position>` has a record for each batch; the
//! same with `/rejected` behind it begins with a head and then has a record for each rejected row,
//! appended in the transaction of the row's batch. So what was rejected is known as long as what
//! was imported, whatever became of the rejects file.
//!
//! The record of a batch names the last batch before it that had rejected rows, and the last batch
//! of all is found from the end of the log: so who runs an import again reads what came since, and
//! the rejected rows, not what was imported. Where that chain does not give as many rows as the
//! second stream has, the whole log is read from where the table was made.
//!
//! The position is that at which the table was made: a stream outlives its table, and what was
//! imported into one that is dropped is not in the next one of its name.
//!
//! Records are JSON; a reader takes what it knows. Older releases left the position out: what they
//! began is gone on with, if it was in this very table. An import of releases older yet has no head
//! while it has batches; the first batch after those writes one that says where it begins.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use verity::{Reply, Value};
use verity_core::crypto::ChainHash;

use super::{failed, refused};
use crate::cli::Failure;
use crate::cli::session::Session;

/// Bytes of a reason; 500 of them fit beside a batch in one request.
const REASON_SIZE_MAX: usize = 300;

/// Why a row was rejected, the same in the file and on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason(String);

impl Reason {
    pub fn new(text: &str) -> Reason {
        let end = (0..=text.len().min(REASON_SIZE_MAX)).rev().find(|at| text.is_char_boundary(*at));
        Reason(text[..end.unwrap_or(0)].to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is on record of earlier runs.
#[derive(Debug, Default)]
pub struct Known {
    /// By line of the file.
    pub reasons: BTreeMap<u64, Reason>,
    /// Rejected rows of batches before this one are not on record.
    pub from: u64,
}

impl Known {
    /// One record of the second stream.
    fn take(&mut self, record: &Json) {
        if let Some(from) = record["from_batch"].as_u64() {
            self.from = from;
        }
        if let (Some(line), Some(reason)) = (record["line"].as_u64(), record["reason"].as_str()) {
            self.reasons.insert(line, Reason::new(reason));
        }
    }
}

pub struct Record<'a> {
    session: &'a Session,
    table: String,
    /// Where in the log the table was made.
    made: i64,
    pub stream: String,
    pub rejected: String,
    has_head: bool,
    /// The last batch with rejected rows, as far as is known.
    last: Option<Batch>,
}

/// Where the records of a batch with rejected rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    /// The last position of its transaction; they end there.
    through: u64,
    /// So many behind the batch's own.
    records: u64,
}

impl Batch {
    fn of(json: &Json) -> Option<Batch> {
        Some(Batch { through: json[0].as_u64()?, records: json[1].as_u64()? })
    }

    /// Where its own record is not before: the second stream may begin in between.
    fn first(self) -> u64 {
        self.through.saturating_sub(self.records).saturating_sub(1)
    }
}

impl<'a> Record<'a> {
    /// Of the table that has this name now.
    pub fn new(session: &'a Session, table: &str, file: &ChainHash) -> Result<Record<'a>, Failure> {
        let sql = "SELECT created_at FROM __tables WHERE name = ?";
        let rows = session.query(sql, &[Value::text(table)])?.rows;
        let Some(Value::Integer(made)) = rows.first().and_then(|row| row.first()) else {
            return Err(failed("42P01", format!("table {table} is not there any more")));
        };
        let hash: String = file.0[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let stream = format!("import/{table}/{hash}@{made}");
        let rejected = format!("{stream}/rejected");
        let table = table.to_string();
        Ok(Record { session, table, made: *made, stream, rejected, has_head: false, last: None })
    }

    /// As older releases named it.
    pub fn older(&self) -> Record<'a> {
        let end = self.stream.rfind('@').unwrap_or(self.stream.len());
        let stream = self.stream[..end].to_string();
        let rejected = format!("{stream}/rejected");
        let (session, table, made) = (self.session, self.table.clone(), self.made);
        Record { session, table, made, stream, rejected, has_head: false, last: None }
    }

    /// Whether an import of an older release went to this very table. `records`: of rejected rows.
    pub fn is_of_this_table(&self, records: u64) -> Result<bool, Failure> {
        // The head commits with the first batch, and names its stream.
        let (beginning, more) = match records {
            0 => ("{\"batch\":0,".to_string(), ""),
            _ => (format!("{}{{\"from_batch\":", self.beginning()), " LIMIT 1"),
        };
        let sql = format!(
            "SELECT transaction_first FROM __events WHERE position >= ? AND kind = 'append' AND \
             CAST(columns AS TEXT) LIKE ?{more}"
        );
        let found = self.session.query(&sql, &[Value::Integer(self.made), pattern(&beginning)])?;
        if records > 0 {
            return Ok(!found.rows.is_empty());
        }
        // Before there was a head, nothing in a batch's record said whose it is: its rows do.
        for row in found.rows {
            let sql = "SELECT position FROM __events WHERE position >= ? \
                       AND transaction_first = ? AND table_name = ? LIMIT 1";
            let Some(first) = row.into_iter().next() else { continue };
            let of = Value::text(self.table.as_str());
            if !self.session.query(sql, &[first.clone(), first, of])?.rows.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a batch appends beside its rows.
    pub fn of_batch<'r>(
        &self,
        number: u64,
        refused: impl Iterator<Item = (u64, &'r Reason)>,
    ) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        if !self.has_head {
            records.push(self.line(&json!({ "from_batch": number })));
            if number > 0 {
                // More than the head of an import without rejected rows: it will be read.
                records.push(self.line(&json!({ "from_batch": number })));
            }
        }
        records.extend(
            refused.map(|(line, reason)| self.line(&json!({"line": line, "reason": reason.0}))),
        );
        records
    }

    /// The record of a batch itself. `rejected`: rows, `records`: what [`Record::of_batch`] gave.
    pub fn note(&self, number: u64, rows: usize, rejected: usize, records: usize) -> Vec<u8> {
        let last = self.last.map(|Batch { through, records }| json!([through, records]));
        let rest = json!({
            "rows": rows, "rejected": rejected, "records": records, "before": last,
        });
        let rest = rest.to_string();
        format!("{}{}", self.note_beginning(number), rest.trim_start_matches('{')).into_bytes()
    }

    fn note_beginning(&self, number: u64) -> String {
        format!("{{\"batch\":{number},\"import\":{},", Json::from(self.stream.as_str()))
    }

    /// A batch has committed.
    pub fn has_committed(&mut self, reply: &Reply, rejected: usize, records: usize) {
        self.has_head = true;
        if let Some(position) = reply.position.filter(|_| rejected > 0) {
            self.last = Some(Batch { through: position.get(), records: records as u64 });
        }
    }

    /// Begins with what it is found by.
    fn line(&self, what: &Json) -> Vec<u8> {
        format!("{}{what}}}", self.beginning()).into_bytes()
    }

    fn beginning(&self) -> String {
        format!("{{\"import\":{},\"rejected\":", Json::from(self.rejected.as_str()))
    }

    /// With so many batches and records of rejected rows.
    pub fn load(&mut self, batches: u64, records: u64) -> Result<Known, Failure> {
        self.has_head = records > 0;
        match (batches, records) {
            (0, 0) => Ok(Known::default()),
            (_, 0) => Ok(Known { from: batches, ..Known::default() }),
            // The head alone: nothing was rejected.
            (_, 1) => Ok(Known::default()),
            (_, _) => match self.walk(batches, records)? {
                Some(known) => Ok(known),
                None => self.search(records),
            },
        }
    }

    /// From batch to batch, back from the last one; `None`: some have no record of the kind.
    fn walk(&mut self, batches: u64, records: u64) -> Result<Option<Known>, Failure> {
        let sql = "SELECT transaction_last, columns FROM __events \
                   WHERE position >= ? AND kind = 'append' AND CAST(columns AS TEXT) LIKE ? \
                   ORDER BY position DESC LIMIT 1";
        let params = [Value::Integer(self.made), pattern(&self.note_beginning(batches - 1))];
        let rows = self.session.query(sql, &params)?.rows;
        let Some([Value::Integer(through), columns]) = rows.first().map(Vec::as_slice) else {
            return Ok(None);
        };
        let note = payload(columns).unwrap_or_default();
        let (through, records_of) = (through.unsigned_abs(), note["records"].as_u64());
        let mut next = match (note["rejected"].as_u64(), records_of) {
            (Some(1..), Some(records)) => Some(Batch { through, records }),
            _ => Batch::of(&note["before"]),
        };
        let last = next;
        let mut known = Known::default();
        while let Some(batch) = next {
            let before = self.read_batch(batch, &mut known)?;
            next = before.filter(|before| before.through < batch.first());
        }
        // And one record that begins the stream.
        if known.reasons.len() as u64 + 1 != records {
            return Ok(None);
        }
        self.last = last;
        Ok(Some(known))
    }

    /// The rejected rows of a batch, and which batch before it had some.
    fn read_batch(&self, batch: Batch, known: &mut Known) -> Result<Option<Batch>, Failure> {
        let sql = "SELECT columns FROM __events \
                   WHERE position >= ? AND position <= ? AND kind = 'append'";
        let position = |position: u64| Value::Integer(i64::try_from(position).unwrap_or(i64::MAX));
        let range = [position(batch.first()), position(batch.through)];
        let mut before = None;
        for row in self.session.query(sql, &range)?.rows {
            let record = row.first().and_then(payload).unwrap_or_default();
            match record["import"].as_str() {
                Some(of) if of == self.stream => before = Batch::of(&record["before"]),
                Some(of) if of == self.rejected => known.take(&record["rejected"]),
                Some(_) | None => {}
            }
        }
        Ok(before)
    }

    /// Looks through the log, from where the table was made.
    fn search(&self, records: u64) -> Result<Known, Failure> {
        let sql = "SELECT columns FROM __events WHERE position >= ? AND kind = 'append' \
                   AND CAST(columns AS TEXT) LIKE ?";
        let params = [Value::Integer(self.made), pattern(&self.beginning())];
        let rows = self.session.query(sql, &params)?.rows;
        let found = rows.len() as u64;
        let mut known = Known::default();
        for row in &rows {
            let record = row.first().and_then(payload).unwrap_or_default();
            known.take(&record["rejected"]);
        }
        if found != records {
            return Err(refused(
                "XX001",
                format!(
                    "stream \"{}\" has {records} records, the log shows {found}",
                    self.rejected
                ),
            ));
        }
        Ok(known)
    }
}

/// What `__events` shows of records that begin so.
fn pattern(beginning: &str) -> Value {
    let digits: String = beginning.bytes().map(|byte| format!("{byte:02x}")).collect();
    Value::Text(format!("\"{digits}%"))
}

/// The JSON of a record, which `__events` shows as hexadecimal digits.
fn payload(value: &Value) -> Option<Json> {
    let Value::Json(text) = value else { return None };
    let digits = text.strip_prefix('"')?.strip_suffix('"')?;
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
    serde_json::from_slice(&bytes?).ok()
}
