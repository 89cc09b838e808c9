//! Golden files: what a release wrote. This one must write the same bytes, and read them.

use alloc::vec::Vec;

/// The bytes of `core/tests/golden/<name>`, which `bytes` must be. `VERITY_BLESS=1` writes them
/// anew, which is a change of format.
pub fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let path = dir.join(name);
    if std::env::var_os("VERITY_BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    assert!(golden == bytes, "the bytes of {name} have changed");
    golden
}
