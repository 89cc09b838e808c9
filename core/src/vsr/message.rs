//! What replicas say to each other, as values; `docs/VSR.md` says when.
//!
//! [`Message::encode`] and [`Message::decode`] map them to the generic header of `wire::replica`,
//! whose numbers and hash mean here what the field order of each variant says. Invariant: what was
//! decoded could have been encoded; values that cannot be are a typed refusal.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::crypto::hash::InternalHash;
use crate::crypto::note::Cosignature;
use crate::ids::{ClusterId, GridId, Op, Release, ReplicaId, SegmentNumber, TenantId, View};
use crate::io::{Page, Pages};
use crate::journal::{Prepare, PrepareHeader};
use crate::limits::{
    MESSAGE_HEADERS_MAX, PAGE_SIZE, PREPARE_HEADER_SIZE, REPLICA_COUNT_MAX, SYNC_BLOCKS_MAX,
    SYNC_CHECKPOINT_SIZE,
};
use crate::superblock::{
    CheckpointState, PeerEvidence, SuperblockState, decode_checkpoint, encode_checkpoint,
};
use crate::time::{Instant, Timestamp};
use crate::wire::replica::{self, Kind, MessageError, NUMBERS, PAGE_NAME_SIZE, ReplicaMessage};

mod names;
#[cfg(test)]
mod tests;

pub use names::{BlockPlace, HeadName, KeysName, PageName};
use names::{encode_cosignature, encode_pages, parse_cosignature, parse_pages};

/// Where a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Standing {
    /// The highest acknowledgement it gave, and in which log view.
    pub acknowledged: PeerEvidence,
    pub commit: Op,
    pub checkpoint_durable: Op,
}

/// A log that a replica offers for the next view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoViewChange {
    pub log_view: View,
    /// Highest op known to be committed, by anybody.
    pub commit: Op,
    /// Committed here; the headers begin above it.
    pub floor: Op,
    pub floor_checksum: InternalHash,
    pub head: Op,
    /// It names every op above the floor that it ever acknowledged: what it does not name, it
    /// *nacks*.
    pub certain: bool,
    /// Bit i: the body of `headers[i]` is here too.
    pub present: u64,
    /// By replica: the newest boot of which the sender heard a ping, 0 for none; at its own place
    /// the boot that offers this.
    pub boots: [u64; REPLICA_COUNT_MAX],
    /// Known headers above the floor, in op order; holes are left out.
    pub headers: Vec<PrepareHeader>,
}

/// The log a view begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartView {
    pub head: Op,
    pub head_checksum: InternalHash,
    pub commit: Op,
    /// Of the request that this answers; 0 when nobody asked.
    pub nonce: u64,
    /// The last ones of the log, in op order.
    pub headers: Vec<PrepareHeader>,
}

