//! Every page that the checkpoint reaches, and the heads of the logs that it holds.

use std::ops::ControlFlow;

use verity_core::ids::{TenantId, TreeId};
use verity_core::io::{Address, Effects, FileId, Input, Page};
use verity_core::kernel::{CommittedRows, EntrySalts, TreesOfRows};
use verity_core::keyring::Keyring;
use verity_core::limits::PAGE_SIZE;
use verity_core::log::LogHead;
use verity_core::store::walk::Walker;
use verity_core::store::{
    Audit, AuditStop, Cursor, Direction, Pins, Store, StoreCheckpoint, StoreConfig, TreeRef,
};
use verity_core::superblock::SuperblockState;
use zerocopy::FromZeros;

use super::roots::{Roots, Unchanged};
use super::{Heads, Progress, Report};
use crate::offline::Offline;

const HEADS_TREE: TreeRef = TreeRef::new(TenantId::SYSTEM, TreeId::new(5));
/// Clean pages in memory while heads are read.
const CLEAN_PAGES: u32 = 1_024;

/// Walks all trees; `None` when the heads of the logs cannot be read.
pub fn check(
    files: &mut Offline,
    state: &SuperblockState,
    keyring: &Keyring,
    report: &mut Report,
    progress: &mut dyn Progress,
) -> Option<Heads> {
    // Before the first checkpoint there is no grid, and no log that it covers.
    let Some(from) = checkpoint(state) else { return Some(Vec::new()) };
    let mut walker = Walker::new(&from);
    progress.part("grid", u64::from(from.grid_pages) * PAGE_SIZE as u64);
    let mut page = Page::new_zeroed();
    let mut broken = false;
    while let Some(wanted) = walker.wanted() {
        let offset = u64::from(wanted.at.page.get()) * PAGE_SIZE as u64;
        if let Err(error) = files.read(Address::new(FileId::Grid, offset), &mut page.0) {
            let why = files.why(FileId::Grid, error);
            report.unknown("grid", format!("page {}: {why}", wanted.at.page));
            broken = true;
            continue;
        }
        progress.bytes(PAGE_SIZE as u64);
        if let Err(damage) = walker.give(keyring, &wanted, &mut page) {
            report.damage("grid", damage);
            broken = true;
        }
    }
    report.pages = walker.progress().0;
    match heads(files, state, keyring) {
        Ok(heads) => Some(heads),
        Err(what) => {
            // Damage that hides the heads was told above; anything else is news.
            if !broken {
                report.damage("grid", what);
            }
            None
        }
    }
}

/// Recomputes from its pages every state that was signed for and has not changed since; and holds
/// each row against what its record committed to.
pub(super) fn check_states(
    files: &mut Offline,
    state: &SuperblockState,
    keyring: &Keyring,
    roots: &Roots,
    report: &mut Report,
    progress: &mut dyn Progress,
) {
    let Some(from) = checkpoint(state).filter(|_| !roots.unchanged.is_empty()) else { return };
    let config = StoreConfig::new(FileId::Grid, &state.constants, CLEAN_PAGES);
    let mut effects = Effects::new();
    let mut store = Store::open(config, &from, &mut effects);
    progress.part("state roots", u64::from(from.grid_pages) * PAGE_SIZE as u64);
    for Unchanged { tenant, root, seen } in &roots.unchanged {
        let mut audit = Audit::of(*tenant);
        let mut pins = Pins::new();
        let mut committed = None;
        let found = loop {
            if let Err(what) = settle(files, &mut store, keyring, &mut effects)
                .and_then(|()| store.ready(&pins).map_err(|error| error.to_string()))
            {
                return report.damage("signed", what);
            }
            let Some(committed) = &committed else {
                match TreesOfRows::read(&store, *tenant) {
                    Ok(Some(trees)) => committed = Some(CommittedRows::new(keyring, seen, trees)),
                    Ok(None) => {
                        return report.damage("signed", format!("tenant {tenant}: not a catalog"));
                    }
                    Err(_fault) => store.fetch(&mut pins, &mut effects),
                }
                continue;
            };
            match store.audit_step(&mut audit, &EntrySalts(keyring), committed) {
                Ok(done) => {
                    progress.bytes(PAGE_SIZE as u64);
                    store.unpin(&mut pins);
                    if done {
                        break audit.root();
                    }
                }
                Err(AuditStop::Fault(_)) => store.fetch(&mut pins, &mut effects),
                Err(AuditStop::KeyMissing { tenant }) => {
                    return report
                        .unknown("signed", format!("tenant {tenant}: its key is missing"));
                }
                Err(AuditStop::Mismatch { tree, page }) => {
                    return report.damage(
                        "signed",
                        format!(
                            "tenant {tenant}: page {page} of tree {} does not hold what its hash, \
                             or a record, says",
                            tree.tree
                        ),
                    );
                }
            }
        };
        if found == Some(*root) {
            report.signed_states.push(*tenant);
        } else {
            report.damage(
                "signed",
                format!("tenant {tenant}: its state is not the one that was signed for"),
            );
        }
    }
}

