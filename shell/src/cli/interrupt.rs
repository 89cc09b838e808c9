//! SIGINT and SIGTERM: a last checkpoint, a clear line, and the exit code that shells expect.
//!
//! Invariants: nothing that was acknowledged needs this (a kill loses nothing); it only spares the
//! next open its replay and says what happened. A second signal ends the process at once. What the
//! command says of its work is whole: a step has [`STEP_MAX`] to come to its end, an answer that is
//! being written [`WORDS_MAX`].

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use verity::Verity;

/// What the command works on. Signals belong to the process, so this does, too.
static WATCHED: Mutex<Option<Watched>> = Mutex::new(None);
static HANDLER: Once = Once::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The command has said all that it had to say.
static ENDED: AtomicBool = AtomicBool::new(false);
/// Answers that are being written.
static SPEAKING: AtomicUsize = AtomicUsize::new(0);

/// How long a command that works in steps may take to end when it is told to.
const STEP_MAX: Duration = Duration::from_secs(10);
/// How long an answer that has begun may take to its end: nobody may be reading it.
const WORDS_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(2);

struct Watched {
    database: Option<Verity>,
    /// The command asks [`is_interrupted`] between its steps, and ends by itself.
    in_steps: bool,
}

/// Until the guard is dropped a signal closes what is watched, then ends the process.
#[must_use]
pub struct Watch(());

impl Drop for Watch {
    fn drop(&mut self) {
        watched().take();
    }
}

/// A signal closes the database, whatever the command is doing.
pub fn watch(database: &Verity) -> Watch {
    begin(Watched { database: Some(database.clone()), in_steps: false })
}

/// For commands that ask [`is_interrupted`] between steps.
pub fn watch_steps() -> Watch {
    begin(Watched { database: None, in_steps: true })
}

impl Watch {
    /// A signal closes this one, too; `None`: whoever works with it does, from now on.
    pub fn closes(&self, database: Option<&Verity>) {
        if let Some(watched) = &mut *watched() {
            watched.database = database.cloned();
        }
    }
}

fn begin(what: Watched) -> Watch {
    *watched() = Some(what);
    HANDLER.call_once(|| match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => {
            std::thread::spawn(move || serve(signals));
        }
        Err(error) => tracing::warn!("signals are not handled: {error}"),
    });
    Watch(())
}

pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A signal is being served: what else is to be said would only confuse, and the process is about
/// to end.
pub fn wait_if_interrupted() {
    while is_interrupted() {
        ENDED.store(true, Ordering::SeqCst);
        std::thread::park();
    }
}

/// While it lives, an answer is being written.
#[derive(Debug)]
pub struct Speaking(());

impl Speaking {
    pub fn begin() -> Speaking {
        SPEAKING.fetch_add(1, Ordering::SeqCst);
        Speaking(())
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        SPEAKING.fetch_sub(1, Ordering::SeqCst);
    }
}

fn watched() -> std::sync::MutexGuard<'static, Option<Watched>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether or not anybody listens: the checkpoint is taken all the same.
fn say(what: &str) {
    let _nobody_listens = writeln!(std::io::stderr(), "{what}");
}

fn wait_until(holds: impl Fn() -> bool, longest: Duration) {
    let end = Instant::now() + longest;
    while !holds() && Instant::now() < end {
        std::thread::sleep(LOOK_EVERY);
    }
}

fn serve(mut signals: Signals) {
    let mut closing = false;
    let pending = signals.forever();
    for signal in pending {
        let code = 128 + signal;
        let watched = watched().take();
        let Some(watched) = watched.filter(|_| !closing) else { std::process::exit(code) };
        closing = true;
        INTERRUPTED.store(true, Ordering::SeqCst);
        let name = if signal == SIGINT { "interrupted" } else { "told to end" };
        let what = match &watched.database {
            Some(_) => "taking a last checkpoint",
            None => "ending with the step that is being done",
        };
        say(&format!("{name}: {what} (once more to end at once)"));
        std::thread::spawn(move || {
            end(watched);
            std::process::exit(code);
        });
    }
}

fn end(watched: Watched) {
    if watched.in_steps {
        wait_until(|| ENDED.load(Ordering::SeqCst), STEP_MAX);
    }
    let Some(database) = watched.database else { return };
    let said = match database.close() {
        Ok(()) => "closed: all that was acknowledged is on disk".to_string(),
        Err(error) => format!("closed without a last checkpoint: {error}"),
    };
    say(&said);
    wait_until(|| SPEAKING.load(Ordering::SeqCst) == 0, WORDS_MAX);
}
