//! Real processes, real files: what no simulator sees. One binary; each module a theme.

mod cli;
mod crash;
mod damage;
mod embedded;
mod full_disk;
mod import;
mod keys;
mod run;
mod synthea;
