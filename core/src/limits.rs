//! Every limit of the system, in one place.
//!
//! Invariants: limits that steer state are *cluster constants*, kept in the superblock, so that two
//! replicas cannot disagree; the rest are compile-time constants. Relations between limits are
//! asserted here, at compile time or in `ClusterConstants::validate`.

use static_assertions::const_assert;

/// Unit of every file: page, block, sector.
pub const PAGE_SIZE: usize = 4096;

/// A prepare on the wire and in the ring: header and body.
pub const PREPARE_SIZE_MAX: usize = 1 << 20;
/// Fixed size of every prepare header.
pub const PREPARE_HEADER_SIZE: usize = 256;
pub const PREPARE_BODY_SIZE_MAX: usize = PREPARE_SIZE_MAX - PREPARE_HEADER_SIZE;
/// One lowered, sealed request within a prepare, its clear header included.
pub const REQUEST_SIZE_MAX: usize = PREPARE_BODY_SIZE_MAX;
/// Requests packed into one prepare.
pub const PREPARE_REQUESTS_MAX: usize = 8_192;
/// Prepares in flight between proposal and commit.
pub const PIPELINE_MAX: usize = 8;
/// Writes are refused while the file system has less room: enough for a checkpoint's pages and
/// blocks, so that a full disk is met here and not in the middle of one.
pub const SPACE_RESERVE_BYTES: u64 = 32 << 20;
/// Replies that wait to be taken; a caller that takes none is refused more.
pub const TICKETS_MAX: usize = 2 * REQUEST_QUEUE_MAX;
/// Waiting requests of this size are proposed while another prepare is in flight.
pub const PREPARE_EAGER_BYTES: usize = 64 * 1024;
/// Requests that wait at the primary for a place in a prepare; more are told to retry.
pub const REQUEST_QUEUE_MAX: usize = 65_536;

/// A row, encoded; also an appended record.
pub const ROW_SIZE_MAX: usize = 512 * 1024;
/// What the kernel keeps beside a row, in its value.
pub const VALUE_EXTRA_MAX: usize = 4 * 1024;
/// A key of any tree, encoded.
pub const KEY_SIZE_MAX: usize = 512;
/// Key of a row: a history key adds a position.
pub const ROW_KEY_SIZE_MAX: usize = KEY_SIZE_MAX - 8;
pub const COLUMNS_MAX: usize = 256;
pub const IDENTIFIER_SIZE_MAX: usize = 128;
/// What a name that is made up takes of others; the rest is for its ending and its number.
pub const MADE_UP_NAME_BYTES: usize = IDENTIFIER_SIZE_MAX - 28;
pub const STREAM_NAME_SIZE_MAX: usize = 256;
pub const TABLES_MAX: usize = 1_024;
/// Secondary indexes of one table, and columns of one index.
pub const INDEXES_MAX: usize = 64;
pub const INDEX_COLUMNS_MAX: usize = 32;
/// Rows of a table up to which CREATE INDEX is done when it answers; beyond, or beyond a quarter of
/// `transaction_events_max`, it is a job.
pub const INDEX_ROWS_AT_ONCE_MAX: u64 = 2_000;
/// Jobs of a tenant, those that failed and were not cancelled included.
pub const JOBS_MAX: usize = 64;
/// Rows that one slice of an index build reads, where pages allow.
pub const JOB_SLICE_ROWS: usize = 64;
/// Leaves of a dropped tree that one slice frees.
pub const JOB_SLICE_LEAVES: u32 = 32;
/// Turns of the node in which a job lets clients go first, one after the other.
pub const JOB_TURNS_WAITED_MAX: u32 = 4;
/// After a slice that was refused the next try waits so long; doubled with each refusal, up to the
/// second.
pub const JOB_PAUSE_NS: u64 = 10 * crate::time::MILLISECOND_NS;
pub const JOB_PAUSE_MAX_NS: u64 = 10 * crate::time::SECOND_NS;
/// Tenants looked through for jobs in one turn after a restart.
pub const JOB_SWEEP_TENANTS: usize = 8;
/// Rows that enter an index between two looks at the table.
pub const INDEX_BUILD_BATCH: usize = 64;
pub const TENANTS_MAX: usize = 65_536;
/// Wrapped keys of one tenant: its KEK and its data keys.
pub const KEYS_PER_TENANT_MAX: usize = 4;
/// An entry of the keys file, also on its way to another replica.
pub const KEY_ENTRY_SIZE: usize = 128;
/// Wrapped keys in the keys file.
pub const KEYS_MAX: usize = TENANTS_MAX * KEYS_PER_TENANT_MAX;
/// Pages of the keys file that are read or written at once, and belong to one copy in a row.
pub const KEYS_EXTENT_PAGES: usize = 16;
/// KEKs that the holder of the master key is asked for at once.
pub const UNWRAPS_IN_FLIGHT_MAX: usize = 32;

