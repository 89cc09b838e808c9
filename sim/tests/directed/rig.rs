//! A formatted node with a table `t`, requests with ids, and what every test asks at the end.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use verity_core::crypto::KekHash;
use verity_core::ids::{ClusterId, IdempotencyId, PrincipalId, ReplicaId, TenantId};
use verity_core::kernel::{Operation, Reply, Request};
use verity_core::limits::ClusterConstants;
use verity_core::node::{CURRENT_RELEASE, FormatOptions};
use verity_core::query::Value;

use verity_sim::atlas::Atlas;
use verity_sim::disk::{Disk, DiskFaults, Keep};
use verity_sim::keys::MasterKey;
use verity_sim::random::Random;
use verity_sim::rebuild;
use verity_sim::replica::BootOptions;
use verity_sim::solo::Solo;

pub const WARM: BootOptions = BootOptions::new(1_024, false);
pub const COLD: BootOptions = BootOptions::new(160, true);

pub const KEEPS: [Keep; 3] = [Keep::Nothing, Keep::Any, Keep::Process];

/// Every sector that a crash has to decide on is torn, if it is kept at all.
pub const ALL_TORN: DiskFaults = DiskFaults { torn_at_crash_ppm: 1_000_000, ..DiskFaults::NONE };

pub fn opened(seed: u64) -> Solo {
    let random = Random::new(seed);
    let disk = Disk::new(random.stream("disk"), DiskFaults::NONE, Atlas::peaceful());
    let mut solo = Solo::new(disk, MasterKey::new(random.stream("master")));
    let options = FormatOptions {
        cluster: Some(ClusterId::new(7)),
        replica: ReplicaId::ZERO,
        replica_count: 1,
        release: CURRENT_RELEASE,
        constants: ClusterConstants { journal_ring_bytes: 4 << 20, ..ClusterConstants::SMALL },
    };
    solo.format(options, [1; 32]).unwrap();
    solo.open(WARM, [2; 32]).unwrap();
    solo
}

/// A node that was shut down with `rows` rows in `t`.
pub fn closed(seed: u64, rows: u64) -> Solo {
    let mut solo = opened(seed);
    fill(&mut solo, rows);
    solo.shutdown().unwrap();
    solo
}

/// The same disk once more, with other luck.
pub fn again(base: &Solo, luck: u64, faults: DiskFaults) -> Solo {
    Solo::new(base.disk.fork(Random::new(luck), faults), base.master.clone())
}

fn request(tenant: TenantId, operations: Vec<Operation>, id: u64) -> Request {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&id.to_be_bytes());
    Request {
        tenant,
        principal: PrincipalId::new(1),
        idempotency: IdempotencyId::new(1_800_000_000_000 + 3_600_000, random),
        after: None,
        operations,
    }
}

pub fn sql_of(tenant: TenantId, text: &str, params: Vec<Value>, id: u64) -> Request {
    request(tenant, vec![Operation::Sql { text: text.to_owned(), params }], id)
}

pub fn sql(text: &str, params: Vec<Value>, id: u64) -> Request {
    sql_of(TenantId::DEFAULT, text, params, id)
}

pub fn create_tenant(tenant: TenantId, id: u64) -> Request {
    // The node fills in the hash of the key it mints.
    let kek_hash = KekHash([0; 32]);
    request(TenantId::SYSTEM, vec![Operation::CreateTenant { tenant, kek_hash }], id)
}

pub fn run(solo: &mut Solo, text: &str, id: u64) -> Reply {
    solo.request(sql(text, Vec::new(), id)).unwrap().unwrap()
}

pub fn insert(row: u64) -> Request {
    sql(&format!("INSERT INTO t (k, v) VALUES ({row}, 'value {row}')"), Vec::new(), 1_000 + row)
}

pub fn fill(solo: &mut Solo, rows: u64) {
    run(solo, "CREATE TABLE t (k BIGINT, v TEXT, PRIMARY KEY (k))", 1);
    for row in 0..rows {
        solo.request(insert(row)).unwrap().unwrap();
    }
}

pub fn count(solo: &mut Solo) -> i64 {
    let (_, rows) = solo.query(TenantId::DEFAULT, "SELECT COUNT(*) FROM t", Vec::new()).unwrap();
    match rows[0][0] {
        Value::Integer(count) => count,
        ref other => panic!("a count is an integer, not {other:?}"),
    }
}

pub fn has(solo: &mut Solo, row: u64) -> bool {
    let text = format!("SELECT v FROM t WHERE k = {row}");
    solo.query(TenantId::DEFAULT, &text, Vec::new()).unwrap().1.len() == 1
}

/// Sends rows without waiting, lets `steps` completions happen, and tells which were acknowledged
/// and whether there was still something in flight.
pub fn insert_and_step(solo: &mut Solo, rows: &[u64], steps: u64) -> (Vec<u64>, bool) {
    let tickets: Vec<_> = rows.iter().map(|row| (*row, solo.send(insert(*row)))).collect();
    let mut done = 0;
    while done < steps && solo.halted().is_none() && solo.step() {
        done += 1;
    }
    let acknowledged = tickets
        .iter()
        .filter(|(_, ticket)| solo.reply(*ticket).is_some_and(Result::is_ok))
        .map(|(row, _)| *row)
        .collect();
    (acknowledged, done == steps)
}

/// The process is gone: a new one holds all that was acknowledged; everything sent again is there
/// exactly once; the log gives the same state.
pub fn recovers(solo: &mut Solo, options: BootOptions, before: u64, sent: &[u64], told: &[u64]) {
    solo.open(options, [9; 32]).unwrap();
    for row in (0..before).chain(told.iter().copied()) {
        assert!(has(solo, row), "row {row} was acknowledged");
    }
    for row in sent {
        solo.request(insert(*row)).unwrap().unwrap();
    }
    assert_eq!(count(solo), (before + sent.len() as u64) as i64);
    solo.shutdown().unwrap();
    let disk = solo.disk.fork(Random::new(0), DiskFaults::NONE);
    rebuild::check(disk, solo.master.clone()).unwrap();
}
