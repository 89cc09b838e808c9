//! Reading: from memory and disk, scans, verified reads.

use super::*;

fn plain(record: &Record) -> Vec<u8> {
    open_record(&key(), &record.metadata, &record.data).unwrap()
}

#[test]
fn records_can_be_read_from_the_moment_they_are_appended() {
    let mut bench = Bench::new(40);
    let mut written: Vec<Vec<u8>> = Vec::new();
    let mut hashes = Vec::new();
    for round in 0..300u64 {
        let size = match bench.random.below(20) {
            0 => 200_000 + bench.random.below(300_000),
            1..5 => bench.random.below(20_000),
            _ => bench.random.below(400),
        };
        let bytes = alloc::vec![round as u8; size as usize];
        hashes.push(bench.append(TENANT, RecordKind::Append, &bytes).hash);
        written.push(bytes);
        match bench.random.below(12) {
            0 => bench.checkpoint(),
            1 => bench.logs.flush_step(&mut bench.effects),
            2 => bench.run(2),
            3 => {
                bench.checkpoint();
                bench.restart();
            }
            _ => {}
        }
        for _ in 0..3 {
            let position = bench.random.below(written.len() as u64);
            let record = bench.read(position).unwrap();
            assert!(plain(&record) == written[position as usize]);
            assert_eq!(record.hash(), hashes[position as usize]);
        }
    }
    let next = bench.head(TENANT).next;
    assert_eq!(
        bench.read(300),
        Err(LogFault::NoSuchPosition { position: Position::new(300), next })
    );
    assert_eq!(bench.seen("IndexRebuilt"), 0);
    assert_eq!(bench.seen("BlockCorrupt"), 0);
    // All of it again, in order.
    for from in [0, 1, 39, 40, 123] {
        let mut scan = LogScan::new(TENANT, Position::new(from), Position::new(u64::MAX));
        let mut count = from;
        while let Some(record) = bench.stage(|logs, head| scan.next(logs, head)).unwrap() {
            assert!(plain(&record) == written[count as usize]);
            count += 1;
        }
        assert_eq!(count, 300);
    }
    bench.checkpoint();
    assert_eq!(bench.verify().unwrap().len(), 300);
}

/// With nothing in memory: the index's header, a page of it, and the record, on two blocks perhaps.
#[test]
fn a_read_by_position_costs_the_same_in_any_log() {
    for count in [100, 1_000, 100_000] {
        let mut bench = Bench::new(60_000);
        for position in 0..count {
            bench.append_sized(TENANT, 100);
            if position % 5_000 == 4_999 {
                bench.checkpoint();
            }
        }
        bench.checkpoint();
        for _ in 0..200 {
            bench.restart();
            let position = bench.random.below(count);
            let before = bench.pages_read;
            assert_eq!(bench.read(position).unwrap().metadata.position.get(), position);
            let pages = bench.pages_read - before;
            assert!((3..=4).contains(&pages), "{pages} pages of position {position} of {count}");
        }
    }
}

#[test]
fn memory_is_bounded_by_flushing() {
    let mut bench = Bench::new(1_000_000);
    let all = bench.logs.room();
    for _ in 0..2_000 {
        bench.append_sized(TENANT, 40_000);
        while bench.logs.room() < all - (2 << 20) {
            bench.logs.flush_step(&mut bench.effects);
            assert!(!bench.effects.is_empty());
            bench.run(usize::MAX);
        }
    }
    bench.checkpoint();
    bench.checkpoint();
    assert_eq!(bench.logs.room(), all, "a quiet log costs nothing");
    assert!(bench.logs.is_idle());
}

fn verified(bench: &mut Bench, position: u64) -> Result<(Record, usize), LogFault> {
    let mut read = VerifiedRead::new(TENANT, Position::new(position));
    for steps in 1..10_000 {
        if let Some(record) = bench.stage(|logs, head| read.step(logs, head, &mut open_claim))? {
            return Ok((record, steps));
        }
    }
    panic!("a verified read ends at a checkpoint record");
}

#[test]
fn a_verified_read_goes_to_the_nearest_checkpoint_records_only() {
    let mut bench = Bench::new(64);
    for position in 0..200 {
        if position % 20 == 19 {
            bench.append_checkpoint_record(TENANT);
        } else {
            bench.append_sized(TENANT, 100);
        }
    }
    bench.checkpoint();
    for position in 0..200 {
        let (record, steps) = verified(&mut bench, position).unwrap();
        assert_eq!(record.metadata.position.get(), position);
        assert!(steps <= 21, "position {position} took {steps}");
    }
}

#[test]
fn a_verified_read_sees_a_forged_record_that_index_and_crc_confirm() {
    let mut bench = Bench::new(64);
    for _ in 0..10 {
        bench.append_sized(TENANT, 100);
    }
    bench.checkpoint();
    // The forger rewrites one record wholly and lets the index be lost.
    let (offset, _) = bench.verify().unwrap()[4];
    let good = bench.read(4).unwrap();
    let mut forged = good.clone();
    forged.data[0] ^= 1;
    let mut bytes = Vec::new();
    super::super::record::encode_record(
        &forged.prev_hash,
        &forged.metadata,
        &forged.data,
        &mut bytes,
    );
    let content = bench.disk.files.get_mut(&segment_file(0)).unwrap();
    content[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
    bench.restart();
    // A plain read is told by the index.
    assert!(matches!(bench.read(4), Err(LogFault::Damaged(_))));
    bench.disk.files.remove(&index_file(0));
    bench.restart();
    assert!(matches!(verified(&mut bench, 4), Err(LogFault::Damaged(_))));
    assert_eq!(bench.verify().unwrap_err().position, Position::new(5));
}
