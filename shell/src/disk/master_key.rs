//! The holder of the master key: from a file, from bytes the caller has, or from the default place,
//! a file beside the data directory.
//!
//! Invariants: the key never reaches the data directory. The default file is made only by `format`,
//! with mode 0600, durable before anything is sealed under it, and never overwritten.
//!
//! Fault model: a missing, malformed or wrong key is a typed error before anything is changed.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use verity_core::crypto::keys::{self, MasterKeyError};
use verity_core::crypto::seal::{unwrap_key, wrap_key};
use verity_core::io::{KeyError, KeyPurpose, SecretKey, WrappedKey};

/// Where the master key comes from.
#[derive(Clone, Default)]
pub enum MasterKeySource {
    /// `<DIR>.master-key` beside the data directory; made at format.
    #[default]
    Beside,
    /// A file with 32 raw bytes or 64 hexadecimal digits.
    File(PathBuf),
    /// The content of such a file, for instance from an environment variable.
    Content(Vec<u8>),
}

impl fmt::Debug for MasterKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MasterKeySource::Beside => f.write_str("Beside"),
            MasterKeySource::File(path) => write!(f, "File({})", path.display()),
            MasterKeySource::Content(_) => f.write_str("Content(..)"),
        }
    }
}

/// Why there is no master key.
#[derive(Debug)]
pub enum MasterKeyProblem {
    Missing { path: PathBuf },
    Unreadable { path: PathBuf, error: std::io::Error },
    Malformed { from: String, error: MasterKeyError },
    CannotCreate { path: PathBuf, error: std::io::Error },
    NoRandomness(std::io::Error),
}

impl fmt::Display for MasterKeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MasterKeyProblem::Missing { path } => write!(
                f,
                "the master key file {} does not exist; put the key there, or name it with \
                 --master-key FILE or VERITY_MASTER_KEY_FILE",
                path.display()
            ),
            MasterKeyProblem::Unreadable { path, error } => write!(
                f,
                "cannot read the master key file {}: {error}; nothing was changed. Make it \
                 readable, or name another with --master-key FILE or VERITY_MASTER_KEY_FILE",
                path.display()
            ),
            MasterKeyProblem::Malformed { from, error } => write!(
                f,
                "{from}: {error}; nothing was changed. Put the key back from where a copy is kept, \
                 or name another file with --master-key FILE or VERITY_MASTER_KEY_FILE"
            ),
            MasterKeyProblem::CannotCreate { path, error } => {
                write!(f, "cannot create the master key file {}: {error}", path.display())
            }
            MasterKeyProblem::NoRandomness(error) => {
                write!(f, "the operating system gives no random bytes: {error}")
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct MasterKey(keys::MasterKey);

impl MasterKey {
    /// For tests and for keys that live elsewhere.
    #[cfg(test)]
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> MasterKey {
        MasterKey(keys::MasterKey::parse(&bytes).expect("not all zeros"))
    }

    /// The key of a data directory that exists.
    pub fn load(source: &MasterKeySource, data: &Path) -> Result<MasterKey, MasterKeyProblem> {
        let (content, from) = match source {
            MasterKeySource::Beside => read(&beside(data))?,
            MasterKeySource::File(path) => read(path)?,
            MasterKeySource::Content(content) => (content.clone(), "the master key".to_string()),
        };
        let key = keys::MasterKey::parse(&content)
            .map_err(|error| MasterKeyProblem::Malformed { from, error })?;
        Ok(MasterKey(key))
    }

    /// The key for a data directory about to be formatted. True when a new file was made for it.
    pub fn load_or_create(
        source: &MasterKeySource,
        data: &Path,
    ) -> Result<(MasterKey, Option<PathBuf>), MasterKeyProblem> {
        let MasterKeySource::Beside = source else {
            return Ok((MasterKey::load(source, data)?, None));
        };
        let path = beside(data);
        if path.exists() {
            return Ok((MasterKey::load(source, data)?, None));
        }
        let bytes: [u8; 32] = random()?;
        create(&path, &bytes)
            .map_err(|error| MasterKeyProblem::CannotCreate { path: path.clone(), error })?;
        Ok((MasterKey::load(source, data)?, Some(path)))
    }

    pub fn wrap(&self, purpose: KeyPurpose, secret: &SecretKey) -> Result<WrappedKey, KeyError> {
        let nonce = random().map_err(|_| KeyError::Unavailable)?;
        Ok(wrap_key(&self.0, nonce, purpose, secret))
    }

    pub fn unwrap(&self, purpose: KeyPurpose, wrapped: &WrappedKey) -> Result<SecretKey, KeyError> {
        unwrap_key(&self.0, purpose, wrapped)
    }
}

/// `<DIR>.master-key`, whatever way the directory is written.
#[must_use]
pub fn beside(data: &Path) -> PathBuf {
    let absolute = data.canonicalize().or_else(|_| std::path::absolute(data));
    let mut path = absolute.unwrap_or_else(|_| data.to_path_buf()).into_os_string();
    path.push(".master-key");
    PathBuf::from(path)
}

/// Random bytes of the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], MasterKeyProblem> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(MasterKeyProblem::NoRandomness(error.into())),
        }
    }
    Ok(bytes)
}

