//! The layout of a page: header, slots, heap; searched in place, never decoded.
//!
//! ```text
//! 0   magic "VPG1"
//! 4   kind u8            1 leaf, 2 inner, 3 overflow data, 4 overflow index, 5 free set
//! 5   level u8           0 at the leaves; overflow data 0, overflow index 1
//! 6   count u16          entries (leaf, inner), page references (overflow index)
//! 8   tenant u64         pair assertion: whose page
//! 16  tree u32           pair assertion: which tree
//! 20  heap_start u16     lowest byte of the heap, which grows down from the end
//! 22  used u16           bytes of all slots and live heap entries: the logical size
//! 24  prefix u16         leading bytes that all keys of the page share
//! 26  size u16           bytes of payload (overflow, free set)
//! 28  page u32           pair assertion: the page's own number
//! 32  slots, 8 bytes each, in key order: hint u32 ‖ offset u16 ‖ key size u16
//! ```
//!
//! A leaf's heap entry is `value size u16 ‖ key ‖ value`; the size `0xFFFF` says that the value is
//! a stub of 32 bytes, `value size u32 ‖ page reference [28]`. An inner entry is
//! `page reference [28] ‖ hash [32] ‖ count u64 ‖ key`; the key of an inner page's first entry is
//! empty. The *hint* holds the four key bytes after the shared prefix, big endian as a number: a
//! search touches the heap only where hints are equal.
//!
//! Invariants: bytes of a page are a function of the changes made to it, in order, since it was
//! initialised; so two replicas have the same bytes. Bytes that no slot and no entry covers are
//! zero: a removed entry may hold references that were filled in earlier on one replica than on
//! another (and nobody wants removed data to linger). Nothing here knows of caches or files.

use crate::crypto::Tag;
use crate::ids::{Op, PageNumber, TenantId, TreeId};
use crate::limits::{KEY_SIZE_MAX, PAGE_SIZE};
use crate::superblock::PageRef;

use super::TreeRef;

pub(super) type Bytes = [u8; PAGE_SIZE];

const MAGIC: [u8; 4] = *b"VPG1";
pub(super) const HEADER: usize = 32;
pub(super) const SLOT: usize = 8;
/// Bytes for slots and heap: what the shape rule counts.
pub(super) const CAPACITY: usize = PAGE_SIZE - HEADER;
pub(super) const REF_SIZE: usize = 28;
/// Bytes before the key in a heap entry.
const LEAF_FIXED: usize = 2;
pub(super) const INNER_FIXED: usize = REF_SIZE + 32 + 8;
const COUNT_AT: usize = REF_SIZE + 32;
/// Value size that marks a stub.
const STUB: u16 = u16::MAX;
pub(super) const STUB_SIZE: usize = 4 + REF_SIZE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Leaf,
    Inner,
    OverflowData,
    OverflowIndex,
    FreeSet,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Kind::Leaf => 1,
            Kind::Inner => 2,
            Kind::OverflowData => 3,
            Kind::OverflowIndex => 4,
            Kind::FreeSet => 5,
        }
    }

    const fn from_byte(byte: u8) -> Option<Kind> {
        match byte {
            1 => Some(Kind::Leaf),
            2 => Some(Kind::Inner),
            3 => Some(Kind::OverflowData),
            4 => Some(Kind::OverflowIndex),
            5 => Some(Kind::FreeSet),
            _ => None,
        }
    }
}

