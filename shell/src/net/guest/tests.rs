//! A server in this process, and clients of it that speak frames.

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use verity_core::ids::{IdempotencyId, PrincipalId, TenantId};
use verity_core::kernel::{Operation, Request, RequestError, RetryReason};
use verity_core::limits::{
    CLIENT_BUFFERS_BYTES_MAX, CLIENT_QUERIES_MAX, CLIENT_QUERIES_WAITING_MAX, ClusterConstants,
    QUERIES_MAX,
};
use verity_core::node::CURRENT_RELEASE;
use verity_core::query::Value;
use verity_core::wire::frame;
use verity_core::wire::hello::Hello;

use super::*;
use crate::net::handshake;
use crate::net::payload::Query;
use crate::{Client, ClusterSecret, Options, Server, ServerOptions, Verity};

struct Served {
    server: Server,
    _dir: tempfile::TempDir,
}

fn options() -> Options {
    let constants = ClusterConstants { journal_ring_bytes: 16 << 20, ..ClusterConstants::DEFAULT };
    Options::new().cluster_constants(constants)
}

/// Replica 0 of so many.
fn format(data: &std::path::Path, replicas: u8) {
    if replicas == 1 {
        options().format(data).unwrap();
        return;
    }
    let constants = ClusterConstants { journal_ring_bytes: 16 << 20, ..ClusterConstants::DEFAULT };
    let secret = ClusterSecret::draw(None, replicas, constants).unwrap();
    options().format_replica(data, ReplicaId::new(0), &secret).unwrap();
}

impl Served {
    fn new() -> Served {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        options().format(&data).unwrap();
        let at = ServerOptions { addresses: vec!["127.0.0.1:0".to_string()], listen: None };
        let server = Server::start(&options(), &data, &at).unwrap();
        Served { server, _dir: dir }
    }

    fn client(&self) -> Client {
        Verity::connect([self.server.address().to_string()]).unwrap()
    }

    fn raw(&self) -> Raw {
        let stream = TcpStream::connect(self.server.address()).unwrap();
        let me = Hello::of_client(CURRENT_RELEASE);
        let (_, mut reader) = handshake::greet(&stream, &me, Duration::from_secs(5)).unwrap();
        reader.allow(FRAME_PAYLOAD_SIZE_MAX);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Raw { stream, reader }
    }
}

struct Raw {
    stream: TcpStream,
    reader: FrameReader,
}

impl Raw {
    fn ask(&mut self, id: u64, ask: Ask) {
        self.stream.write_all(&Asked { id, ask }.encode().unwrap()).unwrap();
    }

    fn answer(&mut self) -> (u64, Answer) {
        let frame = self.reader.next(&mut &self.stream).unwrap();
        Answer::decode(payload(frame)).unwrap()
    }

    /// The next answer that is not only a sign of life.
    fn end(&mut self) -> (u64, Answer) {
        loop {
            match self.answer() {
                (_, Answer::Rows(part)) if part.more && part.rows.is_empty() => {}
                other => return other,
            }
        }
    }
}

fn write(sql: &str) -> Ask {
    Ask::Execute(Request {
        tenant: TenantId::DEFAULT,
        principal: PrincipalId::ZERO,
        idempotency: IdempotencyId::NONE,
        after: None,
        operations: vec![Operation::Sql { text: sql.to_string(), params: Vec::new() }],
    })
}

fn select(sql: &str, seen: u64) -> Ask {
    let (text, params) = (sql.to_string(), Vec::new());
    let (tenant, anywhere, returning) = (TenantId::DEFAULT, true, 0);
    Ask::Query(Query { tenant, text, params, seen, anywhere, returning, window: 0 })
}

/// Waits for what never comes, for two seconds.
fn slow() -> Ask {
    select("SELECT 1", 1 << 40)
}

fn is_full(answer: &Answer) -> bool {
    let full = RequestError::Retry(RetryReason::QueueFull);
    matches!(answer, Answer::Refused(refusal) if refusal.typed() == Some(full.clone()))
}

