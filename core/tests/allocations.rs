//! What the write path asks of the allocator, counted.
//!
//! The design wants none between journal and append once the node is open, and there is none, but
//! for what grows between two checkpoints. What a submit takes is a bound, asserted so that it can
//! only shrink: see `docs/PERFORMANCE.md`. Memory that is held must not grow with the number of
//! requests at all.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::alloc::System;
use std::collections::{BTreeMap, VecDeque};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use verity_core::crypto::MasterKey;
use verity_core::crypto::seal::{unwrap_key, wrap_key};
use verity_core::ids::{IdempotencyId, PrincipalId, ReplicaId, TenantId};
use verity_core::io::{Effect, Effects, FileId, Input, Owner};
use verity_core::kernel::{ExpectedVersion, Operation, Request};
use verity_core::limits::ClusterConstants;
use verity_core::node::{CURRENT_RELEASE, Config, Format, FormatOptions, Memory, Node, Seed};
use verity_core::query::Value;
use verity_core::time::{Clock, Instant, SECOND_NS, Timestamp};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Calls that returned new memory so far.
fn calls() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.allocations + stats.reallocations) as u64
}

/// Bytes that are allocated now.
fn live() -> i64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
}

/// A disk in memory. What it allocates is not counted: it works between the measurements.
struct World {
    files: BTreeMap<FileId, Vec<u8>>,
    master: MasterKey,
    pending: VecDeque<Input>,
    effects: Effects,
    now: Clock,
    /// Requests that had an idempotency id; None: they have none.
    named: Option<u64>,
}

impl World {
    fn take(&mut self) {
        for effect in self.effects.drain() {
            let input = match effect {
                Effect::Read { io, at, mut pages } => {
                    let bytes = pages.as_bytes_mut();
                    bytes.fill(0);
                    let file = self.files.get(&at.file).map_or(&[][..], Vec::as_slice);
                    let start = (at.offset as usize).min(file.len());
                    let end = (start + bytes.len()).min(file.len());
                    bytes[..end - start].copy_from_slice(&file[start..end]);
                    Input::ReadDone { io, pages, result: Ok(()) }
                }
                Effect::Write { io, at, pages, .. } => {
                    let file = self.files.get_mut(&at.file).unwrap();
                    let end = at.offset as usize + pages.size_bytes();
                    file.resize(file.len().max(end), 0);
                    file[at.offset as usize..end].copy_from_slice(pages.as_bytes());
                    Input::WriteDone { io, pages, result: Ok(()) }
                }
                Effect::Create { io, file } => {
                    self.files.entry(file).or_default();
                    Input::Done { io, result: Ok(()) }
                }
                Effect::Sync { io, .. } => Input::Done { io, result: Ok(()) },
                Effect::Remove { io, file } => {
                    self.files.remove(&file);
                    Input::Done { io, result: Ok(()) }
                }
                Effect::Wrap { io, key, purpose } => {
                    Input::Wrapped { io, key: Ok(wrap_key(&self.master, [9; 12], purpose, &key)) }
                }
                Effect::Unwrap { io, key, purpose } => {
                    Input::Unwrapped { io, key: unwrap_key(&self.master, purpose, &key) }
                }
                Effect::Send { .. } => panic!("one replica has no peers"),
                Effect::Event(_) => continue,
            };
            self.pending.push_back(input);
        }
    }

    fn open() -> (World, Node) {
        let mut world = World {
            files: BTreeMap::new(),
            master: MasterKey::parse(&[7; 32]).unwrap(),
            pending: VecDeque::new(),
            effects: Effects::new(),
            now: Clock { monotonic: Instant(1), wall: Timestamp(1_800_000_000 * SECOND_NS) },
            named: None,
        };
        let options = FormatOptions {
            cluster: None,
            replica: ReplicaId::ZERO,
            replica_count: 1,
            release: CURRENT_RELEASE,
            constants: ClusterConstants::SMALL,
        };
        let mut format = Format::start(options, &Seed([1; 32]), &mut world.effects).unwrap();
        world.take();
        while let Some(input) = world.pending.pop_front() {
            format.step(input, &mut world.effects).unwrap();
            world.take();
        }
        let config = Config { memory: Memory::CleanPages(4_096), ..Config::new(ReplicaId::ZERO) };
        let mut node = Node::open(&config, &Seed([2; 32]), &mut world.effects);
        world.take();
        world.settle(&mut node);
        assert!(node.is_ready(), "{:?}", node.halted());
        (world, node)
    }

    /// Feeds completions. Gives the allocations of those turns that commit, apply and append.
    fn settle(&mut self, node: &mut Node) -> u64 {
        let mut counted = 0;
        while let Some(input) = self.pending.pop_front() {
            self.now.monotonic = self.now.monotonic.plus_ns(10_000);
            self.now.wall = self.now.wall.plus_ns(10_000);
            let commits =
                matches!(&input, Input::WriteDone { io, .. } if io.owner == Owner::Journal);
            let before = calls();
            node.step(self.now, input, &mut self.effects);
            if commits {
                counted += calls() - before;
            }
            self.take();
        }
        counted
    }

