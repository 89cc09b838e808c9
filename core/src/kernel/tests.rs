//! The kernel on a disk that answers at once: faults, evictions and op boundaries at will.

mod any_transaction;
mod auditing;
mod exporting;
mod finding;
mod heads;
mod indexes;
mod jobs;
mod made_and_dropped;
mod proving;
mod proving_shared;
mod rebuilding;
mod replacing;
mod requests;
mod rig;
mod sql;
mod stalls;
mod statements;
