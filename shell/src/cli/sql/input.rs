//! Lines from a terminal: when is a statement complete, and where is history kept.

use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Editor, Helper};

/// Statements kept in the history file.
const HISTORY_ENTRIES_MAX: usize = 1_000;

/// Tells the line editor to go on until a statement ends.
#[derive(Debug)]
pub struct Statements;

impl Validator for Statements {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for Statements {
    type Candidate = String;
}

impl Hinter for Statements {
    type Hint = String;
}

impl Highlighter for Statements {}
impl Helper for Statements {}

/// What the editor gave.
#[derive(Debug)]
pub enum Line {
    Text(String),
    /// Ctrl-C: forget the line.
    Cancelled,
    /// Ctrl-D, or the terminal is gone.
    End,
}

pub struct Input {
    editor: Editor<Statements, FileHistory>,
    history: Option<PathBuf>,
}

impl Input {
    pub fn new() -> rustyline::Result<Input> {
        let config = Config::builder()
            .max_history_size(HISTORY_ENTRIES_MAX)?
            .history_ignore_space(true)
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Statements));
        let history = history_path();
        if let Some(path) = &history {
            // A missing history is an empty one.
            let _missing = editor.load_history(path);
        }
        Ok(Input { editor, history })
    }

    pub fn read(&mut self, prompt: &str) -> Result<Line, String> {
        match self.editor.readline(prompt) {
            Ok(text) => {
                self.save();
                Ok(Line::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Cancelled),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(format!("cannot read from the terminal: {error}")),
        }
    }

    /// After every statement: a shell that is killed has its history too.
    fn save(&mut self) {
        let Some(path) = &self.history else { return };
        if let Some(folder) = path.parent() {
            let _cannot = std::fs::create_dir_all(folder);
        }
        if let Err(error) = self.editor.append_history(path) {
            tracing::warn!("cannot write the history to {}: {error}", path.display());
            self.history = None;
        }
    }
}

/// `VERITY_SQL_HISTORY`, else beside other programs' state; empty means none.
fn history_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("VERITY_SQL_HISTORY") {
        return (!path.is_empty()).then(|| PathBuf::from(path));
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state.or_else(home).map(|state| state.join("verity").join("sql_history"))
}

/// A command of the shell, an empty line, or text whose last statement ends in a semicolon.
pub fn is_complete(text: &str) -> bool {
    let trimmed = text.trim();
    if trimmed.is_empty() || trimmed.starts_with('.') {
        return true;
    }
    let mut ended = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek()) {
            ('\'' | '"', _) => {
                // A doubled quote closes and opens again, which is the same.
                if !characters.any(|other| other == character) {
                    return false;
                }
                ended = false;
            }
            ('-', Some('-')) => {
                for other in characters.by_ref() {
                    if other == '\n' {
                        break;
                    }
                }
            }
            ('/', Some('*')) => {
                characters.next();
                let mut depth = 1;
                while depth > 0 {
                    match (characters.next(), characters.peek()) {
                        (Some('*'), Some('/')) => {
                            characters.next();
                            depth -= 1;
                        }
                        (Some('/'), Some('*')) => {
                            characters.next();
                            depth += 1;
                        }
                        (Some(_), _) => {}
                        (None, _) => return false,
                    }
                }
            }
            (';', _) => ended = true,
            (other, _) if other.is_whitespace() => {}
            _ => ended = false,
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::is_complete;

    #[test]
    fn a_statement_ends_with_a_semicolon_outside_of_quotes_and_comments() {
        for text in [
            "",
            "  ",
            ".help",
            "SELECT 1;",
            "SELECT 1;  ",
            "SELECT ';'; -- done",
            "SELECT 'it''s';",
            "SELECT 1; /* a /* b */ c */",
            "SELECT \"a;b\" FROM t;\n",
        ] {
            assert!(is_complete(text), "{text}");
        }
        for text in [
            "SELECT 1",
            "SELECT ';",
            "SELECT '; '",
            "SELECT 1 -- ;",
            "SELECT 1; SELECT 2",
            "SELECT 1 /* ; */",
            "SELECT 1; /* open",
            "SELECT \"a;",
        ] {
            assert!(!is_complete(text), "{text}");
        }
    }
}
