//! Whoever connects and means no good: garbage, oversized frames, silence, other clusters.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use verity::{ClusterId, ReplicaId, Verity};
use verity_core::ids::Release;
use verity_core::wire::frame;
use verity_core::wire::hello::{Hello, Refused, Role};

use super::processes::{Cluster, report};
use crate::run::verity;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.next() as u8).collect()
    }
}

fn dial(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Sends a hello; what is answered.
fn greet(mut stream: &TcpStream, hello: &Hello) -> Hello {
    stream.write_all(&frame::encode(&hello.encode())).unwrap();
    let mut answer = [0; 14 + 64];
    stream.read_exact(&mut answer).unwrap();
    Hello::decode(&answer[14..]).unwrap()
}

/// The other side hangs up, within five seconds.
fn assert_closed(mut stream: &TcpStream) {
    let mut rest = Vec::new();
    let begun = Instant::now();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("not closed after {:?}: {error}", begun.elapsed()),
    }
}

#[test]
fn nothing_that_is_sent_to_a_port_matters() {
    let mut cluster = Cluster::new();
    cluster.start_all();
    let addresses = cluster.addresses();
    let client = Verity::connect(&addresses).unwrap();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    let known = report(&addresses[0]).unwrap();
    let peer = |from: u8, meant: usize| Hello {
        role: Role::Replica,
        from: Some(ReplicaId::new(from)),
        replica_count: 3,
        cluster: known.cluster,
        meant: Some(ReplicaId::new(meant as u8)),
        ..Hello::of_client(Release::new(1))
    };
    let mut random = Random(4_271);
    for (at, address) in addresses.iter().enumerate() {
        before_the_handshake(address, &mut random);
        as_a_client(address, &mut random);
        as_a_peer(address, &peer(((at + 1) % 3) as u8, at), &mut random);
        refused(address, &peer, at);
        cluster.assert_running();
    }
    silence(&addresses[1]);
    client.execute("INSERT INTO t (id) VALUES (1)", &[]).unwrap();
    cluster.wait_healthy();
    let row = client.query("SELECT COUNT(*) FROM t", &[]).unwrap();
    assert_eq!(row.rows, vec![vec![verity::Value::Integer(1)]]);
}

fn before_the_handshake(address: &str, random: &mut Random) {
    for size in [1, 14, 64, 1_000, 100_000] {
        let stream = dial(address);
        let _closed_already = (&stream).write_all(&random.bytes(size));
        let _closed_already = stream.shutdown(std::net::Shutdown::Write);
        assert_closed(&stream);
    }
    let long = |length: u32| {
        let mut head = b"VDB \x01\x00".to_vec();
        head.extend(length.to_le_bytes());
        head.extend([0; 4]);
        head
    };
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let whole = frame::encode(&[7; 64]);
    for bytes in [long(u32::MAX), long(65), long(1 << 20), http, whole] {
        let mut stream = dial(address);
        stream.write_all(&bytes).unwrap();
        assert_closed(&stream);
    }
}

fn as_a_client(address: &str, random: &mut Random) {
    for round in 0..20 {
        let mut stream = dial(address);
        let welcome = greet(&stream, &Hello::of_client(Release::new(1)));
        assert_eq!(welcome.role, Role::Welcome);
        let bytes = match round % 4 {
            0 => random.bytes(1_000),
            1 => frame::encode(&random.bytes(500)),
            2 => frame::encode(&[]),
            _ => {
                let mut head = b"VDB \x01\x00".to_vec();
                head.extend((1_u32 << 30).to_le_bytes());
                head
            }
        };
        let _closed_already = stream.write_all(&bytes);
        assert_closed(&stream);
    }
}

fn as_a_peer(address: &str, hello: &Hello, random: &mut Random) {
    for round in 0..20 {
        let mut stream = dial(address);
        assert_eq!(greet(&stream, hello).role, Role::Welcome);
        let mut message = random.bytes(208 + 300);
        // Junk that claims to be from the right replica reaches the core, and is refused there.
        message[97] = if round % 2 == 0 { hello.from.unwrap().get() } else { 7 };
        let _closed_already = stream.write_all(&frame::encode(&message));
        let _closed_already = stream.write_all(&random.bytes(100));
        assert_closed(&stream);
    }
}

