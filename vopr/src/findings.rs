//! What a campaign found: one entry for each signature, smaller than it was met, in a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::Arguments;
use crate::child::Spec;
use crate::failure::{FORMAT, FailureFile, Found, OverridesText, Run, ShrinkFacts};
use crate::output;
use crate::shrink::{Shrunk, shrink};
use crate::signature::Signature;

/// Distinct failures that are made smaller; of more than that the cause is likely one.
const SHRUNK_MAX: usize = 32;
/// Seeds of one signature that are named; all are counted.
const SEEDS_MAX: usize = 100;

/// Failures of one signature.
struct Finding {
    count: u64,
    seeds: Vec<u64>,
    /// The one that took least time.
    example: Value,
    file: PathBuf,
    shrunk: Option<Shrunk>,
    /// Whether shrinking was tried.
    tried: bool,
}

pub struct Findings {
    folder: PathBuf,
    by_signature: BTreeMap<Signature, Finding>,
}

impl Findings {
    pub fn new(folder: &Path) -> Findings {
        Findings { folder: folder.to_owned(), by_signature: BTreeMap::new() }
    }

    /// Takes the verdict of a run that failed. The first of its kind is written down at once: a
    /// campaign may be killed before it ends.
    pub fn add(&mut self, verdict: &Value, arguments: &Arguments) -> std::io::Result<()> {
        let Some(signature) = Signature::of(verdict) else { return Ok(()) };
        let seed = verdict["seed"].as_u64().unwrap_or(0);
        if let Some(finding) = self.by_signature.get_mut(&signature) {
            finding.count += 1;
            if finding.seeds.len() < SEEDS_MAX {
                finding.seeds.push(seed);
            }
            let seconds = |verdict: &Value| verdict["wall_seconds"].as_f64().unwrap_or(f64::MAX);
            if seconds(verdict) < seconds(&finding.example) {
                finding.example = verdict.clone();
                return write(finding, &signature, arguments);
            }
            return Ok(());
        }
        let finding = Finding {
            count: 1,
            seeds: vec![seed],
            example: verdict.clone(),
            file: self.folder.join(format!("{}.json", signature.hash_hex())),
            shrunk: None,
            tried: false,
        };
        std::fs::create_dir_all(&self.folder)?;
        let written = write(&finding, &signature, arguments);
        self.by_signature.insert(signature, finding);
        written
    }

    /// Makes each smaller, as many at a time as there may be workers.
    pub fn shrink_all(&mut self, arguments: &Arguments) -> std::io::Result<()> {
        let budget = Duration::from_secs(arguments.shrink_seconds);
        let next = AtomicUsize::new(0);
        let jobs = arguments.jobs as usize;
        let findings: Vec<_> = self.by_signature.iter_mut().take(SHRUNK_MAX).collect();
        let slots: Vec<Mutex<_>> = findings.into_iter().map(Mutex::new).collect();
        let errors = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..jobs.min(slots.len()) {
                scope.spawn(|| {
                    while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let Ok(mut slot) = slot.lock() else { continue };
                        let (signature, finding) = &mut *slot;
                        let spec = spec_of(&finding.example, arguments);
                        finding.tried = true;
                        finding.shrunk = shrink(&spec, signature, budget);
                        if let Err(error) = write(finding, signature, arguments)
                            && let Ok(mut errors) = errors.lock()
                        {
                            errors.push(error);
                        }
                    }
                });
            }
        });
        errors.into_inner().ok().and_then(|mut errors| errors.pop()).map_or(Ok(()), Err)
    }

    pub fn json(&self, arguments: &Arguments) -> Vec<Value> {
        let one = |(signature, finding): (&Signature, &Finding)| {
            let spec = final_spec(finding, arguments);
            json!({
                "signature": signature.text(),
                "hash": signature.hash_hex(),
                "count": finding.count,
                "seeds": finding.seeds,
                "failure": finding.example["failure"],
                "failure_kind": finding.example["failure_kind"],
                "example_seed": finding.example["seed"],
                "asked": finding.example["asked"],
                "file": finding.file.display().to_string(),
                "reproduced": finding.tried.then_some(finding.shrunk.is_some()),
                "shrunk": finding.shrunk.as_ref().map(|shrunk| json!({
                    "overrides": OverridesText::of(&shrunk.overrides),
                    "asked": shrunk.verdict["asked"],
                    "runs": shrunk.runs,
                    "seconds": shrunk.seconds,
                    "cut_off": shrunk.cut_off,
                })),
                "replay": output::replay_command_of(&spec),
            })
        };
        self.by_signature.iter().map(one).collect()
    }

    pub fn print(&self, arguments: &Arguments) {
        for (signature, finding) in &self.by_signature {
            println!("{} times: {}", finding.count, signature.text());
            println!("  seeds {:?}", &finding.seeds[..finding.seeds.len().min(10)]);
            match &finding.shrunk {
                Some(shrunk) => {
                    let end = if shrunk.cut_off { ", until the time was over" } else { "" };
                    let (runs, seconds) = (shrunk.runs, shrunk.seconds);
                    println!("  shrunk in {runs} runs, {seconds:.0} s{end}");
                }
                None if finding.tried => println!("  it did not fail again: not shrunk"),
                None => println!("  not shrunk: there are more than {SHRUNK_MAX} kinds"),
            }
            println!("  vopr --replay {}", finding.file.display());
            println!("  {}", output::replay_command_of(&final_spec(finding, arguments)));
        }
    }
}

fn spec_of(verdict: &Value, arguments: &Arguments) -> Spec {
    Spec::of(verdict["seed"].as_u64().unwrap_or(0), arguments)
}

fn final_spec(finding: &Finding, arguments: &Arguments) -> Spec {
    let mut spec = spec_of(&finding.example, arguments);
    if let Some(shrunk) = &finding.shrunk {
        spec.overrides = shrunk.overrides;
    }
    spec
}

fn write(finding: &Finding, signature: &Signature, arguments: &Arguments) -> std::io::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let spec = final_spec(finding, arguments);
    let verdict = finding.shrunk.as_ref().map_or(&finding.example, |shrunk| &shrunk.verdict);
    let file = FailureFile {
        verity_failure: FORMAT,
        version: crate::VERSION.to_owned(),
        world: verity_sim::world_hash_hex(),
        commit: output::commit().unwrap_or("unknown").to_owned(),
        run: Run::of(&spec),
        signature: signature.text().to_owned(),
        failure: text(&verdict["failure"]),
        trace_hash: text(&verdict["trace_hash"]),
        found: Found {
            overrides: OverridesText::of(&arguments.overrides()),
            trace_hash: text(&finding.example["trace_hash"]),
            requests: finding.example["asked"].as_u64(),
        },
        shrunk: finding.shrunk.as_ref().map(|shrunk| ShrinkFacts {
            runs: shrunk.runs,
            seconds: shrunk.seconds,
            requests: shrunk.verdict["asked"].as_u64(),
            cut_off: shrunk.cut_off,
        }),
    };
    let mut bytes = serde_json::to_vec_pretty(&file)?;
    bytes.push(b'\n');
    std::fs::write(&finding.file, bytes)
}
