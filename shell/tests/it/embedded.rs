//! The library in one process: threads, async, bulk, idempotency, appends, memory's edges.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt as _;
use verity::{
    ClusterConstants, Error, ExpectedVersion, IoBackend, Operation, Options, RequestError, Value,
    Verity,
};

const BACKENDS: [IoBackend; 2] = [IoBackend::Auto, IoBackend::Threads];

fn open(dir: &std::path::Path, io: IoBackend) -> Verity {
    let constants = ClusterConstants { journal_ring_bytes: 16 << 20, ..ClusterConstants::DEFAULT };
    Options::new().io(io).cluster_constants(constants).open(dir.join("data")).unwrap()
}

#[test]
fn many_threads_insert_and_read_at_once() {
    for io in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path(), io);
        database.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, by BIGINT)", &[]).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..16i64 {
                let database = &database;
                scope.spawn(move || {
                    let insert = database.prepare("INSERT INTO t (id, by) VALUES (?, ?)").unwrap();
                    let select = database.prepare("SELECT by FROM t WHERE id = ?").unwrap();
                    for n in 0..60 {
                        let id = Value::Integer(thread * 1_000 + n);
                        insert.execute(&[id.clone(), Value::Integer(thread)]).unwrap();
                        // What was acknowledged is seen at once.
                        let rows = select.query(&[id]).unwrap().rows;
                        assert_eq!(rows, vec![vec![Value::Integer(thread)]]);
                    }
                });
            }
        });
        let count = |database: &Verity| {
            database.query("SELECT COUNT(*) FROM t", &[]).unwrap().rows[0][0].clone()
        };
        assert_eq!(count(&database), Value::Integer(16 * 60));
        database.close().unwrap();
        let database = open(dir.path(), io);
        assert_eq!(count(&database), Value::Integer(16 * 60));
        database.abandon();
        let database = open(dir.path(), io);
        assert_eq!(count(&database), Value::Integer(16 * 60));
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn futures_need_no_runtime() {
    for io in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path(), io);
        block_on(async {
            let create = "CREATE TABLE t (id BIGINT PRIMARY KEY)";
            database.execute_async(create, &[]).await.unwrap();
            // Both are on their way before either is awaited.
            let one = database.execute_async("INSERT INTO t VALUES (1)", &[]);
            let two = database.execute_async("INSERT INTO t VALUES (2)", &[]);
            two.await.unwrap();
            one.await.unwrap();
            let rows = database.query_async("SELECT id FROM t", &[]).await.unwrap();
            assert_eq!(rows.rows.len(), 2);
            let error = database.execute_async("INSERT INTO t VALUES (2)", &[]).await.unwrap_err();
            assert_eq!(error.sql().unwrap().code.code(), "23505");
        });
        // A future that is dropped is a request that runs all the same, or never began.
        drop(database.execute_async("INSERT INTO t VALUES (3)", &[]));
        database.close().unwrap();
    }
}

/// Tasks of one thread leave their requests beside threads that block; some give up waiting.
#[test]
fn tasks_and_threads_share_prepares() {
    const TASKS: i64 = 24;
    const EACH: i64 = 40;
    for io in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path(), io);
        database.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, by BIGINT)", &[]).unwrap();
        let row = |by: i64, n: i64| vec![Value::Integer(by * 1_000 + n), Value::Integer(by)];
        let count = |by: i64| {
            let sql = "SELECT COUNT(*) FROM t WHERE by = ?";
            database.query(sql, &[Value::Integer(by)]).unwrap().rows[0][0].clone()
        };
        let insert =
            |by: i64, n: i64| database.insert_rows_async("t", &["id", "by"], vec![row(by, n)]);
        std::thread::scope(|scope| {
            for by in TASKS..TASKS + 4 {
                let (database, row) = (&database, &row);
                scope.spawn(move || {
                    for n in 0..EACH {
                        database.insert_rows("t", &["id", "by"], vec![row(by, n)]).unwrap();
                    }
                });
            }
            let client = |by: i64| async move {
                for n in 0..EACH {
                    if (by + n) % 7 == 0 {
                        let _given_up = insert(by, n).now_or_never();
                    } else {
                        insert(by, n).await.unwrap();
                    }
                }
            };
            block_on(futures_util::future::join_all((0..TASKS).map(client)));
        });
        // A request whose future was dropped runs all the same, before what is asked after it.
        database.insert_rows("t", &["id", "by"], vec![row(TASKS + 4, 0)]).unwrap();
        for by in 0..TASKS + 4 {
            assert_eq!(count(by), Value::Integer(EACH), "of {by}");
        }
        database.close().unwrap();
    }
}

