//! Tenants that are created while the cluster runs: every replica can apply, read and reopen what
//! their keys seal, whoever is killed.

use verity::{Client, TenantId, Value, Verity};

use super::away::{RING, RING_BYTES, fill as fill_bulk};
use super::processes::Cluster;

const ROWS: i64 = 200;

fn fill(client: &Client, from: i64, to: i64) {
    for id in from..to {
        client.execute("INSERT INTO t (id) VALUES (?)", &[Value::Integer(id)]).unwrap();
    }
}

/// Every replica alone answers with all rows.
fn read_everywhere(cluster: &Cluster, tenant: TenantId, rows: i64) {
    for address in cluster.addresses() {
        let reader = Verity::connect([&address]).unwrap().tenant(tenant).read_anywhere();
        let is_there = || {
            let count = reader.query("SELECT COUNT(*) FROM t", &[]);
            count.is_ok_and(|count| count.rows == [[Value::Integer(rows)]])
        };
        cluster.wait_until(&format!("{rows} rows of tenant {tenant} at {address}"), is_there);
    }
}

#[test]
fn a_new_tenant_is_everywhere_whoever_is_killed() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    let created = cluster.command(&["tenant", "create", "2", "--json"]).ok();
    assert_eq!(created.objects()[0]["tenant"].as_u64(), Some(2), "{created:?}");
    let second = client.tenant(TenantId::new(2));
    second.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    // A backup is killed amid writes, and away while a third tenant is created.
    fill(&second, 0, ROWS / 2);
    let backup = (cluster.primary() + 1) % 3;
    cluster.kill(backup);
    fill(&second, ROWS / 2, ROWS);
    client.create_tenant(TenantId::new(3)).unwrap();
    let third = client.tenant(TenantId::new(3));
    third.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    fill(&third, 0, ROWS);
    cluster.start(backup);
    cluster.wait_healthy();
    read_everywhere(&cluster, TenantId::new(2), ROWS);
    read_everywhere(&cluster, TenantId::new(3), ROWS);
    // Whoever made the keys dies as soon as the tenant is acknowledged.
    client.create_tenant(TenantId::new(4)).unwrap();
    let maker = cluster.primary();
    cluster.kill(maker);
    let fourth = client.tenant(TenantId::new(4));
    fourth.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    fill(&fourth, 0, 20);
    cluster.start(maker);
    cluster.wait_healthy();
    // All open again from what lies on their disks.
    for replica in 0..3 {
        cluster.kill(replica);
    }
    cluster.start_all();
    cluster.wait_healthy();
    for (tenant, rows) in [(2, ROWS), (3, ROWS), (4, 20)] {
        read_everywhere(&cluster, TenantId::new(tenant), rows);
    }
    fill(&fourth, 20, 30);
    // There is one already; the answer is final.
    let again = client.create_tenant(TenantId::new(3)).unwrap_err();
    assert!(!again.retryable(), "{again}");
    cluster.command(&["tenant", "create", "4"]).fails(1, "tenant 4");
}

/// From the journals of the others, then with a checkpoint of theirs.
#[test]
fn an_empty_disk_gets_the_keys_of_all_tenants() {
    let mut cluster = Cluster::with_journal(RING);
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    client.execute("CREATE TABLE bulk (id BIGINT PRIMARY KEY, t TEXT)", &[]).unwrap();
    client.create_tenant(TenantId::new(2)).unwrap();
    let second = client.tenant(TenantId::new(2));
    second.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    fill(&second, 0, ROWS);
    let mut next = 0;
    for fetches in [false, true] {
        let lost = (cluster.primary() + 1) % 3;
        cluster.kill(lost);
        cluster.lose_directory(lost);
        if fetches {
            fill_bulk(&client, &mut next, 3 * RING_BYTES);
        }
        cluster.replace(lost).ok();
        cluster.start(lost);
        cluster.wait_healthy();
        assert_eq!(cluster.said(lost).contains("SyncFinished"), fetches, "{}", cluster.said(lost));
        read_everywhere(&cluster, TenantId::new(2), ROWS);
        // With it and without another.
        let other = (lost + 1) % 3;
        cluster.kill(other);
        fill(&second, -20, -10);
        second.execute("DELETE FROM t WHERE id < 0", &[]).unwrap();
        cluster.start(other);
        cluster.wait_healthy();
    }
    read_everywhere(&cluster, TenantId::new(2), ROWS);
}
