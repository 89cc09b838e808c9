//! Other people's histories, with other people's verdicts: ours are the same.
//!
//! They lie in `linearizability` of the corpora.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "../../tests/corpora.rs"]
mod corpora;
#[path = "corpora/edn.rs"]
mod edn;
#[path = "corpora/read.rs"]
mod read;

use std::path::Path;
use std::time::{Duration, Instant};

use corpora::corpus;
use verity_linear::models::{Register, RegisterOp, Text};
use verity_linear::{Limits, Operation, Verdict, by_key, check, check_keys};

/// Names of files, in order, and what is in them.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

/// What was found of one folder.
#[derive(Default)]
struct Tally {
    linearizable: u32,
    not: u32,
    could_not_tell: Vec<String>,
    without_verdict: u32,
    slowest: (Duration, String),
    took: Duration,
}

impl Tally {
    /// Checks one history, which somebody said is linearizable, or is not.
    fn check(&mut self, name: &str, expected: Option<bool>, check: impl FnOnce() -> Verdict) {
        let begun = Instant::now();
        let verdict = check();
        let took = begun.elapsed();
        self.took += took;
        self.slowest = std::mem::take(&mut self.slowest).max((took, name.to_string()));
        let found = match verdict {
            Verdict::Linearizable => true,
            Verdict::NotLinearizable(_) => false,
            Verdict::CouldNotTell => return self.could_not_tell.push(name.to_string()),
        };
        match expected {
            Some(expected) => assert_eq!(found, expected, "{name}: {verdict:?}"),
            None => self.without_verdict += 1,
        }
        *(if found { &mut self.linearizable } else { &mut self.not }) += 1;
    }

    fn told(&self, what: &str) -> [u32; 3] {
        println!(
            "{what}: {} linearizable, {} not, could not tell {:?}; {} of them without a verdict to \
             compare; {:.3} s, the slowest {:?}",
            self.linearizable,
            self.not,
            self.could_not_tell,
            self.without_verdict,
            self.took.as_secs_f64(),
            self.slowest
        );
        [self.linearizable, self.not, self.could_not_tell.len() as u32]
    }
}

#[test]
fn jepsen_of_etcd() {
    let Some(folder) = corpus("linearizability/porcupine") else { return };
    let verdicts = std::fs::read_to_string(folder.join("jepsen_verdicts.json")).unwrap();
    let verdicts: serde_json::Value = serde_json::from_str(&verdicts).unwrap();
    let mut tally = Tally::default();
    for (name, text) in files(&folder.join("test_data/jepsen")) {
        let history = read::jepsen_log(&text);
        let check = || check(&Register::default(), &history, Limits::default());
        tally.check(&name, verdicts[&name].as_bool(), check);
    }
    // One of the 103 has no verdict.
    assert_eq!(tally.told("etcd"), [24, 79, 0]);
    assert_eq!(tally.without_verdict, 1);
}

#[test]
fn texts_by_key() {
    let Some(folder) = corpus("linearizability/porcupine/test_data/kv") else { return };
    let mut tally = Tally::default();
    for (name, text) in files(&folder) {
        let keys = by_key(read::texts(&text));
        let check = || check_keys(&Text, &keys, Limits::default()).0;
        tally.check(&name, Some(name.ends_with("-ok.txt")), check);
    }
    assert_eq!(tally.told("texts"), [3, 3, 0]);
}

#[test]
fn knossos() {
    let Some(folder) = corpus("linearizability/knossos/data") else { return };
    let mut tally = Tally::default();
    for (verdict, expected) in [("good", true), ("bad", false)] {
        for (name, text) in files(&folder.join("cas-register").join(verdict)) {
            let history = read::cas_register(&edn::parse(&text));
            let check = || check(&Register::default(), &history, Limits::default());
            tally.check(&name, Some(expected), check);
        }
    }
    for (name, text) in files(&folder.join("multi-register/good")) {
        let (model, history) = read::registers(&edn::parse(&text));
        tally.check(&name, Some(true), || check(&model, &history, Limits::default()));
    }
    assert_eq!(tally.told("knossos"), [57, 4, 0]);
}

/// A checker that says yes to everything would pass half of the above: each good history with one
/// read of it made stale is refused.
#[test]
fn a_stale_read_is_refused() {
    let Some(folder) = corpus("linearizability/knossos/data/cas-register/good") else { return };
    let mut refused = 0;
    for (name, text) in files(&folder) {
        let mut history = read::cas_register(&edn::parse(&text));
        let never = |operation: &Operation<RegisterOp>| {
            operation.returned.is_some() && matches!(operation.op, RegisterOp::Read(Some(_)))
        };
        // As if the last read had been answered by somebody who knows nothing yet. That nothing is
        // read again once something was is so in any history of these.
        let Some(last) = history.iter().rposition(never) else { continue };
        let seen = history[..last].iter().any(|before| {
            before.returned.is_some_and(|returned| returned < history[last].invoked)
                && matches!(before.op, RegisterOp::Write(_) | RegisterOp::Read(Some(_)))
        });
        if !seen {
            continue;
        }
        history[last].op = RegisterOp::Read(None);
        let verdict = check(&Register::default(), &history, Limits::default());
        assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{name}: {verdict:?}");
        refused += 1;
    }
    println!("{refused} histories with a stale read were refused");
    assert!(refused >= 40, "{refused}");
}
