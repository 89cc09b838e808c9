//! Query against fuzz, truth tables, snapshots of errors, and a model of the past.

mod codec;
mod database;
mod errors;
mod fuzz;
mod logic;
mod random;
mod reads;
mod versions;