#[inline]
fn u16_at(bytes: &Bytes, at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

fn put_u16(bytes: &mut Bytes, at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn read_ref(bytes: &[u8], at: usize) -> PageRef {
    let mut tag = [0; 16];
    tag.copy_from_slice(&bytes[at + 12..at + 28]);
    PageRef {
        page: PageNumber::new(u32_at(bytes, at)),
        checkpoint_op: Op::new(u64_at(bytes, at + 4)),
        tag: Tag(tag),
    }
}

pub(super) fn write_ref(bytes: &mut [u8], at: usize, to: &PageRef) {
    bytes[at..at + 4].copy_from_slice(&to.page.get().to_le_bytes());
    bytes[at + 4..at + 12].copy_from_slice(&to.checkpoint_op.get().to_le_bytes());
    bytes[at + 12..at + 28].copy_from_slice(&to.tag.0);
}

/// A reference to a page that no checkpoint has sealed yet.
pub(super) const fn pending(page: PageNumber) -> PageRef {
    PageRef { page, checkpoint_op: Op::ZERO, tag: Tag([0; 16]) }
}

/// The page's own number.
#[inline]
pub(super) fn number(bytes: &Bytes) -> u32 {
    u32_at(bytes, 28)
}

pub(super) fn set_number(bytes: &mut Bytes, number: PageNumber) {
    bytes[28..32].copy_from_slice(&number.get().to_le_bytes());
}

pub(super) fn init(bytes: &mut Bytes, number: PageNumber, kind: Kind, level: u8, tree: TreeRef) {
    bytes.fill(0);
    set_number(bytes, number);
    bytes[0..4].copy_from_slice(&MAGIC);
    bytes[4] = kind.byte();
    bytes[5] = level;
    bytes[8..16].copy_from_slice(&tree.tenant.get().to_le_bytes());
    bytes[16..20].copy_from_slice(&tree.tree.get().to_le_bytes());
    put_u16(bytes, 20, PAGE_SIZE as u16);
}

/// What the header says, after the tag has proved who wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub level: u8,
    pub page: PageNumber,
    pub tenant: TenantId,
    pub tree: TreeId,
}

/// `None`: no page of ours; the writer was broken, for the tag held.
pub(super) fn header(bytes: &Bytes) -> Option<Header> {
    if bytes[0..4] != MAGIC {
        return None;
    }
    Some(Header {
        kind: Kind::from_byte(bytes[4])?,
        level: bytes[5],
        page: PageNumber::new(number(bytes)),
        tenant: TenantId::new(u64_at(bytes, 8)),
        tree: TreeId::new(u32_at(bytes, 16)),
    })
}

#[inline]
pub(super) fn level(bytes: &Bytes) -> u8 {
    bytes[5]
}

#[inline]
fn is_inner(bytes: &Bytes) -> bool {
    bytes[4] == Kind::Inner.byte()
}

#[inline]
fn is_leaf(bytes: &Bytes) -> bool {
    bytes[4] == Kind::Leaf.byte()
}

#[inline]
pub(super) fn count(bytes: &Bytes) -> usize {
    u16_at(bytes, 6) as usize
}

pub(super) fn used(bytes: &Bytes) -> usize {
    u16_at(bytes, 22) as usize
}

fn heap_start(bytes: &Bytes) -> usize {
    u16_at(bytes, 20) as usize
}

#[inline]
fn prefix(bytes: &Bytes) -> usize {
    u16_at(bytes, 24) as usize
}

/// Payload bytes of an overflow or free set page.
pub(super) fn payload(bytes: &Bytes) -> &[u8] {
    let size = (u16_at(bytes, 26) as usize).min(CAPACITY);
    &bytes[HEADER..HEADER + size]
}

pub(super) fn set_payload(bytes: &mut Bytes, data: &[u8]) {
    bytes[HEADER..HEADER + data.len()].copy_from_slice(data);
    put_u16(bytes, 26, data.len() as u16);
}

/// First slot whose key takes part in a search: an inner page's first key stands for "anything".
#[inline]
fn base(bytes: &Bytes) -> usize {
    usize::from(is_inner(bytes))
}

#[inline]
fn fixed_size(bytes: &Bytes) -> usize {
    if is_inner(bytes) { INNER_FIXED } else { LEAF_FIXED }
}

#[inline]
fn slot_at(index: usize) -> usize {
    HEADER + index * SLOT
}

#[inline]
fn entry_at(bytes: &Bytes, index: usize) -> usize {
    u16_at(bytes, slot_at(index) + 4) as usize
}

#[inline]
fn key_size(bytes: &Bytes, index: usize) -> usize {
    u16_at(bytes, slot_at(index) + 6) as usize
}

#[inline]
pub(super) fn key(bytes: &Bytes, index: usize) -> &[u8] {
    let start = entry_at(bytes, index) + fixed_size(bytes);
    &bytes[start..start + key_size(bytes, index)]
}

/// Bytes that the entry takes of the page's capacity, slot included.
pub(super) fn entry_size(bytes: &Bytes, index: usize) -> usize {
    SLOT + heap_size(bytes, index)
}

fn heap_size(bytes: &Bytes, index: usize) -> usize {
    let size = fixed_size(bytes) + key_size(bytes, index);
    if is_inner(bytes) { size } else { size + stored_size(bytes, index).1 }
}

/// Of a leaf's value: is it a stub, and the bytes stored here.
fn stored_size(bytes: &Bytes, index: usize) -> (bool, usize) {
    match u16_at(bytes, entry_at(bytes, index)) {
        STUB => (true, STUB_SIZE),
        size => (false, size as usize),
    }
}

/// What a leaf stores for a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stored<'a> {
    Inline(&'a [u8]),
    Overflow { size: usize, root: PageRef },
}

#[inline]
pub(super) fn stored(bytes: &Bytes, index: usize) -> Stored<'_> {
    debug_assert!(is_leaf(bytes));
    let (stub, size) = stored_size(bytes, index);
    let start = entry_at(bytes, index) + LEAF_FIXED + key_size(bytes, index);
    let value = &bytes[start..start + size];
    if stub {
        Stored::Overflow { size: u32_at(value, 0) as usize, root: read_ref(value, 4) }
    } else {
        Stored::Inline(value)
    }
}

