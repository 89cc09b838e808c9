//! Directed checks: what seeds would meet once in a blue moon, done on purpose.
//!
//! Purpose: some bugs need one rare thing at one place (the whole superblock replaced by an older
//! one) or change nothing that an answer shows (a nonce, a salt). Each has a check here that builds
//! the situation by hand. Invariants: a check holds on a build without a bug (a test runs them
//! all); the bug of the zoo that names it makes it fail (`cargo x zoo`). Checks look at replies,
//! bytes on the disk and public functions of the core, never into a node.

mod bytes;
mod cluster;
mod crashes;
mod plans;
mod proofs;
mod requests;
mod solo;

use crate::cluster::directed;

/// One situation, and what must hold in it.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    pub name: &'static str,
    pub demands: &'static str,
    pub run: fn() -> Result<(), String>,
}

/// Every check there is; `Catcher::Check` of the zoo names them.
pub const CHECKS: &[Check] = &[
    Check {
        name: "flipped_record",
        demands: "a flip of any bit of the last record of a log is damage",
        run: bytes::flipped_record,
    },
    Check {
        name: "page_nonces",
        demands: "a page sealed at two checkpoints, or in two places, shares no nonce",
        run: bytes::page_nonces,
    },
    Check {
        name: "salts_differ",
        demands: "rows with the same values have different commitments",
        run: bytes::salts_differ,
    },
    Check {
        name: "old_superblock",
        demands: "a whole superblock of an earlier checkpoint is refused",
        run: solo::old_superblock,
    },
    Check {
        name: "idempotency_kept",
        demands: "an outcome is remembered past the time of its id, also when others are forgotten",
        run: solo::idempotency_kept,
    },
    Check {
        name: "cold_duplicates",
        demands: "after a restart, with no page in memory, a key that is taken stays taken and a \
                  request that was answered is answered again",
        run: solo::cold_duplicates,
    },
    Check {
        name: "tables_amid",
        demands: "reads see the tables of before until a transaction that makes one is whole",
        run: solo::tables_amid,
    },
    Check {
        name: "torn_prepare",
        demands: "a prepare that a crash tore is dropped, and what is before it stays",
        run: crashes::torn_prepare,
    },
    Check {
        name: "keys_copies",
        demands: "once a tenant is acknowledged, either copy of the keys may be lost",
        run: crashes::keys_copies,
    },
    Check {
        name: "checkpoint_boundary",
        demands: "a checkpoint holds the ops up to its own and none behind it, also in a replay",
        run: crashes::checkpoint_boundary,
    },
    Check {
        name: "reused_id",
        demands: "another request under a used id is refused, and changes nothing",
        run: requests::reused_id,
    },
    Check {
        name: "order_of_requests",
        demands: "a request that names another to come after is refused until that is applied",
        run: requests::order_of_requests,
    },
    Check {
        name: "transaction_limits",
        demands: "a transaction beyond the limits is refused before any change",
        run: requests::transaction_limits,
    },
    Check {
        name: "clock_steps",
        demands: "time moves at most a step ahead, however far the wall clock jumps",
        run: requests::clock_steps,
    },
    Check {
        name: "checkpoint_records",
        demands: "no two checkpoint records of a log are farther apart than the interval, and one \
                  transaction",
        run: requests::checkpoint_records,
    },
    Check {
        name: "cluster_runs",
        demands: "nodes of a cluster agree, lose nothing and answer everybody, whatever happens to \
                  network, processes and disks",
        run: cluster::runs,
    },
    Check {
        name: "cluster_sync_killed",
        demands: "a node that is killed amid a state sync, again and again, says nothing before it \
                  has a whole checkpoint with its logs, and has one in the end",
        run: directed::sync_killed,
    },
    Check {
        name: "cluster_sync_moves_on",
        demands: "a node whose peers wrote over what it fetches, fetches what they have now",
        run: directed::sync_moves_on,
    },
    Check {
        name: "cluster_sync_loses_peer",
        demands: "a node that fetches a checkpoint has it from whoever is left, and then there is \
                  a quorum again",
        run: directed::sync_loses_peer,
    },
    Check {
        name: "cluster_replaced_knower_down",
        demands: "an empty disk in place of a lost one decides nothing while the node that knows \
                  what the lost one acknowledged is down",
        run: directed::replaced_knower_down,
    },
    Check {
        name: "cluster_replaced_killed",
        demands: "an empty disk in place of a lost one becomes a member like the others, whenever \
                  it is killed on its way, and stays marked till then",
        run: directed::replaced_killed,
    },
    Check {
        name: "cluster_replaced_stands_in",
        demands: "once an empty disk in place of a lost one is a member, another node may go",
        run: directed::replaced_stands_in,
    },
    Check {
        name: "cluster_ring_read",
        demands: "no prepare is written where an older one is being read for a peer",
        run: directed::ring_read,
    },
    Check {
        name: "cluster_pages_repaired",
        demands: "a node whose pages all rotted has them from its peers, and answers",
        run: directed::pages_repaired,
    },
    Check {
        name: "cluster_reads_of_deposed",
        demands: "a primary that others have deposed answers no linearizable read, though it \
                  does not know",
        run: directed::reads_of_deposed,
    },
    Check {
        name: "cluster_reads_causal",
        demands: "a replica that is behind answers who has seen more only when it is there",
        run: directed::reads_causal,
    },
    Check {
        name: "cluster_cosigned",
        demands: "proofs hold under f + 1 signatures, and nobody signs what it did not apply, or \
                  what its superblock could forget",
        run: directed::cosigned,
    },
    Check {
        name: "cluster_cosigned_superseded",
        demands: "nobody puts the time of now to a head that another one superseded long ago",
        run: directed::cosigned_superseded,
    },
    Check {
        name: "cluster_cosigned_doubled",
        demands: "of a network that brings everything twice, nobody counts twice, and nobody \
                  signs an older head than before",
        run: directed::cosigned_doubled,
    },
    Check {
        name: "cluster_clocks",
        demands: "a clock that is wrong is outvoted; two that are wrong move time by an hour an \
                  op, and never back",
        run: directed::clocks,
    },
    Check {
        name: "cluster_older_disk",
        demands: "a node whose disk is older than its word votes nothing away, and waits for who \
                  knows",
        run: directed::older_disk,
    },
    Check {
        name: "cluster_older_disk_synced",
        demands: "a node whose disk is older than any ring comes to the cluster's log again",
        run: directed::older_disk_synced,
    },
    Check {
        name: "cluster_disk_full",
        demands: "writes are answered though the primary's disk is full",
        run: directed::disk_full,
    },
    Check {
        name: "cluster_segments_repaired",
        demands: "a node that reads blocks of its segments that rotted has them from its peers, \
                  and answers",
        run: directed::segments_repaired,
    },
    Check {
        name: "cluster_segments_peer_damaged",
        demands: "of a peer whose blocks rotted, too, nothing is written, and the next is asked",
        run: directed::segments_peer_damaged,
    },
    Check {
        name: "cluster_segments_synced",
        demands: "a node that fetches a checkpoint takes from its own segments what its peer lost",
        run: directed::segments_synced,
    },
    Check {
        name: "cluster_segments_scrubbed",
        demands: "blocks of segments that rotted are repaired though nobody reads them",
        run: directed::segments_scrubbed,
    },
    Check {
        name: "cluster_segments_killed",
        demands: "blocks that count as repaired are on the disk, whenever the node is killed",
        run: directed::segments_killed,
    },
    Check {
        name: "cluster_segments_lost",
        demands: "of blocks that rotted everywhere readers are told, and the nodes go on",
        run: directed::segments_lost,
    },
    Check {
        name: "cluster_segments_unreadable",
        demands: "blocks of segments that cannot be read are repaired, and end no process",
        run: directed::segments_unreadable,
    },
    Check {
        name: "cluster_segments_unwritable",
        demands: "a repair whose write fails ends the process, and the next one repairs",
        run: directed::segments_unwritable,
    },
    Check {
        name: "cluster_reads_misdirected",
        demands: "what a read gives that went astray is noticed, and nothing is made of it",
        run: directed::reads_misdirected,
    },
    Check {
        name: "cluster_writes_lost",
        demands: "what was acknowledged by a disk and never written is had from peers",
        run: directed::writes_lost,
    },
    Check {
        name: "cluster_writes_misdirected",
        demands: "what was written over by a write that went astray is had from peers, or from \
                  what stands beside it",
        run: directed::writes_misdirected,
    },
    Check {
        name: "cluster_sync_writes_lost",
        demands: "a node that fetched pages which its disk did not keep fetches them again",
        run: directed::sync_writes_lost,
    },
    Check {
        name: "cluster_tenants_missed",
        demands: "a node that missed the keys of a new tenant asks for them, and applies nothing \
                  before it has them",
        run: directed::tenants_missed,
    },
    Check {
        name: "cluster_tenants_maker_lost",
        demands: "once a tenant is acknowledged, whoever made its keys may be lost",
        run: directed::tenants_maker_lost,
    },
    Check {
        name: "cluster_tenants_made_twice",
        demands: "of two nodes that made keys for a tenant both have those that the log names",
        run: directed::tenants_made_twice,
    },
    Check {
        name: "cluster_tenants_synced",
        demands: "a node that fetches a checkpoint has the keys of every tenant in it",
        run: directed::tenants_synced,
    },
    Check {
        name: "cluster_tenants_keys_put_back",
        demands: "a node whose keys file is older than its checkpoint asks for what is missing",
        run: directed::tenants_keys_put_back,
    },
    Check {
        name: "cluster_tenants_killed",
        demands: "a tenant can be created and used whoever is killed amid that, at any effect",
        run: directed::tenants_killed,
    },
    Check {
        name: "ranges_and_unions",
        demands: "a range by < ends before its bound, and an OR by two indexes reads both",
        run: plans::ranges_and_unions,
    },
    Check {
        name: "index_whole",
        demands: "an index that is built in slices is read only when every row is in it",
        run: plans::index_whole,
    },
    Check {
        name: "proof_holes",
        demands: "no entry that an answer needs can be hidden from its proof",
        run: proofs::proof_holes,
    },
    Check {
        name: "proof_counts",
        demands: "no page can be shown as a count where its entries are needed",
        run: proofs::proof_counts,
    },
    Check {
        name: "proof_columns",
        demands: "rows from before a column was added have its first value since, and only since",
        run: proofs::proof_columns,
    },
    Check {
        name: "proof_empty",
        demands: "no tree passes for an empty one",
        run: proofs::proof_empty,
    },
    Check {
        name: "proof_schema",
        demands: "no byte of a proved schema can be changed",
        run: proofs::proof_schema,
    },
    Check {
        name: "proof_signatures",
        demands: "a head holds only if the log and a quorum signed that very head",
        run: proofs::proof_signatures,
    },
    Check {
        name: "proof_records",
        demands: "a record is in the log, and says what it committed to",
        run: proofs::proof_records,
    },
    Check {
        name: "proof_moments",
        demands: "the past is proved of the very moment asked for, and of the table of then",
        run: proofs::proof_moments,
    },
    Check {
        name: "proof_of_another",
        demands: "a proof of one query, tenant or key proves no other, unless it shows its answer",
        run: proofs::proof_of_another,
    },
    Check {
        name: "proof_pins",
        demands: "a head that is older than one seen, or does not continue it, is refused",
        run: proofs::proof_pins,
    },
];

/// The check of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.name == name)
}

#[cfg(test)]
mod tests {
    use super::CHECKS;

    #[test]
    fn every_check_holds() {
        for check in CHECKS {
            assert_eq!((check.run)(), Ok(()), "{}: {}", check.name, check.demands);
        }
    }
}
