//! The verifier against bytes of strangers: what is not the golden proof does not hold, and nothing
//! that a file says makes it panic.

use std::path::PathBuf;

use alloc::string::String;
use alloc::vec::Vec;

use super::{CanonicalQuery, Policy, ProofFile, redact, verify, verify_file};
use crate::ids::ColumnId;

struct Golden {
    policy: Policy,
    files: Vec<Vec<u8>>,
}

impl Golden {
    fn read() -> Golden {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/proofs");
        let policy = std::fs::read_to_string(dir.join("policy")).expect("golden proofs");
        let mut names: Vec<PathBuf> = std::fs::read_dir(&dir)
            .expect("golden proofs")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "proof"))
            .collect();
        names.sort();
        let files = names.iter().map(|path| std::fs::read(path).expect("a proof")).collect();
        Golden { policy: Policy::parse(&policy).expect("a policy"), files }
    }
}

#[test]
fn changed_proofs_never_hold() {
    let golden = Golden::read();
    assert!(golden.files.len() > 20);
    for file in &golden.files {
        let file = ProofFile::decode(file).expect("golden");
        assert!(verify_file(&file, &golden.policy).is_ok());
    }
    bolero::check!().with_iterations(3_000).with_max_len(60).for_each(|script: &[u8]| {
        let Some((which, changes)) = script.split_first() else { return };
        let honest = &golden.files[usize::from(*which) % golden.files.len()];
        let mut lie = honest.clone();
        let (changes, _) = changes.as_chunks::<5>();
        for [kind, byte, at @ ..] in changes {
            let at = u32::from_le_bytes([at[0], at[1], at[2], 0]);
            if lie.is_empty() {
                break;
            }
            let at = at as usize % lie.len();
            match kind % 6 {
                0 => lie[at] ^= byte | 1,
                1 => lie[at] = *byte,
                2 => drop(lie.remove(at)),
                3 => lie.insert(at, *byte),
                4 => lie.truncate(at),
                _ => {
                    // A part of another proof.
                    let other = &golden.files[usize::from(*byte) % golden.files.len()];
                    let end = (at + 64).min(lie.len()).min(other.len());
                    if at < end {
                        lie[at..end].copy_from_slice(&other[at..end]);
                    }
                }
            }
        }
        let query = ProofFile::decode(honest).expect("golden").query.encode();
        let held = verify(&query, &lie, &golden.policy).is_ok();
        assert_eq!(held, lie == *honest, "a changed proof holds");
        if let Ok(file) = ProofFile::decode(&lie) {
            assert_eq!(file.encode(), lie, "a file has one encoding");
            let _ = verify_file(&file, &golden.policy);
            let _ = redact(&file, &[ColumnId::new(2)], &[]);
            let _ = file.tlog_proof();
        }
    });
}

#[test]
fn strangers_bytes_are_refused() {
    let golden = Golden::read();
    bolero::check!().with_iterations(3_000).with_max_len(300).for_each(|bytes: &[u8]| {
        assert!(verify(&[], bytes, &golden.policy).is_err());
        if let Ok(query) = CanonicalQuery::decode(bytes) {
            assert_eq!(query.encode(), bytes, "a query has one encoding");
        }
        let text = String::from_utf8_lossy(bytes);
        let _ = Policy::parse(&text);
        let _ = crate::crypto::note::SignedNote::parse(&text);
    });
}
