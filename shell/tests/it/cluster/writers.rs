//! Clients that write while things happen, and what they were told.
//!
//! Each transaction inserts a row of its own and adds one to its writer's counter: a write that is
//! lost is a row that is missing, one that is done twice is a counter that is too high.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use verity::{Client, Error, Operation, Value, Verity};

use super::processes::Cluster;

/// Rows of one writer begin here.
const APART: i64 = 1_000_000;
/// Between two writes of one writer. A replica that was away catches up from the rings of the
/// others, and these hold only so much: the writers must not fill them meanwhile.
const PAUSE: Duration = Duration::from_millis(5);

pub struct Writers {
    threads: Vec<JoinHandle<Told>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

/// What one writer was told. What was refused is not kept: it must not be there.
#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<i64>,
    unknown: BTreeSet<i64>,
}

/// How writers write.
#[derive(Clone, Copy)]
struct Manner {
    pause: Duration,
    /// Where there may be no quorum for longer than they wait, a refusal is no failure.
    patient: bool,
}

pub struct Written {
    told: Vec<Told>,
}

impl Writers {
    pub fn prepare(client: &Client) {
        client.execute("CREATE TABLE rows (id BIGINT PRIMARY KEY)", &[]).unwrap();
        let counters = "CREATE TABLE counters (writer BIGINT PRIMARY KEY, n BIGINT)";
        client.execute(counters, &[]).unwrap();
    }

    pub fn start(cluster: &Cluster, count: i64) -> Writers {
        Writers::start_as(cluster, count, Manner { pause: PAUSE, patient: false })
    }

    pub fn start_without_pause(cluster: &Cluster, count: i64) -> Writers {
        Writers::start_as(cluster, count, Manner { pause: Duration::ZERO, patient: false })
    }

    pub fn start_patient(cluster: &Cluster, count: i64) -> Writers {
        Writers::start_as(cluster, count, Manner { pause: PAUSE, patient: true })
    }

    fn start_as(cluster: &Cluster, count: i64, manner: Manner) -> Writers {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let threads = (0..count)
            .map(|writer| {
                let client = Verity::connect(cluster.addresses()).unwrap();
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                std::thread::spawn(move || write(&client, writer, manner, &stop, &acknowledged))
            })
            .collect();
        Writers { threads, stop, acknowledged }
    }

    /// How long it takes until so many more writes that begin now are acknowledged.
    pub fn wait_for_progress(&self, count: u64) -> Duration {
        let begun = Instant::now();
        // Those on their way may have been answered just before.
        let target = self.acknowledged.load(Ordering::SeqCst) + count + self.threads.len() as u64;
        while self.acknowledged.load(Ordering::SeqCst) < target {
            assert!(begun.elapsed() < Duration::from_secs(60), "no write gets through");
            std::thread::sleep(Duration::from_millis(1));
        }
        begun.elapsed()
    }

    pub fn finish(mut self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut self.threads);
        Written { told: threads.into_iter().map(|thread| thread.join().unwrap()).collect() }
    }
}

impl Drop for Writers {
    /// A test that failed must not write into the cluster of the next one, which may have the same
    /// addresses.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _the_test_failed_already = thread.join();
        }
    }
}

fn write(
    client: &Client,
    writer: i64,
    manner: Manner,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) -> Told {
    let counter = format!("INSERT INTO counters (writer, n) VALUES ({writer}, 0)");
    client.execute(&counter, &[]).unwrap();
    let mut told = Told::default();
    for id in writer * APART.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let text = format!(
            "INSERT INTO rows (id) VALUES ({id}); \
             UPDATE counters SET n = n + 1 WHERE writer = {writer}"
        );
        match client.transaction(vec![Operation::Sql { text, params: Vec::new() }]) {
            Ok(_) => {
                told.acknowledged.insert(id);
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Err(Error::OutcomeUnknown { .. }) => {
                told.unknown.insert(id);
            }
            Err(error) if manner.patient && error.retryable() => {}
            Err(error) => panic!("writer {writer}, row {id}: {error}"),
        }
        std::thread::sleep(manner.pause);
    }
    told
}

impl Written {
    pub fn acknowledged(&self) -> usize {
        self.told.iter().map(|told| told.acknowledged.len()).sum()
    }

    /// Writes whose fate nobody told.
    pub fn unknown(&self) -> usize {
        self.told.iter().map(|told| told.unknown.len()).sum()
    }

    /// Acknowledged rows that are not there.
    pub fn lost(&self, client: &Client) -> usize {
        let there: BTreeSet<i64> = rows(client, "SELECT id FROM rows").into_iter().collect();
        self.told.iter().map(|told| told.acknowledged.difference(&there).count()).sum()
    }

    /// Every replica has exactly what was acknowledged, and perhaps what is unknown; all the same.
    pub fn check(&self, cluster: &Cluster) {
        let primary = Verity::connect(cluster.addresses()).unwrap();
        let expected = rows(&primary, "SELECT id FROM rows ORDER BY id");
        let counters = rows(&primary, "SELECT n FROM counters ORDER BY writer");
        for (writer, told) in self.told.iter().enumerate() {
            let from = writer as i64 * APART;
            let of: BTreeSet<i64> =
                expected.iter().copied().filter(|id| (from..from + APART).contains(id)).collect();
            let lost: Vec<_> = told.acknowledged.difference(&of).collect();
            assert!(lost.is_empty(), "lost: {lost:?}");
            let more: Vec<_> = of.difference(&told.acknowledged).collect();
            assert!(more.iter().all(|id| told.unknown.contains(id)), "never asked for: {more:?}");
            assert_eq!(counters[writer], of.len() as i64, "done twice, or half");
        }
        for address in cluster.addresses() {
            let replica = Verity::connect([&address]).unwrap().read_anywhere();
            let end = Instant::now() + Duration::from_secs(30);
            loop {
                let found = rows(&replica, "SELECT id FROM rows ORDER BY id");
                if found == expected {
                    break;
                }
                assert!(Instant::now() < end, "{address} differs: {} rows", found.len());
            }
            assert_eq!(rows(&replica, "SELECT n FROM counters ORDER BY writer"), counters);
        }
        let count = self.acknowledged();
        println!("{count} acknowledged, {} unknown, all there, once, on all", self.unknown());
    }
}

fn rows(client: &Client, sql: &str) -> Vec<i64> {
    let rows = client.query(sql, &[]).unwrap().rows;
    let number = |row: &Vec<Value>| match row[0] {
        Value::Integer(number) => number,
        ref other => panic!("{other:?}"),
    };
    rows.iter().map(number).collect()
}
