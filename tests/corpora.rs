//! Where other people's test material lies: included by the tests of several crates.
//!
//! It is `../shared/corpora` beside the repository, or where `VERITY_CORPORA` says. Without it the
//! tests say so loudly and pass, but fail under CI.

use std::io::Write;
use std::path::{Path, PathBuf};

/// A part of the corpora, if it is there.
pub fn corpus(part: &str) -> Option<PathBuf> {
    // Of every crate that includes this: one folder below the repository.
    let root = std::env::var_os("VERITY_CORPORA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora"),
        PathBuf::from,
    );
    let path = root.join(part);
    if path.exists() {
        return Some(path);
    }
    let missing = format!("{} is not there; set VERITY_CORPORA", path.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    // Not by a macro: the runner keeps what those print of a test that passes.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _nobody_listens = writeln!(std::io::stderr(), "SKIPPED: {test}: {missing}");
    None
}
