//! State is a function of records alone: whatever the memory, the batching and the op boundaries.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::crypto::InternalHash;
use crate::ids::TenantId;
use crate::kernel::{
    ExpectedVersion, Operation, PrepareKind, RebuildError, RebuildStall, Request, SealedRequest,
};

/// A stream of numbers that is the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

/// Random work for one tenant: inserts that clash now and then, appends, ids used again.
fn work(seed: u64, count: usize) -> Vec<Request> {
    let mut numbers = Numbers(seed);
    let name = "n".repeat(300);
    (0..count)
        .map(|_| {
            let mut operations = Vec::new();
            for _ in 0..=numbers.below(2) {
                operations.push(if numbers.below(3) == 0 {
                    Operation::Append {
                        stream: alloc::format!("s{}", numbers.below(5)),
                        expected: ExpectedVersion::Any,
                        records: vec![vec![
                            numbers.below(255) as u8;
                            numbers.below(2_000) as usize
                        ]],
                    }
                } else {
                    let rows: Vec<(i64, &str, i64)> = (0..=numbers.below(20))
                        .map(|_| {
                            let size = numbers.below(300) as usize;
                            (numbers.below(5_000) as i64, &name[..size], 1)
                        })
                        .collect();
                    insert_rows("people", &rows)
                });
            }
            let idempotency = match numbers.below(3) {
                0 => crate::ids::IdempotencyId::NONE,
                _ => id(NOW_MS + 1_000_000, numbers.below(60) as u8),
            };
            Request { idempotency, ..request(operations) }
        })
        .collect()
}

fn opened(memory: Memory) -> Rig {
    let mut rig = Rig::new(memory);
    let create = create_table(&rig.catalog(T1), "people", true);
    rig.commands(&[create]).unwrap();
    let t2 = TenantId::new(2);
    let create = Operation::CreateTenant { tenant: t2, kek_hash: HASH };
    rig.request(&Request { tenant: TenantId::SYSTEM, ..request(vec![create]) }).unwrap();
    let append = Operation::Append {
        stream: "s".to_string(),
        expected: ExpectedVersion::None,
        records: vec![b"other tenant".to_vec()],
    };
    rig.request(&Request { tenant: t2, ..request(vec![append]) }).unwrap();
    rig
}

/// Runs the work, one request an op, with checkpoints; gives chain, digest and replies.
fn run(memory: Memory, seed: u64) -> (InternalHash, [u8; 32], Vec<bool>, u64) {
    let mut rig = opened(memory);
    let mut replies = Vec::new();
    for (at, request) in work(seed, 120).iter().enumerate() {
        replies.push(rig.request(request).is_ok());
        if at % 25 == 24 {
            rig.checkpoint();
        }
        if at % 50 == 49 {
            rig.recover();
        }
        if at % 40 == 20 {
            rig.attest();
        }
    }
    rig.attest();
    let report = rig.rebuild().unwrap();
    assert_eq!(report.difference, None);
    assert_eq!(report.roots.len(), 3);
    for (tenant, root) in &report.roots {
        assert_eq!(rig.state_root(*tenant), *root, "rebuilt state root of {tenant}");
    }
    let chain = rig.head(T1).chain.0;
    (report.digest, chain, replies, rig.stalls)
}

#[test]
fn memory_and_faults_change_nothing() {
    for seed in 1..4 {
        let (digest, chain, replies, stalls) = run(Memory::Ample, seed);
        assert!(replies.iter().any(|ok| *ok) && replies.iter().any(|ok| !*ok));
        for memory in [Memory::None, Memory::Random(seed), Memory::Random(seed + 77)] {
            let other = run(memory, seed);
            assert_eq!((digest, &replies), (other.0, &other.2), "{memory:?}, seed {seed}");
            assert!(other.3 > stalls, "evictions make faults: {} > {stalls}", other.3);
            assert_eq!(chain, other.1);
        }
    }
}

/// What is attested is what is: heads of logs, and states that a rebuild comes to.
#[test]
fn an_attestation_puts_heads_and_states_on_the_record() {
    use crate::kernel::Payload;
    use crate::kernel::trees::{ATTESTED_TREE, AttestedHead, tenant_key};
    for memory in [Memory::Ample, Memory::None] {
        let mut rig = opened(memory);
        let reply = rig.attest();
        assert_eq!(reply.rows_affected(), 2, "two tenants have news");
        let (root, head) = (rig.state_root(T1), rig.head(T1));
        let known = |rig: &mut Rig| {
            let value = rig
                .read(|store| Ok(store.get(ATTESTED_TREE, &tenant_key(T1))?.map(|v| v.to_vec())));
            AttestedHead::of_value(&value.unwrap())
        };
        let attested = known(&mut rig);
        assert_eq!((attested.size, attested.chain), (head.next.get(), head.chain));
        assert_eq!((attested.root, attested.state), (head.frontier.root(), root));
        // Its last record is the last leaf of the head to sign, and holds the system's state root.
        let attestation = *rig.kernel.attestation().unwrap();
        let system = rig.head(TenantId::SYSTEM);
        assert_eq!(
            (attestation.size, attestation.root),
            (system.next.get(), system.frontier.root())
        );
        assert_eq!(Some(attestation.record), system.last());
        let event = rig.event(TenantId::SYSTEM, attestation.record);
        let Ok((Payload::Checkpoint(record), None)) = event.payload() else { panic!() };
        let state = record.state_root.unwrap();
        assert_eq!(state.root, rig.state_root(TenantId::SYSTEM));
        assert_eq!(
            (state.position, Some(state.position)),
            (record.position, attestation.record.previous())
        );
        assert_eq!(rig.attest().rows_affected(), 0, "nothing is new");
        assert_eq!(known(&mut rig), attested);
        rig.request(&request(vec![insert_rows("people", &[(1, "a", 1)])])).unwrap();
        assert_eq!(rig.attest().rows_affected(), 1);
        assert_ne!(known(&mut rig).state, attested.state);
        assert_eq!(rig.state_root(T1), known(&mut rig).state);
        let report = rig.rebuild().unwrap();
        assert_eq!(report.difference, None);
        for (tenant, root) in &report.roots {
            assert_eq!(rig.state_root(*tenant), *root, "{tenant}");
        }
        // An outcome to remember would change what was attested.
        let idempotency = id(NOW_MS + 1_000_000, 1);
        let tenant = TenantId::SYSTEM;
        let refused = Request { tenant, idempotency, ..request(vec![Operation::Attest]) };
        assert!(rig.request(&refused).is_err());
    }
}