/// What holds while slow queries run; again, if this machine was so busy that they did not last.
fn meanwhile(mut holds: impl FnMut() -> Result<(), String>) {
    for _ in 0..20 {
        let begun = Instant::now();
        match holds() {
            Ok(()) => return,
            Err(why) => assert!(begun.elapsed() > Duration::from_millis(1_500), "{why}"),
        }
    }
    panic!("this machine is too busy");
}

#[test]
fn writes_do_not_wait_behind_queries() {
    let served = Served::new();
    served.client().execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    meanwhile(|| {
        let mut raw = served.raw();
        for id in 1..=20 {
            raw.ask(id, slow());
        }
        raw.ask(21, write("DELETE FROM t"));
        raw.ask(22, Ask::Status);
        let mut ended = [raw.end(), raw.end()];
        ended.sort_by_key(|(id, _)| *id);
        let first = matches!(ended, [(21, Answer::Reply(_)), (22, Answer::Status(_))]);
        // They run a few at a time, and each is answered.
        let (id, next) = raw.end();
        assert!(id <= 22 && matches!(next, Answer::Refused(_)) || !first, "{next:?}");
        if first { Ok(()) } else { Err(format!("{ended:?}")) }
    });
}

#[test]
fn queries_in_flight_have_a_bound() {
    let served = Served::new();
    served.client().execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    meanwhile(|| {
        let mut raw = served.raw();
        let bound = (CLIENT_QUERIES_MAX + CLIENT_QUERIES_WAITING_MAX) as u64;
        for id in 1..=bound + 10 {
            raw.ask(id, slow());
        }
        raw.ask(9_999, Ask::Status);
        let mut refused = 0;
        loop {
            match raw.end() {
                (9_999, Answer::Status(_)) => break,
                (id, answer) if is_full(&answer) && id > CLIENT_QUERIES_WAITING_MAX as u64 => {
                    refused += 1;
                }
                other => return Err(format!("{other:?}")),
            }
        }
        // Others are served meanwhile, and this one's writes are.
        raw.ask(9_999, write("DELETE FROM t"));
        let written = raw.end();
        served.client().query("SELECT id FROM t", &[]).unwrap();
        // At the beginning, as many more as have no thread yet.
        let bounded = (10..=10 + CLIENT_QUERIES_MAX).contains(&refused);
        let holds = bounded && matches!(written, (9_999, Answer::Reply(_)));
        if holds { Ok(()) } else { Err(format!("{refused} refused, then {written:?}")) }
    });
}

#[test]
fn queries_of_all_clients_have_a_bound() {
    let permits = Permits::default();
    let at_once = Duration::ZERO;
    let mut taken: Vec<_> = (0..QUERIES_MAX).map(|_| permits.take(at_once).unwrap()).collect();
    assert!(permits.take(Duration::from_millis(10)).is_none());
    taken.pop();
    assert!(permits.take(at_once).is_some());
}

#[test]
fn a_row_that_fits_no_frame_is_an_error_that_says_so() {
    let served = Served::new();
    let client = served.client();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, body TEXT)", &[]).unwrap();
    let body = |size: usize| Value::text(&"x".repeat(size));
    for (id, size) in [(1, 10), (2, 400_000), (3, 10), (4, 300_000), (5, 10)] {
        let row = vec![vec![Value::Integer(id), body(size)]];
        client.insert_rows("t", &["id", "body"], row).unwrap();
    }
    let thrice = "SELECT id, body, body, body FROM t ORDER BY id";
    let error = client.query(thrice, &[]).unwrap_err();
    assert_eq!(error.sqlstate(), "54000");
    assert!(error.to_string().contains("a row of the answer takes 1200"), "{error}");
    // It was the last word on that query.
    let mut raw = served.raw();
    raw.ask(1, select(thrice, 0));
    loop {
        match raw.answer() {
            (1, Answer::Rows(part)) => assert!(part.more, "{part:?}"),
            (1, Answer::Refused(refusal)) => break assert_eq!(refusal.sqlstate, "54000"),
            other => panic!("{other:?}"),
        }
    }
    raw.ask(2, Ask::Status);
    assert!(matches!(raw.answer(), (2, Answer::Status(_))));
    // What fits is whole.
    let all = client.query("SELECT id, body, body FROM t ORDER BY id", &[]).unwrap();
    assert_eq!(all.rows.len(), 5);
}

