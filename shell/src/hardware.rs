//! What this machine can do, measured in the same run as what Verity does on it.
//!
//! Every benchmark figure stands beside the limit that bounds it: a ratio travels between machines,
//! a number of microseconds does not. The disk is measured through the same backend that the
//! database uses.

mod loopback;
mod row;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use verity_core::crypto::{ChainHash, DataKey, TenantKeys};
use verity_core::ids::{Generation, KeyId, OriginId, Position, TenantId};
use verity_core::io::{Address, Effect, Effects, FileId, Input, IoId, Owner, Pages, SecretKey};
use verity_core::limits::PAGE_SIZE;

use crate::disk::Disk;
use crate::error::Error;
use crate::options::Options;

pub use loopback::round_trip_us;
pub use row::RowFloor;

/// Limits of one machine, backend and file system.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One durable 4 KiB write after the other, on blocks written before: mean and 99th percentile.
    pub durable_write_us: f64,
    pub durable_write_p99_us: f64,
    /// Large writes, several in flight, and a sync.
    pub sequential_write_mib_s: f64,
    /// SHA-256 of 4 KiB.
    pub sha256_mib_s: f64,
    /// SHA-256 of 200 bytes.
    pub sha256_200_ns: f64,
    /// AES-256-GCM-SIV of 200 bytes.
    pub seal_200_ns: f64,
}

/// Sizes of the disk measurements.
const DURABLE_WRITES: u64 = 2_000;
const DURABLE_REGION_PAGES: usize = 4_096;
const CHUNK_PAGES: usize = 256;
const SEQUENTIAL_CHUNKS: u64 = 256;
const SEQUENTIAL_IN_FLIGHT: u64 = 8;
/// Time for each measurement of arithmetic.
const ARITHMETIC: Duration = Duration::from_millis(100);

/// Measures durable 4 KiB writes again and again, between pieces of a benchmark: the disk of a
/// shared machine changes from one second to the next. Its file is gone when this is dropped.
#[derive(Debug)]
pub struct DurableWrites {
    probe: Probe,
    scratch: PathBuf,
    next: u64,
    total: Duration,
    count: u32,
}

impl DurableWrites {
    /// Makes and fills a file beside `data`, on the same file system.
    pub fn open(data: &Path, options: &Options) -> Result<DurableWrites, Error> {
        let scratch = data.with_extension("bench-writes");
        let directory = |error| Error::Directory { path: scratch.clone(), error };
        std::fs::create_dir_all(&scratch).map_err(directory)?;
        let mut probe = Probe::open(&scratch, options)?;
        probe.fill()?;
        Ok(DurableWrites { probe, scratch, next: 0, total: Duration::ZERO, count: 0 })
    }

    /// Some writes, one after the other.
    pub fn measure(&mut self, count: u32) -> Result<(), Error> {
        for _ in 0..count {
            self.total += self.probe.durable_write(self.next)?;
            self.next += 1;
        }
        self.count += count;
        Ok(())
    }

    /// Of all so far.
    #[must_use]
    pub fn mean_us(&self) -> f64 {
        self.total.as_secs_f64() * 1e6 / f64::from(self.count)
    }
}

impl Drop for DurableWrites {
    fn drop(&mut self) {
        // The operator may remove it by hand.
        let _left_behind = std::fs::remove_dir_all(&self.scratch);
    }
}

