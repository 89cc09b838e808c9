//! Tests of commitments.

use alloc::vec::Vec;

use super::*;

const TABLE: TableId = TableId::new(3);
const SCHEMA: SchemaVersion = SchemaVersion::new(5);

fn seed(key: u8, tenant: u64, position: u64) -> RowSeed {
    RowSeed::new(&SaltKey::new([key; 32]), TenantId::new(tenant), Position::new(position))
}

fn row(count: u8) -> Vec<(ColumnId, u8, Vec<u8>)> {
    let value = |at: u8| [at].repeat(at as usize * 7);
    (0..count).map(|at| (ColumnId::new(u32::from(at) + 1), at % 5, value(at))).collect()
}

fn commit(seed: &RowSeed, row: &[(ColumnId, u8, Vec<u8>)]) -> ChainHash {
    let mut commitment = RowCommitment::from_seed(seed, TABLE, SCHEMA);
    for (column, type_tag, value) in row {
        commitment.column(*column, *type_tag, value);
    }
    commitment.finish()
}

/// The rule as `docs/PROOFS.md` writes it, without the builder.
#[test]
fn commitment_is_what_the_page_says() {
    let seed = seed(1, 2, 3);
    for count in [0, 1, 3, 4, 5, 9] {
        let row = row(count);
        let mut all = Vec::new();
        for (at, (column, type_tag, value)) in row.iter().enumerate() {
            let mut bytes = [2].to_vec();
            bytes.extend_from_slice(&seed.salt(at).0);
            bytes.extend_from_slice(&3u32.to_le_bytes());
            bytes.extend_from_slice(&column.get().to_le_bytes());
            bytes.push(*type_tag);
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value);
            all.extend_from_slice(&ChainHash::of(&[&bytes]).0);
        }
        let (table, schema, count) = (3u32.to_le_bytes(), 5u32.to_le_bytes(), u32::from(count));
        let expected = ChainHash::of(&[&[3], &table, &schema, &all, &count.to_le_bytes()]);
        assert_eq!(commit(&seed, &row), expected);
    }
}

#[test]
fn every_subset_of_columns_can_be_shown() {
    let seed = seed(1, 2, 3);
    let row = row(6);
    let commitment = commit(&seed, &row);
    let salts = salts(&seed, row.len());
    for shown in 0..1 << row.len() {
        let columns: Vec<_> = row
            .iter()
            .zip(&salts)
            .enumerate()
            .map(|(at, ((column, type_tag, value), salt))| {
                if shown >> at & 1 == 1 {
                    let (column, type_tag) = (*column, *type_tag);
                    return Column::Shown { salt: *salt, column, type_tag, value };
                }
                Column::Hidden(column_hash(salt, TABLE, *column, *type_tag, value))
            })
            .collect();
        assert_eq!(verify_row(&commitment, TABLE, SCHEMA, &columns), Ok(()));
        let refused = Err(CommitmentError::Mismatch);
        assert_eq!(verify_row(&commitment, TABLE.next(), SCHEMA, &columns), refused);
        assert_eq!(verify_row(&commitment, TABLE, SCHEMA.next(), &columns), refused);
        assert_eq!(verify_row(&commitment, TABLE, SCHEMA, &columns[1..]), refused);
        let mut swapped = columns.clone();
        swapped.swap(0, 5);
        assert_eq!(verify_row(&commitment, TABLE, SCHEMA, &swapped), refused);
        for at in 0..columns.len() {
            let mut changed = columns.clone();
            let other = &row[(at + 1) % 6].2;
            match &mut changed[at] {
                Column::Hidden(hash) => hash.0[31] ^= 1,
                Column::Shown { value, .. } => *value = other,
            }
            assert_eq!(verify_row(&commitment, TABLE, SCHEMA, &changed), refused);
        }
    }
    let many = [Column::Hidden(ChainHash::ZERO); COLUMNS_MAX + 1];
    let count = COLUMNS_MAX + 1;
    let refused = Err(CommitmentError::TooManyColumns { count });
    assert_eq!(verify_row(&commitment, TABLE, SCHEMA, &many), refused);
}

#[test]
fn salts_differ_between_rows_tenants_keys_and_columns() {
    let mut seen = Vec::new();
    for seed in [seed(1, 2, 3), seed(1, 2, 4), seed(1, 3, 3), seed(2, 2, 3)] {
        for salt in salts(&seed, COLUMNS_MAX) {
            assert!(!seen.contains(&salt.0));
            seen.push(salt.0);
        }
    }
}

#[test]
fn appended_records_bind_salt_stream_and_payload() {
    let (key, tenant, position) = (SaltKey::new([1; 32]), TenantId::new(2), Position::new(3));
    let stream = StreamId::new(4);
    let commitment = record_commitment(&key, tenant, position, stream, b"payload");
    let salt = RowSeed::new(&key, tenant, position).salt(0);
    assert_eq!(record_commitment_with(&salt, stream, b"payload"), commitment);
    assert_ne!(record_commitment_with(&salt, stream, b"Payload"), commitment);
    assert_ne!(record_commitment_with(&salt, stream.next(), b"payload"), commitment);
    assert_ne!(record_commitment_with(&Salt([0; 16]), stream, b"payload"), commitment);
}
