//! What the store costs when everything is in memory: hot gets, puts, removes, scans, sealing.
//!
//! `cargo run --release -p verity-core --example store_cost [rows]` (1,000,000 rows of 250 bytes by
//! default). Sealing a page and hashing 4 KiB are printed beside, as limits of the same run.

#![allow(clippy::disallowed_types, reason = "a benchmark measures time; the core never does")]
#![allow(clippy::expect_used, reason = "a benchmark may stop")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use verity_core::crypto::PageKey;
use verity_core::ids::{Op, PageNumber, TenantId, TreeId};
use verity_core::io::{Effect, Effects, FileId, Pages};
use verity_core::store::{Cursor, Direction, Store, StoreConfig, TreeRef};

const ROW: usize = 250;

struct Bench {
    store: Store,
    keys: BTreeMap<TenantId, PageKey>,
    op: u64,
    seconds: f64,
    pages: u64,
}

impl Bench {
    /// A whole checkpoint, its writes done at once; the time is kept apart.
    fn checkpoint(&mut self) {
        let start = Instant::now();
        let mut effects = Effects::new();
        self.op += 1;
        self.store.checkpoint_begin(Op::new(self.op));
        loop {
            self.store.checkpoint_step(&self.keys, &mut effects).expect("keys are there");
            let done: Vec<Effect> = effects.drain().collect();
            for effect in done {
                if let Effect::Write { io, pages, .. } = effect {
                    self.pages += pages.count() as u64;
                    self.store.on_write_done(io, pages, Ok(())).expect("memory does not fail");
                }
            }
            if self.store.checkpoint_done().is_some() {
                break;
            }
        }
        self.store.checkpoint_durable_applied(Op::new(self.op));
        self.seconds += start.elapsed().as_secs_f64();
    }

    /// Runs `work` for each item, with checkpoints in between; nanoseconds an item without them.
    fn time(&mut self, name: &str, items: u64, mut work: impl FnMut(&mut Store, u64)) {
        let start = Instant::now();
        let before = (self.seconds, self.pages);
        for item in 0..items {
            if item % 1_024 == 0 && self.store.dirty_pages() > 30_000 {
                self.checkpoint();
            }
            work(&mut self.store, item);
        }
        let checkpoints = self.seconds - before.0;
        let ns = (start.elapsed().as_secs_f64() - checkpoints) * 1e9 / items as f64;
        let pages = self.pages - before.1;
        println!(
            "{name:<28} {ns:>8.0} ns each   (checkpoints beside: {:.0} ns each, {pages} pages)",
            checkpoints * 1e9 / items as f64
        );
    }
}

fn spread(key: u64) -> [u8; 9] {
    let mut bytes = [3; 9];
    bytes[1..].copy_from_slice(&key.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    bytes
}

fn sequential(key: u64) -> [u8; 9] {
    let mut bytes = [3; 9];
    bytes[1..].copy_from_slice(&key.to_be_bytes());
    bytes
}

/// A chain of reads, each a random 4 KiB page away: what no index structure can beat.
fn cache_miss_ns() -> f64 {
    const PAGES: usize = 64 << 10;
    let mut chain = vec![0u64; PAGES * 512];
    let mut at = 0;
    for step in 1..=PAGES {
        let next = (step * 40_503 % PAGES) * 512 + step % 512;
        chain[at] = next as u64;
        at = next;
    }
    let (mut at, start) = (0, Instant::now());
    for _ in 0..PAGES - 1 {
        at = chain[at] as usize;
    }
    assert!(at < chain.len());
    start.elapsed().as_secs_f64() * 1e9 / (PAGES - 1) as f64
}

fn main() {
    let rows: u64 = std::env::args().nth(1).and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000);
    let tenant = TenantId::new(1);
    let config = StoreConfig {
        file: FileId::Grid,
        frames_max: (rows / 5) as u32 + 150_000,
        dirty_pages_max: 65_536,
        grid_pages_max: 1 << 24,
    };
    let keys = [TenantId::SYSTEM, tenant].map(|tenant| (tenant, PageKey::new(&[1; 32])));
    let mut bench =
        Bench { store: Store::new(config), keys: keys.into(), op: 0, seconds: 0.0, pages: 0 };
    let (ordered, random) =
        (TreeRef::new(tenant, TreeId::new(16)), TreeRef::new(tenant, TreeId::new(17)));
    bench.store.create_tenant(tenant).expect("in memory");
    bench.store.create_tree(ordered).expect("in memory");
    bench.store.create_tree(random).expect("in memory");
    let row = [7; ROW];

    let key = PageKey::new(&[1; 32]);
    let mut pages = Pages::zeroed(1);
    let start = Instant::now();
    for number in 1..2_000 {
        let _ = key.seal(PageNumber::new(number), Op::new(1), &mut pages.as_mut_slice()[0]);
    }
    println!("seal one page {:>23.0} ns", start.elapsed().as_secs_f64() * 1e9 / 1_999.0);

    println!("one dependent cache miss {:>12.0} ns", cache_miss_ns());

    bench.time("put, sequential keys", rows, |store, item| {
        store.put(ordered, &sequential(item), &row).expect("in memory");
    });
    bench.time("put, random keys", rows, |store, item| {
        store.put(random, &spread(item), &row).expect("in memory");
    });
    let mut draw = ChaCha8Rng::seed_from_u64(1);
    let mut hits = 0usize;
    let start = Instant::now();
    for _ in 0..rows {
        hits += sequential(draw.next_u64() % rows)[8] as usize;
    }
    println!(
        "drawing a key {:>23.0} ns ({hits})",
        start.elapsed().as_secs_f64() * 1e9 / rows as f64
    );
    let mut hits = 0usize;
    bench.time("get, random, dense tree", 2 * rows, |store, _| {
        let key = sequential(draw.next_u64() % rows);
        hits += store.get(ordered, &key).expect("in memory").expect("there")[0] as usize;
    });
    bench.time("get, random, random tree", 2 * rows, |store, _| {
        let key = spread(draw.next_u64() % rows);
        hits += store.get(random, &key).expect("in memory").expect("there")[0] as usize;
    });
    bench.time("get, absent", rows, |store, _| {
        let key = sequential(rows + draw.next_u64() % rows);
        hits += usize::from(store.contains(ordered, &key).expect("in memory"));
    });
    bench.time("update, random", rows / 4, |store, _| {
        let key = spread(draw.next_u64() % rows);
        store.put(random, &key, &row).expect("in memory");
    });
    bench.time("scan, an entry", rows, |store, item| {
        if item == 0 {
            let mut cursor = Cursor::all(Direction::Forward);
            let flow = store.scan(random, &mut cursor, |_, value| {
                hits += value[0] as usize;
                ControlFlow::Continue(())
            });
            assert!(flow.expect("in memory").is_continue());
        }
    });
    bench.time("rank", rows / 4, |store, _| {
        hits += store.rank(random, &spread(draw.next_u64() % rows)).expect("in memory") as usize;
    });
    bench.time("remove, random", rows / 2, |store, item| {
        hits += usize::from(store.remove(random, &spread(item)).expect("in memory"));
    });
    println!("(checked {hits}) memory {} MiB", bench.store.memory_bytes() >> 20);
}
