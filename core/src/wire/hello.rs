//! What the two sides of a connection say first: who is there, of which cluster, which versions.
//!
//! | offset | size | field |
//! | ---: | ---: | --- |
//! | 0 | 8 | `VERITYHI` |
//! | 8 | 2 | lowest version of the protocol that the sender speaks |
//! | 10 | 2 | highest |
//! | 12 | 1 | role: replica, client, welcome, refusal |
//! | 13 | 1 | why refused |
//! | 14 | 1 | number of the sender; 255: no replica |
//! | 15 | 1 | replicas of its cluster; 0: not known |
//! | 16 | 16 | cluster; 0: not known |
//! | 32 | 4 | release |
//! | 36 | 1 | number of the replica that is meant; 255: whoever listens |
//! | 37 | 27 | zeros |
//!
//! Little endian. Invariant: decode and encode are inverse. What follows from a hello, and who is
//! refused, is `docs/NETWORK.md`; [`Hello::answer`] is its rule.

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{ClusterId, Release, ReplicaId};
use crate::limits::HELLO_SIZE;

/// Versions of client payloads and replica messages that this build speaks.
pub const PROTOCOL_LOWEST: u16 = 1;
pub const PROTOCOL_HIGHEST: u16 = 1;

const MAGIC: [u8; 8] = *b"VERITYHI";
const NOBODY: u8 = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Replica,
    Client,
    /// Of the side that listens: go on.
    Welcome,
    /// Of the side that listens: it closes the connection.
    Refusal(Refused),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Version,
    OtherCluster,
    /// Another replica listens here than the one that is meant.
    NotMeant,
    NoSuchReplica,
    TooMany,
}

impl Refused {
    const ALL: [Refused; 5] = [
        Refused::Version,
        Refused::OtherCluster,
        Refused::NotMeant,
        Refused::NoSuchReplica,
        Refused::TooMany,
    ];

    const fn code(self) -> u8 {
        match self {
            Refused::Version => 1,
            Refused::OtherCluster => 2,
            Refused::NotMeant => 3,
            Refused::NoSuchReplica => 4,
            Refused::TooMany => 5,
        }
    }
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Refused::Version => "no version of the protocol in common: upgrade the older side",
            Refused::OtherCluster => {
                "it is of another cluster: is an address wrong, or a data directory?"
            }
            Refused::NotMeant => {
                "another replica listens there: the addresses must stand in the order of the \
                 replicas' numbers, the same list everywhere"
            }
            Refused::NoSuchReplica => "it has no replica of this number, or has this number itself",
            Refused::TooMany => "it has too many connections",
        })
    }
}

/// Either side's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    pub lowest: u16,
    pub highest: u16,
    pub role: Role,
    /// None: the sender is no replica.
    pub from: Option<ReplicaId>,
    /// 0: not known.
    pub replica_count: u8,
    /// `ClusterId::ZERO`: not known.
    pub cluster: ClusterId,
    pub release: Release,
    /// None: whoever listens.
    pub meant: Option<ReplicaId>,
}

/// Why bytes are no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloError {
    Size { found: usize },
    Magic,
    Role { role: u8, why: u8 },
    NotZero,
}

impl core::fmt::Display for HelloError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            HelloError::Size { found } => write!(f, "a hello of {found} bytes"),
            HelloError::Magic => f.write_str("no hello of Verity"),
            HelloError::Role { role, why } => write!(f, "a hello of unknown role {role}, {why}"),
            HelloError::NotZero => f.write_str("a hello with bytes that should be zero"),
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHello {
    magic: [u8; 8],
    lowest: U16,
    highest: U16,
    role: u8,
    why: u8,
    from: u8,
    replica_count: u8,
    cluster: U128,
    release: U32,
    meant: u8,
    zeros: [u8; 27],
}

const_assert_eq!(size_of::<RawHello>(), HELLO_SIZE);

impl Hello {
    /// Of a client: it says nothing of itself.
    #[must_use]
    pub fn of_client(release: Release) -> Hello {
        Hello {
            lowest: PROTOCOL_LOWEST,
            highest: PROTOCOL_HIGHEST,
            role: Role::Client,
            from: None,
            replica_count: 0,
            cluster: ClusterId::ZERO,
            release,
            meant: None,
        }
    }