/// Where an inline value lies, to change it in place without changing its size.
pub(super) fn value_range(bytes: &Bytes, index: usize) -> core::ops::Range<usize> {
    let start = entry_at(bytes, index) + LEAF_FIXED + key_size(bytes, index);
    start..start + stored_size(bytes, index).1
}

#[inline]
pub(super) fn child_page(bytes: &Bytes, index: usize) -> PageNumber {
    PageNumber::new(u32_at(bytes, entry_at(bytes, index)))
}

pub(super) fn child_ref(bytes: &Bytes, index: usize) -> PageRef {
    read_ref(bytes, entry_at(bytes, index))
}

#[inline]
pub(super) fn child_count(bytes: &Bytes, index: usize) -> u64 {
    u64_at(bytes, entry_at(bytes, index) + COUNT_AT)
}

pub(super) fn set_child_count(bytes: &mut Bytes, index: usize, count: u64) {
    let at = entry_at(bytes, index) + COUNT_AT;
    bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
}

pub(super) fn child_hash(bytes: &Bytes, index: usize) -> [u8; 32] {
    let at = entry_at(bytes, index) + REF_SIZE;
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes[at..at + 32]);
    hash
}

pub(super) fn set_child_hash(bytes: &mut Bytes, index: usize, hash: &[u8; 32]) {
    let at = entry_at(bytes, index) + REF_SIZE;
    bytes[at..at + 32].copy_from_slice(hash);
}

/// Is the hash of the child known?
pub(super) fn child_hashed(bytes: &Bytes, index: usize) -> bool {
    let at = entry_at(bytes, index) + REF_SIZE;
    bytes[at..at + 32] != [0; 32]
}

/// The child is now another, unsealed page: neither its tag nor its hash is known.
pub(super) fn set_child_pending(bytes: &mut Bytes, index: usize, page: PageNumber) {
    let at = entry_at(bytes, index);
    write_ref(bytes, at, &pending(page));
    bytes[at + REF_SIZE..at + COUNT_AT].fill(0);
}

/// Entries in the tree below this page.
pub(super) fn entries_below(bytes: &Bytes) -> u64 {
    if is_inner(bytes) {
        (0..count(bytes)).map(|index| child_count(bytes, index)).sum()
    } else {
        count(bytes) as u64
    }
}

#[inline]
fn hint_of(rest: &[u8]) -> u32 {
    if let Some(first) = rest.first_chunk::<4>() {
        return u32::from_be_bytes(*first);
    }
    let mut raw = [0; 4];
    raw[..rest.len()].copy_from_slice(rest);
    u32::from_be_bytes(raw)
}

/// First index, of those that take part, whose key is not below `wanted`; and is it equal.
#[inline]
pub(super) fn lower_bound(bytes: &Bytes, wanted: &[u8]) -> (usize, bool) {
    let (mut low, mut high) = (base(bytes), count(bytes));
    if low >= high {
        return (low, false);
    }
    let (first, last) = (low, high);
    let shared = prefix(bytes);
    // Search as if the key shared the page's prefix; look whether it does only at the end, at the
    // entry that the caller will touch anyway.
    let hint = hint_of(wanted.get(shared..).unwrap_or(&[]));
    while low < high {
        let middle = low.midpoint(high);
        let at = u32_at(bytes, slot_at(middle));
        if at < hint {
            low = middle + 1;
        } else if at > hint {
            high = middle;
        } else {
            match key(bytes, middle).cmp(wanted) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Equal => return (middle, true),
                core::cmp::Ordering::Greater => high = middle,
            }
        }
    }
    if shared > 0 {
        let probe = if low > first { low - 1 } else { low };
        let head = &key(bytes, probe)[..shared];
        let common = shared.min(wanted.len());
        match wanted[..common].cmp(&head[..common]) {
            core::cmp::Ordering::Less => return (first, false),
            core::cmp::Ordering::Greater => return (last, false),
            core::cmp::Ordering::Equal if wanted.len() < shared => return (first, false),
            core::cmp::Ordering::Equal => {}
        }
    }
    (low, false)
}

