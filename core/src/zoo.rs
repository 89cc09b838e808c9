//! Deliberate bugs, compiled only under `--cfg verity_zoo`: the simulator itself under test.
//!
//! Purpose: each bug here is planted in its module as `#[cfg(verity_zoo)] if
//! crate::zoo::is("name")` and must be caught by the campaign or by a named directed test.
//! Invariant: a normal build holds none of this (the tidy test looks for its symbols). At most one
//! bug is selected at a time, by [`select`]; the core reads no environment.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One deliberate bug.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    pub name: &'static str,
    /// What is wrong, and which invariant it breaks.
    pub description: &'static str,
    pub catcher: Catcher,
}

/// Who must catch a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Catcher {
    /// Seeds of the simulator.
    Seeds,
    /// The directed check of this name: seeds cannot, or only once in a blue moon.
    Check(&'static str),
}

const fn by_seeds(name: &'static str, description: &'static str) -> Bug {
    Bug { name, description, catcher: Catcher::Seeds }
}

const fn by_check(check: &'static str, name: &'static str, description: &'static str) -> Bug {
    Bug { name, description, catcher: Catcher::Check(check) }
}

/// Every bug there is. A name that code asks for and this list lacks is refused by [`is`].
pub const BUGS: &[Bug] = &[
    // Journal and consensus.
    by_seeds(
        "ack_before_durable",
        "journal: a prepare is written without waiting for durability, and counts",
    ),
    by_check(
        "torn_prepare",
        "torn_write_ignored",
        "journal: recovery takes a prepare whose body fails its checksum",
    ),
    by_seeds(
        "rotten_taken_as_torn",
        "journal: recovery drops an acknowledged prepare that rotted, without a word",
    ),
    by_seeds("clock_goes_back", "vsr: the timestamp of a prepare follows the wall clock back"),
    by_check(
        "clock_steps",
        "clock_step_unlimited",
        "vsr: a prepare takes the time of a wall clock that jumped, however far",
    ),
    by_check(
        "cluster_cosigned",
        "cosigns_unapplied",
        "node: a replica cosigns any head that a peer names",
    ),
    by_check(
        "cluster_cosigned",
        "cosigned_late",
        "node: a head is cosigned before the superblock holds it",
    ),
    by_check(
        "cluster_cosigned_superseded",
        "cosigns_superseded",
        "node: a replica signs the last head that it signed again, whatever it has applied since",
    ),
    by_check(
        "cluster_cosigned_doubled",
        "cosigns_older",
        "node: a replica cosigns an older head than the last",
    ),
    by_check(
        "cluster_cosigned_doubled",
        "cosigner_counts_twice",
        "node: a cosignature that came twice counts as two",
    ),
    by_check(
        "cluster_clocks",
        "clocks_not_compared",
        "vsr: a primary believes its own wall clock against those of all others",
    ),
    by_check(
        "cluster_older_disk",
        "old_disk_trusted",
        "vsr: a disk that is older than what peers heard of its replica votes all the same",
    ),
    // Superblock, checkpoint, keys.
    by_seeds(
        "superblock_one_copy",
        "superblock: an update counts when one copy is written; a crash brings back the stale one",
    ),
    by_check(
        "old_superblock",
        "stale_superblock_accepted",
        "journal: headers that know a newer checkpoint than the superblock are not believed",
    ),
    by_seeds(
        "superblock_before_sync",
        "node: the superblock names pages of the grid that were never synced",
    ),
    by_check(
        "checkpoint_boundary",
        "checkpoint_includes_later_ops",
        "node: a checkpoint freezes the grid after ops that follow its own; replay repeats them",
    ),
    by_check("keys_copies", "keys_one_copy", "keyring: a minted key counts when one copy holds it"),
    // Log and store.
    by_seeds("log_not_synced", "log: a checkpoint does not sync the segments it names"),
    by_check("flipped_record", "crc_skipped", "log: a record's crc is read and not compared"),
    by_seeds("page_reused_early", "store: a page that the last checkpoint needs is free at once"),
    by_seeds(
        "page_leaks_on_fault",
        "store: a put takes a page before its last fault, so a fault loses one",
    ),
    by_check(
        "checkpoint_records",
        "checkpoint_records_forgotten",
        "kernel: a log gets no checkpoint record before a shutdown; verification is unbounded",
    ),
    by_check(
        "cluster_segments_unreadable",
        "segment_eio_stops",
        "log: a block of a segment that cannot be read stops a replica that has peers, for good",
    ),
    // Crypto.
    by_seeds(
        "request_not_sealed",
        "kernel: a copy of the request is sealed, and the original goes into the prepare",
    ),
    by_seeds(
        "request_nonce_reused",
        "node: the nonce of a sealed request is the newest op, which others share",
    ),
    by_check(
        "page_nonces",
        "page_nonce_reused",
        "crypto: the nonce of a page does not hold the checkpoint's op",
    ),
    by_check(
        "salts_differ",
        "salts_reused",
        "crypto: all rows of a tenant draw the same salts, so equal rows are seen to be equal",
    ),
    by_seeds(
        "generation_not_raised",
        "kernel: a new view goes on in the old generation, whose record nonces were used",
    ),
    // Kernel.
    by_seeds("fault_in_apply", "kernel: a page that is not in memory means that the key is free"),
    by_check(
        "cold_duplicates",
        "idempotency_fault_is_absent",
        "kernel: a page that is not in memory means that the id is new",
    ),
    by_check(
        "idempotency_kept",
        "idempotency_trimmed_early",
        "kernel: an outcome is forgotten as soon as its id is out of date",
    ),
    by_check(
        "reused_id",
        "idempotency_body_unchecked",
        "kernel: another request under a used id gets the first one's answer",
    ),
    by_check(
        "order_of_requests",
        "order_ignored",
        "kernel: a request that must follow another one runs although that was never applied",
    ),
    by_check(
        "transaction_limits",
        "transaction_limit_ignored",
        "kernel: a transaction beyond the limit of events and bytes is executed",
    ),
    by_seeds("wrong_version_accepted", "kernel: an append at an older version is accepted"),
    by_seeds(
        "transaction_half_applied",
        "kernel: a refused transaction leaves what its first statements did",
    ),
    by_seeds("history_lost_on_delete", "kernel: a deleted row does not enter history"),
    // Trees, indexes, versions.
    by_seeds("inner_count_stale", "store: a split leaves the old count of the left page"),
    by_seeds(
        "split_loses_entry",
        "store: a leaf that splits loses the last entry of its left half",
    ),
    by_seeds("index_entry_left", "kernel: an entry that ended stays among the current ones, too"),
    by_seeds("unique_null_clashes", "query: two NULLs are the same where values must be unique"),
    by_seeds("unique_skipped_on_update", "kernel: UPDATE does not look at what must be unique"),
    by_seeds("index_before_ready", "query: an index is read at positions from before it was whole"),
    by_check(
        "index_whole",
        "index_ready_early",
        "kernel: an index counts as whole when its first slice is in it",
    ),
    by_seeds("history_begins_late", "query: a version is not there yet where it begins"),
    by_seeds("ended_rows_skipped", "query: a scan of the past knows only keys that have a row now"),
    by_seeds("initial_ignored", "query: rows from before ADD COLUMN lack its DEFAULT"),
    // Cluster.
    by_check(
        "cluster_runs",
        "cluster_commits_alone",
        "vsr: a primary commits what it has durable itself, and waits for no other replica",
    ),
    by_check(
        "cluster_runs",
        "cluster_applies_ahead",
        "vsr: an op is applied that counts on a checkpoint which is not durable on this replica",
    ),
    by_check(
        "cluster_runs",
        "cluster_times_differ",
        "node: a replica applies an op with a time of its own",
    ),
    by_check(
        "cluster_runs",
        "cluster_deposed_silent",
        "node: who waits for an op when the lead is lost is never answered",
    ),
    by_check(
        "cluster_reads_of_deposed",
        "lead_unconfirmed",
        "vsr: a primary answers linearizable reads though no quorum says that it still leads",
    ),
    by_check(
        "cluster_reads_causal",
        "causal_read_early",
        "node: a read that names a position is answered as of an earlier one",
    ),
    by_check(
        "cluster_disk_full",
        "full_disk_keeps_lead",
        "vsr: a primary whose disk is full goes on to lead, and nobody can write",
    ),
    by_check(
        "cluster_sync_killed",
        "sync_unmarked",
        "node: pages of a peer's checkpoint are written before the superblock says so",
    ),
    by_check(
        "cluster_sync_killed",
        "sync_mark_ignored",
        "node: a directory with half of a checkpoint is opened as if it were whole",
    ),
    by_check(
        "cluster_sync_moves_on",
        "sync_keeps_target",
        "node: a checkpoint is fetched for ever whose pages peers have written over",
    ),
    by_check(
        "cluster_sync_killed",
        "sync_forgets_logs",
        "node: a checkpoint of a peer is installed without the segments of its logs",
    ),
    by_check(
        "cluster_replaced_knower_down",
        "replaced_counts",
        "vsr: an empty disk in place of a lost one counts like any other, and nacks",
    ),
    by_check(
        "cluster_replaced_killed",
        "replaced_mark_early",
        "vsr: the mark of an empty disk is gone before it has the log of a view",
    ),
    by_check(
        "cluster_tenants_maker_lost",
        "tenant_keys_unkept",
        "node: a tenant is proposed before f others have its keys",
    ),
    by_check(
        "cluster_tenants_maker_lost",
        "tenant_keys_unwritten",
        "node: a replica says that it has a tenant's keys, and has not written them",
    ),
    by_check(
        "cluster_tenants_missed",
        "tenant_keys_not_awaited",
        "node: a replica that misses a new tenant's keys goes on without",
    ),
    by_check(
        "cluster_tenants_synced",
        "sync_keys_unasked",
        "node: a state sync does not ask for keys of tenants that it lacks",
    ),
    by_check(
        "cluster_ring_read",
        "ring_read_over",
        "journal: a prepare is written where an older one is being read for a peer",
    ),
    by_check(
        "cluster_pages_repaired",
        "repair_to_nobody",
        "store: who waits for a page that was repaired is not told",
    ),
    by_check(
        "cluster_segments_peer_damaged",
        "segment_repair_unchecked",
        "log: blocks of a peer are written over bad ones as they come",
    ),
    by_check(
        "cluster_segments_peer_damaged",
        "segment_repair_one_peer",
        "log: a peer that cannot help ends the repair of a segment",
    ),
    by_check(
        "cluster_segments_scrubbed",
        "scrub_stops_at_damage",
        "log: scrubbing skips a segment in which it found damage",
    ),
    by_check(
        "cluster_segments_killed",
        "segment_repair_not_durable",
        "log: blocks count as repaired before their write is durable",
    ),
    by_check(
        "cluster_reads_misdirected",
        "prepare_read_unchecked",
        "journal: a prepare that is read back is not held against its header",
    ),
    by_check(
        "cluster_writes_lost",
        "segment_repair_not_read_back",
        "log: blocks count as repaired when the device says so, whatever it holds",
    ),
    by_check(
        "cluster_writes_misdirected",
        "slot_of_another_place",
        "journal: a slot with the header of another place counts as one that was never used",
    ),
    by_check(
        "cluster_sync_writes_lost",
        "sync_reads_once",
        "node: a state sync that finds a page it fetched damaged ends the process, each time anew",
    ),
    by_check(
        "tables_amid",
        "bound_amid",
        "kernel: a read is bound to tables that a transaction under way has made so far",
    ),
    // Query.
    by_check(
        "ranges_and_unions",
        "range_end_included",
        "query: a range by < ends behind its bound, not before it",
    ),
    by_check(
        "ranges_and_unions",
        "union_forgets_side",
        "query: of an OR by two indexes only the first side is read",
    ),
    by_seeds(
        "found_rows_stale",
        "kernel: the rows that were found for a large write count though its table changed since",
    ),
    by_seeds(
        "find_ends_at_fault",
        "kernel: the search for the rows of a large write ends where a page is not in memory",
    ),
    by_seeds("limit_before_filter", "query: LIMIT counts rows that the filter refuses"),
    by_seeds("as_of_off_by_one", "query: a read of the past takes the version that had just ended"),
    by_seeds("fault_leaks", "query: a row whose page is not in memory counts as absent"),
    by_seeds("not_unknown_is_true", "query: NOT of an unknown condition is true"),
    // Proofs.
    by_check("proof_holes", "proof_gap_ignored", "proof: rows may be hidden within a range"),
    by_check(
        "proof_holes",
        "proof_neighbour_unchecked",
        "proof: a hidden part counts as outside the range if anything is shown before it",
    ),
    by_check(
        "proof_holes",
        "proof_past_gap_ignored",
        "proof: the version that covers a position may be hidden beside another one",
    ),
    by_check(
        "proof_holes",
        "proof_limit_excuses_gaps",
        "proof: a LIMIT excuses what is hidden before it is reached",
    ),
    by_check(
        "proof_counts",
        "proof_count_hides",
        "proof: a page may be shown as a count where its entries are needed",
    ),
    by_check(
        "proof_counts",
        "proof_count_past_range",
        "proof: a count may stand for entries outside the range",
    ),
    by_check(
        "proof_holes",
        "proof_index_hides",
        "proof: an index may hide entries of its interval",
    ),
    by_check(
        "proof_holes",
        "proof_index_rows_missing",
        "proof: rows that an index names need not be shown",
    ),
    by_check(
        "proof_columns",
        "proof_initial_ignored",
        "proof: a column added later is NULL in the rows from before",
    ),
    by_check("proof_empty", "proof_empty_accepted", "proof: any tree is taken for an empty one"),
    by_check(
        "proof_schema",
        "proof_schema_unbound",
        "proof: the schema is not compared with what was signed for",
    ),
    by_check(
        "proof_signatures",
        "proof_quorum_ignored",
        "proof: a head without its quorum is accepted",
    ),
    by_check(
        "proof_signatures",
        "proof_log_unsigned",
        "proof: a head that the log did not sign is accepted",
    ),
    by_check(
        "proof_records",
        "proof_inclusion_unchecked",
        "proof: a record need not be in the log",
    ),
    by_check(
        "proof_records",
        "proof_opening_unchecked",
        "proof: a record's content need not be what it committed to",
    ),
    by_check(
        "proof_moments",
        "proof_moment_ignored",
        "proof: AS OF takes any position that the proof shows",
    ),
    by_check(
        "proof_moments",
        "proof_table_too_young",
        "proof: a table answers for a time at which another one had its name",
    ),
    by_check(
        "proof_of_another",
        "proof_query_ignored",
        "proof: a proof of any query answers the one asked",
    ),
    by_check("proof_of_another", "proof_tenant_ignored", "proof: the head of any tenant will do"),
    by_check(
        "proof_pins",
        "proof_rollback_ignored",
        "proof: a head older than the one seen is accepted",
    ),
    by_check(
        "proof_pins",
        "proof_fork_ignored",
        "proof: a newer head need not continue the one seen",
    ),
];

/// 0: none; else the index into `BUGS` plus one.
static SELECTED: AtomicUsize = AtomicUsize::new(0);
/// How often the selected bug was reached.
static HITS: AtomicU64 = AtomicU64::new(0);

/// Selects the one bug that is alive in this process; false when there is no such bug.
pub fn select(name: &str) -> bool {
    let Some(index) = BUGS.iter().position(|bug| bug.name == name) else {
        return false;
    };
    SELECTED.store(index + 1, Ordering::Relaxed);
    true
}

/// Whether the named bug is alive. Counts as a hit when it is.
#[must_use]
pub fn is(name: &str) -> bool {
    let selected = SELECTED.load(Ordering::Relaxed);
    if selected == 0 {
        return false;
    }
    let alive = BUGS[selected - 1].name == name;
    if alive {
        HITS.fetch_add(1, Ordering::Relaxed);
    }
    alive
}

/// How often the selected bug was reached: tells "never ran" from "ran and was not caught".
#[must_use]
pub fn hits() -> u64 {
    HITS.load(Ordering::Relaxed)
}
