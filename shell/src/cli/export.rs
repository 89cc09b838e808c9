//! `verity export`, and `verity verify` of what it wrote: a tenant's log as one file that proves
//! itself.
//!
//! Exit code of a verification 0: the log is the one that was signed for; 1: it is not; 2: it could
//! not be told.

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::Path;

use serde_json::json;
use verity::proof::{
    Checkpoint, LOG_MAGIC, LogStart, Policy, ProofFile, ProofOf, QueryKind, Reject, SignedHeads,
    VerifiedLog,
};
use verity::verify::Progress;
use verity::{Position, TenantId};

use super::args::{ExportArgs, Global, VerifyArgs};
use super::prove::{cosigned, pin, policy_of, write};
use super::verify::Bar;
use super::{Failure, Outcome, Output};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

pub fn run(args: &ExportArgs, global: &Global, output: &Output) -> Outcome {
    let tenant = TenantId::new(args.tenant);
    let database = global.options().create(false).open(&args.data)?;
    // Any proof has the head; the cluster's own log needs no more than its note.
    let of_tenant = if tenant == TenantId::SYSTEM { TenantId::DEFAULT } else { tenant };
    let handle = database.tenant(of_tenant);
    let of = ProofOf::Query(QueryKind::Event { position: Position::ZERO });
    let prove = |since| handle.prove_of(of.clone(), since);
    let proved = cosigned(prove, args.since, &args.witness);
    drop(handle);
    // The last checkpoint brings every record to its segment.
    database.close()?;
    let proved = proved??;
    let policy = Policy::parse(&proved.policy).map_err(Failure::failed)?;
    let heads = SignedHeads::read(&proved.file, &policy).map_err(Failure::failed)?;
    let proof = ProofFile::decode(&proved.file).map_err(Failure::failed)?;
    let (head, size, root) = match heads.tenant {
        Some((of, head)) if of == tenant => (Some(proof.head), head.size, head.root),
        Some(_) | None => (None, heads.size, heads.root),
    };
    let start = LogStart { tenant, head, note: proof.note };
    let mut progress = Bar::new(output);
    let mut out = BufWriter::with_capacity(CHUNK, create(&args.out)?);
    let written = verity::export::export(&args.data, &start, size, &root, &mut progress, &mut out);
    progress.finish();
    if let Err(error) = written {
        // Half a log is none.
        let _gone_already = std::fs::remove_file(&args.out);
        return Err(Failure::failed(error));
    }
    if let Some(path) = &args.policy_out {
        write(path, proved.policy.as_bytes())?;
    }
    output.object(&json!({
        "file": args.out.display().to_string(),
        "tenant": tenant.get(),
        "records": size,
        "root": root.to_string(),
        "policy": proved.policy,
    }));
    output.line(format!("ok: {size} records of tenant {tenant} in {}", args.out.display()));
    if args.policy_out.is_none() {
        output.line("It holds for whoever believes this policy (give it to them another way):");
        output.line(proved.policy.trim_end());
    }
    Ok(())
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

/// Is it an exported log? What cannot be read is told by whoever reads it next.
pub fn is_log(path: &Path) -> bool {
    let mut magic = [0; LOG_MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *LOG_MAGIC
}

pub fn check(path: &Path, args: &VerifyArgs, output: &Output) -> Outcome {
    if args.asked.is_given() {
        return Err(Failure::cannot_tell(
            "a log answers no query: leave --sql, --event, --id away",
        ));
    }
    let policy = policy_of(args)?;
    let started = std::time::Instant::now();
    match judge(path, policy, TenantId::new(args.tenant), output)? {
        Ok((log, bytes)) => {
            let seconds = started.elapsed().as_secs_f64();
            tell(&log, bytes, seconds, output);
            let SignedHeads { origin, size, root, .. } = log.heads;
            pin(args, Checkpoint { origin, size, root })
        }
        Err(reject) => {
            output.object(&json!({ "verdict": "refused", "reason": reject.to_string() }));
            output.note(&format!("refused: {reject}"));
            Err(Failure::Told(1))
        }
    }
}

/// The outer error: the file cannot be read.
fn judge(
    path: &Path,
    policy: Policy,
    tenant: TenantId,
    output: &Output,
) -> Result<Result<(VerifiedLog, u64), Reject>, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::cannot_tell(format!("cannot read {}: {error}", path.display()))
    };
    let mut file = File::open(path).map_err(cannot)?;
    let mut progress = Bar::new(output);
    progress.part("log", file.metadata().map_err(cannot)?.len());
    let bytes = file.metadata().map_err(cannot)?.len();
    let verdict = verity::export::verify(&mut file, policy, tenant, &mut progress);
    progress.finish();
    Ok(verdict.map_err(cannot)?.map(|log| (log, bytes)))
}

fn tell(log: &VerifiedLog, bytes: u64, seconds: f64, output: &Output) {
    let heads = &log.heads;
    output.object(&json!({
        "verdict": if heads.fresh { "valid" } else { "valid_not_fresh" },
        "tenant": log.tenant.get(),
        "records": log.records,
        "log_root": log.log_root.to_string(),
        "chain_hash": log.chain.to_string(),
        "attested_ns": heads.attested_ns,
        "origin": heads.origin,
        "size": heads.size,
        "root": heads.root.to_string(),
        "cosigners": heads.cosigners.iter().map(|(name, time_s)| {
            json!({ "name": name, "time_s": time_s })
        }).collect::<Vec<_>>(),
        "bytes": bytes,
        "seconds": seconds,
    }));
    output.line(format!(
        "{}: all {} records of the log of tenant {}, root {}",
        output.green(if heads.fresh { "valid" } else { "valid, not fresh" }),
        log.records,
        log.tenant,
        log.log_root
    ));
    output.line(format!("   in a head of {} records of {}", heads.size, heads.origin));
    for (name, time_s) in &heads.cosigners {
        output.line(format!("   cosigned by {name} at {time_s} s after 1970"));
    }
    output.line(format!("   {bytes} bytes in {seconds:.2} s"));
}
