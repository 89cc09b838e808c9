//! What else a machine has that can go wrong: a disk of its own size, and a clock.
//!
//! A disk is an ext4 image, mounted; that needs root. A clock is a library that stands before the
//! system's `clock_gettime` (`LD_PRELOAD`) and adds seconds from a file; that needs a C compiler.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
    }
}

/// A file system of its own, for one replica.
pub struct Disk {
    pub replica: usize,
    pub mount: PathBuf,
}

impl Disk {
    /// Under this directory; an error says why there can be none.
    pub fn new(under: &Path, replica: usize, size_bytes: u64) -> Result<Disk, String> {
        let (image, mount) = (under.join("disk.image"), under.join("disk"));
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(size_bytes).map_err(|error| error.to_string())?;
        let [image, at] = [&image, &mount].map(|path| path.to_str().unwrap());
        // Without blocks that only root may have: we are root.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image])?;
        run("mount", &["-o", "loop", image, at])?;
        Ok(Disk { replica, mount })
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }

    /// Takes all that is left of it but so many bytes.
    pub fn fill(&self, left_bytes: u64) {
        let mount = self.mount.to_str().unwrap();
        let told = run("df", &["--output=avail", "-B1", mount]).unwrap();
        let free: u64 = told.lines().nth(1).unwrap().trim().parse().unwrap();
        let size = free.saturating_sub(left_bytes).to_string();
        let filler = self.filler();
        // What is taken meanwhile is missing in the end: then it is full, too.
        let _full = run("fallocate", &["-l", &size, filler.to_str().unwrap()]);
        let took = std::fs::metadata(filler).unwrap();
        let took = std::os::unix::fs::MetadataExt::blocks(&took) * 512;
        assert!(took + left_bytes + (2 << 20) > free, "{took} of {free} bytes are filled");
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _busy = run("umount", &["-l", self.mount.to_str().unwrap()]);
    }
}

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long long *seconds;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("VERITY_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) seconds = page;
    close(file);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int told = (int)syscall(SYS_clock_gettime, clock, time);
    if (told == 0 && clock == CLOCK_REALTIME && seconds) time->tv_sec += *seconds;
    return told;
}
"#;

/// Clocks of replicas, each with seconds of its own before or behind the machine's.
pub struct Clocks {
    folder: PathBuf,
}

impl Clocks {
    /// Under this directory; an error says why there can be none.
    pub fn new(under: &Path, count: usize) -> Result<Clocks, String> {
        let clocks = Clocks { folder: under.to_path_buf() };
        let source = under.join("clock.c");
        std::fs::write(&source, SHIM).map_err(|error| error.to_string())?;
        let library = clocks.library();
        let [library, source] = [&library, &source].map(|path| path.to_str().unwrap());
        run("cc", &["-O1", "-shared", "-fPIC", "-o", library, source])?;
        for replica in 0..count {
            std::fs::write(clocks.file(replica), [0; 8]).map_err(|error| error.to_string())?;
        }
        Ok(clocks)
    }

    fn library(&self) -> PathBuf {
        self.folder.join("clock.so")
    }

    fn file(&self, replica: usize) -> PathBuf {
        self.folder.join(format!("clock{replica}"))
    }

    pub fn give(&self, replica: usize, command: &mut Command) {
        command.env("LD_PRELOAD", self.library()).env("VERITY_TEST_CLOCK", self.file(replica));
    }

    /// From now on, also after a restart.
    pub fn set(&self, replica: usize, seconds: i64) {
        // In place: processes have it mapped.
        let file = std::fs::File::options().write(true).open(self.file(replica)).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

#[test]
fn a_clock_is_set_while_a_process_runs() {
    let dir = tempfile::tempdir().unwrap();
    let clocks = match Clocks::new(dir.path(), 1) {
        Ok(clocks) => clocks,
        Err(why) => return crate::run::skipped(&format!("no clock can be set here: {why}")),
    };
    let now = || {
        let mut date = Command::new("date");
        clocks.give(0, &mut date);
        let output = date.arg("+%s").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse::<i64>().unwrap()
    };
    let before = now();
    clocks.set(0, -36_000);
    let after = now();
    assert!((35_990..=36_000).contains(&(before - after)), "{before}, then {after}");
}