pub const SQL_SIZE_MAX: usize = 512 * 1024;
pub const SQL_TOKENS_MAX: usize = 200_000;
pub const SQL_DEPTH_MAX: usize = 64;
pub const SQL_PARAMETERS_MAX: usize = 32_766;
pub const STATEMENTS_MAX: usize = 256;
/// Operations of one request, each with a result; the results lie beside the largest row in one
/// record.
pub const OPERATIONS_MAX: usize = 2_048;
/// Bytes of one result of an outcome, encoded.
pub const RESULT_SIZE_MAX: usize = 32;
/// Bytes of an error's text; more is cut off.
pub const ERROR_MESSAGE_SIZE_MAX: usize = 1_000;
/// Encoded rows of one INSERT; what else a request holds fits beside them.
pub const INSERT_BYTES_MAX: usize = REQUEST_SIZE_MAX - 16 * 1024;
/// Operators (AND and OR aside) that may follow one another in one expression.
pub const SQL_OPERATORS_MAX: usize = 128;
/// ANDs and ORs that may follow one another in one condition.
pub const SQL_TERMS_MAX: usize = 1_000;
/// Nesting of a bound expression; what the binder can build stays below.
pub const EXPRESSION_DEPTH_MAX: usize = 256;
/// Constraints and column options of one CREATE TABLE.
pub const CONSTRAINTS_MAX: usize = 4 * COLUMNS_MAX;
/// LIKE: characters of the text times those of the longest part of the pattern that has a `_` and
/// stands between two `%`: such a part is looked for place by place. Without `_`, time is linear.
pub const LIKE_STEPS_MAX: usize = 64 << 20;
pub const JSON_DEPTH_MAX: usize = 128;
/// Key ranges that one statement reads; beyond, it reads the ranges' hull.
pub const KEY_RANGES_MAX: usize = 1_000;
/// Rows that a read visits before it yields.
pub const READ_SLICE_ROWS: usize = 100;
/// Rows that a read copies out of their pages at a time.
pub const READ_BATCH_ROWS: usize = 64;
/// Bytes of rows that a read holds for ORDER BY, DISTINCT or GROUP BY; all reads together hold at
/// most the share that `--memory` leaves them, between the next figure and this one.
pub const READ_MEMORY_MAX: usize = 64 << 20;
pub const READ_MEMORY_MIN: u64 = 8 << 20;
/// Bytes of requests that wait to be sealed, in the smallest `--memory`; a request that finds none
/// waiting is taken whatever its size.
pub const REQUESTS_BYTES_MIN: u64 = 4 << 20;
/// What is added at most in a larger one.
pub const REQUESTS_BYTES_MAX: u64 = 64 << 20;
/// Bytes of requests that are sealed and wait for a place in a prepare.
pub const SEALED_BYTES_MAX: usize = 2 * PREPARE_BODY_SIZE_MAX + REQUEST_SIZE_MAX;
/// A page in the cache with what is kept about it.
pub const FRAME_BYTES: u64 = PAGE_SIZE as u64 + 96;
/// Code, stacks, and what the allocator cannot give out: measured, then rounded up.
pub const PROCESS_BYTES: u64 = 24 << 20;
/// Index entries that a read gathers before it looks their rows up.
pub const READ_LOOKUPS: usize = 64;
/// Rows that one slice of the search for the rows of a large UPDATE or DELETE looks at.
pub const FIND_SLICE_ROWS: usize = 500;
/// Pause between two slices: whoever else has something to do goes first.
pub const FIND_PAUSE_NS: u64 = 10_000;
/// How often such a search begins anew because a row of its table changed.
pub const FIND_TRIES_MAX: u32 = 3;
/// Ranges whose entries the planner counts, for each way to find rows.
pub const PLAN_RANGES_COUNTED: usize = 8;
/// Rows that the planner does not like to sort.
pub const PLAN_SORT_ROWS: u64 = 100_000;
/// Tables that were dropped to which a text with AS OF is bound, one after the other, when it means
/// nothing to the one that has their name today: those of one name that were dropped last.
pub const PAST_TABLES_BOUND_MAX: usize = 16;
/// Sides of an OR that are looked up one by one.
pub const UNION_BRANCHES_MAX: usize = 32;