fn refused(address: &str, peer: &dyn Fn(u8, usize) -> Hello, at: usize) {
    let other = ((at + 1) % 3) as u8;
    let cases = [
        (Hello { cluster: ClusterId::new(99), ..peer(other, at) }, Refused::OtherCluster),
        (peer(other, (at + 1) % 3), Refused::NotMeant),
        (peer(at as u8, at), Refused::NoSuchReplica),
        (Hello { replica_count: 5, ..peer(other, at) }, Refused::NoSuchReplica),
        (Hello { lowest: 9, highest: 12, ..peer(other, at) }, Refused::Version),
    ];
    for (hello, why) in cases {
        let stream = dial(address);
        assert_eq!(greet(&stream, &hello).role, Role::Refusal(why));
        assert_closed(&stream);
    }
}

/// Many who say nothing take nobody's place for long.
fn silence(address: &str) {
    let idle: Vec<TcpStream> = (0..100).map(|_| dial(address)).collect();
    let end = Instant::now() + Duration::from_secs(8);
    while report(address).is_err() {
        assert!(Instant::now() < end, "silent connections keep everybody out");
        std::thread::sleep(Duration::from_millis(50));
    }
    idle.iter().for_each(assert_closed);
}

#[test]
fn a_replica_of_another_cluster_is_not_let_in() {
    let mut ours = Cluster::new();
    ours.start_all();
    let mut theirs = Cluster::another();
    theirs.take_addresses_of(&ours);
    ours.kill(2);
    theirs.start(2);
    let end = Instant::now() + Duration::from_secs(10);
    while !theirs.said(2).contains("another cluster") {
        assert!(Instant::now() < end, "{}", theirs.said(2));
        std::thread::sleep(Duration::from_millis(20));
    }
    let client = Verity::connect(&ours.addresses()[..2]).unwrap();
    client.execute("CREATE TABLE t (id BIGINT PRIMARY KEY)", &[]).unwrap();
    ours.assert_running();
}

#[test]
fn formats_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let format = |args: &[&str], data: &str| {
        let mut all = vec!["format", "--profile", "compact", "--journal", "16MiB"];
        all.extend(args);
        all.push(data);
        verity(&all)
    };
    let (secret, a, b) = (path("secret"), path("a"), path("b"));
    format(&["--replica-count", "3"], &a).fails(2, "--secret FILE");
    format(&["--secret", &secret], &a).fails(2, "--replica-count");
    format(&["--secret", &secret, "--replica-count", "4"], &a).fails(2, "1, 3 or 5");
    format(&["--secret", &secret, "--replica-count", "3"], &a).ok();
    let count = ["--secret", &secret, "--replica", "1", "--replica-count", "5"];
    format(&count, &b).fails(2, "than the flags say");
    let cluster = ["--secret", &secret, "--replica", "1", "--cluster", "7"];
    format(&cluster, &b).fails(2, "than the flags say");
    format(&["--secret", &secret, "--replica", "3"], &b).fails(2, "there is no replica 3");
    format(&["--secret", &secret, "--replica", "1"], &b).ok();
    let start = |args: &[&str]| {
        let mut all = vec!["start", "--memory", "256MiB"];
        all.extend(args);
        verity(&all)
    };
    start(&["--addresses", "127.0.0.1:1", &a]).fails(2, "must name all of them");
    let mut text = std::fs::read_to_string(&secret).unwrap();
    text.replace_range(30..31, "z");
    std::fs::write(&secret, text).unwrap();
    format(&["--secret", &secret, "--replica", "2"], &path("c")).fails(2, "it is damaged");
    // Without the network a replica of several is not opened.
    verity(&["sql", "--data", &a, "-c", "SELECT 1"]).fails(1, "verity start");
}