/// The child of an inner page whose range holds `wanted`.
#[inline]
pub(super) fn child_index(bytes: &Bytes, wanted: &[u8]) -> usize {
    let (index, exact) = lower_bound(bytes, wanted);
    if exact { index } else { index - 1 }
}

/// An entry in parts, before it has a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub fixed: &'a [u8],
    pub key: &'a [u8],
    pub tail: &'a [u8],
}

impl Entry<'_> {
    pub(super) fn size(&self) -> usize {
        SLOT + self.fixed.len() + self.key.len() + self.tail.len()
    }
}

pub(super) fn leaf_fixed(overflow: bool, stored_size: usize) -> [u8; LEAF_FIXED] {
    if overflow {
        assert_eq!(stored_size, STUB_SIZE);
        return STUB.to_le_bytes();
    }
    assert!(stored_size < STUB as usize);
    (stored_size as u16).to_le_bytes()
}

pub(super) fn inner_fixed(child: PageNumber, count: u64) -> [u8; INNER_FIXED] {
    let mut fixed = [0; INNER_FIXED];
    write_ref(&mut fixed, 0, &pending(child));
    fixed[COUNT_AT..].copy_from_slice(&count.to_le_bytes());
    fixed
}

/// An entry as it lies in its page.
pub(super) fn entry(bytes: &Bytes, index: usize) -> Entry<'_> {
    let start = entry_at(bytes, index);
    let fixed = fixed_size(bytes);
    let key_end = start + fixed + key_size(bytes, index);
    let end = start + heap_size(bytes, index);
    Entry {
        fixed: &bytes[start..start + fixed],
        key: &bytes[start + fixed..key_end],
        tail: &bytes[key_end..end],
    }
}

pub(super) fn insert(bytes: &mut Bytes, index: usize, entry: &Entry<'_>) {
    let entries = count(bytes);
    let heap_size = entry.size() - SLOT;
    assert!(index <= entries);
    assert!(entry.key.len() <= KEY_SIZE_MAX);
    assert_eq!(entry.fixed.len(), fixed_size(bytes));
    assert!(used(bytes) + entry.size() <= CAPACITY, "the shape rule splits before it overflows");
    if heap_start(bytes) - slot_at(entries) < SLOT + heap_size {
        compact(bytes);
    }
    let start = heap_start(bytes) - heap_size;
    assert!(start >= slot_at(entries + 1));
    let key_start = start + entry.fixed.len();
    let tail_start = key_start + entry.key.len();
    bytes[start..key_start].copy_from_slice(entry.fixed);
    bytes[key_start..tail_start].copy_from_slice(entry.key);
    bytes[tail_start..tail_start + entry.tail.len()].copy_from_slice(entry.tail);
    bytes.copy_within(slot_at(index)..slot_at(entries), slot_at(index + 1));
    put_u16(bytes, slot_at(index) + 4, start as u16);
    put_u16(bytes, slot_at(index) + 6, entry.key.len() as u16);
    put_u16(bytes, 6, (entries + 1) as u16);
    put_u16(bytes, 20, start as u16);
    let used = used(bytes) + entry.size();
    put_u16(bytes, 22, used as u16);
    share_prefix(bytes, index);
}

/// The entry's key stays; what it holds is replaced by as many bytes.
pub(super) fn overwrite(bytes: &mut Bytes, index: usize, entry: &Entry<'_>) {
    assert_eq!(entry_size(bytes, index), entry.size());
    assert_eq!(key(bytes, index), entry.key);
    let start = entry_at(bytes, index);
    let tail = start + entry.fixed.len() + entry.key.len();
    bytes[start..start + entry.fixed.len()].copy_from_slice(entry.fixed);
    bytes[tail..tail + entry.tail.len()].copy_from_slice(entry.tail);
}

