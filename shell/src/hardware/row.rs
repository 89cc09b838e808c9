//! What the hashes and seals of one inserted row cost by themselves: the floor of a bulk load.
//!
//! Each part is run as the core runs it, on buffers that are warm, with nothing around it: no SQL,
//! no tree, no log, no disk. So no bulk load of one thread can be faster than their sum.

use std::hint::black_box;

use verity_core::crypto::commitment::Salt;
use verity_core::crypto::{
    ChainHash, DataKey, Frontier, InternalDomain, InternalHash, PageKey, RowCommitment, TenantKeys,
    merkle, tree,
};
use verity_core::ids::{
    ColumnId, Generation, IdempotencyId, KeyId, Op, OriginId, PageNumber, Position, PrincipalId,
    SchemaVersion, StreamId, TableId, TenantId, TreeId,
};
use verity_core::io::{Page, SecretKey};
use verity_core::limits::PAGE_SIZE;
use verity_core::log::{METADATA_SIZE, Metadata, RecordKind, seal_record};
use verity_core::query::ColumnType;
use verity_core::query::Value;
use verity_core::query::codec::encode_row;
use verity_core::query::key::encode_key_value;
use verity_core::query::stored::{StoredPrefix, encode_stored};
use verity_core::time::Timestamp;

use super::time_each;

/// Nanoseconds for one row.
#[derive(Clone, Copy, Debug)]
pub struct RowFloor {
    /// Salts and hashes of its columns, and the commitment to them all.
    pub commitment_ns: f64,
    /// Sealing its record.
    pub record_seal_ns: f64,
    /// Chain hash of the record, its leaf and its share of the log's tree.
    pub chain_ns: f64,
    /// Sealing the request, opening it, and the checksum of the prepare.
    pub request_ns: f64,
    /// Salts and hashes of its entry in the tree of rows, and its share of a page's hash.
    pub entry_ns: f64,
    /// Its share of sealing the page.
    pub page_seal_ns: f64,
    /// Bytes that its record, its request and its entry take.
    pub record_bytes: usize,
    pub entry_bytes: usize,
}

impl RowFloor {
    #[must_use]
    pub fn total_ns(&self) -> f64 {
        self.commitment_ns
            + self.record_seal_ns
            + self.chain_ns
            + self.request_ns
            + self.entry_ns
            + self.page_seal_ns
    }

    /// Measures a row whose first column is its key, a BIGINT.
    #[must_use]
    pub fn measure(row: &[Value]) -> RowFloor {
        let generation = Generation::ZERO;
        let key = DataKey::new(SecretKey([7; 32]));
        let (origin, tenant, id) = (OriginId::new(1), TenantId::DEFAULT, KeyId::new(1));
        let keys = TenantKeys::derive(origin, tenant, id, &key, generation);
        let mut payload = Vec::new();
        encode_row(None, row, &mut payload);
        let mut stored = Vec::new();
        encode_stored(&StoredPrefix::default(), row, &mut stored);
        let mut row_key = Vec::new();
        encode_key_value(&row[0], ColumnType::BigInt, &mut row_key);
        let entry_bytes = stored.len() + row_key.len();
        let (entry_ns, page_seal_ns) = entry(&keys, &row_key, entry_bytes);
        RowFloor {
            commitment_ns: commitment(&keys, row),
            record_seal_ns: record_seal(&keys, &payload),
            chain_ns: chain(&payload),
            request_ns: request(&keys, &payload),
            entry_ns,
            page_seal_ns,
            record_bytes: payload.len() + METADATA_SIZE,
            entry_bytes,
        }
    }
}

fn commitment(keys: &TenantKeys, row: &[Value]) -> f64 {
    let salt = keys.salt(Generation::ZERO);
    let (mut position, mut bytes) = (0, Vec::new());
    time_each(|| {
        position += 1;
        let (table, version) = (TableId::new(1), SchemaVersion::new(1));
        let at = Position::new(position);
        let mut commitment = RowCommitment::new(&salt, TenantId::DEFAULT, at, table, version);
        for (column, cell) in (1..).zip(row) {
            bytes.clear();
            let tag = cell.commitment_bytes(&mut bytes);
            commitment.column(ColumnId::new(column), tag as u8, &bytes);
        }
        black_box(commitment.finish());
    })
}

