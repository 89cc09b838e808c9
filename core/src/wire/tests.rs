//! Round trips, every malformed input by name, and frames mutated at random.

use alloc::vec;
use alloc::vec::Vec;

use super::frame::{self, FRAME_HEADER_SIZE, FrameError};
use super::replica::{
    self, BodyShape, COSIGNATURE_SIZE, Kind, MessageError, NUMBERS, PAGE_NAME_SIZE, ReplicaMessage,
};
use crate::crypto::hash::{InternalDomain, InternalHash};
use crate::ids::{ClusterId, Release, ReplicaId, View};
use crate::journal::fake_disk::Random;
use crate::limits::{
    FRAME_PAYLOAD_SIZE_MAX, KEY_ENTRY_SIZE, MESSAGE_HEADERS_MAX, PAGE_SIZE, PREPARE_HEADER_SIZE,
    REPLICA_MESSAGE_HEADER_SIZE, SYNC_CHECKPOINT_SIZE,
};

const CLUSTER: ClusterId = ClusterId::new(7);

fn body_of(kind: Kind) -> Vec<u8> {
    match kind.shape().body {
        BodyShape::Empty => Vec::new(),
        BodyShape::Prepare => vec![3; PREPARE_HEADER_SIZE + 100],
        BodyShape::Headers => vec![4; 3 * PREPARE_HEADER_SIZE],
        BodyShape::Checkpoint => vec![5; SYNC_CHECKPOINT_SIZE],
        BodyShape::PageNames => vec![6; 2 * PAGE_NAME_SIZE],
        BodyShape::Pages => vec![7; PAGE_NAME_SIZE + PAGE_SIZE],
        BodyShape::Blocks => vec![8; PAGE_SIZE],
        BodyShape::Keys => vec![9; 2 * KEY_ENTRY_SIZE],
        BodyShape::Cosignature => vec![10; COSIGNATURE_SIZE],
    }
}

fn message(kind: Kind, body: &[u8]) -> ReplicaMessage<'_> {
    let shape = kind.shape();
    let number = |index| if index < shape.numbers { 1_000 + index as u64 } else { 0 };
    ReplicaMessage {
        kind,
        from: ReplicaId::new(2),
        cluster: CLUSTER,
        view: View::new(9),
        release: Release::new(1),
        hash: if shape.hash { InternalHash([8; 32]) } else { InternalHash::ZERO },
        numbers: core::array::from_fn(number),
        body,
    }
}

#[test]
fn every_kind_comes_back_as_it_was() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_code(kind.code()), Some(kind));
        let body = body_of(kind);
        let sent = message(kind, &body);
        let bytes = replica::encode(&sent);
        assert_eq!(replica::decode_frame(&bytes, CLUSTER, 3), Ok(sent));
        assert_eq!(bytes.len(), FRAME_HEADER_SIZE + REPLICA_MESSAGE_HEADER_SIZE + body.len());
    }
    assert_eq!(Kind::from_code(0), None);
    assert_eq!(Kind::from_code(25), None);
}

#[test]
fn a_stream_is_cut_into_frames() {
    let mut stream = frame::encode(b"one");
    stream.extend_from_slice(&frame::encode(b""));
    for cut in 0..FRAME_HEADER_SIZE + 3 {
        assert_eq!(frame::decode(&stream[..cut]), Ok(None), "{cut} bytes are no frame yet");
    }
    let first = frame::decode(&stream).unwrap().unwrap();
    assert_eq!(first.payload, b"one");
    let second = frame::decode(&stream[first.size..]).unwrap().unwrap();
    assert_eq!((second.payload, first.size + second.size), (&b""[..], stream.len()));
}

/// A frame is one of the formats that outlive a release: these bytes never change.
#[test]
fn the_bytes_of_a_frame() {
    let bytes = frame::encode(b"abc");
    assert_eq!(&bytes[..10], b"VDB \x01\x00\x03\x00\x00\x00");
    assert_eq!(&bytes[14..], b"abc");
    assert_eq!(bytes[10..14], crc32fast::hash(b"VDB \x01\x00\x03\x00\x00\x00abc").to_le_bytes());
}

