//! `verity verify`: does the data directory hold? Exit code 0 yes, 1 no, 2 could not tell.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use indicatif::ProgressBar;
use serde_json::json;
use verity::MasterKey;
use verity::proof::{Checkpoint, PROOF_SIZE_MAX, Reject, SignedHeads};
use verity::verify::{self as engine, Finding, Report, Severity, Verdict};

use super::args::{Global, VerifyArgs};
use super::prove::{pin, policy_of};
use super::{Failure, Outcome, Output};

/// Findings that are shown; the rest are counted.
const SHOWN_MAX: usize = 20;

pub fn run(args: &VerifyArgs, global: &Global, output: &Output) -> Outcome {
    let Some(data) = &args.data else {
        return Err(Failure::cannot_tell(
            "what is to be verified? A data directory (--data DIR) or a proof (FILE)",
        ));
    };
    if args.policy.is_some() && args.head.is_none() {
        return Err(Failure::cannot_tell(
            "what was signed? Give --head FILE: a proof, an exported log, or a signed note",
        ));
    }
    let signed = args.head.as_ref().map(|path| signed(path, args)).transpose()?;
    let signed = match signed {
        Some(Err(reject)) => {
            let reason = format!("the head is refused: {reject}");
            output.object(&json!({ "verdict": "refused", "reason": reason }));
            output.note(&reason);
            return Err(Failure::Told(1));
        }
        Some(Ok(signed)) => Some(signed),
        None => None,
    };
    let checked = check_signed(data, signed.as_ref(), global, output)?;
    output.object(&checked.to_json(data));
    checked.tell(output);
    match (checked.report.verdict(), signed) {
        (Verdict::Holds, Some(signed)) => {
            let SignedHeads { origin, size, root, .. } = signed;
            pin(args, Checkpoint { origin, size, root })
        }
        (verdict, _) => exit(verdict),
    }
}

/// The head that the directory is held against. The inner error: nobody one believes signed it.
/// Of an exported log, however long, only the beginning is read.
fn signed(path: &Path, args: &VerifyArgs) -> Result<Result<SignedHeads, Reject>, Failure> {
    let policy = policy_of(args)?;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PROOF_SIZE_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            Failure::cannot_tell(format!("cannot read {}: {error}", path.display()))
        })?;
    Ok(SignedHeads::read(&bytes, &policy))
}

/// A report and how long it took.
pub struct Checked {
    report: Report,
    /// Of the head that it was held against.
    head_fresh: Option<bool>,
    seconds: f64,
}

/// Checks a directory; shows progress on a terminal.
pub fn check(data: &Path, global: &Global, output: &Output) -> Result<Checked, Failure> {
    check_signed(data, None, global, output)
}

fn check_signed(
    data: &Path,
    signed: Option<&SignedHeads>,
    global: &Global,
    output: &Output,
) -> Result<Checked, Failure> {
    let started = std::time::Instant::now();
    let master_key = MasterKey::load(&global.master_key(), data);
    let mut progress = Bar::new(output);
    let report = engine::check_signed(data, master_key, signed, &mut progress)
        .map_err(Failure::cannot_tell)?;
    progress.finish();
    let head_fresh = signed.map(|signed| signed.fresh);
    Ok(Checked { report, head_fresh, seconds: started.elapsed().as_secs_f64() })
}

/// A bar of bytes, or of records, part after part.
pub struct Bar {
    output: Output,
    shown: Option<ProgressBar>,
}

impl Bar {
    pub fn new(output: &Output) -> Bar {
        Bar { output: *output, shown: None }
    }

    pub fn finish(&mut self) {
        if let Some(bar) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}

impl engine::Progress for Bar {
    fn part(&mut self, name: &str, total: u64) {
        self.finish();
        let unit = if name == engine::RECORDS { name } else { "bytes" };
        self.shown = Some(self.output.progress(total, unit, name));
    }

