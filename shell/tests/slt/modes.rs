//! The modes: the same files, each query asked in another way.

use std::path::Path;
use std::sync::{Arc, Mutex};

use sqllogictest::{DefaultColumnType, Record, Runner};
use verity::Position;

use crate::engine::{Engine, Session, View};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Plain,
    /// Each query `AS OF POSITION` of the newest one.
    AsOfHead,
    /// All statements first, then every row is deleted, then each query as of its own position.
    DeletedSince,
    /// Killed and recovered between load and queries.
    Crashed,
    /// A checkpoint, a cold cache, and every page forgotten after each turn.
    Evicting,
    /// All statements first, then each query, as of its own position, of what the logs say.
    Rebuilt,
}

impl Mode {
    pub const ALL: [Mode; 6] = [
        Mode::Plain,
        Mode::AsOfHead,
        Mode::DeletedSince,
        Mode::Crashed,
        Mode::Evicting,
        Mode::Rebuilt,
    ];

    /// Whether queries wait until the end of the file.
    fn asks_later(self) -> bool {
        matches!(self, Mode::DeletedSince | Mode::Rebuilt)
    }
}

/// INSERTs that follow one another are sent as one request, up to this, but in plain mode: waiting
/// for the disk once for each of 29,000 would be most of the time.
const INSERTS_OF_A_REQUEST: usize = 100;

/// Restarts of one file; those after the first come at growing distances.
const RESTARTS_MAX: u32 = 6;

#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub queries: u64,
    pub statements: u64,
    pub indexes_refused: u64,
    pub having_refused: u64,
}

type Step = Record<DefaultColumnType>;

struct Player<'t> {
    mode: Mode,
    engine: Arc<Mutex<Engine>>,
    tally: &'t mut Tally,
    /// INSERTs not yet sent.
    inserts: Vec<String>,
    /// Queries to be asked later, each with its position.
    later: Vec<(Step, Position)>,
    /// Changed since the last query.
    changed: bool,
    /// Times that queries followed changes, and the one that restarts next.
    loads: u32,
    restarts: u32,
}

/// Plays one file, at most so many queries of it.
pub fn play(mode: Mode, file: &Path, limit: usize, tally: &mut Tally) -> Result<(), String> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let records = sqllogictest::parse_file::<DefaultColumnType>(file)
        .map_err(|error| format!("{name}: {error}"))?;
    let engine = Arc::new(Mutex::new(Engine::new(mode == Mode::Evicting)));
    if mode == Mode::AsOfHead {
        engine.lock().unwrap().view = View::Head;
    }
    let of_runner = Arc::clone(&engine);
    let mut runner = Runner::new(move || {
        let session = Session(Arc::clone(&of_runner));
        async move { Ok::<_, crate::engine::Failure>(session) }
    });
    let mut player = Player {
        mode,
        engine,
        tally,
        inserts: Vec::new(),
        later: Vec::new(),
        changed: false,
        loads: 0,
        restarts: 0,
    };
    let mut left = limit;
    for record in records {
        if matches!(record, Record::Query { .. }) {
            if left == 0 {
                break;
            }
            left -= 1;
        }
        player.step(&mut runner, record).map_err(|error| format!("{name}: {error}"))?;
    }
    player.finish(&mut runner).map_err(|error| format!("{name}: {error}"))
}

type Asked<'r, D, M> = &'r mut Runner<D, M>;

