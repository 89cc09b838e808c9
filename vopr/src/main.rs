//! The campaign runner.

fn main() {}
