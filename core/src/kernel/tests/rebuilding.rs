//! State is a function of records alone: whatever the memory, the batching and the op boundaries.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use super::rig::*;
use crate::crypto::InternalHash;
use crate::ids::TenantId;
use crate::kernel::{ExpectedVersion, Operation, PrepareKind, RebuildError, RebuildStall, Request};
use crate::limits::ClusterConstants;

/// A stream of numbers that is the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % limit
    }
}

/// What a request of the work does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Insert,
    Append,
    Update,
    Delete,
    Several,
    /// It changes and removes rows, and fails at its end, always.
    Refused,
    CreateIndex,
    DropIndex,
    AddColumn,
}

impl Kind {
    fn changes_schema(self) -> bool {
        matches!(self, CreateIndex | DropIndex | AddColumn)
    }
}

use Kind::{AddColumn, Append, CreateIndex, Delete, DropIndex, Insert, Refused, Several, Update};

/// Random work for one tenant: inserts that clash now and then, appends, updates and deletes by key
/// and by condition, transactions of several statements, some of which fail at their end, indexes
/// made (over few rows at once, over more as a job) and dropped, columns added; ids used again.
fn work(seed: u64, count: usize) -> Vec<(Kind, Request)> {
    const KINDS: [Kind; 17] = [
        Insert,
        Insert,
        Insert,
        Insert,
        Insert,
        Insert,
        Append,
        Append,
        Update,
        Update,
        Update,
        Delete,
        Several,
        Refused,
        CreateIndex,
        CreateIndex,
        AddColumn,
    ];
    let mut numbers = Numbers(seed);
    let (mut indexes, mut columns) = (0, 0);
    (0..count)
        .map(|at| {
            let mut kind = KINDS[numbers.below(KINDS.len() as u64) as usize];
            // Not at once, so that there are rows; and one is dropped before the next two.
            let enough = (kind == CreateIndex && indexes > 8) || (kind == AddColumn && columns > 5);
            if matches!(kind, CreateIndex | AddColumn) && (at < 10 || enough) {
                kind = Insert;
            }
            if kind == CreateIndex && indexes % 3 == 2 {
                kind = DropIndex;
            }
            let operations = match kind {
                Insert => (0..=numbers.below(2)).map(|_| inserted(&mut numbers)).collect(),
                Append => vec![Operation::Append {
                    stream: format!("s{}", numbers.below(5)),
                    expected: ExpectedVersion::Any,
                    records: vec![vec![numbers.below(255) as u8; numbers.below(2_000) as usize]],
                }],
                Update => vec![sql(updated(&mut numbers))],
                Delete => vec![sql(deleted(&mut numbers))],
                Several => vec![
                    sql(format!("{}; {}", updated(&mut numbers), deleted(&mut numbers))),
                    inserted(&mut numbers),
                    sql(updated(&mut numbers)),
                ],
                Refused => {
                    let twice = "INSERT INTO people (id, name) VALUES (9000, 'a'), (9000, 'b')";
                    let before = (updated(&mut numbers), deleted(&mut numbers));
                    vec![sql(format!("{}; {}; {twice}", before.0, before.1))]
                }
                CreateIndex => {
                    indexes += 1;
                    let of = ["(age)", "(name, age)", "(age, id)"][numbers.below(3) as usize];
                    vec![sql(format!("CREATE INDEX i{indexes} ON people {of}"))]
                }
                DropIndex => {
                    indexes += 1;
                    vec![sql(format!("DROP INDEX i{}", indexes - 1 - numbers.below(2)))]
                }
                AddColumn => {
                    columns += 1;
                    let of = ["BIGINT DEFAULT 7", "TEXT DEFAULT 'was here'", "BIGINT"];
                    let of = of[numbers.below(3) as usize];
                    vec![sql(format!("ALTER TABLE people ADD COLUMN c{columns} {of}"))]
                }
            };
            let idempotency = match numbers.below(3) {
                _ if kind.changes_schema() => crate::ids::IdempotencyId::NONE,
                0 => crate::ids::IdempotencyId::NONE,
                _ => id(NOW_MS + 1_000_000, numbers.below(60) as u8),
            };
            (kind, Request { idempotency, ..request(operations) })
        })
        .collect()
}