/// Positions per segment file.
pub const SEGMENT_POSITIONS: u64 = 1_000_000;
/// Data of one record, sealed: a row and what its kind adds.
pub const LOG_RECORD_DATA_SIZE_MAX: usize = ROW_SIZE_MAX + 128 * 1024;
/// Records gather in memory until this many bytes make one write.
pub const LOG_RUN_SIZE: usize = 64 * PAGE_SIZE;
/// Bytes of all logs that wait in memory to be written; `Logs::room` counts down from it.
pub const LOG_BUFFER_SIZE_MAX: usize = 8 << 20;
/// What a transaction may add after `Logs::room` said there is some: the largest that any cluster
/// constants allow.
pub const LOG_BUFFER_SLACK: usize = 32 << 20;
/// What a record takes in a segment and its index beside its data, at most.
pub const LOG_RECORD_EXTRA_SIZE: usize = 384;
/// Bytes of copies whose writes are in flight; one write is always allowed.
pub const LOG_WRITING_BYTES_MAX: usize = 8 << 20;
/// Logs that get the memory of a whole run at once; others grow by quarters, and copy each time.
pub const LOG_RUNS_RESERVED_MAX: usize = 2;
/// What such a run gets: the last record of a run may end behind it.
pub const LOG_RUN_RESERVED_SIZE: usize = LOG_RUN_SIZE + 4 * PAGE_SIZE;
/// Bytes of buffers that are kept for the next write.
pub const LOG_BUFFERS_KEPT_BYTES: usize = (2 << 20) - LOG_RUNS_RESERVED_MAX * LOG_RUN_RESERVED_SIZE;
/// Records after which a checkpoint is asked for, so that a restart replays no more of them: the
/// smallest fill the ring, and the pages they change, only after seconds of replay.
pub const CHECKPOINT_RECORDS: u64 = 250_000;
/// Writes, and at a checkpoint creates and syncs, that logs have in flight.
pub const LOG_IO_IN_FLIGHT_MAX: usize = 32;
/// Blocks of segments and indexes that are kept after a read, those pinned not counted.
pub const LOG_CACHE_BLOCKS: usize = 1_024;
/// Indexes whose header is known to be good; the others are read again.
pub const LOG_HEADERS_KNOWN_MAX: usize = 4_096;
/// Neighbouring blocks that are read at once.
pub const LOG_READ_BLOCKS_MAX: usize = 64;

/// Pages that one read or write of the grid moves, where they are neighbours.
pub const STORE_IO_PAGES_MAX: usize = 16;
/// Pages that one run of a stage may miss and note; more are noted on the next run.
pub const STORE_MISSES_MAX: usize = 1_024;
/// Leaves that a scan asks for ahead of the one it misses.
pub const STORE_READ_AHEAD: usize = 31;
/// Roots of unchanged trees kept in memory.
pub const STORE_ROOTS_CACHED_MAX: usize = 4_096;
/// Pages that one step of a checkpoint seals (about 5 µs each).
pub const STORE_CHECKPOINT_STEP_PAGES: usize = 32;
/// Pages of a checkpoint whose writes are in flight, and the writes: more at once wait for one
/// another in the file system, where a file that grows has one lock, and delay the journal's.
pub const STORE_WRITES_IN_FLIGHT_MAX: usize = 128;
pub const STORE_WRITE_CALLS_IN_FLIGHT_MAX: usize = 8;
/// Pages of the grid that are being read for all tasks.
pub const STORE_READS_IN_FLIGHT_MAX: usize = 1_024;
/// Pages of buffers that are kept for the next read or write.
pub const STORE_BUFFERS_KEPT_PAGES: usize = 256;

pub const SUPERBLOCK_COPIES: usize = 4;
/// Bytes from the start of one copy to the next: far enough that one bad spot takes one copy.
pub const SUPERBLOCK_COPY_SPACING: u64 = 64 * 1024;

/// Replicas a cluster may have.
pub const REPLICA_COUNTS: [u8; 3] = [1, 3, 5];
pub const REPLICA_COUNT_MAX: usize = 5;
/// Places for what a replica saw of its peers; standbys will take the spare ones.
pub const REPLICA_PEERS_MAX: usize = 8;

/// Buffers of prepares: being filled, in flight, committed and not yet applied.
pub const PREPARE_BUFFERS_MAX: usize = 2 * PIPELINE_MAX;
/// Committed prepares read ahead of their replay.
pub const REPLAY_AHEAD_MAX: usize = PIPELINE_MAX;
/// One redundant header for each page of the ring.
pub const JOURNAL_HEADERS_PER_PAGE: usize = PAGE_SIZE / PREPARE_HEADER_SIZE;
/// Ring space that requests never take: recovery, checkpoint and shutdown always find room, also
/// when a replica crashes dozens of times between them.
pub const JOURNAL_RESERVE_BYTES: u64 = 64 * PAGE_SIZE as u64;
/// Free bytes of the ring in which any prepare fits beside the reserve: the largest one may waste
/// as much again at the end of the ring.
pub const JOURNAL_ROOM_BYTES: u64 = 2 * PREPARE_SIZE_MAX as u64 + JOURNAL_RESERVE_BYTES;
/// Smallest ring: the journal's liveness rests on it.
pub const JOURNAL_RING_BYTES_MIN: u64 = 4 * PREPARE_SIZE_MAX as u64;
/// Bytes of one read of the ring at open, and of one write at format.
pub const JOURNAL_CHUNK_BYTES: usize = PREPARE_SIZE_MAX;
/// Such reads or writes in flight.
pub const JOURNAL_CHUNKS_IN_FLIGHT_MAX: usize = 4;
/// Writes of redundant headers in flight.
pub const JOURNAL_HEADER_WRITES_MAX: usize = PIPELINE_MAX;
/// Erased prepares whose pages are being zeroed at once.
pub const JOURNAL_ERASES_MAX: usize = PIPELINE_MAX;
/// With one replica, redundant headers of a quiet journal reach the disk at most this much later
/// than their prepares.
pub const JOURNAL_HEADER_DELAY_NS: u64 = 5 * crate::time::MILLISECOND_NS;