fn read(path: &Path) -> Result<(Vec<u8>, String), MasterKeyProblem> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(MasterKeyProblem::Missing { path: path.to_path_buf() });
        }
        Err(error) => return Err(MasterKeyProblem::Unreadable { path: path.to_path_buf(), error }),
    };
    let unreadable = |error| MasterKeyProblem::Unreadable { path: path.to_path_buf(), error };
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            "the master key file {} may be read by others (mode {:o}); chmod 600 it",
            path.display(),
            mode & 0o777
        );
    }
    let mut content = Vec::new();
    // A key has at most 66 bytes; more is refused by the parser, never read into memory.
    let mut limited = std::io::Read::take(file, 128);
    std::io::Read::read_to_end(&mut limited, &mut content).map_err(unreadable)?;
    let from = format!("master key file {}", path.display());
    if metadata.len() > content.len() as u64 {
        let length_bytes = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        let error = MasterKeyError::Length { length_bytes };
        return Err(MasterKeyProblem::Malformed { from, error });
    }
    Ok((content, from))
}

/// Under another name until it is whole: a kill leaves no key that is half a key. The caller has
/// the lock of the directory whose key it is.
fn create(path: &Path, key: &[u8; 32]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_os_string();
    partial.push(".partial");
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    let mut text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    // Fails where a key has come to be meanwhile.
    std::fs::hard_link(&partial, path).or_else(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Err(error),
        // A file system without links.
        _ if !path.exists() => std::fs::rename(&partial, path),
        _ => Err(error),
    })?;
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_key_is_made_once_private_and_beside_the_data() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let source = MasterKeySource::Beside;
        let missing = MasterKey::load(&source, &data).unwrap_err();
        assert!(matches!(missing, MasterKeyProblem::Missing { .. }), "{missing}");
        let (first, made) = MasterKey::load_or_create(&source, &data).unwrap();
        let path = made.unwrap();
        assert_eq!(path.file_name().unwrap(), "data.master-key");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("data.master-key.partial").exists());
        let (second, made) = MasterKey::load_or_create(&source, &data).unwrap();
        assert_eq!((second.0 == first.0, made), (true, None));
    }

    #[test]
    fn malformed_keys_are_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for content in ["", "short", &"g".repeat(64), &"a".repeat(65), &"a".repeat(1000)] {
            std::fs::write(&path, content).unwrap();
            let source = MasterKeySource::File(path.clone());
            let problem = MasterKey::load(&source, dir.path()).unwrap_err();
            assert!(matches!(problem, MasterKeyProblem::Malformed { .. }), "{problem}");
        }
    }
}
