//! One history of each tenant, whoever applies it and however often.
//!
//! A transaction ends at a position with a hash that covers every record before (its first bytes
//! will do). Whoever comes to that position again, after a crash, on another node, with another
//! cache, must come to that hash: apply is a function of what is committed. So a difference is told
//! at the first transaction that is applied otherwise, not when something is asked that shows it.

use std::collections::BTreeMap;

use verity_core::event::Event;
use verity_core::ids::{Op, Position, TenantId};

#[derive(Debug, Default)]
pub struct Histories {
    applied: BTreeMap<(TenantId, Position), (Op, [u8; 8])>,
}

impl Histories {
    /// What a node applied; the difference, if it or another one has applied something else there.
    pub fn note(&mut self, event: &Event) -> Result<(), String> {
        let Event::TransactionApplied { tenant, op, last, chain, .. } = *event else {
            return Ok(());
        };
        let (before, hash) = *self.applied.entry((tenant, last)).or_insert((op, chain));
        if (before, hash) == (op, chain) {
            return Ok(());
        }
        Err(format!(
            "two histories of tenant {tenant}: at position {last} op {before} ended with \
             {hash:02x?}, and now op {op} with {chain:02x?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_hash_or_another_op_at_a_position_is_told() {
        let mut histories = Histories::default();
        let applied = |op: u64, hash: u8| Event::TransactionApplied {
            tenant: TenantId::new(1),
            op: Op::new(op),
            records: 2,
            last: Position::new(7),
            chain: [hash; 8],
        };
        for _ in 0..2 {
            assert_eq!(histories.note(&applied(3, 1)), Ok(()));
        }
        assert!(histories.note(&applied(3, 2)).is_err());
        assert!(histories.note(&applied(4, 1)).is_err());
        assert_eq!(histories.note(&Event::ReplayFinished { op: Op::new(3) }), Ok(()));
    }
}
