//! The fake outside: seeded disk, clock, clients, checkers.