/// Header of a message between replicas.
pub const REPLICA_MESSAGE_HEADER_SIZE: usize = 224;
/// Payload of a frame: the largest is a prepare on its way to a backup.
pub const FRAME_PAYLOAD_SIZE_MAX: usize = REPLICA_MESSAGE_HEADER_SIZE + PREPARE_SIZE_MAX;
/// Prepare headers in one message.
pub const MESSAGE_HEADERS_MAX: usize = 64;
/// What the two sides of a connection say first.
pub const HELLO_SIZE: usize = 64;
/// Handshakes under way at a listening port, and how long one may take.
pub const HANDSHAKES_MAX: usize = 64;
pub const HANDSHAKE_NS: u64 = 2 * crate::time::SECOND_NS;
/// Frames that wait for the socket of one peer; more are dropped, and said again by the protocol.
pub const LINK_QUEUE_BYTES_MAX: usize = PIPELINE_MAX * (FRAME_PAYLOAD_SIZE_MAX + 64);
/// Connections of clients that one replica serves.
pub const CLIENTS_MAX: usize = 1_024;
/// Writes of one connection that wait for their commit; then no more of it is read.
pub const CLIENT_REQUESTS_MAX: usize = 256;
/// Queries of one connection that run at the same time, and that wait; more are refused.
pub const CLIENT_QUERIES_MAX: usize = 4;
pub const CLIENT_QUERIES_WAITING_MAX: usize = 256;
/// Queries that run at the same time, of all connections.
pub const QUERIES_MAX: usize = 64;
/// First buffer of a connection, and what those of all clients together may take beyond it: frames
/// that have not arrived whole, and queries that wait.
pub const CLIENT_BUFFER_BYTES: usize = 4 * 1024;
pub const CLIENT_BUFFERS_BYTES_MAX: usize = 24 << 20;
/// A primary that a quorum followed so lately says that a write is being worked on.
pub const LEAD_FRESH_NS: u64 = 6 * VSR_HEARTBEAT_NS;
/// How long a linearizable read waits until a quorum says that the primary still leads.
pub const LEAD_CONFIRM_NS: u64 = 400 * crate::time::MILLISECOND_NS;
/// Bytes of a proof that is sent to a client: it is in memory meanwhile.
pub const PROOF_SERVED_BYTES_MAX: usize = 8 << 20;
/// Rows of one answer are sent when they are so many bytes; files go in parts of this size.
pub const ANSWER_ROWS_BYTES: usize = 256 * 1024;

/// How far ahead `not_after` of an idempotency id may lie.
pub const IDEMPOTENCY_AHEAD_MAX_MS: u64 = 7 * 24 * 3600 * 1000;
/// How long after `not_after` an outcome is kept.
pub const IDEMPOTENCY_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
/// Old outcomes forgotten for each new one; more than one, so that trimming catches up.
pub const IDEMPOTENCY_TRIM_MAX: u32 = 4;
/// Bound statements that the primary keeps, and the longest text among them.
pub const STATEMENTS_CACHED_MAX: usize = 512;
pub const STATEMENT_CACHED_SIZE_MAX: usize = 4_096;
/// What a transaction must be allowed for the largest row to fit, superseded: its pages in rows and
/// in history, indexes of pages included, and what changes with every row.
pub const LARGEST_ROW_PAGES_DIRTIED: u32 =
    2 * (ROW_SIZE_MAX + VALUE_EXTRA_MAX).div_ceil(PAGE_SIZE - 32) as u32 + 2 + 50;
/// Pages that must be free beside a transaction's own, for checkpoint records and heads of logs.
pub const PAGES_DIRTIED_MARGIN: u32 = 16;
/// Pages changed by what asks for no room: heads of logs, recoveries, attestations.
pub const BUSY_PAGES_MARGIN: u32 = 256;
/// Entries of a tree that a rebuild compares at once, and records it applies in one step.
pub const REBUILD_BATCH: usize = 256;
pub const REBUILD_RECORDS_PER_STEP: usize = 64;