/// What replicas tell one another.
#[derive(Clone, Debug)]
pub enum Payload {
    Ping {
        monotonic: Instant,
        nonce: u64,
        standing: Standing,
        /// The sender's disk has no room for requests.
        full: bool,
    },
    Pong {
        /// Of the ping.
        monotonic: Instant,
        nonce: u64,
        wall: Timestamp,
        /// The highest that the sender ever saw of the receiver.
        seen: PeerEvidence,
        standing: Standing,
        /// The sender is certain of its log, and past its own boot.
        certain: bool,
    },
    /// Header and body, without padding; the commit number of the sender.
    Prepare {
        commit: Op,
        bytes: Vec<u8>,
    },
    PrepareOk {
        op: Op,
        checksum: InternalHash,
        checkpoint_durable: Op,
        /// The newest heartbeat that the sender heard in this view; 0: none.
        round: u64,
    },
    Commit {
        commit: Op,
        head: Op,
        head_checksum: InternalHash,
        /// Number of this heartbeat, never given twice in a view.
        round: u64,
    },
    StartViewChange,
    DoViewChange(DoViewChange),
    StartView(StartView),
    RequestStartView {
        nonce: u64,
    },
    /// The header with this checksum, and up to `count` - 1 below it.
    RequestHeaders {
        op: Op,
        count: u64,
        checksum: InternalHash,
    },
    Headers(Vec<PrepareHeader>),
    /// Zero for the checksum: whatever the sender has in this view.
    RequestPrepare {
        op: Op,
        checksum: InternalHash,
    },
    /// Your newest durable checkpoint.
    RequestCheckpoint,
    Checkpoint(Box<Offer>),
    /// Pages of the grid, as they are on the disk; `serial` comes back with the answer.
    RequestPages {
        serial: u64,
        pages: Vec<PageName>,
    },
    /// Those of them that the sender has, sealed as they are; its durable checkpoint.
    Pages {
        serial: u64,
        checkpoint_durable: Op,
        pages: Vec<(PageName, Page)>,
    },
    /// Blocks of a segment, of a log as it was at a checkpoint that the receiver has too.
    RequestBlocks {
        serial: u64,
        checkpoint: Op,
        place: BlockPlace,
        count: u64,
    },
    /// The blocks, or none; the durable checkpoint of the sender.
    Blocks {
        serial: u64,
        checkpoint_durable: Op,
        blocks: Vec<u8>,
    },
    /// The sender leads this view and is about to create the tenant: its keys are to be kept.
    KeepKeys {
        keys: KeysName,
        entries: Vec<u8>,
    },
    /// They are durable at the sender, in this view.
    KeysKept(KeysName),
    /// The sender lacks keys that it needs.
    RequestKeys(KeysName),
    Keys {
        keys: KeysName,
        entries: Vec<u8>,
    },
    /// The sender has attested this head in `op`, and proves things by it.
    RequestCosignature {
        head: HeadName,
        op: Op,
    },
    /// The sender has applied what the head covers, and its superblock holds the head.
    Cosignature {
        head: HeadName,
        cosignature: Cosignature,
    },
}

/// A checkpoint that a replica has durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub checkpoint: CheckpointState,
    /// Whose keys seal its pages.
    pub grid: GridId,
    /// As it travels.
    bytes: [u8; SYNC_CHECKPOINT_SIZE],
}

impl Offer {
    /// What the superblock says.
    #[must_use]
    pub fn of(state: &SuperblockState) -> Offer {
        let bytes = encode_checkpoint(state);
        Offer { checkpoint: state.checkpoint, grid: state.grid, bytes }
    }

    pub fn parse(bytes: &[u8; SYNC_CHECKPOINT_SIZE]) -> Result<Offer, &'static str> {
        let (checkpoint, grid) = decode_checkpoint(bytes)?;
        Ok(Offer { checkpoint, grid, bytes: *bytes })
    }
}

#[derive(Clone, Debug)]
pub struct Message {
    pub from: ReplicaId,
    pub view: View,
    pub release: Release,
    pub payload: Payload,
}

impl Message {
    /// The message in a frame, ready to send.
    #[must_use]
    pub fn encode(&self, cluster: ClusterId) -> Vec<u8> {
        let (kind, hash, numbers) = self.payload.fields();
        let mut all = [0; NUMBERS];
        all[..numbers.len()].copy_from_slice(&numbers);
        let headers;
        let body: &[u8] = match &self.payload {
            Payload::Prepare { bytes, .. } => bytes,
            Payload::DoViewChange(DoViewChange { headers: list, .. })
            | Payload::StartView(StartView { headers: list, .. })
            | Payload::Headers(list) => {
                headers = encode_headers(list);
                &headers
            }
            Payload::Checkpoint(offer) => &offer.bytes,
            Payload::RequestPages { pages, .. } => {
                headers = pages.iter().flat_map(PageName::encode).collect();
                &headers
            }
            Payload::Pages { pages, .. } => {
                headers = encode_pages(pages);
                &headers
            }
            Payload::Blocks { blocks, .. } => blocks,
            Payload::KeepKeys { entries, .. } | Payload::Keys { entries, .. } => entries,
            Payload::Cosignature { cosignature, .. } => {
                headers = encode_cosignature(cosignature);
                &headers
            }
            Payload::Ping { .. }
            | Payload::Pong { .. }
            | Payload::PrepareOk { .. }
            | Payload::Commit { .. }
            | Payload::StartViewChange
            | Payload::RequestStartView { .. }
            | Payload::RequestHeaders { .. }
            | Payload::RequestPrepare { .. }
            | Payload::RequestCheckpoint
            | Payload::RequestBlocks { .. }
            | Payload::KeysKept(_)
            | Payload::RequestKeys(_)
            | Payload::RequestCosignature { .. } => &[],
        };
        replica::encode(&ReplicaMessage {
            kind,
            from: self.from,
            cluster,
            view: self.view,
            release: self.release,
            hash,
            numbers: all,
            body,
        })
    }