/// Records hold op and time, so op boundaries change the log; the rows must not change.
#[test]
fn op_boundaries_change_no_row() {
    let requests = work(9, 80);
    let mut rows = Vec::new();
    for batch in [1, 7, 80] {
        let mut rig = opened(Memory::None);
        let sealed: Vec<SealedRequest> =
            requests.iter().map(|request| rig.prepare(request).unwrap()).collect();
        for sealed in sealed.chunks(batch) {
            rig.batch(sealed);
        }
        let report = rig.rebuild().unwrap();
        assert_eq!(report.difference, None);
        rows.push(rig.rows("people"));
    }
    assert!(rows[0].len() > 100);
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
}

/// Every crash point between two checkpoints: the same log, the same state.
#[test]
fn replay_from_a_checkpoint_is_live_again() {
    for memory in [Memory::Ample, Memory::Random(5)] {
        let (mut calm, mut crashing) = (opened(memory), opened(memory));
        calm.checkpoint();
        crashing.checkpoint();
        for (at, request) in work(3, 90).iter().enumerate() {
            assert_eq!(calm.request(request).is_ok(), crashing.request(request).is_ok());
            match at % 10 {
                2 | 5 => crashing.crash(),
                7 => {
                    calm.checkpoint();
                    crashing.checkpoint();
                }
                9 => {
                    calm.recover();
                    crashing.recover();
                    crashing.crash();
                }
                _ => {}
            }
        }
        let head = |rig: &mut Rig, tenant| rig.head(tenant);
        for tenant in [TenantId::SYSTEM, T1, TenantId::new(2)] {
            let (calm, crashing) = (head(&mut calm, tenant), head(&mut crashing, tenant));
            assert_eq!((calm.next, calm.chain), (crashing.next, crashing.chain), "{tenant}");
        }
        let (calm, crashing) = (calm.rebuild().unwrap(), crashing.rebuild().unwrap());
        assert_eq!((&calm.difference, &crashing.difference), (&None, &None));
        assert_eq!(calm.digest, crashing.digest);
    }
}

#[test]
fn a_difference_is_named() {
    use crate::store::TreeRef;
    let mut rig = opened(Memory::Ample);
    rig.request(&request(vec![insert_rows("people", &[(1, "a", 1), (2, "b", 2)])])).unwrap();
    assert_eq!(rig.rebuild().unwrap().difference, None);
    // Someone wrote to a tree without a record.
    let schema = rig.catalog(T1).table_named("people").unwrap().clone();
    let tree = TreeRef::new(T1, schema.rows);
    let key = crate::query::key::encode_key(&schema, &[crate::query::Value::Integer(1)]).unwrap();
    assert!(rig.store.remove(tree, &key).is_ok_and(|removed| removed));
    let difference = rig.rebuild().unwrap().difference.unwrap();
    assert_eq!((difference.tenant, difference.tree), (T1, schema.rows));
    assert_eq!(difference.key, key);
    assert!(!difference.live && difference.rebuilt);
}

#[test]
fn a_key_of_another_tenant_opens_nothing() {
    let mut rig = opened(Memory::Ample);
    rig.request(&request(vec![insert_rows("people", &[(1, "a", 1)])])).unwrap();
    let wrong = TestKeys::new().0.remove(&TenantId::new(2)).unwrap();
    rig.keys.0.insert(T1, wrong);
    let stall = rig.rebuild().unwrap_err();
    assert!(matches!(stall, RebuildStall::Failed(RebuildError::Event(_))), "{stall:?}");
}

#[test]
fn an_outcome_survives_recovery_and_shutdown() {
    let mut rig = opened(Memory::None);
    let idempotency = id(NOW_MS + 1_000_000, 1);
    let insert = Request { idempotency, ..request(vec![insert_rows("people", &[(1, "a", 1)])]) };
    let first = rig.request(&insert).unwrap();
    rig.apply(PrepareKind::Shutdown, 0, &[]);
    rig.recover();
    assert_eq!(rig.kernel.generation().get(), 2);
    let again = rig.request(&insert).unwrap();
    assert_eq!((again.position, again.replayed), (first.position, true));
}
