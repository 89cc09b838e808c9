//! `vopr --replay FILE`: whether what a failure file describes still fails, and the same way.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::FailureFile;
use crate::signature::Signature;

/// A run takes seconds; this long it takes only when it hangs.
const SECONDS_MAX: u64 = 600;

/// 0: it holds; 1: it fails; 2: there is nothing to run.
pub fn run(path: &Path, json: bool) -> ExitCode {
    let file = match FailureFile::read(path, crate::knows_bug) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("vopr: {}: {error}", path.display());
            return ExitCode::from(2);
        }
    };
    let verdict = file.run.spec().map_err(|error| error.to_string()).and_then(|spec| {
        spec.run(Duration::from_secs(SECONDS_MAX)).map_err(|error| error.to_string())
    });
    let verdict = match verdict {
        Ok(verdict) => verdict,
        Err(why) => {
            eprintln!("vopr: {}: {why}", path.display());
            return ExitCode::from(2);
        }
    };
    let signature = Signature::of(&verdict);
    print(&file, &verdict, signature.as_ref(), json);
    if signature.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print(file: &FailureFile, verdict: &Value, signature: Option<&Signature>, json: bool) {
    let expected = Signature::read(file.signature.clone());
    let same = signature == Some(&expected);
    let same_trace = verdict["trace_hash"].as_str() == Some(&file.trace_hash);
    if json {
        let value = json!({
            "fails": signature.is_some(),
            "same_signature": same,
            "same_trace": same_trace,
            "signature": signature.map(Signature::text),
            "expected": expected.text(),
            "failure": verdict["failure"],
            "trace_hash": verdict["trace_hash"],
            "seed": file.run.seed,
        });
        println!("{value}");
        return;
    }
    let trace = if same_trace { "the same trace" } else { "another trace" };
    match signature {
        None => println!("holds: seed {} does not fail any more ({trace})", file.run.seed),
        Some(_) if same => println!("FAILS the same way, {trace}: {}", verdict["failure"]),
        Some(other) => println!(
            "FAILS in another way, {trace}: {}\nexpected: {}",
            other.text(),
            expected.text()
        ),
    }
}