    /// The message of exactly one frame.
    pub fn decode(
        frame: &[u8],
        cluster: ClusterId,
        replica_count: u8,
    ) -> Result<Message, MessageError> {
        let raw = replica::decode_frame(frame, cluster, replica_count)?;
        let payload = Payload::parse(&raw)?;
        Ok(Message { from: raw.from, view: raw.view, release: raw.release, payload })
    }
}

impl Payload {
    /// Checkpoints, their pages and segments, keys: consensus has no part in them.
    #[must_use]
    pub fn is_for_the_node(&self) -> bool {
        match self {
            Payload::RequestCheckpoint
            | Payload::Checkpoint(_)
            | Payload::RequestPages { .. }
            | Payload::Pages { .. }
            | Payload::RequestBlocks { .. }
            | Payload::Blocks { .. }
            | Payload::KeepKeys { .. }
            | Payload::KeysKept(_)
            | Payload::RequestKeys(_)
            | Payload::Keys { .. }
            | Payload::RequestCosignature { .. }
            | Payload::Cosignature { .. } => true,
            Payload::Ping { .. }
            | Payload::Pong { .. }
            | Payload::Prepare { .. }
            | Payload::PrepareOk { .. }
            | Payload::Commit { .. }
            | Payload::StartViewChange
            | Payload::DoViewChange(_)
            | Payload::StartView(_)
            | Payload::RequestStartView { .. }
            | Payload::RequestHeaders { .. }
            | Payload::Headers(_)
            | Payload::RequestPrepare { .. } => false,
        }
    }

