//! Requests in the body of a prepare: a clear header each, then the sealed envelope.
//!
//! ```text
//! offset  size  field
//!      0     4  length of the sealed envelope, tag included, u32
//!      4     4  key id, u32
//!      8     8  tenant, u64
//!     16     8  principal, u64
//!     24    16  idempotency id
//!     40    12  nonce
//!     52     4  zero
//!     56     n  sealed envelope
//! ```
//!
//! Little endian. The header is the additional data of the seal: none of it can be changed without
//! the seal failing. Requests follow each other without padding and end where the body ends.
//!
//! Invariants: a body is validated whole before the first of its requests is looked at; nothing is
//! allocated on its word. A replica's own journal and links are checked by checksums below this, so
//! a bad body here is refused as a typed error and stops the replica.

use alloc::vec::Vec;
use core::fmt;

use static_assertions::const_assert_eq;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{IdempotencyId, KeyId, PrincipalId, TenantId};
use crate::limits::{PREPARE_BODY_SIZE_MAX, PREPARE_REQUESTS_MAX, REQUEST_SIZE_MAX};

pub const REQUEST_HEADER_SIZE: usize = 56;
/// Tag of AES-256-GCM-SIV.
pub const SEAL_TAG_SIZE: usize = 16;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RequestHeaderBytes {
    length: U32,
    key: U32,
    tenant: U64,
    principal: U64,
    idempotency: [u8; 16],
    nonce: [u8; 12],
    zero: U32,
}

const_assert_eq!(size_of::<RequestHeaderBytes>(), REQUEST_HEADER_SIZE);

/// What of a request is in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    pub tenant: TenantId,
    pub principal: PrincipalId,
    pub idempotency: IdempotencyId,
    pub key: KeyId,
    pub nonce: [u8; 12],
    /// Bytes of the sealed envelope, tag included.
    pub length: u32,
}

impl RequestHeader {
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_HEADER_SIZE] {
        let bytes = RequestHeaderBytes {
            length: U32::new(self.length),
            key: U32::new(self.key.get()),
            tenant: U64::new(self.tenant.get()),
            principal: U64::new(self.principal.get()),
            idempotency: self.idempotency.0,
            nonce: self.nonce,
            zero: U32::ZERO,
        };
        let Ok(bytes) = bytes.as_bytes().try_into() else { unreachable!("sizes are asserted") };
        bytes
    }
}

/// A request ready to be packed: header and sealed envelope.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedRequest {
    bytes: Vec<u8>,
}

impl SealedRequest {
    /// `bytes` is a whole request: header, sealed envelope.
    pub(super) fn new(bytes: Vec<u8>) -> SealedRequest {
        assert!(bytes.len() > REQUEST_HEADER_SIZE + SEAL_TAG_SIZE, "a request has an envelope");
        assert!(bytes.len() <= REQUEST_SIZE_MAX, "the envelope was checked for size");
        SealedRequest { bytes }
    }

    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[must_use]
    pub fn idempotency(&self) -> IdempotencyId {
        let Ok((header, _)) = RequestHeaderBytes::read_from_prefix(&self.bytes) else {
            unreachable!("a request has a header");
        };
        IdempotencyId(header.idempotency)
    }

    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.sealed_with().0
    }

    /// The key that opens it, and whose.
    #[must_use]
    pub fn sealed_with(&self) -> (TenantId, KeyId) {
        let Ok((header, _)) = RequestHeaderBytes::read_from_prefix(&self.bytes) else {
            unreachable!("a request has a header");
        };
        (TenantId::new(header.tenant.get()), KeyId::new(header.key.get()))
    }
}

impl fmt::Debug for SealedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedRequest({} bytes)", self.bytes.len())
    }
}

/// Adds a request to a body under construction; false when it does not fit any more.
#[must_use]
pub fn pack(body: &mut Vec<u8>, count: &mut u32, request: &SealedRequest) -> bool {
    if *count as usize >= PREPARE_REQUESTS_MAX
        || body.len() + request.bytes.len() > PREPARE_BODY_SIZE_MAX
    {
        return false;
    }
    body.extend_from_slice(&request.bytes);
    *count += 1;
    true
}

/// Why a body is not a batch of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    TooLarge {
        size: usize,
    },
    TooMany {
        count: usize,
    },
    /// The body ends within the request at this offset.
    Truncated {
        offset: usize,
    },
    /// A field of the request at this offset has a value that is never written.
    Invalid {
        offset: usize,
    },
    /// The prepare's header promises another number of requests.
    Count {
        promised: u32,
        found: u32,
    },
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::TooLarge { size } => write!(f, "body of {size} bytes is too large"),
            BatchError::TooMany { count } => write!(f, "body holds {count} requests or more"),
            BatchError::Truncated { offset } => write!(f, "request at byte {offset} is cut off"),
            BatchError::Invalid { offset } => write!(f, "request at byte {offset} is malformed"),
            BatchError::Count { promised, found } => {
                write!(f, "header promises {promised} requests, body holds {found}")
            }
        }
    }
}