#[test]
fn appends_check_their_version() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), IoBackend::Auto);
    let records = || vec![b"one".to_vec(), b"two".to_vec()];
    database.append("orders/7", ExpectedVersion::None, records()).unwrap();
    let error = database.append("orders/7", ExpectedVersion::None, records()).unwrap_err();
    let Error::Request(RequestError::WrongExpectedVersion { actual, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(actual, 2);
    database.append("orders/7", ExpectedVersion::Exact(2), records()).unwrap();
    database.append("orders/7", ExpectedVersion::Exists, records()).unwrap();
    database.append("orders/7", ExpectedVersion::Any, records()).unwrap();
}

#[test]
fn an_id_is_applied_once_and_its_outcome_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), IoBackend::Auto);
    database.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    let id = database.new_id().unwrap();
    let insert = |text: &str| Operation::Sql { text: text.to_string(), params: vec![] };
    let first = database.transaction_with_id(id, vec![insert("INSERT INTO t VALUES (1)")]).unwrap();
    let again = database.transaction_with_id(id, vec![insert("INSERT INTO t VALUES (1)")]).unwrap();
    assert!(again.replayed);
    assert_eq!(first.position, again.position);
    let commitment = database.commitment(id).unwrap().expect("it was applied");
    assert_eq!(Some(commitment.position), first.position);
    assert!(database.commitment(database.new_id().unwrap()).unwrap().is_none());
    let error =
        database.transaction_with_id(id, vec![insert("INSERT INTO t VALUES (2)")]).unwrap_err();
    assert!(matches!(error, Error::Request(RequestError::IdempotencyReused { .. })), "{error}");
}

#[test]
fn bulk_inserts_are_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), IoBackend::Auto);
    database.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, v TEXT)", &[]).unwrap();
    let insert = database.prepare("INSERT INTO t (id, v) VALUES (?, ?)").unwrap();
    let rows = |from: i64| -> Vec<Vec<Value>> {
        (from..from + 300).map(|n| vec![Value::Integer(n), Value::text("x")]).collect()
    };
    assert_eq!(insert.execute_batch(rows(0)).unwrap().rows_affected(), 300);
    // Overlaps: none of it.
    insert.execute_batch(rows(299)).unwrap_err();
    let count = database.query("SELECT COUNT(*) FROM t", &[]).unwrap();
    assert_eq!(count.rows, vec![vec![Value::Integer(300)]]);
}

#[test]
fn calls_after_close_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), IoBackend::Auto);
    let other = database.clone();
    database.close().unwrap();
    assert!(matches!(other.execute("CREATE TABLE t (id BIGINT)", &[]), Err(Error::Closed)));
    assert!(matches!(other.query("SELECT 1", &[]), Err(Error::Closed)));
}

/// More than a transaction may read: the rows are found before, while others commit.
#[test]
fn a_large_update_changes_the_rows_that_it_means_while_others_commit() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().cluster_constants(ClusterConstants::SMALL).memory(128 << 20);
    let database = options.open(dir.path().join("data")).unwrap();
    database.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT, note TEXT)", &[]).unwrap();
    database.execute("CREATE TABLE other (id BIGINT PRIMARY KEY)", &[]).unwrap();
    let note = "n".repeat(200);
    for from in (0..4_000).step_by(400) {
        let row = |id: i64| format!("({id}, {}, '{note}')", id % 100);
        let rows: Vec<String> = (from..from + 400).map(row).collect();
        database.execute(&format!("INSERT INTO t VALUES {}", rows.join(", ")), &[]).unwrap();
    }
    let done = AtomicBool::new(false);
    let commits = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let insert = database.prepare("INSERT INTO other VALUES (?)").unwrap();
            let mut id = 0;
            while !done.load(Ordering::Relaxed) {
                insert.execute(&[Value::Integer(id)]).unwrap();
                id += 1;
            }
            id
        });
        for n in 0..10 {
            let update = format!("UPDATE t SET n = n + 1000 WHERE n = {n}");
            assert_eq!(database.execute(&update, &[]).unwrap().rows_affected(), 40);
        }
        let delete = database.execute("DELETE FROM t WHERE n % 1000 < 5 AND n > 999", &[]);
        assert_eq!(delete.unwrap().rows_affected(), 200);
        done.store(true, Ordering::Relaxed);
        others.join().unwrap()
    });
    assert!(commits > 0, "nobody else committed meanwhile");
    let count = |sql| database.query(sql, &[]).unwrap().rows[0][0].clone();
    assert_eq!(count("SELECT COUNT(*) FROM t WHERE n > 999"), Value::Integer(200));
    assert_eq!(count("SELECT COUNT(*) FROM t"), Value::Integer(3_800));
    let more = database.execute("DELETE FROM t WHERE n >= 0", &[]).unwrap_err();
    let Error::Request(RequestError::LimitExceeded { value: 513, max: 512, .. }) = more else {
        panic!("{more}")
    };
}

/// Without blocking as well: the shell on a terminal reads this way.
#[test]
fn a_dropped_table_is_read_as_of_then() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path(), IoBackend::Auto);
    database.execute("CREATE TABLE h (id BIGINT PRIMARY KEY)", &[]).unwrap();
    let then = database.execute("INSERT INTO h VALUES (7)", &[]).unwrap().position.unwrap();
    database.execute("DROP TABLE h", &[]).unwrap();
    let sql = "SELECT id FROM h AS OF POSITION ?";
    let params = [Value::Integer(then.get() as i64)];
    let seven = vec![vec![Value::Integer(7)]];
    assert_eq!(database.query(sql, &params).unwrap().rows, seven);
    assert_eq!(block_on(database.query_async(sql, &params)).unwrap().rows, seven);
    for sql in ["SELECT id FROM h", "INSERT INTO h VALUES (1)"] {
        let error = block_on(database.query_async(sql, &[])).unwrap_err();
        assert_eq!(error.sql().unwrap().code.code(), "42P01", "{sql}");
    }
    database.execute("CREATE TABLE h (id TEXT PRIMARY KEY)", &[]).unwrap();
    assert_eq!(block_on(database.query_async(sql, &params)).unwrap().rows, seven);
    database.close().unwrap();
}
