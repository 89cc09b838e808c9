//! Newtypes for everything that has an identity or an order.
//!
//! Purpose: a mix-up of two numbers must not compile. Invariant: conversions to and from integers
//! are explicit and named.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($inner);

        impl $name {
            pub const ZERO: $name = $name(0);

            #[must_use]
            pub const fn new(value: $inner) -> $name {
                $name(value)
            }

            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // With the width that was asked for.
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

macro_rules! successor {
    ($($name:ident),*) => { $(
        impl $name {
            /// The next one. Running out of a 64-bit counter is a broken invariant, not an input.
            #[must_use]
            pub const fn next(self) -> $name {
                $name(self.0 + 1)
            }

            #[must_use]
            pub const fn previous(self) -> Option<$name> {
                match self.0.checked_sub(1) {
                    Some(value) => Some($name(value)),
                    None => None,
                }
            }
        }
    )* };
}

id!(
    /// One cluster, drawn at random at format. Data of another cluster is refused.
    ClusterId,
    u128
);
id!(
    /// Random, drawn at format, restore and forced recovery: binds every derived key.
    OriginId,
    u128
);
id!(
    /// Which grid: 0 for the one of format, random for each that a rebuild made. Binds the keys of
    /// its pages, so that no two grids share a nonce.
    GridId,
    u128
);
id!(
    /// Place of a replica in its cluster, from 0.
    ReplicaId,
    u8
);
id!(
    /// One tenant. Tenant 0 is the system itself.
    TenantId,
    u64
);
id!(
    /// Place of a record in its tenant's log; dense from 0; also its Merkle leaf index.
    Position,
    u64
);
id!(
    /// Place of a prepare in the replicated sequence; op 0 is the root that format writes.
    Op,
    u64
);
id!(
    /// View of the consensus protocol.
    View,
    u64
);
id!(
    /// Number of recovery records applied before an op.
    Generation,
    u64
);
id!(
    /// Version of the software that made a prepare; a replica never applies a newer one.
    Release,
    u32
);
id!(
    /// One B+tree of a tenant.
    TreeId,
    u32
);
id!(
    /// One table of a tenant; never reused.
    TableId,
    u32
);
id!(
    /// One column of a table; never reused within the table.
    ColumnId,
    u32
);
id!(
    /// One stream of a tenant: a table's events, or records a client appends.
    StreamId,
    u32
);
id!(
    /// One data key of a tenant.
    KeyId,
    u32
);
id!(
    /// Who asked.
    PrincipalId,
    u64
);
id!(
    /// Version of a tenant's catalog; grows by one with each schema change.
    SchemaVersion,
    u32
);
id!(
    /// Number of a segment file within a tenant's log.
    SegmentNumber,
    u32
);
id!(
    /// Number of a 4 KiB page in the grid. Page 0 is never allocated: it means "none".
    PageNumber,
    u32
);

successor!(Position, Op, View, Generation, TreeId, TableId, ColumnId, StreamId, SchemaVersion);

impl TenantId {
    pub const SYSTEM: TenantId = TenantId(0);
    /// The tenant that commands use when none is named.
    pub const DEFAULT: TenantId = TenantId(1);
}

/// `not_after` (48-bit milliseconds since the Unix epoch, big endian) ‖ 80 random bits. One value
/// for all retries of a request. All zeros means "none": the outcome is not remembered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IdempotencyId(pub [u8; 16]);

impl IdempotencyId {
    pub const NONE: IdempotencyId = IdempotencyId([0; 16]);

    #[must_use]
    pub fn new(not_after_ms: u64, random: [u8; 10]) -> IdempotencyId {
        assert!(not_after_ms < 1 << 48, "milliseconds since the epoch fit 48 bits until 10889");
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&not_after_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        IdempotencyId(bytes)
    }

    #[must_use]
    pub fn not_after_ms(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&self.0[..6]);
        u64::from_be_bytes(bytes)
    }

    #[must_use]
    pub fn is_none(self) -> bool {
        self == IdempotencyId::NONE
    }
}

impl fmt::Debug for IdempotencyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for IdempotencyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