/// A proof file; bounds what a verifier allocates.
pub const PROOF_SIZE_MAX: usize = 64 << 20;
/// What stands before the records of an exported log: a head and a note. A verifier holds it in
/// memory, and decodes it before it has seen a signature.
pub const EXPORT_START_SIZE_MAX: usize = 1 << 20;
const_assert!(EXPORT_START_SIZE_MAX >= 2 * NOTE_SIZE_MAX);
/// Levels of the tree of an exported log that its verifier makes at once.
pub const LOG_TREE_BATCH_HEIGHT: u32 = 6;
/// Levels of a tree in a proof.
pub const PROOF_LEVELS_MAX: u8 = 16;
/// Nesting and terms of the filter of a canonical query.
pub const PROOF_FILTER_DEPTH_MAX: usize = 16;
pub const PROOF_FILTER_TERMS_MAX: usize = 1_024;
/// An index proves an answer if its entries are so many times fewer than the rows in the ranges:
/// each costs a path of its own.
pub const PROOF_INDEX_GAIN: u64 = 4;
/// Entries that one proof shows.
pub const PROOF_ENTRIES_MAX: u64 = 20_000;
/// Fetches of one proof for which pages that it needs had to go; then it does not fit into memory.
pub const PROOF_SQUEEZED_MAX: u32 = 64;
/// Schemas, and forests with other trees shown, that proofs of one attestation share.
pub const PROOF_SHARED_PARTS_MAX: usize = 16;
/// Ways in which rows proved lately were committed to: key, generation, schema.
pub const PROOF_SHARED_COMMITTED_MAX: usize = 8;
/// Heads of which the notes are kept.
pub const COSIGNED_NOTES_MAX: usize = 8;
/// Heads that were the newest lately, for those who are still asked to sign them.
pub const SUPERSEDED_HEADS_MAX: usize = 1_024;
/// How often peers are asked for a cosignature, and how long they are waited for.
pub const COSIGN_SAY_NS: u64 = 20 * crate::time::MILLISECOND_NS;
pub const COSIGN_PATIENCE_NS: u64 = 500 * crate::time::MILLISECOND_NS;
/// How old the cosignatures of a head may be that is still the newest; and for how long one that is
/// not is still signed.
pub const COSIGN_FRESH_NS: u64 = crate::time::SECOND_NS;
/// Turns for which ops wait behind an attestation while proofs of it are made.
pub const PROOF_HOLD_TURNS: u32 = 4_096;
/// A signed note and its signatures.
pub const NOTE_SIZE_MAX: usize = 64 * 1024;
pub const NOTE_SIGNATURES_MAX: usize = 64;
pub const POLICY_SIZE_MAX: usize = 64 * 1024;
pub const POLICY_LINES_MAX: usize = 1_000;
/// Hashes of a consistency proof that a witness reads (C2SP tlog-witness).
pub const WITNESS_PROOF_LINES_MAX: usize = 63;

/// A prepare's timestamp never jumps further than this ahead of the one before it, beside the time
/// that the monotonic clock saw pass between them.
pub const CLOCK_STEP_MAX_NS: u64 = 3600 * crate::time::SECOND_NS;
/// How far the recovery op of an open may move time ahead without the operator's word. Half a year:
/// a directory may rest for a season, and a year typed wrong is caught.
pub const CLOCK_JUMP_MAX_NS: u64 = 180 * 24 * 3600 * crate::time::SECOND_NS;
/// 2100-01-01: what the first open of all believes without the operator's word; there is no time
/// yet to compare the clock with.
pub const CLOCK_FIRST_MAX_NS: u64 = 4_102_444_800 * crate::time::SECOND_NS;

/// How long a sample of a peer's clock counts, and how far two clocks may drift apart meanwhile.
pub const CLOCK_SAMPLE_AGE_MAX_NS: u64 = 10 * crate::time::SECOND_NS;
pub const CLOCK_DRIFT_PPM_MAX: u64 = 500;
/// How far a clock that counts as right may be from the truth: clocks that are set over a network
/// are rarely within a round trip of one another.
pub const CLOCK_ERROR_MAX_NS: u64 = 500 * crate::time::MILLISECOND_NS;

