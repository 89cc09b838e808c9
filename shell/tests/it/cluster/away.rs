//! A replica that is gone while the others fill their rings: nobody's journal has what it needs.

use std::time::Duration;

use verity::{Client, Operation, Value, Verity};

use super::processes::Cluster;
use super::writers::Writers;

/// Of the smallest kind, so that it goes round soon.
pub const RING: &str = "16MiB";
pub const RING_BYTES: usize = 16 << 20;
const ROW_BYTES: usize = 12_000;

/// Rows of `text`, so many bytes of them.
pub fn fill(client: &Client, next: &mut i64, bytes: usize) {
    let text = "abcdefghijkl".repeat(ROW_BYTES / 12);
    let last = *next + (bytes / ROW_BYTES) as i64;
    while *next < last {
        let rows = (*next..*next + 8).map(|id| vec![Value::Integer(id), Value::text(&text)]);
        client.insert_rows("bulk", &["id", "t"], rows.collect()).unwrap();
        *next += 8;
    }
}

fn times(said: &str, word: &str) -> usize {
    said.matches(word).count()
}

#[test]
fn a_replica_that_was_away_for_long_catches_up() {
    let mut cluster = Cluster::with_journal(RING);
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    client.execute("CREATE TABLE bulk (id BIGINT PRIMARY KEY, t TEXT)", &[]).unwrap();
    let mut next = 0;
    fill(&client, &mut next, RING_BYTES / 4);
    let writers = Writers::start(&cluster, 2);
    writers.wait_for_progress(50);
    let away = (cluster.primary() + 1) % 3;
    cluster.kill(away);
    fill(&client, &mut next, 3 * RING_BYTES);
    writers.wait_for_progress(1_000);
    // Killed amid the sync, each time a little later; meanwhile the others go on to other
    // checkpoints.
    for round in 0..4 {
        cluster.start(away);
        let begun = times(&cluster.said(away), "SyncStarted");
        cluster.wait_until("it does not begin to fetch", || {
            times(&cluster.said(away), "SyncStarted") > begun
        });
        std::thread::sleep(Duration::from_millis(20 * round));
        cluster.kill(away);
        fill(&client, &mut next, RING_BYTES);
    }
    cluster.start(away);
    cluster.wait_until("it does not fetch to the end", || {
        times(&cluster.said(away), "SyncFinished") > 0
    });
    cluster.wait_healthy();
    writers.wait_for_progress(100);
    let written = writers.finish();
    written.check(&cluster);
    // What it fetched is what the others have; it answers alone, and leads.
    let here = Verity::connect([&cluster.addresses()[away]]).unwrap().read_anywhere();
    let count = "SELECT COUNT(*), MAX(id) FROM bulk";
    assert_eq!(here.query(count, &[]).unwrap().rows, client.query(count, &[]).unwrap().rows);
    let other = (away + 1) % 3;
    cluster.kill(other);
    let text = "INSERT INTO rows (id) VALUES (-1)".to_string();
    client.transaction(vec![Operation::Sql { text, params: Vec::new() }]).unwrap();
}
