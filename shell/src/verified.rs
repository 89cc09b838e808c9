//! Answers that are verified before anybody sees them.
//!
//! A [`Reader`] asks whoever holds the database for a proof of each answer, checks it by its own
//! policy, holds it against the statement that it asked, and only then gives the rows. It keeps the
//! newest head that it saw, also in a file, and believes no older one and none that does not
//! continue it. What cannot be proved is refused, not answered.
//!
//! Invariant: no row leaves that is not in a proof which holds; the head is kept before the rows
//! are given. Fault model: the prover lies. It needs not be in this process: [`Prover`] is all that
//! is asked of it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use verity_core::crypto::note::Checkpoint;
use verity_core::ids::{Position, TenantId};
use verity_core::kernel::value_of;
use verity_core::node::ProofOf;
use verity_core::proof::{
    Answer, AnswerCell, Evidence, Freshness, Policy, ProofFile, Reject, Seen, Verified, verify_file,
};
use verity_core::query::Value;

use crate::client::Client;
use crate::database::{Rows, Verity};
use crate::error::Error;
use crate::proof::answers_sql;
use crate::witness::{parse_head, replace};

/// Who makes proofs. Nothing it says is believed.
pub trait Prover {
    /// A proof file of what is asked. `since`: the size of an older head that the proof's own must
    /// be shown to continue.
    fn prove(&self, tenant: TenantId, of: ProofOf, since: Option<u64>) -> Result<Vec<u8>, Error>;
}

impl Prover for Verity {
    fn prove(&self, tenant: TenantId, of: ProofOf, since: Option<u64>) -> Result<Vec<u8>, Error> {
        self.tenant(tenant).prove_of(of, since).map(|proved| proved.file)
    }
}

impl Prover for Client {
    fn prove(&self, tenant: TenantId, of: ProofOf, since: Option<u64>) -> Result<Vec<u8>, Error> {
        self.tenant(tenant).prove_of(of, since).map(|proved| proved.file)
    }
}

/// Reads of one tenant that are verified first.
#[derive(Debug)]
pub struct Reader<P> {
    prover: P,
    tenant: TenantId,
    policy: Policy,
    age_max_s: Option<u64>,
    pin: Mutex<Pin>,
}

/// The newest head that was seen.
#[derive(Debug, Default)]
struct Pin {
    seen: Option<Seen>,
    file: Option<PathBuf>,
}

/// Rows, and what stands behind them.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedRows {
    pub rows: Rows,
    /// What was verified: who signed, when, at which head.
    pub verified: Verified,
}

/// Why there are no rows.
#[derive(Debug)]
pub enum VerifyError {
    /// The prover gave no proof.
    Unproved(Error),
    /// The proof does not hold.
    Refused(Reject),
    /// It holds, and is not of what was asked.
    AnotherAnswer(String),
    /// Columns that were asked for are not shown.
    Redacted,
    /// The state proved is not the newest of its head, or its cosignatures are too old.
    NotFresh,
    /// The file of the newest head cannot be read or written.
    Pin(String),
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifyError::Unproved(error) => write!(f, "no proof was given: {error}"),
            VerifyError::Refused(reject) => write!(f, "the proof is refused: {reject}"),
            VerifyError::AnotherAnswer(what) => write!(f, "the proof is of another answer: {what}"),
            VerifyError::Redacted => f.write_str("columns that were asked for are not shown"),
            VerifyError::NotFresh => f.write_str("the answer holds, but it is not fresh"),
            VerifyError::Pin(what) => write!(f, "the newest head that was seen: {what}"),
        }
    }
}

impl std::error::Error for VerifyError {}

impl From<Reject> for VerifyError {
    fn from(reject: Reject) -> VerifyError {
        VerifyError::Refused(reject)
    }
}

impl<P: Prover> Reader<P> {
    /// Reads what `prover` proves of a tenant, for one who believes `policy`.
    #[must_use]
    pub fn new(prover: P, tenant: TenantId, policy: Policy) -> Reader<P> {
        let pin = Pin { seen: policy.seen, file: None };
        Reader { prover, tenant, policy, age_max_s: None, pin: Mutex::new(pin) }
    }