fn record_seal(keys: &TenantKeys, payload: &[u8]) -> f64 {
    let key = keys.record(Generation::ZERO);
    let mut metadata = Metadata {
        position: Position::ZERO,
        tenant: TenantId::DEFAULT,
        op: Op::new(1),
        generation: Generation::ZERO,
        timestamp: Timestamp(1),
        transaction_first: Position::ZERO,
        transaction_last: Position::new(u64::MAX),
        stream: StreamId::new(1),
        kind: RecordKind::RowPut,
        key: keys.id(),
        principal: PrincipalId::ZERO,
        caused_by: None,
        idempotency: IdempotencyId::NONE,
        schema_version: SchemaVersion::new(1),
        commitment: ChainHash::ZERO,
        data_length: 0,
    };
    let mut sealed = Vec::new();
    time_each(|| {
        metadata.position = metadata.position.next();
        sealed.clear();
        sealed.extend_from_slice(payload);
        seal_record(&key, &mut metadata, &mut sealed);
        black_box(&sealed);
    })
}

fn chain(payload: &[u8]) -> f64 {
    let metadata = [0x5A; METADATA_SIZE];
    let (mut head, mut frontier) = (ChainHash::ZERO, Frontier::new());
    time_each(|| {
        head = ChainHash::of(&[&head.0, &metadata, payload]);
        frontier.push(&head);
        black_box(&frontier);
    })
}

/// Rows whose cells travel in one request.
const ROWS_OF_A_REQUEST: usize = 1_000;

fn request(keys: &TenantKeys, payload: &[u8]) -> f64 {
    let mut body = payload.repeat(ROWS_OF_A_REQUEST);
    let key = keys.request();
    let mut nonce = [0_u8; 12];
    let batch_ns = time_each_slow(|| {
        nonce[0] = nonce[0].wrapping_add(1);
        let tag = key.seal(nonce, &[0; 64], &mut body);
        black_box(InternalHash::of(InternalDomain::PrepareBody, &[&body]));
        // It opens, or the measurement would be of something else.
        assert!(key.open(nonce, &[0; 64], &mut body, &tag).is_ok());
    });
    batch_ns / ROWS_OF_A_REQUEST as f64
}

fn entry(keys: &TenantKeys, row_key: &[u8], entry_bytes: usize) -> (f64, f64) {
    let rows = (PAGE_SIZE - 64) / (entry_bytes + 8);
    let mut hashes = Vec::new();
    let mut position = 0;
    let tree_id = TreeId::new(16);
    let page_ns = time_each_slow(|| {
        hashes.clear();
        for _ in 0..rows {
            position += 1;
            let (salt, _): (Salt, Salt) = keys.leaf_salt().salts(tree_id, row_key);
            let (commitment, record) = (ChainHash::ZERO, ChainHash::ZERO);
            let digest = tree::row_digest(&commitment, Position::new(position), &record);
            hashes.push(tree::entry_hash(&salt, tree_id, row_key, &digest));
        }
        let root = merkle::root_of(&hashes);
        black_box(tree::node_hash(0, rows as u16, &root));
    });
    let page_key: &PageKey = keys.page();
    let mut page = Page([0x5A; PAGE_SIZE]);
    let mut op = 0;
    let seal_ns = time_each_slow(|| {
        op += 1;
        black_box(page_key.seal(PageNumber::new(1), Op::new(op), &mut page));
    });
    (page_ns / rows as f64, seal_ns / rows as f64)
}

/// As `time_each`, for what takes microseconds and more: it looks at the clock each time.
fn time_each_slow(mut work: impl FnMut()) -> f64 {
    let started = std::time::Instant::now();
    let mut count = 0u32;
    while started.elapsed() < super::ARITHMETIC {
        work();
        count += 1;
    }
    started.elapsed().as_nanos() as f64 / f64::from(count)
}
