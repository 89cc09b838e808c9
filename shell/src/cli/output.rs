//! Where a command's words go: JSON lines or text on standard output, errors on standard error.
//!
//! Invariant: a reader that goes away (`verity … | head`) ends the command quietly, as it does for
//! other tools, with exit code 141; nothing here panics.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::Serialize;

use super::interrupt::Speaking;

#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    color: bool,
}

impl Output {
    #[must_use]
    pub fn new(json: bool) -> Output {
        let color = !json
            && std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Output { json, color }
    }

    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A line for people; nothing with `--json`.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            write_line(text.as_ref());
        }
    }

    /// One object, only with `--json`.
    pub fn object(&self, value: &impl Serialize) {
        if self.json {
            match serde_json::to_string(value) {
                Ok(text) => write_line(&text),
                Err(error) => self.error(&format!("cannot print as JSON: {error}")),
            }
        }
    }

    /// To standard error, whatever the format of the answer.
    pub fn error(&self, message: &str) {
        let _nobody_listens = writeln!(std::io::stderr(), "error: {message}");
        if self.json {
            self.object(&serde_json::json!({ "error": message }));
        }
    }

    /// As [`Output::error`], with the code for programs.
    pub fn coded_error(&self, sqlstate: &str, message: &str) {
        let _nobody_listens = writeln!(std::io::stderr(), "error: {message}");
        self.object(&serde_json::json!({ "error": message, "sqlstate": sqlstate }));
    }

    /// For many lines: they go out together, when there are enough of them.
    #[must_use]
    pub fn sink(&self) -> Sink {
        Sink { bytes: Vec::new(), flushed: Instant::now(), _until_flushed: Speaking::begin() }
    }

    pub fn note(&self, message: &str) {
        let _nobody_listens = writeln!(std::io::stderr(), "{message}");
    }

    #[must_use]
    pub fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    #[must_use]
    pub fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    #[must_use]
    pub fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    #[must_use]
    pub fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// A progress bar on a terminal; silent elsewhere.
    #[must_use]
    pub fn progress(&self, total: u64, unit: &str, message: &str) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(
            Some(total),
            if self.json || !std::io::stderr().is_terminal() {
                ProgressDrawTarget::hidden()
            } else {
                ProgressDrawTarget::stderr_with_hz(10)
            },
        );
        let template = match (unit, total) {
            ("bytes", _) => {
                "{msg:16} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}".to_string()
            }
            // Nobody knows how much there is.
            (unit, 0) => format!("{{msg}} {{human_pos}} {unit} {{rate}}"),
            (unit, _) => {
                let counts = format!("{{human_pos}}/{{human_len}} {unit} {{rate}}");
                format!("{{msg:16}} {{wide_bar}} {counts} eta {{eta}}")
            }
        };
        let style = ProgressStyle::with_template(&template);
        if let Ok(style) = style {
            // The `per_sec` of the library shows fractions of a row.
            let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _cannot_fail = write!(out, "{}/s", HumanCount(state.per_sec() as u64));
            };
            bar.set_style(style.with_key("rate", rate));
        }
        // Before the first draw.
        bar.set_message(message.to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Bytes for standard output that are not written one by one. Dropped, it writes what is left.
#[derive(Debug)]
pub struct Sink {
    bytes: Vec<u8>,
    flushed: Instant,
    _until_flushed: Speaking,
}

/// So much goes out at once.
const SINK_BYTES: usize = 64 << 10;
/// What waits for more is shown after so long.
const SINK_TIME: Duration = Duration::from_millis(50);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= SINK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    /// As with all output of a command, a failure ends the process.
    fn flush(&mut self) -> std::io::Result<()> {
        if !self.bytes.is_empty() {
            write_out(&[&self.bytes]);
            self.bytes.clear();
        }
        self.flushed = Instant::now();
        Ok(())
    }
}

impl Sink {
    pub fn line(&mut self, text: &str) {
        self.text(text);
        self.text("\n");
    }

    pub fn text(&mut self, text: &str) {
        let Ok(()) = self.write_all(text.as_bytes()) else { unreachable!("failure ends it") };
    }

    pub fn json(&mut self, value: &impl Serialize) {
        if let Err(error) = serde_json::to_writer(&mut *self, value) {
            unreachable!("what a row holds is JSON, and failure to write ends it: {error}");
        }
    }

    /// What comes next may take its time.
    pub fn pause(&mut self) {
        if self.flushed.elapsed() >= SINK_TIME {
            let Ok(()) = self.flush() else { unreachable!("failure ends it") };
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let Ok(()) = self.flush() else { unreachable!("failure ends it") };
    }
}

fn write_line(text: &str) {
    write_out(&[text.as_bytes(), b"\n"]);
}

fn write_out(parts: &[&[u8]]) {
    let mut stdout = std::io::stdout().lock();
    let written = parts.iter().try_for_each(|part| stdout.write_all(part));
    if let Err(error) = written.and_then(|()| stdout.flush()) {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // As a signal would have it: 0 would say that what was not read was fine.
            remove_left_over();
            std::process::exit(141);
        }
        let _nobody_listens = writeln!(std::io::stderr(), "error: standard output: {error}");
        // Whoever asked was told nothing: neither that it holds nor that it does not.
        remove_left_over();
        std::process::exit(2);
    }
}

/// A directory that is nobody's once the process is gone.
static LEFT_OVER: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Goes away also when the reader of standard output does.
pub fn leave_nothing_in(directory: &Path) {
    *LEFT_OVER.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.to_path_buf());
}

pub fn remove_left_over() {
    let directory = LEFT_OVER.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(directory) = directory else { return };
    // A database may still be open in it, and make a file meanwhile.
    for _ in 0..REMOVE_TRIES {
        if std::fs::remove_dir_all(&directory).is_ok() || !directory.exists() {
            return;
        }
        std::thread::sleep(REMOVE_PAUSE);
    }
}

/// Left-overs in a temporary directory harm nobody: no longer than half a second.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);