    fn fields(&self) -> (Kind, InternalHash, Vec<u64>) {
        use alloc::vec;
        let none = InternalHash::ZERO;
        match self {
            Payload::Ping { monotonic, nonce, standing, full } => {
                let mut numbers = vec![monotonic.0, *nonce];
                numbers.extend(standing.numbers());
                numbers.push(u64::from(*full));
                (Kind::Ping, none, numbers)
            }
            Payload::Pong { monotonic, nonce, wall, seen, standing, certain } => {
                let [log_view, op, commit, checkpoint] = standing.numbers();
                let (seen_view, seen_op) = (seen.log_view.get(), seen.op.get());
                let own = [log_view, op, commit, checkpoint];
                let mut numbers = vec![monotonic.0, *nonce, wall.0, seen_view, seen_op];
                numbers.extend(own);
                numbers.push(u64::from(*certain));
                (Kind::Pong, none, numbers)
            }
            Payload::Prepare { commit, .. } => (Kind::Prepare, none, vec![commit.get()]),
            Payload::PrepareOk { op, checksum, checkpoint_durable, round } => {
                (Kind::PrepareOk, *checksum, vec![op.get(), checkpoint_durable.get(), *round])
            }
            Payload::Commit { commit, head, head_checksum, round } => {
                (Kind::Commit, *head_checksum, vec![commit.get(), head.get(), *round])
            }
            Payload::StartViewChange => (Kind::StartViewChange, none, vec![]),
            Payload::DoViewChange(dvc) => {
                let (log_view, commit) = (dvc.log_view.get(), dvc.commit.get());
                let (floor, head) = (dvc.floor.get(), dvc.head.get());
                let certain = u64::from(dvc.certain);
                let mut numbers = vec![log_view, commit, floor, head, certain, dvc.present];
                numbers.extend(dvc.boots);
                (Kind::DoViewChange, dvc.floor_checksum, numbers)
            }
            Payload::StartView(start) => {
                let numbers = vec![start.head.get(), start.commit.get(), start.nonce];
                (Kind::StartView, start.head_checksum, numbers)
            }
            Payload::RequestStartView { nonce } => (Kind::RequestStartView, none, vec![*nonce]),
            Payload::RequestHeaders { op, count, checksum } => {
                (Kind::RequestHeaders, *checksum, vec![op.get(), *count])
            }
            Payload::Headers(_) => (Kind::Headers, none, vec![]),
            Payload::RequestPrepare { op, checksum } => {
                (Kind::RequestPrepare, *checksum, vec![op.get()])
            }
            Payload::RequestCheckpoint => (Kind::RequestCheckpoint, none, vec![]),
            Payload::Checkpoint(_) => (Kind::Checkpoint, none, vec![]),
            Payload::RequestPages { serial, .. } => (Kind::RequestPages, none, vec![*serial]),
            Payload::Pages { serial, checkpoint_durable, .. } => {
                (Kind::Pages, none, vec![*serial, checkpoint_durable.get()])
            }
            Payload::RequestBlocks { serial, checkpoint, place, count } => {
                let BlockPlace { tenant, segment, block } = *place;
                let place = [tenant.get(), u64::from(segment.get()), block];
                let mut numbers = vec![*serial, checkpoint.get()];
                numbers.extend(place);
                numbers.push(*count);
                (Kind::RequestBlocks, none, numbers)
            }
            Payload::Blocks { serial, checkpoint_durable, .. } => {
                (Kind::Blocks, none, vec![*serial, checkpoint_durable.get()])
            }
            Payload::KeepKeys { keys, .. } => keys.fields(Kind::KeepKeys),
            Payload::KeysKept(keys) => keys.fields(Kind::KeysKept),
            Payload::RequestKeys(keys) => keys.fields(Kind::RequestKeys),
            Payload::Keys { keys, .. } => keys.fields(Kind::Keys),
            Payload::RequestCosignature { head, op } => {
                (Kind::RequestCosignature, InternalHash(head.root.0), vec![head.size, op.get()])
            }
            Payload::Cosignature { head, cosignature } => {
                let numbers = vec![head.size, cosignature.time_s];
                (Kind::Cosignature, InternalHash(head.root.0), numbers)
            }
        }
    }

    fn parse(raw: &ReplicaMessage<'_>) -> Result<Payload, MessageError> {
        let numbers = &raw.numbers;
        Ok(match raw.kind {
            Kind::Ping => Payload::Ping {
                monotonic: Instant(numbers[0]),
                nonce: numbers[1],
                standing: Standing::parse(&numbers[2..6]),
                full: numbers[6] != 0,
            },
            Kind::Pong => Payload::Pong {
                monotonic: Instant(numbers[0]),
                nonce: numbers[1],
                wall: Timestamp(numbers[2]),
                seen: PeerEvidence { log_view: View::new(numbers[3]), op: Op::new(numbers[4]) },
                standing: Standing::parse(&numbers[5..9]),
                certain: numbers[9] != 0,
            },
            Kind::Prepare => {
                Payload::Prepare { commit: Op::new(numbers[0]), bytes: raw.body.to_vec() }
            }
            Kind::PrepareOk => Payload::PrepareOk {
                op: Op::new(numbers[0]),
                checksum: raw.hash,
                checkpoint_durable: Op::new(numbers[1]),
                round: numbers[2],
            },
            Kind::Commit => Payload::Commit {
                commit: Op::new(numbers[0]),
                head: Op::new(numbers[1]),
                head_checksum: raw.hash,
                round: numbers[2],
            },
            Kind::StartViewChange => Payload::StartViewChange,
            Kind::DoViewChange => Payload::DoViewChange(parse_do_view_change(raw)?),
            Kind::StartView => {
                let (head, commit) = (Op::new(numbers[0]), Op::new(numbers[1]));
                let headers = parse_headers(raw)?;
                let what = |what| MessageError::Value { kind: raw.kind, what };
                if commit > head {
                    return Err(what("commit above the head"));
                }
                if headers.last().is_some_and(|last| last.op != head || last.checksum != raw.hash) {
                    return Err(what("the last header is not the head"));
                }
                let head_checksum = raw.hash;
                Payload::StartView(StartView {
                    head,
                    head_checksum,
                    commit,
                    nonce: numbers[2],
                    headers,
                })
            }
            Kind::RequestStartView => Payload::RequestStartView { nonce: numbers[0] },
            Kind::RequestHeaders => {
                let (op, count) = (Op::new(numbers[0]), numbers[1]);
                Payload::RequestHeaders { op, count, checksum: raw.hash }
            }
            Kind::Headers => Payload::Headers(parse_headers(raw)?),
            Kind::RequestPrepare => {
                Payload::RequestPrepare { op: Op::new(numbers[0]), checksum: raw.hash }
            }
            Kind::RequestCheckpoint
            | Kind::Checkpoint
            | Kind::RequestPages
            | Kind::Pages
            | Kind::RequestBlocks
            | Kind::Blocks
            | Kind::KeepKeys
            | Kind::KeysKept
            | Kind::RequestKeys
            | Kind::Keys
            | Kind::RequestCosignature
            | Kind::Cosignature => Payload::parse_for_the_node(raw)?,
        })
    }

