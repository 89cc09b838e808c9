//! Where the files of a data directory are.
//!
//! Invariant: the mapping from [`FileId`] to a path is total and one to one; tests hold it.

use std::path::{Path, PathBuf};

use verity_core::ids::{SegmentNumber, TenantId};
use verity_core::io::FileId;

/// Name of the directory that holds the tenants' logs.
pub const LOG_DIRECTORY: &str = "log";
/// The file whose lock says that a process has the directory open.
pub const LOCK_FILE: &str = "lock";

/// The path of a file, relative to the data directory.
#[must_use]
pub fn relative(file: FileId) -> PathBuf {
    let log_file = |tenant: TenantId, number: SegmentNumber, extension: &str| {
        PathBuf::from(LOG_DIRECTORY)
            .join(tenant.to_string())
            .join(format!("{:08}.{extension}", number.get()))
    };
    match file {
        FileId::Superblock => PathBuf::from("superblock"),
        FileId::Journal => PathBuf::from("journal"),
        FileId::Grid => PathBuf::from("grid"),
        FileId::Keys => PathBuf::from("keys"),
        FileId::Scratch => PathBuf::from("scratch"),
        FileId::Segment { tenant, number } => log_file(tenant, number, "segment"),
        FileId::Index { tenant, number } => log_file(tenant, number, "index"),
    }
}

/// The segments in a data directory, in order of tenant and number. Foreign names are skipped.
pub fn segments(root: &Path) -> std::io::Result<Vec<(TenantId, SegmentNumber)>> {
    let mut found = Vec::new();
    let log = root.join(LOG_DIRECTORY);
    let named = |path: &Path, error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    let tenants = match std::fs::read_dir(&log) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(named(&log, error)),
    };
    for tenant in tenants {
        let tenant = tenant?;
        let Some(id) = tenant.file_name().to_str().and_then(|name| name.parse::<u64>().ok()) else {
            continue;
        };
        let files = std::fs::read_dir(tenant.path());
        for file in files.map_err(|error| named(&tenant.path(), error))? {
            let name = file?.file_name();
            let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".segment")) else {
                continue;
            };
            let Ok(number) = stem.parse::<u32>() else { continue };
            found.push((TenantId::new(id), SegmentNumber::new(number)));
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_documented_layout() {
        let segment = FileId::Segment { tenant: TenantId::new(7), number: SegmentNumber::new(12) };
        assert_eq!(relative(segment), Path::new("log/7/00000012.segment"));
        let index = FileId::Index { tenant: TenantId::new(7), number: SegmentNumber::new(12) };
        assert_eq!(relative(index), Path::new("log/7/00000012.index"));
        assert_eq!(relative(FileId::Superblock), Path::new("superblock"));
    }

    #[test]
    fn segments_are_found_in_order_and_foreign_files_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["log/2/00000000.segment", "log/1/00000001.segment", "log/1/x.segment"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        std::fs::create_dir_all(dir.path().join("log/notes")).unwrap();
        let expected = vec![
            (TenantId::new(1), SegmentNumber::new(1)),
            (TenantId::new(2), SegmentNumber::new(0)),
        ];
        assert_eq!(segments(dir.path()).unwrap(), expected);
        assert_eq!(segments(&dir.path().join("none")).unwrap(), vec![]);
    }
}