    /// What the replica `me` that listens answers to `self`.
    #[must_use]
    pub fn answer(&self, me: &Hello) -> Hello {
        let version = self.highest.min(PROTOCOL_HIGHEST);
        let refused = if version < self.lowest.max(PROTOCOL_LOWEST) {
            Some(Refused::Version)
        } else if self.cluster != me.cluster && self.cluster != ClusterId::ZERO {
            Some(Refused::OtherCluster)
        } else if self.meant.is_some() && self.meant != me.from {
            Some(Refused::NotMeant)
        } else {
            match self.role {
                Role::Client => None,
                Role::Replica => {
                    let known = self.from.is_some_and(|from| from.get() < me.replica_count);
                    let fits = known
                        && self.from != me.from
                        && self.meant.is_some()
                        && self.cluster == me.cluster
                        && self.replica_count == me.replica_count;
                    (!fits).then_some(Refused::NoSuchReplica)
                }
                Role::Welcome | Role::Refusal(_) => Some(Refused::Version),
            }
        };
        match refused {
            Some(why) => Hello { role: Role::Refusal(why), ..*me },
            None => Hello { role: Role::Welcome, lowest: version, highest: version, ..*me },
        }
    }

    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_SIZE] {
        let (role, why) = match self.role {
            Role::Replica => (1, 0),
            Role::Client => (2, 0),
            Role::Welcome => (3, 0),
            Role::Refusal(why) => (4, why.code()),
        };
        let number = |replica: Option<ReplicaId>| replica.map_or(NOBODY, ReplicaId::get);
        let raw = RawHello {
            magic: MAGIC,
            lowest: U16::new(self.lowest),
            highest: U16::new(self.highest),
            role,
            why,
            from: number(self.from),
            replica_count: self.replica_count,
            cluster: U128::new(self.cluster.get()),
            release: U32::new(self.release.get()),
            meant: number(self.meant),
            zeros: FromZeros::new_zeroed(),
        };
        zerocopy::transmute!(raw)
    }

    pub fn decode(bytes: &[u8]) -> Result<Hello, HelloError> {
        let Ok(raw) = RawHello::ref_from_bytes(bytes) else {
            return Err(HelloError::Size { found: bytes.len() });
        };
        if raw.magic != MAGIC {
            return Err(HelloError::Magic);
        }
        if raw.zeros != [0; 27] {
            return Err(HelloError::NotZero);
        }
        let why = Refused::ALL.into_iter().find(|why| why.code() == raw.why);
        let role = match (raw.role, raw.why, why) {
            (1, 0, _) => Role::Replica,
            (2, 0, _) => Role::Client,
            (3, 0, _) => Role::Welcome,
            (4, _, Some(why)) => Role::Refusal(why),
            (role, why, _) => return Err(HelloError::Role { role, why }),
        };
        let replica = |number| (number != NOBODY).then_some(ReplicaId::new(number));
        Ok(Hello {
            lowest: raw.lowest.get(),
            highest: raw.highest.get(),
            role,
            from: replica(raw.from),
            replica_count: raw.replica_count,
            cluster: ClusterId::new(raw.cluster.get()),
            release: Release::new(raw.release.get()),
            meant: replica(raw.meant),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(from: u8, meant: Option<u8>) -> Hello {
        Hello {
            role: Role::Replica,
            from: Some(ReplicaId::new(from)),
            replica_count: 3,
            cluster: ClusterId::new(7),
            meant: meant.map(ReplicaId::new),
            ..Hello::of_client(Release::new(1))
        }
    }

    #[test]
    fn round_trips_and_every_flipped_byte() {
        let me = replica(1, None);
        let refusals = Refused::ALL.map(|why| Hello { role: Role::Refusal(why), ..me });
        let others = [me, replica(2, Some(1)), Hello::of_client(Release::new(9))];
        for hello in refusals.into_iter().chain(others) {
            let bytes = hello.encode();
            assert_eq!(Hello::decode(&bytes), Ok(hello));
            for at in 0..HELLO_SIZE {
                for flip in 1..=255 {
                    let mut bad = bytes;
                    bad[at] ^= flip;
                    // What is another hello is told from this one.
                    assert_ne!(Hello::decode(&bad), Ok(hello), "byte {at}");
                }
            }
            assert_eq!(Hello::decode(&bytes[..63]), Err(HelloError::Size { found: 63 }));
        }
    }

    #[test]
    fn who_is_let_in() {
        let me = replica(1, None);
        let refused = |hello: Hello| match hello.answer(&me).role {
            Role::Refusal(why) => Some(why),
            Role::Replica | Role::Client | Role::Welcome => None,
        };
        assert_eq!(refused(replica(2, Some(1))), None);
        assert_eq!(refused(Hello::of_client(Release::new(3))), None);
        assert_eq!(refused(replica(2, Some(0))), Some(Refused::NotMeant));
        assert_eq!(refused(replica(1, Some(1))), Some(Refused::NoSuchReplica));
        assert_eq!(refused(replica(3, Some(1))), Some(Refused::NoSuchReplica));
        assert_eq!(refused(replica(2, None)), Some(Refused::NoSuchReplica));
        let of_five = Hello { replica_count: 5, ..replica(2, Some(1)) };
        assert_eq!(refused(of_five), Some(Refused::NoSuchReplica));
        let unnamed = Hello { cluster: ClusterId::ZERO, ..replica(2, Some(1)) };
        assert_eq!(refused(unnamed), Some(Refused::NoSuchReplica));
        let other = Hello { cluster: ClusterId::new(8), ..replica(2, Some(1)) };
        assert_eq!(refused(other), Some(Refused::OtherCluster));
        let newer = Hello { lowest: 2, highest: 3, ..replica(2, Some(1)) };
        assert_eq!(refused(newer), Some(Refused::Version));
        assert_eq!(refused(Hello { role: Role::Welcome, ..me }), Some(Refused::Version));
        let welcome = replica(2, Some(1)).answer(&me);
        assert_eq!((welcome.lowest, welcome.highest, welcome.from), (1, 1, me.from));
    }
}