fn sql(text: String) -> Operation {
    Operation::Sql { text, params: vec![] }
}

fn inserted(numbers: &mut Numbers) -> Operation {
    let name = "n".repeat(300);
    let rows: Vec<(i64, &str, i64)> = (0..=numbers.below(20))
        .map(|_| {
            let size = numbers.below(300) as usize;
            (numbers.below(5_000) as i64, &name[..size], numbers.below(40) as i64)
        })
        .collect();
    insert_rows("people", &rows)
}

fn updated(numbers: &mut Numbers) -> String {
    let (from, age) = (numbers.below(5_000), numbers.below(40));
    match numbers.below(3) {
        0 => format!("UPDATE people SET age = {age} WHERE id >= {from} AND id < {}", from + 300),
        1 => format!("UPDATE people SET age = age + 1, name = name || 'x' WHERE age = {age}"),
        _ => format!("UPDATE people SET name = '{from}', age = NULL WHERE id < {}", from / 10),
    }
}

fn deleted(numbers: &mut Numbers) -> String {
    let (from, age) = (numbers.below(5_000), numbers.below(40));
    match numbers.below(2) {
        0 => format!("DELETE FROM people WHERE id >= {from} AND id < {}", from + 100),
        _ => format!("DELETE FROM people WHERE age = {age}"),
    }
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

/// Runs the work, one request an op, with checkpoints and slices of jobs; gives chain, digest,
/// what became of each kind of request, and stalls.
fn run(memory: Memory, seed: u64) -> (InternalHash, [u8; 32], Vec<(Kind, bool)>, u64) {
    let mut rig = opened(memory);
    let mut replies = Vec::new();
    let mut slices = 0;
    for (at, (kind, request)) in work(seed, 160).iter().enumerate() {
        replies.push((*kind, rig.request(request).is_ok()));
        if at % 2 == 0 {
            slices += u64::from(rig.job_slice());
        }
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
    assert!(slices > 5, "{slices} slices of jobs: no index was large");
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
        for kind in
            [Insert, Append, Update, Delete, Several, CreateIndex, DropIndex, AddColumn, Refused]
        {
            assert!(replies.contains(&(kind, kind != Refused)), "{kind:?}, seed {seed}");
        }
        assert!(!replies.contains(&(Refused, true)) && replies.contains(&(Insert, false)));
        for memory in [Memory::None, Memory::Random(seed), Memory::Random(seed + 77)] {
            let other = run(memory, seed);
            assert_eq!((digest, &replies), (other.0, &other.2), "{memory:?}, seed {seed}");
            assert!(other.3 > stalls, "evictions make faults: {} > {stalls}", other.3);
            assert_eq!(chain, other.1);
        }
    }
}

/// What a refusal says is remembered, in a record: that must not depend on where a fault stopped a
/// scan, nor may which of two reasons it is.
#[test]
fn memory_and_faults_change_no_refusal() {
    let refusals = |memory| {
        let constants =
            ClusterConstants { transaction_pages_read_max: 16, ..ClusterConstants::SMALL };
        let mut rig = Rig::with(memory, constants);
        let create = create_table(&rig.catalog(T1), "people", true);
        rig.commands(&[create]).unwrap();
        let create = create_table(&rig.catalog(T1), "wide", true);
        rig.commands(&[create]).unwrap();
        let (name, wide) = ("n".repeat(220), "w".repeat(1_000));
        for from in (0..1_000).step_by(100) {
            let rows: Vec<_> = (from..from + 100).map(|id| (id, name.as_str(), id)).collect();
            rig.request(&request(vec![insert_rows("people", &rows)])).unwrap();
        }
        // The hundredth and the last are the same, behind what may be scanned.
        let rows: Vec<_> = (0..120).map(|id| (id, wide.as_str(), id % 100)).collect();
        for rows in rows.chunks(20) {
            rig.request(&request(vec![insert_rows("wide", rows)])).unwrap();
        }
        rig.checkpoint();
        let texts = [
            "UPDATE people SET age = 1 WHERE name = 'a'",
            "DELETE FROM people WHERE 10 / (id - 400) > 100",
            "DELETE FROM people WHERE 10 / (id - 100) > 100",
            "CREATE UNIQUE INDEX by_age ON wide (age)",
        ];
        let mut told = Vec::new();
        for (at, text) in texts.into_iter().enumerate() {
            let idempotency = id(NOW_MS + 1_000_000, at as u8);
            let refused = Request { idempotency, ..request(vec![sql(text.to_string())]) };
            told.push(rig.request(&refused).unwrap_err().to_string());
        }
        (told, rig.head(T1).chain, rig.stalls)
    };
    let (told, chain, stalls) = refusals(Memory::Ample);
    assert!(told[0].contains("17 pages") && told[2].contains("zero"), "{told:?}");
    for memory in [Memory::None, Memory::Random(1), Memory::Random(2)] {
        let other = refusals(memory);
        assert!(other.2 > stalls, "evictions make faults");
        assert_eq!((&told, chain), (&other.0, other.1), "{memory:?}");
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

/// Records hold op and time, so op boundaries change the log; neither rows nor answers may change.
#[test]
fn op_boundaries_change_no_row() {
    let requests = work(9, 120);
    let mut seen = Vec::new();
    for batch in [1, 7, 120] {
        let mut rig = opened(Memory::None);
        let mut outcomes = Vec::new();
        let mut rest = requests.as_slice();
        while !rest.is_empty() {
            // What is sealed before a table changes is refused behind that (40001), to be sent
            // again: here it comes in the next op at once.
            let schema = rest.iter().position(|(kind, _)| kind.changes_schema());
            let (now, later) = rest.split_at(batch.min(schema.map_or(rest.len(), |at| at + 1)));
            rest = later;
            let sealed: Vec<_> = now.iter().map(|(_, request)| rig.prepare(request)).collect();
            let good: Vec<_> = sealed.iter().flatten().cloned().collect();
            let replies = if good.is_empty() { Vec::new() } else { rig.batch(&good) };
            let mut replies = replies.into_iter();
            for ((kind, _), sealed) in now.iter().zip(sealed) {
                let reply = match sealed {
                    Ok(_) => replies.next().unwrap(),
                    Err(answer) => *answer,
                };
                let refused = reply.err().map(|error| error.to_string());
                outcomes.push((*kind, refused));
            }
            rig.job_slice();
        }
        rig.finish_jobs();
        let report = rig.rebuild().unwrap();
        assert_eq!(report.difference, None);
        seen.push((rig.rows("people"), outcomes));
    }
    let (rows, outcomes) = &seen[0];
    assert!(rows.len() > 100);
    assert!(
        outcomes.iter().filter(|(kind, why)| kind.changes_schema() && why.is_none()).count() > 3
    );
    for (other, others) in &seen[1..] {
        assert_eq!(outcomes, others);
        assert_eq!(rows, other);
    }
}

/// Every crash point between two checkpoints: the same log, the same state.
#[test]
fn replay_from_a_checkpoint_is_live_again() {
    for memory in [Memory::Ample, Memory::Random(5)] {
        let (mut calm, mut crashing) = (opened(memory), opened(memory));
        calm.checkpoint();
        crashing.checkpoint();
        for (at, (_, request)) in work(3, 120).iter().enumerate() {
            assert_eq!(calm.request(request).is_ok(), crashing.request(request).is_ok());
            assert_eq!(calm.job_slice(), crashing.job_slice());
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