#[test]
fn clients_that_stall_amid_a_frame_are_bounded_together() {
    let served = Served::new();
    let client = served.client();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY, body TEXT)", &[]).unwrap();
    let whole = frame::encode(&vec![7; 1 << 20]);
    let begun = &whole[..700_000];
    let count = CLIENT_BUFFERS_BYTES_MAX / (1 << 20) + 6;
    let mut stalled: Vec<Raw> = (0..count).map(|_| served.raw()).collect();
    for raw in &mut stalled {
        // The last of them are hung up on.
        let _gone_already = raw.stream.write_all(begun);
    }
    let mut told = 0;
    for raw in &mut stalled {
        raw.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        match raw.reader.next(&mut &raw.stream) {
            Ok(frame) => {
                let (id, why) = Answer::decode(payload(frame)).unwrap();
                let Answer::Refused(why) = why else { panic!("{why:?}") };
                assert!(id == GOODBYE && why.message.contains("unfinished"), "{why:?}");
                told += 1;
            }
            Err(Broken::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
            Err(Broken::Io(error)) if error.kind() == ErrorKind::ConnectionReset => told += 1,
            Err(why) => panic!("{why}"),
        }
    }
    assert!((6..=12).contains(&told), "{told} of {count} were told");
    // Small requests go on, and long ones when the stalled are gone.
    client.execute("INSERT INTO t (id) VALUES (1)", &[]).unwrap();
    drop(stalled);
    let row = vec![Value::Integer(2), Value::text(&"x".repeat(300_000))];
    client.insert_rows("t", &["id", "body"], vec![row]).unwrap();
}

#[test]
fn a_frame_that_does_not_end_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sending = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut reader = FrameReader::new(1_000_000);
    let whole = frame::encode(&[7; 50_000]);
    sending.write_all(&whole[..20_000]).unwrap();
    // However slowly it goes on.
    let slowly = std::thread::spawn(move || {
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(20));
            if sending.write_all(&[7; 10]).is_err() {
                return;
            }
        }
    });
    let ended = next_frame(&mut reader, &stream, Duration::from_millis(300));
    assert!(matches!(ended, Err(Broken::Stalled)), "{ended:?}");
    drop(stream);
    slowly.join().unwrap();
}

#[test]
fn one_that_takes_its_answers_by_the_byte_is_let_go() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut taking = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let longest = Duration::from_millis(300);
    stream.set_write_timeout(Some(longest)).unwrap();
    let slowly = std::thread::spawn(move || {
        // Much of it lies in the kernel already: this frees room for a piece now and then.
        let mut some = vec![0; 64 << 10];
        for _ in 0..150 {
            std::thread::sleep(Duration::from_millis(20));
            if std::io::Read::read(&mut taking, &mut some).unwrap_or(0) == 0 {
                return;
            }
        }
    });
    let ended = write_in_time(&stream, &vec![7; 64 << 20], longest);
    assert!(matches!(&ended, Err(Broken::Io(error)) if is_timeout(error)), "{ended:?}");
    drop(stream);
    slowly.join().unwrap();
}

#[test]
fn a_server_that_cannot_listen_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    format(&data, 5);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let others = (1..5).map(|port| format!("127.0.0.1:{port}"));
    let addresses = [address.clone()].into_iter().chain(others).collect();
    let at = ServerOptions { addresses, listen: None };
    let Err(Error::Options(why)) = Server::start(&options(), &data, &at) else {
        panic!("it listens")
    };
    assert!(why.contains(&format!("cannot listen at {address}")), "{why}");
    // A thread that was started has its name soon.
    std::thread::sleep(Duration::from_millis(200));
    let names = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let left: Vec<String> = names.filter(|name| name.starts_with("verity-link-4")).collect();
    assert!(left.is_empty(), "{left:?}");
    // The directory is free again.
    drop(taken);
    drop(Server::start(&options(), &data, &at).unwrap());
}