/// How often a replica of a cluster wants to be woken.
pub const VSR_TICK_NS: u64 = 10 * crate::time::MILLISECOND_NS;
/// How often a replica asks each peer how it stands.
pub const VSR_PING_NS: u64 = 100 * crate::time::MILLISECOND_NS;
/// How often a primary shows that it is alive, and how far it has committed.
pub const VSR_HEARTBEAT_NS: u64 = 50 * crate::time::MILLISECOND_NS;
/// Silence of a primary after which a backup votes for the next view; replica i waits i eighths
/// longer, so that not all vote at once. Long enough for a peer that shares its core with others.
pub const VSR_SUSPECT_NS: u64 = 600 * crate::time::MILLISECOND_NS;
/// A peer that closed its link to us and has said nothing since for so long has ended, as a primary
/// it is voted against; replica i waits i eighths longer. A link that only broke is there again
/// after 30 ms, and a heartbeat on it 50 ms later.
pub const VSR_GONE_NS: u64 = 100 * crate::time::MILLISECOND_NS;
/// How often a vote, or a log offered to a primary, is sent again.
pub const VSR_VOTE_NS: u64 = 100 * crate::time::MILLISECOND_NS;
/// How long a view change may take before the next is asked for; doubled each time, up to the
/// second figure.
pub const VSR_VIEW_CHANGE_NS: u64 = 500 * crate::time::MILLISECOND_NS;
pub const VSR_VIEW_CHANGE_MAX_NS: u64 = 8 * crate::time::SECOND_NS;
/// How long an answer to a request for headers or prepares is waited for.
pub const VSR_REPAIR_NS: u64 = 50 * crate::time::MILLISECOND_NS;
/// After this long at boot, answers of f peers are enough.
pub const VSR_BOOT_TIMEOUT_NS: u64 = crate::time::SECOND_NS;
/// A primary with a proposal this long uncommitted gives up its view.
pub const VSR_ABDICATE_NS: u64 = crate::time::SECOND_NS;
/// How often what was seen of the peers is written to the superblock.
pub const VSR_EVIDENCE_NS: u64 = crate::time::SECOND_NS;
/// How long a replica below a quorum's checkpoint tries to repair before it fetches the checkpoint.
pub const VSR_SYNC_NS: u64 = 2 * crate::time::SECOND_NS;
/// A checkpoint as one replica tells another of it.
pub const SYNC_CHECKPOINT_SIZE: usize = 216;
/// Pages, and blocks of a segment, in one message.
pub const SYNC_PAGES_MAX: usize = 32;
pub const SYNC_BLOCKS_MAX: usize = 64;
/// Requests for pages on their way to a peer.
pub const SYNC_REQUESTS_MAX: usize = 4;
/// Pages of the own grid that are being looked at, and pages that wait to be asked for.
pub const SYNC_READS_MAX: usize = 32;
pub const SYNC_WANTED_MAX: usize = 4 * SYNC_PAGES_MAX;
/// Blocks of the own segments that are looked at in one read.
pub const SYNC_READ_BLOCKS: usize = 16;
/// What a peer asks for that is being read; more is dropped, and asked for again.
pub const SYNC_SERVED_MAX: usize = 8;
/// How often peers are asked for their newest checkpoint.
pub const SYNC_ASK_NS: u64 = 200 * crate::time::MILLISECOND_NS;
/// How long an answer is waited for before another peer is asked.
pub const SYNC_ANSWER_NS: u64 = 500 * crate::time::MILLISECOND_NS;
/// How often peers are asked to keep the keys of a tenant that is to be created, and how long f of
/// them are waited for before the request is refused.
pub const KEYS_SAY_NS: u64 = 100 * crate::time::MILLISECOND_NS;
pub const KEYS_PATIENCE_NS: u64 = 2 * crate::time::SECOND_NS;
/// How often keys are asked for that a replica lacks, and of how many tenants at once.
pub const KEYS_ASK_NS: u64 = 200 * crate::time::MILLISECOND_NS;
pub const KEYS_ASKED_MAX: usize = 16;
/// Damaged pages that are being repaired from peers at once.
pub const STORE_REPAIRS_MAX: usize = 64;
/// How long a page is waited for that no peer gives.
pub const REPAIR_PATIENCE_NS: u64 = 5 * crate::time::SECOND_NS;
/// Blocks of a segment that are first asked of a peer, and that a repair holds at most: more than
/// the longest record, and what it shares its blocks with.
pub const SEGMENT_ASKED_FIRST: u64 = 4;
pub const SEGMENT_REPAIR_BLOCKS_MAX: u64 = 256;
/// How often all peers are asked for the same blocks, a repaired block is written until the disk
/// gives it back, and a segment is gone through for damage, before it is given up ...
pub const SEGMENT_ROUNDS_MAX: u64 = 6;
pub const SEGMENT_WRITES_MAX: u32 = 3;
pub const SEGMENT_MENDS_MAX: u32 = 3;
/// ... and for how long.
pub const SEGMENT_REPAIR_AGAIN_NS: u64 = 10 * crate::time::SECOND_NS;
/// How often scrubbing reads, LOG_READ_BLOCKS_MAX blocks each time: 2.6 MB/s. While there is other
/// work only each so many'th time.
pub const SCRUB_TICK_NS: u64 = 100 * crate::time::MILLISECOND_NS;
pub const SCRUB_SKIPS_MAX: u32 = 10;
/// Nothing was overwritten yet and nobody offers a checkpoint: the replica opens as it was.
pub const SYNC_PATIENCE_NS: u64 = 5 * crate::time::SECOND_NS;
/// Headers held until they join the log that is being installed.
pub const VSR_HEADERS_HELD_MAX: usize = 4 * MESSAGE_HEADERS_MAX;
/// Prepares that are asked for, or held until those before them are there.
pub const VSR_REPAIRS_MAX: usize = 2 * PIPELINE_MAX;

