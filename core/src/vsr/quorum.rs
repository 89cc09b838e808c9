//! Sizes of quorums, and what a quorum has committed: the one place that knows.
//!
//! R replicas tolerate f = (R - 1) / 2 failures; every quorum is f + 1, so that any two share a
//! replica.

use crate::ids::Op;
use crate::limits::{REPLICA_COUNT_MAX, REPLICA_COUNTS};

/// Replicas that must have a prepare durable before it commits.
#[must_use]
pub fn quorum_replication(replica_count: u8) -> u8 {
    assert!(REPLICA_COUNTS.contains(&replica_count));
    let quorum = (replica_count - 1) / 2 + 1;
    assert!(2 * quorum > replica_count, "two quorums share a replica");
    quorum
}

/// The highest op that a quorum has durable, given each replica's highest.
pub(super) fn committed(acknowledged: &[Op; REPLICA_COUNT_MAX], replica_count: u8) -> Op {
    let mut sorted = *acknowledged;
    let replicas = &mut sorted[..usize::from(replica_count)];
    replicas.sort_unstable();
    replicas[usize::from(replica_count - quorum_replication(replica_count))]
}