impl core::error::Error for BatchError {}

/// Checks a whole body; `unpack_at` then cannot fail on it.
pub fn validate(body: &[u8], requests: u32) -> Result<(), BatchError> {
    if body.len() > PREPARE_BODY_SIZE_MAX {
        return Err(BatchError::TooLarge { size: body.len() });
    }
    let mut offset = 0;
    let mut found = 0;
    while offset < body.len() {
        if found as usize >= PREPARE_REQUESTS_MAX {
            return Err(BatchError::TooMany { count: found as usize });
        }
        let (_, _, next) = unpack_at(body, offset)?;
        offset = next;
        found += 1;
    }
    if found == requests { Ok(()) } else { Err(BatchError::Count { promised: requests, found }) }
}

/// The request at `offset`: its header, its sealed envelope, and where the next one starts.
pub fn unpack_at(body: &[u8], offset: usize) -> Result<(RequestHeader, &[u8], usize), BatchError> {
    let rest = body.get(offset..).ok_or(BatchError::Truncated { offset })?;
    let Ok((header, rest)) = RequestHeaderBytes::read_from_prefix(rest) else {
        return Err(BatchError::Truncated { offset });
    };
    let length = header.length.get() as usize;
    let Some(sealed) = rest.get(..length) else { return Err(BatchError::Truncated { offset }) };
    if length <= SEAL_TAG_SIZE || header.zero.get() != 0 {
        return Err(BatchError::Invalid { offset });
    }
    let header = RequestHeader {
        tenant: TenantId::new(header.tenant.get()),
        principal: PrincipalId::new(header.principal.get()),
        idempotency: IdempotencyId(header.idempotency),
        key: KeyId::new(header.key.get()),
        nonce: header.nonce,
        length: header.length.get(),
    };
    Ok((header, sealed, offset + REQUEST_HEADER_SIZE + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(tenant: u64, size: usize) -> SealedRequest {
        let header = RequestHeader {
            tenant: TenantId::new(tenant),
            principal: PrincipalId::new(7),
            idempotency: IdempotencyId([3; 16]),
            key: KeyId::new(1),
            nonce: [9; 12],
            length: size as u32,
        };
        let mut bytes = header.encode().to_vec();
        bytes.resize(REQUEST_HEADER_SIZE + size, 0x5a);
        SealedRequest::new(bytes)
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let (mut body, mut count) = (Vec::new(), 0);
        for tenant in 1..=40 {
            assert!(pack(&mut body, &mut count, &sealed(tenant, 20 + tenant as usize)));
        }
        assert_eq!(validate(&body, 40), Ok(()));
        let mut offset = 0;
        for tenant in 1..=40 {
            let (header, sealed, next) = unpack_at(&body, offset).unwrap();
            assert_eq!(header.tenant, TenantId::new(tenant));
            assert_eq!(sealed.len(), 20 + tenant as usize);
            offset = next;
        }
        assert_eq!(offset, body.len());
    }

    #[test]
    fn a_body_that_lies_is_refused() {
        let (mut body, mut count) = (Vec::new(), 0);
        assert!(pack(&mut body, &mut count, &sealed(1, 100)));
        assert!(pack(&mut body, &mut count, &sealed(1, 100)));
        assert_eq!(validate(&body, 3), Err(BatchError::Count { promised: 3, found: 2 }));
        for cut in 1..body.len() {
            assert!(validate(&body[..cut], 2).is_err(), "cut at {cut}");
        }
        for offset in [0, 1, 2, 3, 52, 53, 54, 55] {
            let mut broken = body.clone();
            broken[offset] ^= 0x80;
            assert!(validate(&broken, 2).is_err(), "flip at {offset}");
        }
    }

    #[test]
    fn a_body_is_bounded() {
        let (mut body, mut count) = (Vec::new(), 0);
        let large = sealed(1, PREPARE_BODY_SIZE_MAX / 2);
        assert!(pack(&mut body, &mut count, &large));
        assert!(!pack(&mut body, &mut count, &large));
        let (mut body, mut count) = (Vec::new(), PREPARE_REQUESTS_MAX as u32);
        assert!(!pack(&mut body, &mut count, &sealed(1, 32)));
        assert!(body.is_empty());
    }
}