const_assert!(VSR_SUSPECT_NS >= 8 * VSR_HEARTBEAT_NS);
const_assert!(VSR_GONE_NS >= 2 * VSR_HEARTBEAT_NS && VSR_GONE_NS < VSR_SUSPECT_NS);
const_assert!(
    OPERATIONS_MAX * RESULT_SIZE_MAX + 8 * 1024 <= LOG_RECORD_DATA_SIZE_MAX - ROW_SIZE_MAX
);
const_assert!(SEGMENT_REPAIR_BLOCKS_MAX as usize <= LOG_CACHE_BLOCKS / 2);
const_assert!(
    SEGMENT_REPAIR_BLOCKS_MAX as usize * PAGE_SIZE
        >= LOG_RECORD_DATA_SIZE_MAX + LOG_RECORD_EXTRA_SIZE + 4 * PAGE_SIZE
);
const_assert!(PREPARE_SIZE_MAX.is_multiple_of(PAGE_SIZE));
const_assert!(ROW_SIZE_MAX + 64 * 1024 <= REQUEST_SIZE_MAX);
const_assert!(SQL_SIZE_MAX <= REQUEST_SIZE_MAX);
const_assert!(PREPARE_HEADER_SIZE <= PAGE_SIZE);
const_assert!(PAGE_SIZE.is_multiple_of(PREPARE_HEADER_SIZE));
const_assert!(PREPARE_REQUESTS_MAX <= u16::MAX as usize);
const_assert!(PREPARE_BUFFERS_MAX > PIPELINE_MAX);
const_assert!(SUPERBLOCK_COPY_SPACING.is_multiple_of(PAGE_SIZE as u64));
// The smallest ring holds two of the largest prepares, wherever they fall, beside the reserve.
const_assert!(JOURNAL_RESERVE_BYTES + 3 * PREPARE_SIZE_MAX as u64 <= JOURNAL_RING_BYTES_MIN);

/// Limits that steer state. Chosen at format, kept in the superblock, the same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterConstants {
    /// Bytes of the journal's ring; a multiple of `PREPARE_SIZE_MAX`.
    pub journal_ring_bytes: u64,
    /// Pages the grid may grow to.
    pub grid_pages_max: u32,
    /// Pages that may be dirty between two checkpoints; half of it triggers a checkpoint.
    pub dirty_pages_max: u32,
    pub transaction_events_max: u32,
    pub transaction_pages_read_max: u32,
    pub transaction_pages_dirtied_max: u32,
    /// Sum of encoded after-images of one transaction.
    pub transaction_bytes_max: u32,
    /// Positions per segment file of a log.
    pub segment_positions: u64,
    /// A checkpoint record enters a tenant's log at the first transaction end after this many
    /// records.
    pub checkpoint_record_interval: u32,
    /// Tenants whose logs get a checkpoint record at a shutdown; it is one op, and blocks that are
    /// not full are written only by the checkpoint after it. The logs of more go without: their
    /// last checkpoint record is that of the interval, as after a kill.
    pub shutdown_records_max: u32,
}

impl ClusterConstants {
    pub const DEFAULT: ClusterConstants = ClusterConstants {
        journal_ring_bytes: 256 << 20,
        grid_pages_max: 64 << 20,
        dirty_pages_max: 16 << 10,
        transaction_events_max: 20_000,
        transaction_pages_read_max: 8 << 10,
        transaction_pages_dirtied_max: 4 << 10,
        transaction_bytes_max: 8 << 20,
        segment_positions: SEGMENT_POSITIONS,
        checkpoint_record_interval: 1_000,
        shutdown_records_max: 2_048,
    };

    /// For machines with little memory: 128 MiB are enough for the process.
    pub const COMPACT: ClusterConstants = ClusterConstants {
        journal_ring_bytes: 32 << 20,
        grid_pages_max: 8 << 20,
        dirty_pages_max: 4 << 10,
        transaction_events_max: 5_000,
        transaction_pages_read_max: 2 << 10,
        transaction_pages_dirtied_max: 1 << 10,
        transaction_bytes_max: 3 << 20,
        segment_positions: SEGMENT_POSITIONS,
        checkpoint_record_interval: 1_000,
        shutdown_records_max: 2_048,
    };

    /// Small enough that a simulated run crosses checkpoints and wraps its ring many times.
    pub const SMALL: ClusterConstants = ClusterConstants {
        journal_ring_bytes: 8 << 20,
        grid_pages_max: 16 << 10,
        dirty_pages_max: 1_280,
        transaction_events_max: 512,
        transaction_pages_read_max: 128,
        transaction_pages_dirtied_max: 320,
        transaction_bytes_max: 2 << 20,
        segment_positions: 2_000,
        checkpoint_record_interval: 1_000,
        shutdown_records_max: 2_048,
    };

    /// Clean pages without which a transaction's reads find no room: all that one may read, and an
    /// eighth that nobody may pin.
    #[must_use]
    pub const fn clean_pages_min(&self) -> u32 {
        let read = self.transaction_pages_read_max;
        if read < 56 { 64 } else { read + read / 7 + 1 }
    }