    fn parse_for_the_node(raw: &ReplicaMessage<'_>) -> Result<Payload, MessageError> {
        let numbers = &raw.numbers;
        Ok(match raw.kind {
            Kind::RequestCheckpoint => Payload::RequestCheckpoint,
            Kind::Checkpoint => {
                let value = |what| MessageError::Value { kind: raw.kind, what };
                let bytes = raw.body.first_chunk().ok_or(value("too short"))?;
                Payload::Checkpoint(Box::new(Offer::parse(bytes).map_err(value)?))
            }
            Kind::RequestPages => {
                let names = raw.body.chunks_exact(PAGE_NAME_SIZE);
                let pages = names.map(|name| PageName::parse(raw, name));
                Payload::RequestPages {
                    serial: numbers[0],
                    pages: pages.collect::<Result<Vec<PageName>, MessageError>>()?,
                }
            }
            Kind::Pages => Payload::Pages {
                serial: numbers[0],
                checkpoint_durable: Op::new(numbers[1]),
                pages: parse_pages(raw)?,
            },
            Kind::RequestBlocks => {
                let what = |what| MessageError::Value { kind: raw.kind, what };
                let segment = u32::try_from(numbers[3]).map_err(|_| what("no such segment"))?;
                let (block, count) = (numbers[4], numbers[5]);
                if count == 0 || count > SYNC_BLOCKS_MAX as u64 || block > BLOCK_MAX {
                    return Err(what("no such blocks"));
                }
                Payload::RequestBlocks {
                    serial: numbers[0],
                    checkpoint: Op::new(numbers[1]),
                    place: BlockPlace {
                        tenant: TenantId::new(numbers[2]),
                        segment: SegmentNumber::new(segment),
                        block,
                    },
                    count,
                }
            }
            Kind::Blocks => Payload::Blocks {
                serial: numbers[0],
                checkpoint_durable: Op::new(numbers[1]),
                blocks: raw.body.to_vec(),
            },
            Kind::KeepKeys => {
                Payload::KeepKeys { keys: KeysName::parse(raw), entries: raw.body.to_vec() }
            }
            Kind::KeysKept => Payload::KeysKept(KeysName::parse(raw)),
            Kind::RequestKeys => Payload::RequestKeys(KeysName::parse(raw)),
            Kind::Keys => Payload::Keys { keys: KeysName::parse(raw), entries: raw.body.to_vec() },
            Kind::RequestCosignature => {
                Payload::RequestCosignature { head: HeadName::parse(raw), op: Op::new(numbers[1]) }
            }
            Kind::Cosignature => Payload::Cosignature {
                head: HeadName::parse(raw),
                cosignature: parse_cosignature(raw)?,
            },
            Kind::Ping
            | Kind::Pong
            | Kind::Prepare
            | Kind::PrepareOk
            | Kind::Commit
            | Kind::StartViewChange
            | Kind::DoViewChange
            | Kind::StartView
            | Kind::RequestStartView
            | Kind::RequestHeaders
            | Kind::Headers
            | Kind::RequestPrepare => unreachable!("consensus has its own"),
        })
    }
}

