//! A log as one file: whole, or refused with a reason.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::proving::{COSIGNED_S, note, note_of, policy, prove, world};
use super::rig::*;
use crate::crypto::{ChainHash, Frontier};
use crate::ids::{Position, TenantId};
use crate::limits::EXPORT_START_SIZE_MAX;
use crate::log::LogPins;
use crate::proof::{
    CanonicalQuery, Freshness, LogStart, LogVerifier, Policy, QueryKind, Reject, Seen, SignedHeads,
    VerifiedLog,
};
use crate::store::Pins;

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

fn check(
    policy: &Policy,
    tenant: TenantId,
    file: &[u8],
    chunk: usize,
) -> Result<VerifiedLog, Reject> {
    let mut verifier = LogVerifier::new(policy.clone(), tenant);
    let (mut chain, mut tree) = LogVerifier::apart(policy.clone(), tenant);
    for bytes in file.chunks(chunk) {
        let pushed = verifier.push(bytes);
        assert_eq!(pushed, chain.push(bytes));
        pushed?;
        tree.extend(&chain.take_leaves());
    }
    let verdict = verifier.finish();
    assert_eq!(verdict, chain.finish_with(&tree), "a tree apart comes to the same verdict");
    verdict
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
            let log = check(&policy, tenant, &file, chunk).unwrap();
            assert_eq!((log.tenant, log.records), (tenant, records.len() as u64));
        }
        let refused = |file: &[u8]| {
            let verdict = check(&policy, tenant, file, 4096);
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
            let (this, that) = (tenants[one], tenants[other]);
            assert!(check(&policy, this, &whole(start, others), 64).is_err(), "{one} {other}");
            let renamed = LogStart { tenant: that, ..start.clone() };
            assert!(check(&policy, that, &whole(&renamed, records), 64).is_err());
            assert!(check(&policy, that, &whole(&renamed, others), 64).is_err());
            // Whole, and not the one that was asked for.
            assert_eq!(
                check(&policy, that, &whole(start, records), 64),
                Err(Reject::AnotherTenant { tenant: this })
            );
        }
    }
    // A tenant's log under the cluster's bare note, and the cluster's under a tenant's head.
    let bare = LogStart { head: None, ..logs[0].0.clone() };
    assert!(check(&policy, T1, &whole(&bare, &logs[0].1), 64).is_err());
    let dressed = LogStart { head: logs[0].0.head.clone(), ..logs[1].0.clone() };
    assert!(check(&policy, TenantId::SYSTEM, &whole(&dressed, &logs[1].1), 64).is_err());
}

/// A head of before, under the note of now, holds; who wants the newest is told that it is none.
#[test]
fn a_log_says_if_its_head_is_the_newest_and_how_old() {
    let (mut rig, _) = world(Memory::Ample, 8);
    let (old, records) = exported(&mut rig, T1);
    rig.request(&request(vec![insert_rows("other", &[(7, "z", 7)])])).unwrap();
    rig.attest();
    let mut policy = policy(&rig);
    let (new, more) = exported(&mut rig, T1);
    assert!(more.len() > records.len());
    let log = check(&policy, T1, &whole(&new, &more), 4096).unwrap();
    assert!(log.heads.fresh);
    let attested_ns = new.head.as_ref().unwrap().record.timestamp_ns();
    assert_eq!(log.heads.attested_ns, Some(attested_ns));
    assert_eq!(log.heads.cosigners.iter().map(|(_, at)| *at).max(), Some(COSIGNED_S));
    // The same record, in the log of now.
    let mut head = old.head.unwrap();
    let size = rig.kernel.attestation().unwrap().size;
    head.inclusion = loop {
        let log = rig.kernel.log_head(&rig.store, &rig.logs, TenantId::SYSTEM).unwrap();
        let at = head.record.position();
        match rig.logs.inclusion(TenantId::SYSTEM, &log, at, size) {
            Ok(inclusion) => break inclusion,
            Err(_) => rig.fetch_both(&mut Pins::new(), &mut LogPins::default()),
        }
    };
    let older = LogStart { head: Some(head), ..new.clone() };
    let file = whole(&older, &records);
    let log = check(&policy, T1, &file, 4096).unwrap();
    assert!(!log.heads.fresh);
    assert!(log.heads.attested_ns < Some(attested_ns));
    assert!(!SignedHeads::read(&file, &policy).unwrap().fresh);
    let (cluster, records) = exported(&mut rig, TenantId::SYSTEM);
    let logs = [(T1, whole(&new, &more)), (TenantId::SYSTEM, whole(&cluster, &records))];
    for (age_max_s, fresh) in [(9, false), (10, true)] {
        policy.fresh_within = Some(Freshness { now_s: COSIGNED_S + 10, age_max_s });
        for (tenant, file) in &logs {
            assert_eq!(check(&policy, *tenant, file, 4096).unwrap().heads.fresh, fresh);
            assert_eq!(SignedHeads::read(file, &policy).unwrap().fresh, fresh);
        }
    }
}

/// A log of these sizes of data, of the cluster, and the roots after each record.
fn cluster_log(sizes: impl Iterator<Item = usize>) -> (Vec<Vec<u8>>, Vec<ChainHash>) {
    let (mut frontier, mut chain) = (Frontier::new(), ChainHash::ZERO);
    let (mut records, mut roots) = (vec![], vec![frontier.root()]);
    for (at, size) in (0_u64..).zip(sizes) {
        let mut record = vec![0; 138 + size];
        record[..8].copy_from_slice(&at.to_le_bytes());
        for (bound, from) in [(at, 40), (at, 48)] {
            record[from..from + 8].copy_from_slice(&u64::to_le_bytes(bound));
        }
        record[134..138].copy_from_slice(&(size as u32).to_le_bytes());
        chain = ChainHash::of(&[&chain.0, &record]);
        frontier.push(&chain);
        roots.push(frontier.root());
        records.push(record);
    }
    (records, roots)
}

