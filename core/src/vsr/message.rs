//! What replicas say to each other, as values; `docs/VSR.md` says when.
//!
//! [`Message::encode`] and [`Message::decode`] map them to the generic header of `wire::replica`,
//! whose numbers and hash mean here what the field order of each variant says. Invariant: what was
//! decoded could have been encoded; values that cannot be are a typed refusal.

use alloc::vec::Vec;

use crate::crypto::hash::InternalHash;
use crate::ids::{ClusterId, Op, Release, ReplicaId, View};
use crate::io::Pages;
use crate::journal::{Prepare, PrepareHeader};
use crate::limits::{MESSAGE_HEADERS_MAX, PAGE_SIZE, PREPARE_HEADER_SIZE};
use crate::superblock::PeerEvidence;
use crate::time::{Instant, Timestamp};
use crate::wire::replica::{self, Kind, MessageError, NUMBERS, ReplicaMessage};

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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Ping {
        monotonic: Instant,
        nonce: u64,
        standing: Standing,
    },
    Pong {
        /// Of the ping.
        monotonic: Instant,
        nonce: u64,
        wall: Timestamp,
        /// The highest that the sender ever saw of the receiver.
        seen: PeerEvidence,
        standing: Standing,
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
}

#[derive(Clone, Debug, PartialEq, Eq)]
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
            Payload::Ping { .. }
            | Payload::Pong { .. }
            | Payload::PrepareOk { .. }
            | Payload::Commit { .. }
            | Payload::StartViewChange
            | Payload::RequestStartView { .. }
            | Payload::RequestHeaders { .. }
            | Payload::RequestPrepare { .. } => &[],
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
    fn fields(&self) -> (Kind, InternalHash, Vec<u64>) {
        use alloc::vec;
        let none = InternalHash::ZERO;
        match self {
            Payload::Ping { monotonic, nonce, standing } => {
                let [log_view, op, commit, checkpoint] = standing.numbers();
                (Kind::Ping, none, vec![monotonic.0, *nonce, log_view, op, commit, checkpoint])
            }
            Payload::Pong { monotonic, nonce, wall, seen, standing } => {
                let [log_view, op, commit, checkpoint] = standing.numbers();
                let (seen_view, seen_op) = (seen.log_view.get(), seen.op.get());
                let own = [log_view, op, commit, checkpoint];
                let mut numbers = vec![monotonic.0, *nonce, wall.0, seen_view, seen_op];
                numbers.extend(own);
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
                let numbers = vec![log_view, commit, floor, head, certain, dvc.present];
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
        }
    }

    fn parse(raw: &ReplicaMessage<'_>) -> Result<Payload, MessageError> {
        let numbers = &raw.numbers;
        Ok(match raw.kind {
            Kind::Ping => Payload::Ping {
                monotonic: Instant(numbers[0]),
                nonce: numbers[1],
                standing: Standing::parse(&numbers[2..6]),
            },
            Kind::Pong => Payload::Pong {
                monotonic: Instant(numbers[0]),
                nonce: numbers[1],
                wall: Timestamp(numbers[2]),
                seen: PeerEvidence { log_view: View::new(numbers[3]), op: Op::new(numbers[4]) },
                standing: Standing::parse(&numbers[5..9]),
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
        })
    }
}

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
    let dvc = DoViewChange {
        log_view: View::new(numbers[0]),
        commit: Op::new(numbers[1]),
        floor: Op::new(numbers[2]),
        floor_checksum: raw.hash,
        head: Op::new(numbers[3]),
        certain: numbers[4] == 1,
        present: numbers[5],
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
