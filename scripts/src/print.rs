//! Standard output and standard error of tools whose reader may go away (`… | head`).
//!
//! Invariant: nobody who stops reading makes a tool panic: it ends as a signal would end it, with
//! exit code 141. `vopr` and `verity-model` include this file, too; within a unit test the macros
//! are those of the standard library, whose output the test runner keeps.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

#[cfg(not(test))]
macro_rules! println {
    () => { $crate::print::line(format_args!("")) };
    ($($text:tt)*) => { $crate::print::line(format_args!($($text)*)) };
}

#[cfg(not(test))]
#[allow(unused_macros, reason = "not every tool has something to say there")]
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::print::error_line(format_args!($($text)*)) };
}

#[cfg_attr(test, allow(dead_code, reason = "the macros of the standard library print"))]
pub fn line(text: Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.write_all(b"\n")) else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(141);
    }
    error_line(format_args!("standard output: {error}"));
    std::process::exit(2);
}

/// What nobody hears is not said; the work goes on.
pub fn error_line(text: Arguments<'_>) {
    let mut stderr = std::io::stderr().lock();
    let _nobody_listens = stderr.write_fmt(text).and_then(|()| stderr.write_all(b"\n"));
}