    fn ask(&mut self, node: &mut Node, operation: Operation) -> (u64, u64) {
        let idempotency = self.named.as_mut().map_or(IdempotencyId::NONE, |named| {
            *named += 1;
            let mut random = [0; 10];
            random[..8].copy_from_slice(&named.to_le_bytes());
            IdempotencyId::new(self.now.wall.as_ms() + 60_000, random)
        });
        let request = Request {
            tenant: TenantId::DEFAULT,
            principal: PrincipalId::ZERO,
            idempotency,
            after: None,
            operations: vec![operation],
        };
        let before = calls();
        node.submit(self.now, request, &mut self.effects);
        let submitted = calls() - before;
        self.take();
        let applied = self.settle(node);
        let (_, reply) = node.next_reply().expect("a reply");
        reply.expect("it is accepted");
        (submitted, applied)
    }
}

/// Mean allocations of a submit and of commit to append, and bytes that stayed for each request.
fn measure(
    world: &mut World,
    node: &mut Node,
    operation: impl Fn(u64) -> Operation,
    from: u64,
) -> (f64, f64, f64) {
    const REQUESTS: u64 = 3_000;
    let mut next = from;
    let mut run = |world: &mut World, node: &mut Node| {
        let (mut submitted, mut applied) = (0, 0);
        for _ in 0..REQUESTS {
            let one = world.ask(node, operation(next));
            next += 1;
            (submitted, applied) = (submitted + one.0, applied + one.1);
        }
        (submitted as f64 / REQUESTS as f64, applied as f64 / REQUESTS as f64)
    };
    // Until every buffer has the size it needs.
    run(world, node);
    let files: usize = world.files.values().map(Vec::capacity).sum();
    let live_before = live() - files as i64;
    let (submitted, applied) = run(world, node);
    let files: usize = world.files.values().map(Vec::capacity).sum();
    let grown = live() - files as i64 - live_before;
    (submitted, applied, grown as f64 / REQUESTS as f64)
}

/// As [`measure`], of requests whose outcomes are remembered.
fn measure_named(
    world: &mut World,
    node: &mut Node,
    operation: impl Fn(u64) -> Operation,
    from: u64,
) -> (f64, f64, f64) {
    world.named = Some(0);
    let measured = measure(world, node, operation, from);
    world.named = None;
    measured
}

#[test]
fn the_write_path_allocates_no_more_than_is_known_and_keeps_nothing() {
    let (mut world, mut node) = World::open();
    let (world, node) = (&mut world, &mut node);
    let create = "CREATE TABLE t (id BIGINT PRIMARY KEY, a BIGINT, b BIGINT, c DOUBLE, d TEXT, \
                  e TEXT, f TEXT, g TIMESTAMP)";
    world.ask(node, Operation::Sql { text: create.to_string(), params: Vec::new() });
    let text = || Value::text("fifty-four bytes of text, or nearly so, to make a row.");
    let row = |id: u64| {
        let number = Value::Integer(id as i64);
        let (b, c, g) = (Value::Integer(7), Value::Double(0.5), Value::Timestamp(1));
        vec![number.clone(), number, b, c, text(), text(), text(), g]
    };
    let columns = || ["id", "a", "b", "c", "d", "e", "f", "g"].map(String::from).to_vec();
    let insert = |id| Operation::InsertRows {
        table: "t".to_string(),
        columns: columns(),
        rows: vec![row(id)],
    };
    let sql = |id| Operation::Sql {
        text: "INSERT INTO t (id, a, b, c, d, e, f, g) VALUES (?, ?, ?, ?, ?, ?, ?, ?)".to_string(),
        params: row(id),
    };
    let append = |_| Operation::Append {
        stream: "visits".to_string(),
        expected: ExpectedVersion::Any,
        records: vec![vec![0x5A; 200]],
    };
    // Allocations of a submit (parse, bind, lower, seal, propose) and of commit, apply and append.
    let bounds = [
        ("record appended", measure(world, node, append, 0), SUBMIT_APPEND),
        ("row inserted", measure(world, node, insert, 0), SUBMIT_INSERT),
        ("row by SQL text", measure(world, node, sql, 1_000_000), SUBMIT_SQL),
        ("row with an id", measure_named(world, node, insert, 2_000_000), SUBMIT_NAMED),
    ];
    for (what, (submitted, applied, grown), submit_max) in bounds {
        println!("{what}: {submitted:.1} submit, {applied:.2} apply, {grown:.1} B kept a request");
        assert!(submitted <= submit_max, "{what}: {submitted} allocations to submit");
        assert!(applied <= APPLY, "{what}: {applied} allocations from commit to append");
        assert!(grown.abs() <= KEPT_BYTES, "{what}: {grown} bytes stay for each request");
    }
}

/// None by the requests themselves. The tail of the log grows until a checkpoint has it written,
/// and checkpoints have lists of their own: spread over the requests between two.
const APPLY: f64 = 0.1;
const SUBMIT_APPEND: f64 = 3.5;
const SUBMIT_INSERT: f64 = 6.5;
const SUBMIT_SQL: f64 = 11.5;
const SUBMIT_NAMED: f64 = 7.5;
/// Buffers that grow and shrink with checkpoints, spread over the requests between two.
const KEPT_BYTES: f64 = 512.0;