/// Runs in a directory of its own on the file system of `data`, which is gone afterwards.
fn beside<T>(data: &Path, run: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, Error> {
    let scratch = data.with_extension("bench-scratch");
    let directory = |error| Error::Directory { path: scratch.clone(), error };
    std::fs::create_dir_all(&scratch).map_err(directory)?;
    let result = run(&scratch);
    std::fs::remove_dir_all(&scratch).map_err(directory)?;
    result
}

/// Measures beside `data`, on the same file system, and cleans up.
pub fn measure(data: &Path, options: &Options) -> Result<Limits, Error> {
    let (mut durable, sequential_write_mib_s) =
        beside(data, |scratch| measure_disk(scratch, options))?;
    durable.sort_unstable();
    let total: Duration = durable.iter().sum();
    let (sha256_mib_s, sha256_200_ns, seal_200_ns) = measure_arithmetic();
    Ok(Limits {
        durable_write_us: total.as_secs_f64() * 1e6 / durable.len() as f64,
        durable_write_p99_us: durable[durable.len() * 99 / 100].as_secs_f64() * 1e6,
        sequential_write_mib_s,
        sha256_mib_s,
        sha256_200_ns,
        seal_200_ns,
    })
}

#[derive(Debug)]
struct Probe {
    disk: Disk,
    inputs: Vec<Input>,
}

impl Probe {
    fn open(scratch: &Path, options: &Options) -> Result<Probe, Error> {
        let disk = options.open_disk_for_measuring(scratch)?;
        let mut probe = Probe { disk, inputs: Vec::new() };
        let io = IoId { owner: Owner::Node, slot: 0 };
        probe.start(Effect::Create { io, file: FileId::Journal });
        probe.wait()?;
        Ok(probe)
    }

    /// Writes the file once from its beginning, in large pieces, several in flight, and syncs it.
    fn fill(&mut self) -> Result<(), Error> {
        let chunk = Pages::from_bytes(&vec![0x5A; CHUNK_PAGES * PAGE_SIZE]);
        let mut in_flight = 0;
        for number in 0..SEQUENTIAL_CHUNKS {
            if in_flight == SEQUENTIAL_IN_FLIGHT {
                self.wait()?;
                in_flight -= 1;
            }
            let offset = number * (CHUNK_PAGES * PAGE_SIZE) as u64;
            self.write(number, offset, chunk.clone(), false);
            in_flight += 1;
        }
        for _ in 0..in_flight {
            self.wait()?;
        }
        self.sync()
    }

    /// Time of the nth durable write of a page, on blocks written before.
    fn durable_write(&mut self, number: u64) -> Result<Duration, Error> {
        let offset = (number % DURABLE_REGION_PAGES as u64) * PAGE_SIZE as u64;
        let pages = Pages::from_bytes(&[0xA5; PAGE_SIZE]);
        let started = Instant::now();
        self.write(number, offset, pages, true);
        self.wait()?;
        Ok(started.elapsed())
    }

    fn start(&mut self, effect: Effect) {
        let mut effects = Effects::new();
        effects.push(effect);
        self.disk.execute(&mut effects);
    }

    /// Waits for one completion.
    fn wait(&mut self) -> Result<(), Error> {
        let bell = self.disk.doorbell();
        loop {
            if let Some(input) = self.inputs.pop() {
                let result = match input {
                    Input::WriteDone { result, .. } | Input::Done { result, .. } => result,
                    other => unreachable!("nothing else was asked for: {other:?}"),
                };
                return result.map_err(|error| Error::Options(format!("benchmark file: {error}")));
            }
            self.disk.poll(&mut self.inputs);
            if self.inputs.is_empty() {
                bell.submit_and_wait(Duration::from_millis(50));
                self.disk.poll(&mut self.inputs);
            }
        }
    }

    fn write(&mut self, slot: u64, offset: u64, pages: Pages, durable: bool) {
        let io = IoId { owner: Owner::Node, slot };
        self.start(Effect::Write { io, at: Address::new(FileId::Journal, offset), pages, durable });
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.start(Effect::Sync {
            io: IoId { owner: Owner::Node, slot: 0 },
            file: FileId::Journal,
        });
        self.wait()
    }
}

fn measure_disk(scratch: &Path, options: &Options) -> Result<(Vec<Duration>, f64), Error> {
    let mut probe = Probe::open(scratch, options)?;
    let started = Instant::now();
    probe.fill()?;
    let bytes = SEQUENTIAL_CHUNKS * (CHUNK_PAGES * PAGE_SIZE) as u64;
    let sequential = bytes as f64 / f64::from(1 << 20) / started.elapsed().as_secs_f64();
    let durable = (0..DURABLE_WRITES).map(|number| probe.durable_write(number));
    Ok((durable.collect::<Result<Vec<_>, _>>()?, sequential))
}

/// SHA-256 in MiB/s, SHA-256 of 200 B in ns, sealing of 200 B in ns.
fn measure_arithmetic() -> (f64, f64, f64) {
    let page = [0x5A; PAGE_SIZE];
    let row = [0x5A; 200];
    let page_ns = time_each(|| {
        std::hint::black_box(ChainHash::of(&[std::hint::black_box(&page)]));
    });
    let row_ns = time_each(|| {
        std::hint::black_box(ChainHash::of(&[std::hint::black_box(&row)]));
    });
    let key = DataKey::new(SecretKey([7; 32]));
    let generation = Generation::ZERO;
    let keys =
        TenantKeys::derive(OriginId::new(1), TenantId::DEFAULT, KeyId::new(1), &key, generation);
    let key = keys.record(generation);
    let mut data = row;
    let mut position = 0;
    let seal_ns = time_each(|| {
        position += 1;
        std::hint::black_box(key.seal(Position::new(position), &[0; 100], &mut data));
    });
    (PAGE_SIZE as f64 / f64::from(1 << 20) / (page_ns / 1e9), row_ns, seal_ns)
}

/// Mean nanoseconds of one call.
fn time_each(mut work: impl FnMut()) -> f64 {
    let started = Instant::now();
    let mut count = 0u32;
    while started.elapsed() < ARITHMETIC {
        for _ in 0..100 {
            work();
        }
        count += 100;
    }
    started.elapsed().as_nanos() as f64 / f64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let limits = measure(&data, &Options::new()).unwrap();
        assert!(limits.durable_write_us > 0.0 && limits.sha256_mib_s > 0.0, "{limits:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        println!("{limits:?}");
    }
}