/// The tree is made in batches: at their ends, before and after, the root is that of RFC 6962.
#[test]
fn logs_of_any_length_come_to_their_root_and_to_that_of_any_older_size() {
    let (rig, _) = world(Memory::Ample, 8);
    let mut policy = policy(&rig);
    let (records, roots) = cluster_log((0..200).map(|at| at % 9));
    for count in [1, 2, 63, 64, 65, 127, 128, 129, 200] {
        let note = note_of(&rig, count as u64, roots[count]);
        let start = LogStart { tenant: TenantId::SYSTEM, head: None, note };
        let file = whole(&start, &records[..count]);
        for seen in [0, 1, 2, 62, 63, 64, 65, 66, 127, 128, 129, 199, 200] {
            policy.seen = Some(Seen { size: seen as u64, root: roots[seen] });
            let verdict = check(&policy, TenantId::SYSTEM, &file, 4096);
            assert_eq!(verdict.is_ok(), seen <= count, "{count} records, {seen} seen");
            policy.seen =
                Some(Seen { size: seen as u64, root: roots[seen.checked_sub(1).unwrap_or(1)] });
            let verdict = check(&policy, TenantId::SYSTEM, &file, 4096);
            assert_eq!(verdict.is_ok(), seen == 0, "{count} records, another {seen} seen");
        }
        policy.seen = None;
        let mut lie = file.clone();
        let last = lie.len() - 1;
        lie[last] ^= 1;
        assert!(check(&policy, TenantId::SYSTEM, &lie, 4096).is_err());
    }
}

/// Sealed data are never empty; a verdict on such a record would be one on how bytes came.
#[test]
fn records_without_data_are_judged_alike_however_they_come() {
    let (rig, _) = world(Memory::Ample, 8);
    let policy = policy(&rig);
    for sizes in [&[5, 0][..], &[0, 0, 7, 0], &[0], &[0, 3]] {
        let (records, roots) = cluster_log(sizes.iter().copied());
        let note = note_of(&rig, sizes.len() as u64, roots[sizes.len()]);
        let start = LogStart { tenant: TenantId::SYSTEM, head: None, note };
        let file = whole(&start, &records);
        for chunk in 1..=file.len() {
            let log = check(&policy, TenantId::SYSTEM, &file, chunk);
            assert_eq!(log.map(|log| log.records), Ok(sizes.len() as u64), "{sizes:?} {chunk}");
            let short = &file[..file.len() - 1];
            assert!(check(&policy, TenantId::SYSTEM, short, chunk).is_err());
        }
    }
}

/// What was not signed yet is not kept either.
#[test]
fn a_start_is_refused_for_its_length_alone() {
    let (rig, _) = world(Memory::Ample, 8);
    let mut verifier = LogVerifier::new(policy(&rig), T1);
    let mut file = b"verity log 1\n".to_vec();
    file.extend_from_slice(&(EXPORT_START_SIZE_MAX as u32 + 1).to_le_bytes());
    let size = EXPORT_START_SIZE_MAX + 1;
    assert_eq!(verifier.push(&file), Err(Reject::TooLarge { size }));
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
        assert!(check(&policy, TenantId::SYSTEM, &file, 4096).is_ok());
        policy.seen = Some(Seen { size, root: chain });
        assert_eq!(
            check(&policy, TenantId::SYSTEM, &file, 4096),
            Err(Reject::Fork { seen: size, size: records.len() as u64 })
        );
    }
    let size = frontier.size() + 1;
    policy.seen = Some(Seen { size, root: frontier.root() });
    let rollback = Err(Reject::Rollback { seen: size, size: size - 1 });
    assert_eq!(check(&policy, TenantId::SYSTEM, &file, 4096), rollback);
    assert_eq!(SignedHeads::read(&file, &policy).map(|heads| heads.size), rollback.map(|_| 0));
}

/// What other implementations of the format are held against: `VERITY_BLESS=1` writes it. Each line
/// of `log_verdicts` makes another file of one (a bit turned, cut, or zeros behind it), or says
/// whose log is wanted.
#[test]
fn golden_logs_verify() {
    let (mut rig, _) = world(Memory::Ample, 12);
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/proofs");
    let text = std::fs::read_to_string(dir.join("policy")).unwrap();
    let policy = Policy::parse(&text).unwrap();
    let write = std::env::var_os("VERITY_BLESS").is_some();
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
        golden(&format!("{name}.log"), &file);
        for wanted in [0, 1, 2] {
            let verdict = check(&policy, TenantId::new(wanted), &file, 4096);
            assert_eq!(verdict.is_ok(), tenant.get() == wanted);
            let word = if verdict.is_ok() { "valid" } else { "refused" };
            verdicts += &format!("{name} tenant {wanted} {word}\n");
        }
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
            assert!(check(&policy, tenant, &lie, 4096).is_err(), "{name} {what} {at}");
            verdicts += &format!("{name} {what} {at} refused\n");
        }
    }
    golden("log_verdicts", verdicts.as_bytes());
}