#[test]
fn frames_that_are_none() {
    assert_eq!(frame::decode(b"GET "), Err(FrameError::Magic { found: *b"GET " }));
    assert_eq!(frame::decode(b"V?"), Err(FrameError::Magic { found: *b"V?\0\0" }));
    let mut bytes = frame::encode(b"abc");
    bytes[4] = 2;
    assert_eq!(frame::decode(&bytes), Err(FrameError::Version { found: 2, known: 1 }));
    let mut bytes = frame::encode(b"abc");
    bytes[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
    let max = FRAME_PAYLOAD_SIZE_MAX as u32;
    let refused = FrameError::TooLong { length: u32::MAX, max };
    assert_eq!(frame::decode(&bytes), Err(refused), "refused before anything waits for it");
    let mut bytes = frame::encode(b"abc");
    bytes[15] ^= 1;
    assert!(matches!(frame::decode(&bytes), Err(FrameError::Crc { .. })));
    let mut bytes = frame::encode(b"abc");
    bytes.push(0);
    assert_eq!(replica::decode_frame(&bytes, CLUSTER, 3), Err(MessageError::FrameSize));
}

/// Changes the payload of a frame and makes its checksums right again.
fn reseal(frame_bytes: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = frame_bytes[FRAME_HEADER_SIZE..].to_vec();
    change(&mut payload);
    if payload.len() >= REPLICA_MESSAGE_HEADER_SIZE {
        let (head, body) = payload.split_at_mut(REPLICA_MESSAGE_HEADER_SIZE);
        head[32..64].copy_from_slice(&InternalHash::of(InternalDomain::ReplicaBody, &[body]).0);
        let checksum = InternalHash::of(InternalDomain::ReplicaHeader, &[&head[32..]]);
        head[..32].copy_from_slice(&checksum.0);
    }
    frame::encode(&payload)
}

#[test]
fn messages_that_are_none() {
    let refused = |bytes: &[u8]| replica::decode_frame(bytes, CLUSTER, 3).unwrap_err();
    let good = replica::encode(&message(Kind::Commit, &[]));
    let changed = |change: &dyn Fn(&mut Vec<u8>)| refused(&reseal(&good, |bytes| change(bytes)));
    assert_eq!(refused(&frame::encode(b"abc")), MessageError::Short { found: 3 });
    assert_eq!(
        changed(&|bytes| bytes[64] = 8),
        MessageError::OtherCluster { found: ClusterId::new(8) }
    );
    assert_eq!(changed(&|bytes| bytes[96] = 77), MessageError::UnknownKind { code: 77 });
    assert_eq!(changed(&|bytes| bytes[97] = 3), MessageError::NoSuchReplica { replica: 3 });
    let kind = Kind::Commit;
    let field = "reserved bytes";
    assert_eq!(changed(&|bytes| bytes[98] = 1), MessageError::Unused { kind, field });
    let field = "more numbers";
    assert_eq!(changed(&|bytes| bytes[207] = 1), MessageError::Unused { kind, field });
    assert_eq!(changed(&|bytes| bytes.push(0)), MessageError::BodySize { found: 1, expected: 0 });
    let with_body = |bytes: &mut Vec<u8>| {
        bytes.push(0);
        bytes[88] = 1;
    };
    assert_eq!(changed(&with_body), MessageError::BodyShape { kind });
    let hashed = reseal(&replica::encode(&message(Kind::Ping, &[])), |bytes| bytes[104] = 1);
    assert_eq!(refused(&hashed), MessageError::Unused { kind: Kind::Ping, field: "hash" });
    // With the frame's CRC right and the message's own checksums wrong.
    let mut payload = good[FRAME_HEADER_SIZE..].to_vec();
    payload[80] ^= 1;
    assert_eq!(refused(&frame::encode(&payload)), MessageError::HeaderChecksum);
    let body = body_of(Kind::Headers);
    let mut payload = replica::encode(&message(Kind::Headers, &body))[FRAME_HEADER_SIZE..].to_vec();
    *payload.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&frame::encode(&payload)), MessageError::BodyChecksum);
    let many = vec![0; (MESSAGE_HEADERS_MAX + 1) * PREPARE_HEADER_SIZE];
    let long = reseal(&replica::encode(&message(Kind::Headers, &[])), |bytes| {
        bytes.extend_from_slice(&many);
        bytes[88..92].copy_from_slice(&(many.len() as u32).to_le_bytes());
    });
    assert_eq!(refused(&long), MessageError::BodyShape { kind: Kind::Headers });
}

/// No mutation of a frame crashes the decoder, and none but the identity is taken for a message;
/// with checksums made right again, what is taken encodes to the very same bytes.
#[test]
fn mutated_frames_are_refused() {
    let mut random = Random(1);
    let (mut refused, mut taken) = (0, 0);
    for turn in 0..20_000 {
        let kind = Kind::ALL[random.below(Kind::ALL.len())];
        let body = body_of(kind);
        let good = replica::encode(&message(kind, &body));
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            match random.below(4) {
                0 => {
                    let at = random.below(bytes.len());
                    bytes[at] ^= 1 << random.below(8);
                }
                1 => bytes.truncate(random.below(bytes.len()).max(1)),
                2 => bytes.push(random.next() as u8),
                _ => {
                    let at = random.below(bytes.len());
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].fill(random.next() as u8);
                }
            }
        }
        if bytes == good {
            continue;
        }
        assert!(replica::decode_frame(&bytes, CLUSTER, 3).is_err(), "turn {turn}");
        if bytes.len() < FRAME_HEADER_SIZE {
            continue;
        }
        let resealed = reseal(&bytes, |_| {});
        match replica::decode_frame(&resealed, CLUSTER, 3) {
            Ok(message) => {
                assert_eq!(replica::encode(&message), resealed);
                taken += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1_000 && taken > 1_000, "{refused} refused, {taken} taken");
    assert_eq!(NUMBERS, 11);
}
