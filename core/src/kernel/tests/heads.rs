//! The zone of heads, as every checkpoint writes it and every open reads it.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::crypto::{ChainHash, Frontier};
use crate::ids::{Position, SegmentNumber, TenantId};
use crate::io::FileId;
use crate::kernel::record::put_head;
use crate::kernel::trees::{ATTESTED_TREE, AttestedHead, HEADS_TREE, tenant_key, tenant_of_key};
use crate::limits::ClusterConstants;
use crate::log::LogHead;
use crate::store::{Cursor, Direction, Store, StoreConfig, TreeRef};
use crate::tests::golden::golden;

/// A head with each of its fields, of a log of so many records.
fn head(records: u64) -> LogHead {
    let mut frontier = Frontier::new();
    (0..records).for_each(|record| frontier.push(&ChainHash([record as u8; 32])));
    LogHead {
        next: Position::new(records),
        chain: ChainHash([records as u8; 32]),
        frontier,
        segment: SegmentNumber::new(1),
        segment_offset: 0x1_2345_6000,
        segment_first: Position::new(records / 2),
        records_since_checkpoint_record: records / 3,
        last_checkpoint_record: Some(Position::new(records - 1 - records / 3)),
    }
}

/// Every entry of a tree: key, size of the value, value.
fn entries(store: &Store, tree: TreeRef) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut cursor = Cursor::all(Direction::Forward);
    let _ = store
        .scan(tree, &mut cursor, |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

fn bytes(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in entries {
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(value);
    }
    bytes
}

/// Entries as they are in the trees; and the file's, read as an open reads them.
#[test]
fn golden_heads() {
    let mut store = Store::new(StoreConfig::new(FileId::Grid, &ClusterConstants::SMALL, 64));
    let heads = vec![
        (TenantId::SYSTEM, head(1_000)),
        (TenantId::DEFAULT, LogHead::empty()),
        (TenantId::new(0x0102_0304_0506), head(7)),
    ];
    store.create_tree(HEADS_TREE).unwrap();
    store.create_tree(ATTESTED_TREE).unwrap();
    for (tenant, head) in heads.iter().rev() {
        put_head(&mut store, *tenant, &head.encode()).unwrap();
    }
    let stored = entries(&store, HEADS_TREE);
    golden("heads", &bytes(&stored));
    let read =
        |(key, value): &(Vec<u8>, Vec<u8>)| (tenant_of_key(key), LogHead::decode(value).unwrap());
    assert_eq!(stored.iter().map(read).collect::<Vec<_>>(), heads);

    let [root, chain, state] = [1, 2, 3].map(|byte| ChainHash([byte; 32]));
    let attested = AttestedHead { size: 1_000, root, chain, state };
    store.put(ATTESTED_TREE, &tenant_key(TenantId::DEFAULT), &attested.encode()).unwrap();
    let stored = entries(&store, ATTESTED_TREE);
    golden("heads.attested", &bytes(&stored));
    assert_eq!(AttestedHead::of_value(&stored[0].1), attested);
}