/// No segment has a block beyond it.
const BLOCK_MAX: u64 = 1 << 40;

impl Standing {
    fn numbers(&self) -> [u64; 4] {
        let seen = &self.acknowledged;
        [seen.log_view.get(), seen.op.get(), self.commit.get(), self.checkpoint_durable.get()]
    }

    fn parse(numbers: &[u64]) -> Standing {
        Standing {
            acknowledged: PeerEvidence { log_view: View::new(numbers[0]), op: Op::new(numbers[1]) },
            commit: Op::new(numbers[2]),
            checkpoint_durable: Op::new(numbers[3]),
        }
    }
}

fn parse_do_view_change(raw: &ReplicaMessage<'_>) -> Result<DoViewChange, MessageError> {
    let what = |what| MessageError::Value { kind: raw.kind, what };
    let numbers = &raw.numbers;
    let headers = parse_headers(raw)?;
    let mut boots = [0; REPLICA_COUNT_MAX];
    boots.copy_from_slice(&numbers[6..6 + REPLICA_COUNT_MAX]);
    let dvc = DoViewChange {
        log_view: View::new(numbers[0]),
        commit: Op::new(numbers[1]),
        floor: Op::new(numbers[2]),
        floor_checksum: raw.hash,
        head: Op::new(numbers[3]),
        certain: numbers[4] == 1,
        present: numbers[5],
        boots,
        headers,
    };
    if numbers[4] > 1 {
        return Err(what("certain is neither 0 nor 1"));
    }
    if dvc.log_view >= raw.view {
        return Err(what("log view is not below the view"));
    }
    if dvc.headers.len() < 64 && dvc.present >> dvc.headers.len() != 0 {
        return Err(what("a body without a header"));
    }
    let inside = dvc.headers.iter().all(|header| header.op > dvc.floor && header.op <= dvc.head);
    let last = dvc.headers.last().map_or(dvc.floor, |header| header.op);
    if !inside || last != dvc.head || dvc.commit < dvc.floor {
        return Err(what("headers do not lie between floor and head"));
    }
    Ok(dvc)
}

fn encode_headers(headers: &[PrepareHeader]) -> Vec<u8> {
    assert!(headers.len() <= MESSAGE_HEADERS_MAX);
    let mut bytes = Vec::with_capacity(headers.len() * PREPARE_HEADER_SIZE);
    for header in headers {
        bytes.extend_from_slice(&header.encode());
    }
    bytes
}

/// Headers in op order.
fn parse_headers(raw: &ReplicaMessage<'_>) -> Result<Vec<PrepareHeader>, MessageError> {
    let mut headers: Vec<PrepareHeader> = Vec::with_capacity(raw.body.len() / PREPARE_HEADER_SIZE);
    for bytes in raw.body.chunks_exact(PREPARE_HEADER_SIZE) {
        let what = |what| MessageError::Value { kind: raw.kind, what };
        let header = PrepareHeader::decode(bytes).map_err(|_| what("a header is damaged"))?;
        if header.cluster != raw.cluster {
            return Err(what("a header of another cluster"));
        }
        if headers.last().is_some_and(|last| header.op <= last.op) {
            return Err(what("headers are not in op order"));
        }
        headers.push(header);
    }
    Ok(headers)
}

/// A prepare as it travels, put back on whole pages; `None` when it is not whole.
#[must_use]
pub fn prepare_of(bytes: &[u8], cluster: ClusterId) -> Option<Prepare> {
    let header = PrepareHeader::decode(bytes).ok()?;
    if header.cluster != cluster || header.size as usize != bytes.len() || header.op == Op::ZERO {
        return None;
    }
    let mut pages = Pages::zeroed(bytes.len().div_ceil(PAGE_SIZE));
    pages.as_bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    Prepare::from_pages(&header, pages).ok()
}

/// The bytes of a prepare that travel.
#[must_use]
pub fn bytes_of(prepare: &Prepare) -> Vec<u8> {
    prepare.pages().as_bytes()[..prepare.header().size as usize].to_vec()
}