#[test]
fn signs_of_life_come_for_writes_that_are_worth_waiting_for() {
    for (replicas, expected) in [(1, true), (3, false)] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        format(&data, replicas);
        let mut addresses = vec!["127.0.0.1:0".to_string()];
        addresses.resize(usize::from(replicas), "127.0.0.1:1".to_string());
        let at = ServerOptions { addresses, listen: None };
        let server = Server::start(&options(), &data, &at).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while expected && !server.status().is_some_and(|status| status.ready) {
            assert!(Instant::now() < end, "it does not open");
            std::thread::sleep(Duration::from_millis(5));
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiving = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let guest = Guest::new(server.host(), listener.accept().unwrap().0);
        assert!(guest.tell_of_writes(), "the client is there");
        guest.lock_writes().waiting.push(77);
        assert!(guest.tell_of_writes());
        receiving.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut reader = FrameReader::new(FRAME_PAYLOAD_SIZE_MAX);
        match reader.next(&mut &receiving) {
            Ok(frame) if expected => {
                let (id, said) = Answer::decode(payload(frame)).unwrap();
                let Answer::Rows(part) = said else { panic!("{said:?}") };
                assert!(id == 77 && part.more && part.rows.is_empty());
            }
            Err(Broken::Io(_)) if !expected => {}
            other => panic!("{replicas}: {other:?}"),
        }
        guest.lock_writes().ended = true;
        assert!(!guest.tell_of_writes(), "nobody waits any more");
    }
}

/// Rows in parts of 256 KiB, with a window.
fn wide(window: u32) -> Ask {
    let Ask::Query(query) = select("SELECT id, repeat('x', 100000) FROM t ORDER BY id", 0) else {
        unreachable!("it is one")
    };
    Ask::Query(Query { window, ..query })
}

#[test]
fn an_answer_with_a_window_waits_for_who_takes_it() {
    let served = Served::new();
    let client = served.client();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    let ids = (0..300).map(|id| vec![Value::Integer(id)]).collect();
    client.insert_rows("t", &["id"], ids).unwrap();
    let mut raw = served.raw();
    raw.ask(1, wide(2));
    let mut parts = 0;
    let mut first = true;
    let mut rows = 0;
    // Two parts, then signs of life only; and it keeps nobody from running.
    let took = |raw: &mut Raw, parts: &mut u32, rows: &mut usize, first: &mut bool| loop {
        match raw.answer() {
            (1, Answer::Rows(part)) if part.is_sign_of_life() => break true,
            (1, Answer::Rows(part)) => {
                assert_eq!(part.head.is_some(), std::mem::take(first));
                (*parts, *rows) = (*parts + 1, *rows + part.rows.len());
                if !part.more {
                    break false;
                }
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(took(&mut raw, &mut parts, &mut rows, &mut first));
    assert_eq!(parts, 2);
    let host = served.server.host();
    let others: Vec<_> = std::iter::from_fn(|| host.permits.take(Duration::ZERO)).collect();
    assert_eq!(others.len(), QUERIES_MAX, "a query that waits holds no permit");
    drop(others);
    raw.ask(1, Ask::Taken(2));
    raw.ask(77, Ask::Taken(9));
    raw.ask(78, Ask::Cancel);
    assert!(took(&mut raw, &mut parts, &mut rows, &mut first));
    assert_eq!(parts, 4);
    raw.ask(1, Ask::Taken(u32::MAX));
    while took(&mut raw, &mut parts, &mut rows, &mut first) {}
    assert_eq!(rows, 300);
    // One that is cancelled is answered, and runs no more.
    raw.ask(2, wide(1));
    assert!(matches!(raw.answer(), (2, Answer::Rows(part)) if part.head.is_some()));
    raw.ask(2, Ask::Cancel);
    let (2, Answer::Refused(refusal)) = raw.end() else { panic!("it goes on") };
    assert_eq!(refusal.sqlstate, "08006");
}
