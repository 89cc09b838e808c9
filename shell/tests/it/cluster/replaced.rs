//! A disk that is lost, and an empty directory in its place.

use std::time::Duration;

use verity::{Operation, Verity};

use super::away::{RING, RING_BYTES, fill};
use super::processes::{Cluster, report};
use super::writers::Writers;
use crate::run::verity;

fn phase(cluster: &Cluster, replica: usize) -> String {
    report(&cluster.addresses()[replica]).map_or_else(|_| String::new(), |report| report.phase)
}

/// `verity inspect` of a directory that nobody has open.
fn is_marked(cluster: &Cluster, replica: usize) -> bool {
    let told = verity(&["inspect", "--json", cluster.data(replica).to_str().unwrap()]).ok();
    told.objects()[0]["replaced"].as_bool().unwrap()
}

/// Young: all that there ever was is in the others' journals. Then again, when it is in nobody's.
#[test]
fn a_lost_disk_is_replaced_and_another_replica_may_go() {
    let mut cluster = Cluster::with_journal(RING);
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    client.execute("CREATE TABLE bulk (id BIGINT PRIMARY KEY, t TEXT)", &[]).unwrap();
    let mut next = 0;
    let writers = Writers::start(&cluster, 2);
    for round in 0..2 {
        writers.wait_for_progress(100);
        let lost = (cluster.primary() + round) % 3;
        cluster.kill(lost);
        cluster.lose_directory(lost);
        if round == 1 {
            fill(&client, &mut next, 3 * RING_BYTES);
        }
        cluster.replace(lost).ok();
        assert!(is_marked(&cluster, lost));
        cluster.start(lost);
        cluster.wait_healthy();
        let fetched = cluster.said(lost).contains("SyncFinished");
        assert_eq!(fetched, round == 1, "{}", cluster.said(lost));
        writers.wait_for_progress(100);
        // What the lost disk had acknowledged is on the new one.
        let other = (lost + 1) % 3;
        cluster.kill(other);
        writers.wait_for_progress(100);
        cluster.start(other);
        cluster.wait_healthy();
        cluster.end(lost);
        assert!(!is_marked(&cluster, lost), "it is a member like the others");
        cluster.start(lost);
        cluster.wait_healthy();
    }
    writers.finish().check(&cluster);
}

/// One of the two others is down, and might be the only one that heard what the lost disk had said.
/// And the file of the secret is gone.
#[test]
fn an_empty_directory_waits_for_both_of_the_others() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    let writers = Writers::start(&cluster, 2);
    writers.wait_for_progress(100);
    let written = writers.finish();
    let (lost, knows, other) = (2, 1, 0);
    cluster.kill(lost);
    cluster.lose_directory(lost);
    let secret = cluster.path("secret");
    std::fs::remove_file(&secret).unwrap();
    // A new secret would be that of another cluster.
    cluster.replace(lost).fails(2, "verity secret --out");
    assert!(!secret.exists());
    // Of a replica that runs.
    let (out, data) = (secret.to_str().unwrap(), cluster.data(other));
    let told = verity(&["secret", "--json", "--out", out, data.to_str().unwrap()]).ok();
    assert_eq!(told.objects()[0]["replica_count"], 3, "{told:?}");
    verity(&["secret", "--out", out, data.to_str().unwrap()]).fails(2, "cannot make");
    cluster.kill(knows);
    cluster.replace(lost).ok();
    cluster.start(lost);
    let marked = "replaced: not certain yet (1 of 2 certain";
    cluster.wait_until("it does not wait", || phase(&cluster, lost).starts_with(marked));
    // A long while beside all timeouts of the protocol: none of them makes it certain.
    std::thread::sleep(Duration::from_secs(3));
    let told = cluster.status();
    assert_eq!(told.code, Some(1), "{told:?}");
    let health = told.objects()[lost]["health"].as_str().unwrap().to_string();
    assert!(health.starts_with("replaced: not certain yet"), "{told:?}");
    // Killed and started again it still knows what it is.
    cluster.kill(lost);
    assert!(is_marked(&cluster, lost));
    cluster.start(lost);
    cluster.start(knows);
    cluster.wait_healthy();
    written.check(&cluster);
    cluster.kill(other);
    let text = "INSERT INTO rows (id) VALUES (-1)".to_string();
    client.transaction(vec![Operation::Sql { text, params: Vec::new() }]).unwrap();
}

/// An operator who forgets `--replace`: peers remember what the lost disk acknowledged.
#[test]
fn an_empty_directory_without_the_mark_is_noticed_by_its_peers() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let client = Verity::connect(cluster.addresses()).unwrap();
    Writers::prepare(&client);
    let writers = Writers::start(&cluster, 2);
    writers.wait_for_progress(100);
    let lost = (cluster.primary() + 1) % 3;
    cluster.kill(lost);
    cluster.lose_directory(lost);
    cluster.format(lost).ok();
    assert!(!is_marked(&cluster, lost));
    let before = cluster.said(lost).len();
    cluster.start(lost);
    cluster.wait_healthy();
    let said = cluster.said(lost);
    assert!(said[before..].contains("may lack what this replica had told the others"), "{said}");
    writers.wait_for_progress(50);
    writers.finish().check(&cluster);
}

#[test]
fn what_cannot_be_replaced_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    verity(&["format", "--replace", &path("a")]).fails(2, "--secret");
    let alone = path("alone.secret");
    let one = ["format", "--replica-count", "1", "--profile", "compact", "--journal", "16MiB"];
    verity(&[&one[..], &["--secret", &alone, &path("b")]].concat()).ok();
    verity(&["format", "--replace", "--secret", &alone, &path("c")]).fails(2, "has none");
    verity(&["secret", "--out", &path("d"), &path("b")]).fails(2, "shares nothing");
    verity(&["secret", "--out", &path("d"), &path("nothing")]).fails(2, "cannot be had");
    assert!(!dir.path().join("d").exists());
}