/// Sets the hint of the new entry, and shortens the shared prefix where the key demands it.
fn share_prefix(bytes: &mut Bytes, index: usize) {
    let (base, entries) = (base(bytes), count(bytes));
    if index < base {
        return set_hint(bytes, index, 0);
    }
    // Any neighbour will do: all of them share the prefix.
    let shared = if entries - base == 1 {
        key_size(bytes, index)
    } else {
        let neighbour = if index > base { index - 1 } else { index + 1 };
        let (new, old) = (key(bytes, index), key(bytes, neighbour));
        let limit = prefix(bytes).min(new.len());
        common_prefix(&new[..limit], &old[..limit])
    };
    if shared == prefix(bytes) {
        let hint = hint_of(&key(bytes, index)[shared..]);
        return set_hint(bytes, index, hint);
    }
    put_u16(bytes, 24, shared as u16);
    for each in base..entries {
        let hint = hint_of(&key(bytes, each)[shared..]);
        set_hint(bytes, each, hint);
    }
}

fn set_hint(bytes: &mut Bytes, index: usize, hint: u32) {
    let at = slot_at(index);
    bytes[at..at + 4].copy_from_slice(&hint.to_le_bytes());
}

pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

pub(super) fn remove(bytes: &mut Bytes, index: usize) {
    let entries = count(bytes);
    assert!(index < entries);
    let size = heap_size(bytes, index);
    let start = entry_at(bytes, index);
    bytes[start..start + size].fill(0);
    bytes.copy_within(slot_at(index + 1)..slot_at(entries), slot_at(index));
    bytes[slot_at(entries - 1)..slot_at(entries)].fill(0);
    put_u16(bytes, 6, (entries - 1) as u16);
    let used = used(bytes) - size - SLOT;
    put_u16(bytes, 22, used as u16);
    if entries == 1 {
        assert_eq!(used, 0);
        put_u16(bytes, 20, PAGE_SIZE as u16);
        put_u16(bytes, 24, 0);
    } else if start == heap_start(bytes) {
        put_u16(bytes, 20, (start + size) as u16);
    }
    if is_inner(bytes) && index == 0 && entries > 1 {
        clear_first_key(bytes);
    }
}

/// The first entry of an inner page stands for everything below the second: its key is dropped.
fn clear_first_key(bytes: &mut Bytes) {
    let size = key_size(bytes, 0);
    let start = entry_at(bytes, 0) + INNER_FIXED;
    bytes[start..start + size].fill(0);
    put_u16(bytes, slot_at(0) + 6, 0);
    set_hint(bytes, 0, 0);
    let used = used(bytes) - size;
    put_u16(bytes, 22, used as u16);
    if count(bytes) == 1 {
        put_u16(bytes, 24, 0);
    }
}

/// Squeezes the holes out of the heap, in slot order.
fn compact(bytes: &mut Bytes) {
    let old = *bytes;
    let mut start = PAGE_SIZE;
    for index in 0..count(&old) {
        let from = entry_at(&old, index);
        let size = heap_size(&old, index);
        start -= size;
        bytes[start..start + size].copy_from_slice(&old[from..from + size]);
        put_u16(bytes, slot_at(index) + 4, start as u16);
    }
    bytes[slot_at(count(&old))..start].fill(0);
    put_u16(bytes, 20, start as u16);
}

/// Appends entries `range` of `from`, in order. `first_key`: what the first of them is called now.
pub(super) fn append(
    into: &mut Bytes,
    from: &Bytes,
    range: core::ops::Range<usize>,
    first_key: Option<&[u8]>,
) {
    for index in range.clone() {
        let mut moved = entry(from, index);
        if index == range.start
            && let Some(key) = first_key
        {
            moved.key = key;
        }
        insert(into, count(into), &moved);
    }
}

/// Calls `visit` with the place of every page reference in the page. `roots`: the values of this
/// leaf are tree roots, which begin with a reference.
pub(super) fn for_each_ref(
    bytes: &mut Bytes,
    roots: bool,
    mut visit: impl FnMut(&mut Bytes, usize),
) {
    let Some(header) = header(bytes) else { unreachable!("checked when it entered memory") };
    match header.kind {
        Kind::Leaf => {
            for index in 0..count(bytes) {
                let range = value_range(bytes, index);
                if stored_size(bytes, index).0 {
                    visit(bytes, range.start + 4);
                } else if roots {
                    visit(bytes, range.start);
                }
            }
        }
        Kind::Inner => {
            for index in 0..count(bytes) {
                let at = entry_at(bytes, index);
                visit(bytes, at);
            }
        }
        Kind::OverflowIndex => {
            for index in 0..count(bytes) {
                visit(bytes, HEADER + index * REF_SIZE);
            }
        }
        Kind::FreeSet => visit(bytes, HEADER),
        Kind::OverflowData => {}
    }
}

