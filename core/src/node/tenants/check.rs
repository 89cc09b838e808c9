//! What an open looks at: whether the keys file has the keys of every tenant that there is.
//!
//! A checkpoint that knows a tenant is written only where its keys are durable; but a keys file may
//! have been put back from an older copy. What is missing is asked of peers before anything is
//! applied or read.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::crypto::KekHash;
use crate::ids::TenantId;
use crate::io::Effects;
use crate::kernel::trees::{TENANTS_TREE, TenantEntry, tenant_of_key};
use crate::node::api::Halt;
use crate::node::halt::store_halt;
use crate::node::running::Running;
use crate::store::{Cursor, Direction, Pins};

/// Faults in one turn that found what they missed in memory.
const FAULTS_MAX: usize = 64;

/// How far the tree of tenants was looked through since the open.
#[derive(Debug)]
pub(super) struct Check {
    cursor: Cursor,
    pins: Pins,
    done: bool,
}

impl Default for Check {
    fn default() -> Check {
        Check { cursor: Cursor::all(Direction::Forward), pins: Pins::new(), done: false }
    }
}

impl Check {
    pub fn is_done(&self) -> bool {
        self.done
    }
}

impl Running {
    /// Goes on until all tenants were looked at, or a page is missing.
    pub(in crate::node) fn check_tenants(&mut self, effects: &mut Effects) -> Result<(), Halt> {
        for _ in 0..FAULTS_MAX {
            let check = &mut self.tenant_keys.check;
            if check.done || !self.store.ready(&check.pins).map_err(store_halt)? {
                return Ok(());
            }
            let mut found: Vec<(TenantId, KekHash)> = Vec::new();
            let mut bad = None;
            let store = &self.store;
            let scanned = store.tree_exists(TENANTS_TREE).and_then(|exists| {
                if !exists {
                    return Ok(ControlFlow::Continue(()));
                }
                store.scan(TENANTS_TREE, &mut check.cursor, |key, value| {
                    match TenantEntry::decode(value) {
                        Ok(entry) => found.push((tenant_of_key(key), entry.kek_hash)),
                        Err(error) => bad = Some(error),
                    }
                    ControlFlow::Continue(())
                })
            });
            if let Some(error) = bad {
                return Err(Halt::Data { what: "tree of tenants", detail: error.to_string() });
            }
            match scanned {
                Ok(_) => {
                    check.done = true;
                    self.store.unpin(&mut check.pins);
                }
                Err(_fault) => self.store.fetch(&mut check.pins, effects),
            }
            self.tenants_decided(&found, effects);
            self.settle_awaited();
        }
        Ok(())
    }
}
