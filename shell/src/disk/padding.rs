//! A segment that lost the zeros behind its last record, and nothing else.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use verity_core::limits::PAGE_SIZE;
use verity_core::log::{SegmentExtent, SegmentStart, SegmentVerifier};

/// Bytes read at a time.
const CHUNK: usize = 64 * PAGE_SIZE;
/// Where a record holds the hash of the one before.
const PREV_HASH: std::ops::Range<usize> = 8..40;

/// Are the records up to byte `end` of a segment whole, when what its file lacks is taken for
/// zeros? `next` is what will be written there: it begins with the record that follows them.
pub fn is_all_that_is_missing(path: &Path, start: SegmentStart, end: u64, next: &[u8]) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if length.next_multiple_of(PAGE_SIZE as u64) != end {
        return false;
    }
    let mut verifier = SegmentVerifier::new(start, SegmentExtent::Unknown);
    let mut chunk = vec![0; CHUNK];
    let mut offset = 0;
    while offset < end {
        let size = CHUNK.min(usize::try_from(end - offset).unwrap_or(CHUNK));
        let present = size.min(usize::try_from(length.saturating_sub(offset)).unwrap_or(size));
        let bytes = &mut chunk[..size];
        bytes[present..].fill(0);
        if file.read_exact_at(&mut bytes[..present], offset).is_err()
            || verifier.push(bytes, |_| Ok(())).is_err()
        {
            return false;
        }
        offset += size as u64;
    }
    // A record that is gone as a whole looks like padding: the next one knows better.
    let follows = verifier.chain().is_some_and(|chain| next.get(PREV_HASH) == Some(&chain.0[..]));
    follows && verifier.verified_bytes() == end
}
