//! The pages of a checkpoint against what was signed for and what records committed to.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::proving::{policy, prove, world};
use super::rig::*;
use crate::crypto::ChainHash;
use crate::ids::{Position, TenantId};
use crate::kernel::{CommittedRows, EntrySalts, Operation, RecordsSeen, TreesOfRows};
use crate::proof::{CanonicalQuery, QueryKind, SignedHeads};
use crate::query::stored::STORED_PREFIX_SIZE;
use crate::store::{Audit, AuditStop, Cursor, Direction, Pins, Store, StoredRows, TreeRef};

/// Rows of two generations and two schemas, superseded ones, and of a table that is gone.
fn attested() -> Rig {
    let (mut rig, _) = world(Memory::Ample, 12);
    let mut sql = |text: &str| {
        let operation = Operation::Sql { text: text.to_string(), params: vec![] };
        rig.request(&request(vec![operation])).unwrap();
    };
    sql("ALTER TABLE people ADD COLUMN note TEXT DEFAULT 'none'");
    sql("INSERT INTO people VALUES (1000, 'new', 7, 'of its own')");
    sql("UPDATE people SET name = 'newer' WHERE id = 1000");
    let long = "x".repeat(5_000);
    sql(&alloc::format!("INSERT INTO people VALUES (1001, '{long}', 8, NULL)"));
    sql("DROP TABLE other");
    rig.attest();
    rig
}

struct AnyRow;

impl StoredRows for AnyRow {
    fn holds(&self, _: TreeRef, _: &[u8]) -> bool {
        true
    }
}

fn records(rig: &mut Rig, tenant: TenantId) -> RecordsSeen {
    let mut seen = RecordsSeen::default();
    for position in 0..rig.head(tenant).next.get() {
        seen.pass(&rig.event(tenant, Position::new(position)).record.metadata);
    }
    seen
}

/// The state root, from what a checkpoint wrote; rows are judged, or believed.
fn audit(rig: &mut Rig, tenant: TenantId, judged: bool) -> Result<ChainHash, AuditStop> {
    let seen = records(rig, tenant);
    rig.checkpoint();
    rig.crash();
    let keys = TestKeys::new();
    let trees = rig.read(|store| TreesOfRows::read(store, tenant)).unwrap();
    let committed = CommittedRows::new(&keys, &seen, trees);
    let rows: &dyn StoredRows = if judged { &committed } else { &AnyRow };
    let (mut audit, mut pins) = (Audit::of(tenant), Pins::new());
    loop {
        match rig.store.audit_step(&mut audit, &EntrySalts(&keys), rows) {
            Ok(false) => {}
            Ok(true) => break,
            Err(AuditStop::Fault(_)) => rig.fetch(&mut pins),
            Err(other) => return Err(other),
        }
    }
    rig.store.unpin(&mut pins);
    Ok(audit.root().unwrap())
}

#[test]
fn the_pages_of_a_checkpoint_hold_what_was_signed_for() {
    let mut rig = attested();
    let tenants = [T1, TenantId::new(2), TenantId::SYSTEM];
    let roots = tenants.map(|tenant| rig.state_root(tenant));
    let kind = QueryKind::Event { position: Position::ZERO };
    let proof = prove(&mut rig, &CanonicalQuery { tenant: T1, kind }).unwrap();
    let heads = SignedHeads::read(&proof.encode(), &policy(&rig)).unwrap();
    assert_eq!(heads.tenant.unwrap().1.state, roots[0]);
    for (tenant, root) in tenants.into_iter().zip(roots) {
        assert_eq!(audit(&mut rig, tenant, true), Ok(root), "tenant {tenant}");
    }
}

/// Of every table, current rows and history: (tree, key, stored row).
fn stored_rows(rig: &mut Rig) -> Vec<(TreeRef, Vec<u8>, Vec<u8>)> {
    let people = rig.catalog(T1).table_named("people").unwrap().clone();
    let mut found = Vec::new();
    for tree in [people.rows, people.history] {
        let tree = TreeRef::new(T1, tree);
        found.extend(rig.read(|store| {
            let mut rows = Vec::new();
            let _ended = store.scan(tree, &mut Cursor::all(Direction::Forward), |key, value| {
                rows.push((tree, key.to_vec(), value.to_vec()));
                core::ops::ControlFlow::Continue(())
            })?;
            Ok(rows)
        }));
    }
    found
}

fn put(rig: &mut Rig, tree: TreeRef, key: &[u8], value: &[u8]) {
    let mut pins = Pins::new();
    let put = |store: &mut Store| store.put(tree, key, value);
    while put(&mut rig.store).is_err() {
        rig.fetch(&mut pins);
    }
    rig.store.unpin(&mut pins);
}

/// Whoever has the keys can seal pages with other columns in them. No hash tells, the commitment
/// does.
#[test]
fn columns_that_are_not_those_committed_to_are_found() {
    let rows = stored_rows(&mut attested());
    assert!(rows.len() > 20, "{}", rows.len());
    for (at, (tree, key, value)) in rows.iter().enumerate().step_by(4) {
        let mut rig = attested();
        let root = rig.state_root(T1);
        let mut lie = value.clone();
        // A byte of the last column that has any; of some, the count of columns.
        let place = if at % 8 == 4 { STORED_PREFIX_SIZE + 1 } else { lie.len() - 1 };
        lie[place] ^= 1;
        put(&mut rig, *tree, key, &lie);
        assert_eq!(audit(&mut rig, T1, false), Ok(root), "hashes are as they were");
        let Err(AuditStop::Mismatch { tree: found, .. }) = audit(&mut rig, T1, true) else {
            panic!("{lie:?} passes for {value:?}");
        };
        assert_eq!(found, *tree);
    }
    // A row of another table's, or of another place, is none either.
    let mut rig = attested();
    let (tree, key, _) = &rows[0];
    put(&mut rig, *tree, key, &[7; STORED_PREFIX_SIZE]);
    assert!(matches!(audit(&mut rig, T1, true), Err(AuditStop::Mismatch { .. })));
}
