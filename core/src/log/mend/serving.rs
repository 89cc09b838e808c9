//! Reads for peers, beside which no block is written.

use crate::ids::{SegmentNumber, TenantId};
use crate::io::Effects;
use crate::log::Logs;

impl Logs {
    /// A peer is about to be given blocks; false: they are being repaired.
    pub fn serve_begins(&mut self, tenant: TenantId, segment: SegmentNumber) -> bool {
        if self.is_mending_write(tenant, segment) {
            return false;
        }
        *self.repairs.served.entry((tenant, segment)).or_default() += 1;
        true
    }

    /// They were read.
    pub fn serve_ends(&mut self, tenant: TenantId, segment: SegmentNumber, effects: &mut Effects) {
        let key = (tenant, segment);
        let Some(count) = self.repairs.served.get_mut(&key) else {
            unreachable!("what ends has begun")
        };
        *count -= 1;
        if *count == 0 {
            self.repairs.served.remove(&key);
        }
        self.rebuild_step(effects);
    }
}