/// Of a tree's root in its forest.
pub(super) const ROOT_HASH_AT: usize = 40;

/// Fills in the hashes of children, and of trees whose roots this leaf holds, that are not known
/// and that `hash_of` knows.
pub(super) fn for_each_hash_unknown(
    bytes: &mut Bytes,
    roots: bool,
    hash_of: impl Fn(PageNumber) -> Option<[u8; 32]>,
) {
    let Some(header) = header(bytes) else { unreachable!("checked when it entered memory") };
    match header.kind {
        Kind::Inner => {
            for index in 0..count(bytes) {
                if !child_hashed(bytes, index)
                    && let Some(hash) = hash_of(child_page(bytes, index))
                {
                    set_child_hash(bytes, index, &hash);
                }
            }
        }
        Kind::Leaf if roots => {
            for index in 0..count(bytes) {
                let range = value_range(bytes, index);
                let root = read_ref(bytes, range.start);
                let hash = range.start + ROOT_HASH_AT..range.start + ROOT_HASH_AT + 32;
                if !root.is_none()
                    && bytes[hash.clone()] == [0; 32]
                    && let Some(known) = hash_of(root.page)
                {
                    bytes[hash].copy_from_slice(&known);
                }
            }
        }
        Kind::Leaf | Kind::OverflowData | Kind::OverflowIndex | Kind::FreeSet => {}
    }
}

/// References of an overflow index page.
pub(super) fn index_ref(bytes: &Bytes, index: usize) -> PageRef {
    assert!(index < count(bytes));
    read_ref(bytes, HEADER + index * REF_SIZE)
}

pub(super) fn push_index_ref(bytes: &mut Bytes, page: PageNumber) {
    let entries = count(bytes);
    let at = HEADER + entries * REF_SIZE;
    write_ref(bytes, at, &pending(page));
    put_u16(bytes, 6, (entries + 1) as u16);
    put_u16(bytes, 26, ((entries + 1) * REF_SIZE) as u16);
}

/// Everything an offline walker can check of one page by itself.
pub(super) fn check(bytes: &Bytes) -> Result<(), &'static str> {
    let Some(header) = header(bytes) else { return Err("not a page of the grid") };
    match header.kind {
        Kind::Leaf | Kind::Inner => check_entries(bytes),
        Kind::OverflowData => Ok(()),
        Kind::OverflowIndex if count(bytes) * REF_SIZE <= CAPACITY => Ok(()),
        Kind::OverflowIndex => Err("overflow index with too many pages"),
        Kind::FreeSet => Ok(()),
    }
}

fn check_entries(bytes: &Bytes) -> Result<(), &'static str> {
    if slot_at(count(bytes)) > PAGE_SIZE || heap_start(bytes) < slot_at(count(bytes)) {
        return Err("slots run into the heap");
    }
    let mut total = 0;
    for index in 0..count(bytes) {
        let start = entry_at(bytes, index);
        if start < heap_start(bytes) || start + fixed_size(bytes) > PAGE_SIZE {
            return Err("an entry lies outside the heap");
        }
        if start + heap_size(bytes, index) > PAGE_SIZE {
            return Err("an entry runs past the page");
        }
        total += entry_size(bytes, index);
        let first = base(bytes);
        if index < first && key_size(bytes, index) != 0 {
            return Err("the first key of an inner page is not empty");
        }
        if index > first && key(bytes, index - 1) >= key(bytes, index) {
            return Err("keys are not in order");
        }
        if index >= first {
            let shared = prefix(bytes);
            if key_size(bytes, index) < shared
                || key(bytes, index)[..shared] != key(bytes, first)[..shared]
                || u32_at(bytes, slot_at(index)) != hint_of(&key(bytes, index)[shared..])
            {
                return Err("a key hint is wrong");
            }
        }
    }
    if total == used(bytes) { Ok(()) } else { Err("the used bytes do not add up") }
}
