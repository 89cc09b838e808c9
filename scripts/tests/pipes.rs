//! A reader that goes away ends a tool quietly.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::process::{Command, Stdio};

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    for arguments in [&["zoo", "--list", "--json"][..], &["zoo", "--list"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_verity-scripts"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(141), "{words}");
        assert_eq!(words, "");
    }
}
