//! What each cryptographic step of a row event costs: `cargo run --release --example crypto_cost`.
//!
//! Prints the median of several rounds in nanoseconds, so that a budget can be held against it.
#![allow(clippy::disallowed_types, reason = "a benchmark measures time; the core never does")]

use std::hint::black_box;
use std::time::Instant;

use verity_core::crypto::keys::{DataKey, TenantKeys};
use verity_core::crypto::signature::SigningKey;
use verity_core::crypto::{ChainHash, Frontier, InternalDomain, InternalHash, RowCommitment};
use verity_core::ids::*;
use verity_core::io::{Pages, SecretKey};
use verity_core::stdx::PageMap;

const ROUNDS: usize = 15;

fn main() {
    let generation = Generation::new(1);
    let key = DataKey::new(SecretKey([7; 32]));
    let tenant = TenantId::DEFAULT;
    let keys = TenantKeys::derive(OriginId::new(1), tenant, KeyId::new(1), &key, generation);
    let buffer = vec![0xa5; 4096];

    for size in [40, 65, 366, 4096] {
        measure(&format!("chain hash, {size} B"), |_| {
            black_box(ChainHash::of(&[black_box(&buffer[..size])]));
        });
    }
    for size in [256, 4096] {
        measure(&format!("internal hash, {size} B"), |_| {
            let parts: [&[u8]; 1] = [black_box(&buffer[..size])];
            black_box(InternalHash::of(InternalDomain::PrepareBody, &parts));
        });
    }
    let hash = ChainHash::of(&[b"record"]);
    let mut frontier = Frontier::new();
    measure("tree: push one record", |_| frontier.push(black_box(&hash)));
    measure("tree: root of a million", |_| {
        black_box(frontier.root());
    });

    let salt = keys.salt(generation);
    for columns in [1, 8, 16] {
        measure(&format!("commitment of {columns} columns of 25 B"), |at| {
            let position = Position::new(at);
            let (table, schema) = (TableId::new(3), SchemaVersion::new(4));
            let mut row = RowCommitment::new(&salt, tenant, position, table, schema);
            for column in 0..columns {
                row.column(ColumnId::new(column), 5, black_box(&buffer[..25]));
            }
            black_box(row.finish());
        });
    }

    let record = keys.record(generation);
    let mut data = vec![0xa5; 200];
    measure("seal a record of 200 B", |at| {
        black_box(record.seal(Position::new(at), &buffer[..150], &mut data));
    });
    let mut pages = Pages::zeroed(1);
    measure("seal a page", |at| {
        let page = &mut pages.as_mut_slice()[0];
        black_box(keys.page().seal(PageNumber::new(7), Op::new(at), page));
    });
    let mut body = vec![0xa5; 300];
    measure("seal a request of 300 B", |at| {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&at.to_le_bytes());
        black_box(keys.request().seal(nonce, &buffer[..64], &mut body));
    });
    measure("record key of another generation", |at| {
        black_box(keys.record(Generation::new(at + 2)));
    });
    measure("derive a tenant's keys", |_| {
        black_box(TenantKeys::derive(OriginId::new(1), tenant, KeyId::new(1), &key, generation));
    });

    let signing = SigningKey::new(&[9; 32]);
    let verifying = signing.verifying_key();
    let signature = signing.sign(b"head");
    measure("Ed25519 sign", |_| {
        black_box(signing.sign(black_box(b"head")));
    });
    measure("Ed25519 verify", |_| {
        black_box(verifying.verify(b"head", black_box(&signature)).is_ok());
    });

    let mut map = PageMap::new(1 << 16);
    for page in 1..1 << 16 {
        map.insert(PageNumber::new(page * 3), page);
    }
    measure("page map: hit", |at| {
        let page = (at as u32).wrapping_mul(40_503) & 0xffff;
        black_box(map.get(PageNumber::new(page * 3 + 3)));
    });
    println!("size of TenantKeys: {} B", size_of::<TenantKeys>());
}

/// Runs `work` for a few milliseconds a round and prints the median round's cost of one call.
fn measure(name: &str, mut work: impl FnMut(u64)) {
    let mut calls = 0;
    let mut run = |count: u64| {
        let start = Instant::now();
        for _ in 0..count {
            work(calls);
            calls += 1;
        }
        start.elapsed().as_nanos() as f64 / count as f64
    };
    let estimate = run(200).max(1.0);
    let count = (4e6 / estimate) as u64 + 1;
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| run(count)).collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<40} {:>10.1} ns", rounds[ROUNDS / 2]);
}