/// What the store opens from; `None` before the first checkpoint.
pub(crate) fn checkpoint(state: &SuperblockState) -> Option<StoreCheckpoint> {
    let checkpoint = &state.checkpoint;
    (!checkpoint.free_set.root.is_none()).then_some(StoreCheckpoint {
        op: checkpoint.op,
        system_forest: checkpoint.system_forest,
        free_set: checkpoint.free_set,
        grid_pages: checkpoint.grid_pages,
    })
}

/// The heads of all logs at the checkpoint.
pub(crate) fn heads(
    files: &mut Offline,
    state: &SuperblockState,
    keyring: &Keyring,
) -> Result<Heads, String> {
    let Some(from) = checkpoint(state) else { return Ok(Vec::new()) };
    let config = StoreConfig::new(FileId::Grid, &state.constants, CLEAN_PAGES);
    let mut effects = Effects::new();
    let mut store = Store::open(config, &from, &mut effects);
    let mut pins = Pins::new();
    let mut heads = Vec::new();
    let mut cursor = Cursor::all(Direction::Forward);
    loop {
        settle(files, &mut store, keyring, &mut effects)?;
        // What was fetched is there, or the store said why not.
        store.ready(&pins).map_err(|error| error.to_string())?;
        match store.tree_exists(HEADS_TREE) {
            Ok(true) => {}
            Ok(false) => return Err("there is no tree of heads".to_string()),
            Err(_fault) => {
                store.fetch(&mut pins, &mut effects);
                continue;
            }
        }
        let mut bad = None;
        let scanned = store.scan(HEADS_TREE, &mut cursor, |key, value| {
            match (<[u8; 8]>::try_from(key), LogHead::decode(value)) {
                (Ok(key), Ok(head)) => {
                    heads.push((TenantId::new(u64::from_be_bytes(key)), head));
                    ControlFlow::Continue(())
                }
                (_, _) => {
                    bad = Some("an entry of the tree of heads is none".to_string());
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(bad) = bad {
            return Err(bad);
        }
        match scanned {
            Ok(_) => return Ok(heads),
            Err(_fault) => store.fetch(&mut pins, &mut effects),
        }
    }
}

/// Carries out what the store asked for, until it asks for nothing.
fn settle(
    files: &mut Offline,
    store: &mut Store,
    keyring: &Keyring,
    effects: &mut Effects,
) -> Result<(), String> {
    let mut inputs = Vec::new();
    loop {
        files.execute(effects, &mut inputs);
        if inputs.is_empty() {
            return Ok(());
        }
        for input in std::mem::take(&mut inputs) {
            if let Input::ReadDone { io, pages, result } = input {
                store
                    .on_read_done(keyring, io, pages, result, effects)
                    .map_err(|error| error.to_string())?;
            }
        }
    }
}