    /// Keeps the newest head in a file, and begins with the one that is there.
    pub fn pinned(self, path: &Path) -> Result<Reader<P>, VerifyError> {
        let shown = path.display();
        let seen = match std::fs::read_to_string(path) {
            Ok(text) => match parse_head(&text) {
                Some(head) if head.origin == self.policy.log.name => {
                    Some(Seen { size: head.size, root: head.root })
                }
                Some(head) => {
                    let what = format!("{shown} is of another log, {}", head.origin);
                    return Err(VerifyError::Pin(what));
                }
                None => return Err(VerifyError::Pin(format!("{shown} is no head"))),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.policy.seen,
            Err(error) => return Err(VerifyError::Pin(format!("cannot read {shown}: {error}"))),
        };
        let pin = Pin { seen, file: Some(path.to_path_buf()) };
        Ok(Reader { pin: Mutex::new(pin), ..self })
    }

    /// Refuses answers whose cosignatures are older than so many seconds.
    #[must_use]
    pub fn max_age(self, seconds: u64) -> Reader<P> {
        Reader { age_max_s: Some(seconds), ..self }
    }

    /// The newest head that was seen.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner).seen
    }

    /// The answer of a SELECT, verified. One at a time: each continues the head of the one before.
    pub fn query(&self, sql: &str, params: &[Value]) -> Result<VerifiedRows, VerifyError> {
        let mut pin = self.pin.lock().unwrap_or_else(PoisonError::into_inner);
        let of = ProofOf::Sql { text: sql.to_string(), parameters: params.to_vec() };
        let since = pin.seen.map(|seen| seen.size).filter(|size| *size > 0);
        let file = self.prover.prove(self.tenant, of, since).map_err(VerifyError::Unproved)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let fresh_within = self.age_max_s.map(|age_max_s| Freshness { now_s: now, age_max_s });
        let mut policy = self.policy.clone();
        (policy.seen, policy.fresh_within) = (pin.seen, fresh_within);
        let file = ProofFile::decode(&file)?;
        let verified = verify_file(&file, &policy)?;
        let columns = answers_sql(self.tenant, sql, params, false, &verified)
            .map_err(VerifyError::AnotherAnswer)?;
        // Else an older state could be shown, in a log that goes on behind it.
        if !verified.fresh {
            return Err(VerifyError::NotFresh);
        }
        let rows = rows_of(&verified.answer)?;
        pin.keep(&verified)?;
        let position = position_of(&file).unwrap_or(verified.position);
        Ok(VerifiedRows { rows: Rows { columns, rows, position, asked: None }, verified })
    }
}

impl Pin {
    fn keep(&mut self, verified: &Verified) -> Result<(), VerifyError> {
        let (size, root) = (verified.size, verified.root);
        let seen = Some(Seen { size, root });
        if self.seen == seen {
            return Ok(());
        }
        if let Some(path) = &self.file {
            let head = Checkpoint { origin: verified.origin.clone(), size, root };
            replace(path, head.text().as_bytes()).map_err(|error| {
                VerifyError::Pin(format!("cannot write {}: {error}", path.display()))
            })?;
        }
        self.seen = seen;
        Ok(())
    }
}

/// With AS OF: the last position of the last transaction by then.
fn position_of(file: &ProofFile) -> Option<Position> {
    let Evidence::Scan { moment: Some(moment), .. } = &file.evidence else { return None };
    let record = &moment.last.record;
    if record.transaction_last() == record.position() {
        return Some(record.position());
    }
    record.transaction_first().previous()
}

fn rows_of(answer: &Answer) -> Result<Vec<Vec<Value>>, VerifyError> {
    let cell = |cell: &AnswerCell| match cell {
        AnswerCell::Value(value) => value_of(value).ok_or(VerifyError::Refused(Reject::WrongType)),
        AnswerCell::Redacted => Err(VerifyError::Redacted),
    };
    match answer {
        Answer::Rows(rows) => rows.iter().map(|row| row.iter().map(cell).collect()).collect(),
        Answer::Count(count) => {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            Ok(vec![vec![Value::Integer(count)]])
        }
        Answer::History(_) | Answer::Event(_) | Answer::Commitment(_) => {
            Err(VerifyError::AnotherAnswer("it is no answer of a SELECT".to_string()))
        }
    }
}
