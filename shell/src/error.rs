//! What can go wrong, with the facts and what to do next.

use std::fmt;
use std::path::PathBuf;

use verity_core::ids::IdempotencyId;
use verity_core::io::IoError;
use verity_core::journal::JournalError;
use verity_core::kernel::RequestError;
use verity_core::node::Halt;
use verity_core::query::{SqlError, SqlState};

use crate::disk::DiskError;
use crate::disk::lock::LockError;
use crate::disk::master_key::MasterKeyProblem;
use crate::format::found::JournalCut;

#[derive(Debug)]
pub enum Error {
    /// The directory cannot be made or read.
    Directory {
        path: PathBuf,
        error: std::io::Error,
    },
    /// There is no database in the directory, and none was to be made.
    NotFormatted {
        path: PathBuf,
    },
    /// There is one already.
    AlreadyFormatted {
        path: PathBuf,
    },
    /// Files of a database without its superblock: nothing is written over them.
    SuperblockLost {
        path: PathBuf,
    },
    /// The superblock is of an older moment than what lies beside it.
    SuperblockStale(JournalError),
    /// The journal is not as long as it was made.
    JournalCut(JournalCut),
    /// The directory holds other files; a database is made in an empty one only.
    NotEmpty {
        path: PathBuf,
        found: String,
    },
    /// A new database does not fit on the disk; nothing was made.
    NoRoom {
        path: PathBuf,
        journal_bytes: u64,
        needed_bytes: u64,
        free_bytes: u64,
    },
    Lock(LockError),
    MasterKey(MasterKeyProblem),
    Disk(DiskError),
    /// An option has no meaning.
    Options(String),
    /// The node stopped. What it acknowledged is on disk.
    Halted {
        halt: Halt,
        problem: Option<String>,
    },
    /// Refused; nothing of the request happened.
    Request(RequestError),
    /// A page or record that the answer needs is damaged: no answer rather than a wrong one.
    Unreadable(String),
    /// There is no proof of it, or none that can be had.
    Unproved {
        sqlstate: &'static str,
        why: String,
    },
    /// A statement that does not fit the call: rows asked of an INSERT, for example.
    WrongKind(&'static str),
    /// No replica could be asked in time. Nothing was done.
    Unreachable {
        why: String,
    },
    /// Of a stream of rows: it ended before the last one. What came is not the whole answer.
    RowsCut {
        why: String,
    },
    /// The write was sent, and nobody said what became of it before the deadline. Its id tells
    /// later: `commitment`, or the same write under the same id.
    OutcomeUnknown {
        id: IdempotencyId,
        why: String,
    },
    /// A refusal of a server that this release has no type for.
    Server {
        sqlstate: String,
        message: String,
    },
    Closed,
}

/// `connection_failure`.
const ROWS_CUT: &str = "08006";

impl Error {
    /// The same call may succeed when made again.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Error::Request(error) => {
                error.retryable() || self.sql().is_some_and(SqlError::retryable)
            }
            Error::Unreachable { .. } | Error::RowsCut { .. } => true,
            Error::Directory { .. }
            | Error::NotFormatted { .. }
            | Error::AlreadyFormatted { .. }
            | Error::NotEmpty { .. }
            | Error::NoRoom { .. }
            | Error::SuperblockLost { .. }
            | Error::SuperblockStale(_)
            | Error::JournalCut(_)
            | Error::Lock(_)
            | Error::MasterKey(_)
            | Error::Disk(_)
            | Error::Options(_)
            | Error::Halted { .. }
            | Error::Unreadable(_)
            | Error::Unproved { .. }
            | Error::WrongKind(_)
            | Error::OutcomeUnknown { .. }
            | Error::Server { .. }
            | Error::Closed => false,
        }
    }

    /// The SQL error within, with SQLSTATE and place.
    #[must_use]
    pub fn sql(&self) -> Option<&SqlError> {
        match self {
            Error::Request(RequestError::Sql(error)) => Some(error),
            _other_errors => None,
        }
    }

    /// A stable code for programs: SQLSTATE, as PostgreSQL uses them where it has one, `VY…` else.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Error::Request(error) => error.sqlstate(),
            Error::Directory { .. } | Error::Disk(_) => "58030",
            Error::NotFormatted { .. } => "3D000",
            Error::AlreadyFormatted { .. } | Error::NotEmpty { .. } => "42P04",
            Error::NoRoom { .. } => "53100",
            Error::Lock(_) => "55006",
            Error::MasterKey(_) | Error::Halted { halt: Halt::Key(_), .. } => "28000",
            Error::Options(_) => "22023",
            Error::Halted { .. } => "57P01",
            Error::Unreadable(_)
            | Error::SuperblockLost { .. }
            | Error::SuperblockStale(_)
            | Error::JournalCut(_) => "XX001",
            Error::Unproved { sqlstate, .. } => sqlstate,
            Error::WrongKind(_) => "42809",
            Error::Unreachable { .. } => "08001",
            Error::RowsCut { .. } => ROWS_CUT,
            Error::OutcomeUnknown { .. } => "08007",
            Error::Server { sqlstate, .. } if sqlstate == ROWS_CUT => ROWS_CUT,
            Error::Server { sqlstate, .. } => {
                SqlState::from_code(sqlstate).map_or("58000", SqlState::code)
            }
            Error::Closed => "08003",
        }
    }

    /// For people: with the line of the statement and a caret, where the error knows its place.
    #[must_use]
    pub fn render(&self, statement: &str) -> String {
        match self.sql() {
            Some(error) => error.render(statement),
            None => format!("error: {self}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Directory { path, error } => {
                write!(f, "cannot use the data directory {}: {error}", path.display())
            }
            Error::NotFormatted { path } => write!(
                f,
                "{} holds no database; make one with `verity format {}`",
                path.display(),
                path.display()
            ),
            Error::AlreadyFormatted { path } => write!(
                f,
                "{} holds a database already; nothing was changed. Choose another directory",
                path.display()
            ),
            Error::NotEmpty { path, found } => write!(
                f,
                "{} is not empty (it holds {found}); choose an empty or a new directory",
                path.display()
            ),
            Error::NoRoom { path, journal_bytes, needed_bytes, free_bytes } => {
                let limit = match free_bytes < needed_bytes {
                    true => "",
                    false => ", though a quota or a limit on the size of files allows less",
                };
                write!(
                    f,
                    "no space left on device for a new database in {}: it needs {needed_bytes} \
                     bytes ({} MiB for the journal, {} MiB that stay free for checkpoints and the \
                     rest), {free_bytes} are free{limit}. Nothing was made. Make room, choose \
                     another disk, or a smaller journal: `verity format --journal SIZE`",
                    path.display(),
                    journal_bytes >> 20,
                    (needed_bytes - journal_bytes) >> 20,
                )
            }
            Error::SuperblockLost { path } => write!(
                f,
                "{} is what is left of a database: its journal, grid or keys are there, its \
                 superblock is gone. Nothing was changed. Restore the directory from a copy; if no \
                 database was ever finished here, remove it",
                path.display()
            ),
            Error::SuperblockStale(error) => write!(f, "{error}; nothing was changed"),
            Error::JournalCut(cut) => write!(f, "{cut}"),
            Error::Lock(error) => write!(f, "{error}"),
            Error::MasterKey(error) => write!(f, "{error}"),
            Error::Disk(error) => write!(f, "{error}"),
            Error::Options(what) => f.write_str(what),
            Error::Halted { halt, problem } => {
                match (halt, problem) {
                    // Files that cannot be read look like files that are lost.
                    (Halt::Data { .. }, Some(problem)) => {
                        write!(f, "the database stopped: {problem}. Because of that, {halt}")?;
                    }
                    (_, Some(problem)) => write!(f, "the database stopped: {halt} ({problem})")?,
                    (_, None) => write!(f, "the database stopped: {halt}")?,
                }
                match halt {
                    Halt::Io { error: IoError::NoSpace, .. } => f.write_str(
                        ". Make room and start again: what was acknowledged is there. Every open \
                         writes, for a SELECT, too; `verity verify` and `inspect` write nothing",
                    ),
                    Halt::Io { error: IoError::ReadOnly, .. } => f.write_str(
                        ". Nothing is lost; every open writes, for a SELECT, too. `verity verify` \
                         and `inspect` write nothing",
                    ),
                    _other => Ok(()),
                }
            }
            Error::Request(error) => write!(f, "{error}"),
            Error::Unreadable(what) => {
                write!(f, "{what}; run `verity verify` to see what else is damaged")
            }
            Error::Unproved { why, .. } => f.write_str(why),
            Error::WrongKind(what) => f.write_str(what),
            Error::Unreachable { why } => write!(f, "no replica answers: {why}"),
            Error::RowsCut { why } => {
                write!(f, "the rows end before the last one: {why}; ask for them again")
            }
            Error::OutcomeUnknown { id, why } if id.is_none() => write!(
                f,
                "it is not known whether the write was done ({why}); it had no idempotency id, so \
                 only the data can tell"
            ),
            Error::OutcomeUnknown { id, why } => write!(
                f,
                "it is not known whether the write with idempotency id {id} was done ({why}); ask \
                 what became of the id, or send the same write again under it"
            ),
            Error::Server { message, .. } => f.write_str(message),
            Error::Closed => f.write_str("the database is closed"),
        }
    }
}

impl std::error::Error for Error {}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Error {
        Error::Request(error)
    }
}

impl From<SqlError> for Error {
    fn from(error: SqlError) -> Error {
        Error::Request(RequestError::Sql(error))
    }
}
