//! A database as the `sqllogictest` crate drives it: text in, rows of text out.

use std::fmt;
use std::sync::{Arc, Mutex};

use sqllogictest::{DB, DBOutput, DefaultColumnType};
use verity::rebuild::Derived;
use verity::{
    ClusterConstants, MasterKey, MasterKeySource, Options, Position, SqlState, TenantId, Value,
    Verity,
};

/// What queries are asked as of.
#[derive(Clone, Copy, Debug)]
pub enum View {
    Now,
    Head,
    At(Position),
}

#[derive(Debug)]
pub enum Failure {
    Database(verity::Error),
    Rebuild(verity::rebuild::Problem),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Database(error) => write!(f, "{error}"),
            Failure::Rebuild(problem) => write!(f, "{problem}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<verity::Error> for Failure {
    fn from(error: verity::Error) -> Failure {
        Failure::Database(error)
    }
}

pub struct Engine {
    folder: tempfile::TempDir,
    database: Option<Verity>,
    derived: Option<Derived>,
    evict_everything: bool,
    pub view: View,
    pub indexes_refused: u64,
}

impl Engine {
    pub fn new(evict_everything: bool) -> Engine {
        let folder = tempfile::tempdir().unwrap();
        let (database, derived) = (None, None);
        let view = View::Now;
        let mut engine =
            Engine { folder, database, derived, evict_everything, view, indexes_refused: 0 };
        engine.open();
        engine
    }

    fn open(&mut self) {
        let constants =
            ClusterConstants { journal_ring_bytes: 16 << 20, ..ClusterConstants::DEFAULT };
        let options = Options::new().cluster_constants(constants).memory(256 << 20);
        let options = options.evict_everything(self.evict_everything);
        self.database = Some(options.open(self.folder.path().join("data")).unwrap());
    }

    pub fn database(&self) -> &Verity {
        self.database.as_ref().unwrap()
    }

    /// As if the process were killed.
    pub fn crash(&mut self) {
        self.database.take().unwrap().abandon();
        self.open();
    }

    /// A checkpoint and a cold cache.
    pub fn reopen(&mut self) {
        self.database.take().unwrap().close().unwrap();
        self.open();
    }

    /// From now on queries are answered by state that is derived from the logs alone.
    pub fn derive(&mut self) -> Result<(), Failure> {
        self.database.take().unwrap().close()?;
        let path = self.folder.path().join("data");
        let key = MasterKey::load(&MasterKeySource::Beside, &path).unwrap();
        let derived = Derived::open(&path, key).map_err(Failure::Rebuild)?;
        assert_eq!(derived.report().difference, None, "what was derived is the live state");
        self.derived = Some(derived);
        Ok(())
    }

    pub fn delete_everything(&mut self) -> Result<(), Failure> {
        let tables = self.database().query("SELECT name FROM __tables", &[])?.rows;
        for table in tables {
            self.database().execute(&format!("DELETE FROM {}", table[0]), &[])?;
        }
        Ok(())
    }

    fn query(&mut self, sql: &str) -> Result<(usize, Vec<Vec<Value>>), Failure> {
        let position = match self.view {
            View::Now => None,
            View::Head => Some(self.database().position()?),
            View::At(position) => Some(position),
        };
        let sql = match position {
            Some(position) => as_of(sql, position),
            None => sql.to_string(),
        };
        if let Some(derived) = &mut self.derived {
            let rows = derived.query(TenantId::DEFAULT, &sql).map_err(Failure::Rebuild)?;
            return Ok((rows.first().map_or(1, Vec::len), rows));
        }
        let rows = self.database().query(&sql, &[])?;
        Ok((rows.columns.len(), rows.rows))
    }

    pub fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        if is_query(sql) {
            let (columns, rows) = self.query(sql)?;
            let rows = rows.iter().map(|row| row.iter().map(shown).collect()).collect();
            return Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows });
        }
        match self.database().execute(sql, &[]) {
            Ok(reply) => Ok(DBOutput::StatementComplete(reply.rows_affected())),
            Err(error) if is_index(sql) && is_refusal(&error) => {
                self.indexes_refused += 1;
                Ok(DBOutput::StatementComplete(0))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the statement is refused as not supported.
    pub fn refuses(&mut self, sql: &str) -> bool {
        match self.query(sql) {
            Err(Failure::Database(error)) => is_refusal(&error),
            Err(Failure::Rebuild(problem)) => problem.to_string().contains("0A000"),
            Ok(_) => false,
        }
    }
}

fn is_refusal(error: &verity::Error) -> bool {
    error.sql().is_some_and(|error| error.code == SqlState::FeatureNotSupported)
}

fn is_query(sql: &str) -> bool {
    sql.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"))
}

fn is_index(sql: &str) -> bool {
    let mut words = sql.split_ascii_whitespace().map(str::to_ascii_uppercase);
    words.next().as_deref() == Some("CREATE")
        && words.next().is_some_and(|word| word == "INDEX" || word == "UNIQUE")
}

/// `SELECT … FROM t …` as of a position. A query without FROM stays as it is.
pub fn as_of(sql: &str, position: Position) -> String {
    let mut at = 0;
    for word in sql.split_inclusive(|character: char| character.is_ascii_whitespace()) {
        at += word.len();
        if word.trim_end().eq_ignore_ascii_case("from") {
            let rest = &sql[at..];
            let start = at + rest.len() - rest.trim_start().len();
            let name = |character: char| character.is_ascii_alphanumeric() || character == '_';
            let end = sql[start..].find(|c: char| !name(c)).map_or(sql.len(), |end| start + end);
            return format!("{} AS OF POSITION {position}{}", &sql[..end], &sql[end..]);
        }
    }
    sql.to_string()
}

/// As the corpus writes values: integers `%d`, reals `%.3f`, `NULL`, `(empty)`.
fn shown(value: &Value) -> String {
    match value {
        Value::Double(value) => format!("{value:.3}"),
        Value::Decimal(value) => format!("{:.3}", value.to_f64()),
        Value::Text(text) if text.is_empty() => "(empty)".to_string(),
        other => other.to_string(),
    }
}

/// What the runner holds; the engine behind it is shared with the mode that is played.
pub struct Session(pub Arc<Mutex<Engine>>);

impl DB for Session {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        self.0.lock().unwrap().run(sql)
    }
}
