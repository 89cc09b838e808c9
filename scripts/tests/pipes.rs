//! A reader that goes away ends a tool quietly.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::process::{Command, Stdio};

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    for arguments in [&["zoo", "--list", "--json"][..], &["zoo", "--list"]] {
        // Gone before the tool begins: what it says would fit the pipe.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = Command::new(env!("CARGO_BIN_EXE_verity-scripts"))
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(141), "{words}");
        assert_eq!(words, "");
    }
}
