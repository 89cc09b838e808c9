//! The Verity library: embedded database over `verity-core`.
