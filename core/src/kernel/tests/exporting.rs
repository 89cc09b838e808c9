//! A log as one file: whole, or refused with a reason.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::proving::{note, policy, prove, world};
use super::rig::*;
use crate::crypto::{ChainHash, Frontier};
use crate::ids::{Position, TenantId};
use crate::proof::{
    CanonicalQuery, LogStart, LogVerifier, Policy, QueryKind, Reject, Seen, SignedHeads,
    VerifiedLog,
};

/// The start, and each record.
fn exported(rig: &mut Rig, tenant: TenantId) -> (LogStart, Vec<Vec<u8>>) {
    let (head, size) = if tenant == TenantId::SYSTEM {
        (None, rig.kernel.attestation().unwrap().size)
    } else {
        let kind = QueryKind::Event { position: Position::ZERO };
        let proof = prove(rig, &CanonicalQuery { tenant, kind }).unwrap();
        let heads = SignedHeads::read(&proof.encode(), &policy(rig)).unwrap();
        let (of, head) = heads.tenant.unwrap();
        assert_eq!(of, tenant);
        (Some(proof.head), head.size)
    };
    let start = LogStart { tenant, head, note: note(rig) };
    let records = (0..size).map(|at| {
        let record = rig.event(tenant, Position::new(at)).record;
        [record.metadata.encode().as_slice(), &record.data].concat()
    });
    (start, records.collect())
}

fn check(policy: &Policy, file: &[u8], chunk: usize) -> Result<VerifiedLog, Reject> {
    let mut verifier = LogVerifier::new(policy.clone());
    for bytes in file.chunks(chunk) {
        verifier.push(bytes)?;
    }
    verifier.finish()
}

fn whole(start: &LogStart, records: &[Vec<u8>]) -> Vec<u8> {
    [start.encode(), records.concat()].concat()
}

#[test]
fn an_exported_log_is_whole_or_refused() {
    let (mut rig, _) = world(Memory::Ample, 8);
    let policy = policy(&rig);
    for tenant in [T1, TenantId::SYSTEM, TenantId::new(2)] {
        let (start, records) = exported(&mut rig, tenant);
        let file = whole(&start, &records);
        for chunk in [1, 7, 139, 4096, file.len()] {
            let log = check(&policy, &file, chunk).unwrap();
            assert_eq!((log.tenant, log.records), (tenant, records.len() as u64));
        }
        let refused = |file: &[u8]| {
            let verdict = check(&policy, file, 4096);
            assert!(verdict.is_err(), "{verdict:?}");
        };
        for at in (0..file.len()).step_by(29) {
            let mut lie = file.clone();
            lie[at] ^= 1 << (at % 8);
            refused(&lie);
            refused(&file[..at]);
        }
        refused(&[file.as_slice(), &[0]].concat());
        refused(&[file.as_slice(), &records[0]].concat());
        for at in 0..records.len() {
            let mut lie = records.clone();
            let gone = lie.remove(at);
            refused(&whole(&start, &lie));
            if records.len() > 1 {
                lie.insert((at + 1) % records.len(), gone.clone());
                refused(&whole(&start, &lie));
            }
            lie = records.clone();
            lie.insert(at, gone);
            refused(&whole(&start, &lie));
        }
    }
}

#[test]
fn another_logs_records_or_head_are_refused() {
    let (mut rig, _) = world(Memory::Ample, 8);
    let policy = policy(&rig);
    let tenants = [T1, TenantId::SYSTEM, TenantId::new(2)];
    let logs: Vec<_> = tenants.iter().map(|tenant| exported(&mut rig, *tenant)).collect();
    for (one, (start, records)) in logs.iter().enumerate() {
        for (other, (_, others)) in logs.iter().enumerate().filter(|(other, _)| *other != one) {
            assert!(check(&policy, &whole(start, others), 64).is_err(), "{one} {other}");
            let renamed = LogStart { tenant: tenants[other], ..start.clone() };
            assert!(check(&policy, &whole(&renamed, records), 64).is_err());
            assert!(check(&policy, &whole(&renamed, others), 64).is_err());
        }
    }
    // A tenant's log under the cluster's bare note, and the cluster's under a tenant's head.
    let bare = LogStart { head: None, ..logs[0].0.clone() };
    assert!(check(&policy, &whole(&bare, &logs[0].1), 64).is_err());
    let dressed = LogStart { head: logs[0].0.head.clone(), ..logs[1].0.clone() };
    assert!(check(&policy, &whole(&dressed, &logs[1].1), 64).is_err());
}

#[test]
fn the_clusters_log_must_have_passed_through_what_was_seen() {
    let (mut rig, _) = world(Memory::Ample, 8);
    let mut policy = policy(&rig);
    let (start, records) = exported(&mut rig, TenantId::SYSTEM);
    let file = whole(&start, &records);
    let mut frontier = Frontier::new();
    let mut chain = ChainHash::ZERO;
    for record in &records {
        chain = ChainHash::of(&[&chain.0, record]);
        frontier.push(&chain);
        let (size, root) = (frontier.size(), frontier.root());
        policy.seen = Some(Seen { size, root });
        assert!(check(&policy, &file, 4096).is_ok());
        policy.seen = Some(Seen { size, root: chain });
        assert_eq!(
            check(&policy, &file, 4096),
            Err(Reject::Fork { seen: size, size: records.len() as u64 })
        );
    }
    let size = frontier.size() + 1;
    policy.seen = Some(Seen { size, root: frontier.root() });
    let rollback = Err(Reject::Rollback { seen: size, size: size - 1 });
    assert_eq!(check(&policy, &file, 4096), rollback);
    assert_eq!(SignedHeads::read(&file, &policy).map(|heads| heads.size), rollback.map(|_| 0));
}

/// What other implementations of the format are held against: `VERITY_GOLDEN=1` writes it. Each line
/// of `log_verdicts` makes another file of one: a bit turned, cut, or zeros behind it.
#[test]
fn golden_logs_verify() {
    let (mut rig, _) = world(Memory::Ample, 12);
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/proofs");
    let text = std::fs::read_to_string(dir.join("policy")).unwrap();
    let policy = Policy::parse(&text).unwrap();
    let write = std::env::var_os("VERITY_GOLDEN").is_some();
    let golden = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        if write {
            std::fs::write(&path, bytes).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name} changed");
    };
    let (mut random, mut verdicts) = (1_u64, String::new());
    for (name, tenant) in [("one", T1), ("two", TenantId::new(2)), ("cluster", TenantId::SYSTEM)] {
        let (start, records) = exported(&mut rig, tenant);
        let file = whole(&start, &records);
        assert!(check(&policy, &file, 4096).is_ok());
        golden(&format!("{name}.log"), &file);
        for round in 0..80 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            let at = (random >> 20) as usize;
            let (what, at, lie) = match round % 4 {
                0 => ("cut", at % file.len(), file[..at % file.len()].to_vec()),
                1 => ("more", 1 + at % 200, [&file[..], &vec![0; 1 + at % 200]].concat()),
                _ => {
                    let bit = at % (8 * file.len());
                    let mut lie = file.clone();
                    lie[bit / 8] ^= 1 << (bit % 8);
                    ("bit", bit, lie)
                }
            };
            assert!(check(&policy, &lie, 4096).is_err(), "{name} {what} {at}");
            verdicts += &format!("{name} {what} {at} refused\n");
        }
    }
    golden("log_verdicts", verdicts.as_bytes());
}