    fn bytes(&mut self, count: u64) {
        if let Some(bar) = &self.shown {
            bar.inc(count);
        }
    }
}

impl Checked {
    pub fn holds(&self) -> bool {
        self.report.verdict() == Verdict::Holds
    }

    /// For people.
    pub fn tell(&self, output: &Output) {
        let report = &self.report;
        for log in &report.logs {
            output.line(format!(
                "   log of tenant {}: {} records, {} checkpoint records, root {}…",
                log.tenant,
                log.records,
                log.checkpoint_records,
                &log.root[..16],
            ));
        }
        if self.head_fresh == Some(false) {
            output.line("   the head is valid, not fresh");
        }
        for (tenant, size) in &report.signed {
            output.line(format!("   signed for: log of tenant {tenant}, up to {size} records"));
        }
        for tenant in &report.signed_states {
            output.line(format!("   signed for: state of tenant {tenant}, every page of it"));
        }
        tell_findings(report, output);
        let seconds = self.seconds;
        let amount = format!(
            "{} records, {} pages, {} prepares checked in {seconds:.2} s",
            report.records(),
            report.pages,
            report.prepares,
        );
        output.line(match report.verdict() {
            Verdict::Holds => format!("   {}: {amount}", output.green("holds")),
            Verdict::Broken => format!("   {}: {amount}", output.red("broken")),
            Verdict::CouldNotTell => format!("   {}: {amount}", output.bold("could not tell")),
        });
    }

    pub fn to_json(&self, data: &Path) -> serde_json::Value {
        let report = &self.report;
        let logs: Vec<_> = report
            .logs
            .iter()
            .map(|log| {
                json!({
                    "tenant": log.tenant.get(),
                    "records": log.records,
                    "segments": log.segments,
                    "bytes": log.bytes,
                    "checkpoint_records": log.checkpoint_records,
                    "chain_hash": log.chain,
                    "tree_root": log.root,
                })
            })
            .collect();
        json!({
            "data": data.display().to_string(),
            "verdict": verdict(report),
            "checkpoint_op": report.checkpoint().map(|op| op.get()),
            "records": report.records(),
            "pages": report.pages,
            "prepares": report.prepares,
            "logs": logs,
            "head_fresh": self.head_fresh,
            "signed": report.signed.iter().map(|(tenant, size)| {
                json!({ "tenant": tenant.get(), "records": size })
            }).collect::<Vec<_>>(),
            "signed_states": report.signed_states.iter().map(|tenant| tenant.get())
                .collect::<Vec<_>>(),
            "findings": findings(report),
            "seconds": self.seconds,
        })
    }
}

pub fn verdict(report: &Report) -> &'static str {
    match report.verdict() {
        Verdict::Holds => "holds",
        Verdict::Broken => "broken",
        Verdict::CouldNotTell => "could_not_tell",
    }
}

pub fn exit(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Holds => Ok(()),
        Verdict::Broken => Err(Failure::Told(1)),
        Verdict::CouldNotTell => Err(Failure::Told(2)),
    }
}

pub fn findings(report: &Report) -> Vec<serde_json::Value> {
    let of = |finding: &Finding| {
        json!({
            "severity": match finding.severity {
                Severity::Note => "note",
                Severity::Unknown => "unknown",
                Severity::Damage => "damage",
            },
            "part": finding.part,
            "tenant": finding.place.map(|(tenant, _)| tenant.get()),
            "position": finding.place.map(|(_, position)| position.get()),
            "reason": finding.what,
        })
    };
    report.findings.iter().map(of).collect()
}

/// For people: the first of them, and how many more there are.
pub fn tell_findings(report: &Report, output: &Output) {
    for (shown, finding) in report.findings.iter().enumerate() {
        if shown == SHOWN_MAX {
            output.line(format!("   … and {} more", report.findings.len() - shown));
            break;
        }
        let label = match finding.severity {
            Severity::Note => output.dim("note"),
            Severity::Unknown => output.bold("unknown"),
            Severity::Damage => output.red("damage"),
        };
        output.line(format!("   {label}  {finding}"));
    }
}
