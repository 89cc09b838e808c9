//! Pages over files that nobody may write: a few in memory, the rest in a file without a name.
//!
//! Invariants: nothing is written to the directory that is looked at. Memory: `IN_MEMORY_MAX` and
//! some forty bytes for each page more. The file lies where temporary files do (`TMPDIR`, else
//! `/var/tmp`, which is on a disk more often than `/tmp`), holds what the core sealed, as its other
//! files do, and is gone with the process however it ends.
//!
//! Fault model: there may be no place for the file, or no room in it: the write fails, and
//! `problem` says why.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use verity_core::io::{Address, FileId, IoError, Page};
use verity_core::limits::PAGE_SIZE;

/// 64 MiB.
const IN_MEMORY_MAX: usize = 16 << 10;

#[derive(Debug)]
enum Place {
    Memory(Box<Page>),
    /// Number of the page in the file.
    File(u64),
}

#[derive(Debug, Default)]
pub struct Overlay {
    places: HashMap<(FileId, u64), Place>,
    in_memory: usize,
    file: Option<File>,
    /// Pages of the file that were ever used; those of them that are not.
    used: u64,
    free: Vec<u64>,
    /// Why a write failed, with the name of the place.
    pub problem: Option<String>,
}

impl Overlay {
    pub fn write(&mut self, at: Address, page: &Page) -> Result<(), IoError> {
        let key = (at.file, at.offset);
        let slot = match self.places.get_mut(&key) {
            Some(Place::Memory(held)) => {
                held.0.copy_from_slice(&page.0);
                return Ok(());
            }
            Some(Place::File(slot)) => *slot,
            None if self.in_memory < IN_MEMORY_MAX => {
                self.in_memory += 1;
                self.places.insert(key, Place::Memory(Box::new(page.clone())));
                return Ok(());
            }
            None => self.free.pop().unwrap_or(self.used),
        };
        self.write_slot(slot, page)?;
        self.used = self.used.max(slot + 1);
        self.places.insert(key, Place::File(slot));
        Ok(())
    }

    /// Takes what was written at the address, if anything was.
    pub fn read(&self, at: Address, page: &mut [u8]) -> Result<(), IoError> {
        match self.places.get(&(at.file, at.offset)) {
            None => Ok(()),
            Some(Place::Memory(held)) => {
                page.copy_from_slice(&held.0);
                Ok(())
            }
            Some(Place::File(slot)) => {
                let Some(file) = &self.file else { unreachable!("a slot is of the file") };
                let read = file.read_exact_at(page, slot * PAGE_SIZE as u64);
                read.map_err(|_| IoError::Device)
            }
        }
    }

    pub fn remove(&mut self, file: FileId) {
        let Overlay { places, in_memory, free, .. } = self;
        places.retain(|(of, _), place| {
            if *of == file {
                match place {
                    Place::Memory(_) => *in_memory -= 1,
                    Place::File(slot) => free.push(*slot),
                }
            }
            *of != file
        });
    }

    fn write_slot(&mut self, slot: u64, page: &Page) -> Result<(), IoError> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let place = place();
                let made = tempfile::tempfile_in(&place);
                self.file.insert(made.map_err(|error| failed(&mut self.problem, &error))?)
            }
        };
        file.write_all_at(&page.0, slot * PAGE_SIZE as u64)
            .map_err(|error| failed(&mut self.problem, &error))
    }
}

fn place() -> PathBuf {
    let on_disk = PathBuf::from("/var/tmp");
    match std::env::var_os("TMPDIR") {
        Some(told) if !told.is_empty() => PathBuf::from(told),
        _ if on_disk.is_dir() => on_disk,
        _ => std::env::temp_dir(),
    }
}

fn failed(problem: &mut Option<String>, error: &std::io::Error) -> IoError {
    *problem = Some(format!(
        "no temporary file can be written in {}: {error}; name another folder with TMPDIR",
        place().display()
    ));
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => IoError::NoSpace,
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            IoError::ReadOnly
        }
        _ => IoError::Device,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u64) -> Page {
        let mut page = Page([0; PAGE_SIZE]);
        page.0[..8].copy_from_slice(&number.to_le_bytes());
        page
    }

    /// Beyond memory, over again, removed and written anew: against what was written last.
    #[test]
    fn pages_are_what_was_written_last_wherever_they_lie() {
        let mut overlay = Overlay::default();
        let at = |file, number: u64| Address::new(file, number * PAGE_SIZE as u64);
        let count = IN_MEMORY_MAX as u64 + 100;
        let read = |overlay: &Overlay, file, number| {
            let mut bytes = vec![7; PAGE_SIZE];
            overlay.read(at(file, number), &mut bytes).unwrap();
            u64::from_le_bytes(bytes[..8].try_into().unwrap())
        };
        for number in 0..count {
            overlay.write(at(FileId::Grid, number), &page(number)).unwrap();
        }
        assert_eq!((overlay.in_memory, overlay.used), (IN_MEMORY_MAX, 100));
        for number in (0..count).rev().step_by(3) {
            overlay.write(at(FileId::Grid, number), &page(number + 1)).unwrap();
        }
        assert_eq!(overlay.used, 100, "written over in place");
        for number in 0..count {
            let again = u64::from((count - 1 - number).is_multiple_of(3));
            assert_eq!(read(&overlay, FileId::Grid, number), number + again);
        }
        let nothing = u64::from_le_bytes([7; 8]);
        assert_eq!(read(&overlay, FileId::Journal, 3), nothing);
        overlay.remove(FileId::Grid);
        assert_eq!(read(&overlay, FileId::Grid, count - 1), nothing);
        for number in 0..count {
            overlay.write(at(FileId::Journal, number), &page(2 * number)).unwrap();
        }
        assert_eq!(overlay.used, 100, "slots are used again");
        assert_eq!(read(&overlay, FileId::Journal, count - 1), 2 * (count - 1));
    }
}
