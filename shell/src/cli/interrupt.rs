//! SIGINT and SIGTERM: a last checkpoint, a clear line, and the exit code that shells expect.
//!
//! Invariants: nothing that was acknowledged needs this (a kill loses nothing); it only spares the
//! next open its replay and says what happened. A second signal ends the process at once.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use verity::Verity;

/// The database that the command works on. Signals belong to the process, so this does, too.
static WATCHED: Mutex<Option<Verity>> = Mutex::new(None);
static HANDLER: Once = Once::new();
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Until the guard is dropped a signal closes this database, then ends the process.
#[must_use]
pub struct Watch(());

impl Drop for Watch {
    fn drop(&mut self) {
        watched().take();
    }
}

pub fn watch(database: &Verity) -> Watch {
    *watched() = Some(database.clone());
    HANDLER.call_once(|| match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => {
            std::thread::spawn(move || serve(signals));
        }
        Err(error) => tracing::warn!("signals are not handled: {error}"),
    });
    Watch(())
}

/// A signal is being served: what else is to be said would only confuse, and the process is about
/// to end.
pub fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

fn watched() -> std::sync::MutexGuard<'static, Option<Verity>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether or not anybody listens: the checkpoint is taken all the same.
fn say(what: &str) {
    let _nobody_listens = writeln!(std::io::stderr(), "{what}");
}

fn serve(mut signals: Signals) {
    let mut closing = false;
    let pending = signals.forever();
    for signal in pending {
        let code = 128 + signal;
        let database = watched().take();
        let Some(database) = database.filter(|_| !closing) else { std::process::exit(code) };
        closing = true;
        INTERRUPTED.store(true, Ordering::SeqCst);
        let name = if signal == SIGINT { "interrupted" } else { "told to end" };
        say(&format!("{name}: taking a last checkpoint (once more to end at once)"));
        std::thread::spawn(move || {
            let said = match database.close() {
                Ok(()) => "closed: all that was acknowledged is on disk".to_string(),
                Err(error) => format!("closed without a last checkpoint: {error}"),
            };
            say(&said);
            std::process::exit(code);
        });
    }
}
