//! The README: its snippet is the code that runs here, its commands are run one after the other.

#[path = "readme_snippet.rs"]
mod snippet;

use crate::run::{Run, command};

const README: &str = include_str!("../../../README.md");

#[test]
fn the_snippet_is_what_runs_here() {
    let (_header, code) = include_str!("readme_snippet.rs").split_once("\n\n").unwrap();
    assert!(
        README.contains(&format!("```rust\n{code}```")),
        "copy readme_snippet.rs into the README"
    );
    let dir = tempfile::tempdir().unwrap();
    snippet::remember(dir.path().join("data").to_str().unwrap()).unwrap();
}

#[test]
fn the_commands_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("people.csv"), "id,name\n1,Ada\n2,Zo\u{eb}\n").unwrap();
    let mut ran = 0;
    for line in README.split("```sh\n").skip(1).flat_map(|text| {
        text.split("```").next().unwrap().lines().map(str::to_string).collect::<Vec<_>>()
    }) {
        let line = line.split(" # ").next().unwrap().trim().to_string();
        let line = line.replace("cargo run --release -p verity -- ", "verity ");
        let Some(arguments) = line.strip_prefix("verity ") else {
            // What runs this test cannot be run by it.
            assert_eq!(line, "cargo x ci", "a command of the README that nothing runs");
            continue;
        };
        let run = command().args(words(arguments)).current_dir(dir.path()).output().unwrap();
        let run = Run::new(run).ok();
        if line.contains("COUNT(*)") {
            assert!(run.stdout.lines().any(|line| line.trim() == "2"), "{run:#?}");
        }
        ran += 1;
    }
    assert_eq!(ran, 4, "demo, import, sql and verify");
}

/// As a shell would cut it, quotes and all.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            c => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}