impl Player<'_> {
    fn step<D, M>(&mut self, runner: Asked<'_, D, M>, record: Step) -> Result<(), String>
    where
        D: sqllogictest::AsyncDB<ColumnType = DefaultColumnType>,
        M: sqllogictest::MakeConnection<Conn = D>,
    {
        let is = |sql: &str, word: &str| {
            sql.trim_start().get(..word.len()).is_some_and(|first| first.eq_ignore_ascii_case(word))
        };
        match &record {
            Record::Statement { sql, .. } if self.mode != Mode::Plain && is(sql, "insert") => {
                self.tally.statements += 1;
                self.changed = true;
                self.inserts.push(sql.clone());
                return if self.inserts.len() < INSERTS_OF_A_REQUEST {
                    Ok(())
                } else {
                    self.send()
                };
            }
            Record::Statement { .. } | Record::Query { .. } => self.send()?,
            _ => {}
        }
        match &record {
            Record::Statement { sql, .. } => {
                // What a table held before it was dropped is asked before it is.
                if is(sql, "drop") {
                    self.ask_all(runner)?;
                }
                self.tally.statements += 1;
                self.changed = true;
                runner.run(record).map(|_| ()).map_err(|error| error.to_string())
            }
            Record::Query { sql, .. } if has_word(sql, "HAVING") => {
                if self.engine.lock().unwrap().refuses(sql) {
                    self.tally.having_refused += 1;
                    Ok(())
                } else {
                    Err(format!("HAVING was not refused: {sql}"))
                }
            }
            Record::Query { .. } if self.mode.asks_later() => {
                let engine = self.engine.lock().unwrap();
                let position = engine.database().position().map_err(|error| error.to_string())?;
                drop(engine);
                self.later.push((record, position));
                Ok(())
            }
            Record::Query { .. } => {
                if std::mem::take(&mut self.changed) {
                    self.restart();
                }
                self.ask(runner, record)
            }
            _ => runner.run(record).map(|_| ()).map_err(|error| error.to_string()),
        }
    }

    /// The INSERTs that are gathered, as one transaction.
    fn send(&mut self) -> Result<(), String> {
        if self.inserts.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.inserts).join(";\n");
        let outcome = self.engine.lock().unwrap().run(&text);
        outcome.map(|_| ()).map_err(|error| format!("{error} in {text}"))
    }

    fn ask<D, M>(&mut self, runner: Asked<'_, D, M>, record: Step) -> Result<(), String>
    where
        D: sqllogictest::AsyncDB<ColumnType = DefaultColumnType>,
        M: sqllogictest::MakeConnection<Conn = D>,
    {
        self.tally.queries += 1;
        runner.run(record).map(|_| ()).map_err(|error| error.to_string())
    }

    /// Between a load and its queries.
    fn restart(&mut self) {
        let due = self.loads.is_power_of_two() || self.loads == 0;
        self.loads += 1;
        if !due || self.restarts == RESTARTS_MAX {
            return;
        }
        self.restarts += 1;
        match self.mode {
            Mode::Crashed => self.engine.lock().unwrap().crash(),
            Mode::Evicting => self.engine.lock().unwrap().reopen(),
            Mode::Plain | Mode::AsOfHead | Mode::DeletedSince | Mode::Rebuilt => {}
        }
    }

    fn ask_all<D, M>(&mut self, runner: Asked<'_, D, M>) -> Result<(), String>
    where
        D: sqllogictest::AsyncDB<ColumnType = DefaultColumnType>,
        M: sqllogictest::MakeConnection<Conn = D>,
    {
        for (record, position) in std::mem::take(&mut self.later) {
            self.engine.lock().unwrap().view = View::At(position);
            self.ask(runner, record)?;
        }
        Ok(())
    }

    fn finish<D, M>(&mut self, runner: Asked<'_, D, M>) -> Result<(), String>
    where
        D: sqllogictest::AsyncDB<ColumnType = DefaultColumnType>,
        M: sqllogictest::MakeConnection<Conn = D>,
    {
        self.send()?;
        let prepared = match self.mode {
            Mode::DeletedSince => self.engine.lock().unwrap().delete_everything(),
            Mode::Rebuilt => self.engine.lock().unwrap().derive(),
            Mode::Plain | Mode::AsOfHead | Mode::Crashed | Mode::Evicting => Ok(()),
        };
        prepared.map_err(|error| error.to_string())?;
        self.ask_all(runner)?;
        self.tally.indexes_refused += self.engine.lock().unwrap().indexes_refused;
        Ok(())
    }
}

fn has_word(sql: &str, word: &str) -> bool {
    sql.split(|character: char| !character.is_ascii_alphanumeric())
        .any(|part| part.eq_ignore_ascii_case(word))
}
