//! Running a statement so that Ctrl-C ends the statement and not the shell.
//!
//! Invariant: a read is given up at the next slice, and what it pinned is free again. A write that
//! was sent cannot be called back: its outcome is waited for and told.

use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use verity::{Error, RowStream, SqlState, StreamOutcome, Value, Verity};

/// How long a wait lasts before the flag is looked at again: the signal wakes nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Set by Ctrl-C.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT sets the flag instead of ending the process.
    pub fn install() -> std::io::Result<Interrupt> {
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&flag))?;
        Ok(Interrupt(flag))
    }

    pub fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

/// How a statement ended, or began to give rows.
#[derive(Debug)]
pub enum Ended {
    Done(Box<StreamOutcome>),
    Failed(Error),
    Cancelled,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs one statement of either kind.
pub fn run(database: &Verity, sql: &str, interrupt: &Interrupt) -> Ended {
    interrupt.clear();
    let query = || match wait(database.query_stream_async(sql, &[]), || interrupt.take()) {
        Some(Ok(rows)) => Ended::Done(Box::new(StreamOutcome::Rows(rows))),
        Some(Err(error)) => Ended::Failed(error),
        None => Ended::Cancelled,
    };
    let statement = match database.prepare(sql) {
        Ok(statement) => statement,
        // Perhaps it was there at the position that AS OF names.
        Err(error) if error.sql().is_some_and(|sql| sql.code == SqlState::UndefinedTable) => {
            return query();
        }
        Err(error) => return Ended::Failed(error),
    };
    if statement.returns_rows() && statement.is_write() {
        return match database.run_stream(sql, &[]) {
            Ok(outcome) => Ended::Done(Box::new(outcome)),
            Err(error) => Ended::Failed(error),
        };
    }
    let is_write = statement.is_write();
    if !is_write {
        return query();
    }
    let told = || {
        if interrupt.take() {
            let words = "a write that was sent cannot be called back; waiting for its outcome";
            let _nobody_listens = writeln!(std::io::stderr(), "{words}");
        }
        false
    };
    match wait(database.execute_async(sql, &[]), told) {
        Some(Ok(reply)) => Ended::Done(Box::new(StreamOutcome::Committed(reply))),
        Some(Err(error)) => Ended::Failed(error),
        None => unreachable!("a write is not given up"),
    }
}

/// The next row; `Some(None)`: there are no more. `None`: Ctrl-C.
pub fn next_row(
    rows: &mut RowStream,
    interrupt: &Interrupt,
) -> Option<Option<Result<Vec<Value>, Error>>> {
    if interrupt.take() {
        return None;
    }
    if rows.at_hand() > 0 {
        return Some(rows.next());
    }
    wait(std::future::poll_fn(|context| rows.poll_next(context)), || interrupt.take())
}

/// Drives a future on this thread; None: `give_up` said so.
fn wait<F: Future>(future: F, mut give_up: impl FnMut() -> bool) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        if give_up() {
            return None;
        }
        std::thread::park_timeout(LOOK_AGAIN);
    }
}