    /// Pages that are changed, or part of the checkpoint under way and not yet written: apply waits
    /// before it passes that, so a checkpoint costs time and no memory.
    #[must_use]
    pub const fn busy_pages_max(&self) -> u32 {
        self.dirty_pages_max + BUSY_PAGES_MARGIN
    }

    /// Pages by which a state may grow from a checkpoint to the end of a journal in which the next
    /// one is not durable yet: what is changed up to the next one, and after it.
    #[must_use]
    pub const fn pages_of_a_tail(&self) -> u32 {
        2 * self.busy_pages_max()
    }

    /// What the largest transaction adds to a log.
    #[must_use]
    pub const fn log_bytes_of_a_transaction(&self) -> usize {
        self.transaction_bytes_max as usize
            + (self.transaction_events_max as usize + 2) * LOG_RECORD_EXTRA_SIZE
    }

    /// What a shutdown adds to all logs: of each, a record in a block of its own and the entry.
    #[must_use]
    pub const fn log_bytes_of_a_shutdown(&self) -> usize {
        (self.shutdown_records_max as usize + 1) * (2 * PAGE_SIZE + LOG_RECORD_EXTRA_SIZE)
    }

    /// The relations that every other module relies on. An unmet one names itself.
    pub fn validate(&self) -> Result<(), &'static str> {
        let ring = self.journal_ring_bytes;
        if !ring.is_multiple_of(PREPARE_SIZE_MAX as u64) {
            return Err("journal_ring_bytes must be a multiple of 1 MiB");
        }
        if ring < JOURNAL_RING_BYTES_MIN {
            return Err("journal_ring_bytes must be at least 4 MiB");
        }
        if self.transaction_pages_dirtied_max.saturating_mul(4) > self.dirty_pages_max {
            return Err("dirty_pages_max must be at least 4 x transaction_pages_dirtied_max");
        }
        if self.dirty_pages_max.saturating_mul(4) > self.grid_pages_max {
            return Err("grid_pages_max must be at least 4 x dirty_pages_max");
        }
        if self.transaction_bytes_max < 2 * ROW_SIZE_MAX as u32 {
            return Err("transaction_bytes_max must be at least 1 MiB");
        }
        if self.log_bytes_of_a_transaction() > LOG_BUFFER_SLACK {
            return Err("transaction_bytes_max and transaction_events_max: at most 32 MiB of log");
        }
        if self.segment_positions == 0 || self.segment_positions > SEGMENT_POSITIONS {
            return Err("segment_positions must be 1 to 1,000,000");
        }
        let interval = u64::from(self.checkpoint_record_interval);
        if interval == 0 || interval > SEGMENT_POSITIONS {
            return Err("checkpoint_record_interval must be 1 to 1,000,000");
        }
        if self.log_bytes_of_a_shutdown() > LOG_BUFFER_SLACK {
            return Err("shutdown_records_max: at most 32 MiB of log, 3,911 tenants");
        }
        if self.transaction_events_max == 0 || self.transaction_pages_read_max == 0 {
            return Err("transaction limits must not be zero");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ClusterConstants, LARGEST_ROW_PAGES_DIRTIED};

    #[test]
    fn presets_hold_their_own_relations() {
        let presets =
            [ClusterConstants::DEFAULT, ClusterConstants::COMPACT, ClusterConstants::SMALL];
        for preset in presets {
            assert_eq!(preset.validate(), Ok(()));
            assert!(preset.transaction_pages_dirtied_max >= LARGEST_ROW_PAGES_DIRTIED);
        }
    }

    #[test]
    fn each_relation_can_fail() {
        let broken = ClusterConstants { journal_ring_bytes: 1, ..ClusterConstants::DEFAULT };
        assert!(broken.validate().is_err());
        let broken = ClusterConstants { dirty_pages_max: 8, ..ClusterConstants::DEFAULT };
        assert!(broken.validate().is_err());
        let broken = ClusterConstants { grid_pages_max: 8, ..ClusterConstants::DEFAULT };
        assert!(broken.validate().is_err());
        let broken = ClusterConstants { transaction_bytes_max: 8, ..ClusterConstants::DEFAULT };
        assert!(broken.validate().is_err());
        let broken = ClusterConstants { segment_positions: 0, ..ClusterConstants::DEFAULT };
        assert!(broken.validate().is_err());
        let broken = ClusterConstants { transaction_events_max: 0, ..ClusterConstants::DEFAULT };
        assert!(broken.validate().is_err());
        for checkpoint_record_interval in [0, 1_000_001] {
            let broken =
                ClusterConstants { checkpoint_record_interval, ..ClusterConstants::DEFAULT };
            assert!(broken.validate().is_err());
        }
        let most = ClusterConstants { shutdown_records_max: 3_911, ..ClusterConstants::DEFAULT };
        assert_eq!(most.validate(), Ok(()));
        let broken = ClusterConstants { shutdown_records_max: 3_912, ..ClusterConstants::DEFAULT };
        assert!(broken.validate().is_err());
    }
}
