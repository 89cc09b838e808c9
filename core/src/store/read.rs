//! Reads: point, count, rank, nth; all by shared reference, all in place.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use super::forest::TreeRoot;
use super::page::{self, Bytes, Stored};
use super::{Fault, Store, TreeRef};
use crate::superblock::PageRef;

/// A value: borrowed from its page, or put together from overflow pages.
pub type Value<'a> = Cow<'a, [u8]>;

impl Store {
    /// The leaf that holds `key`, or would; `None`: the tree is empty.
    #[inline]
    pub(super) fn leaf(&self, tree: TreeRef, key: &[u8]) -> Result<Option<&Bytes>, Fault> {
        let root = self.tree_root(tree)?;
        if root.root.is_none() {
            return Ok(None);
        }
        let mut bytes = self.load(tree, root.root.page, || root.root)?;
        for level in (0..root.height).rev() {
            let parent = bytes;
            let index = page::child_index(parent, key);
            let child = page::child_page(parent, index);
            bytes = self.load(tree, child, || page::child_ref(parent, index))?;
            assert_eq!(page::level(bytes), level, "a child is one level below its parent");
        }
        Ok(Some(bytes))
    }

    #[inline]
    pub(super) fn find(&self, tree: TreeRef, key: &[u8]) -> Result<Option<(&Bytes, usize)>, Fault> {
        let Some(bytes) = self.leaf(tree, key)? else { return Ok(None) };
        let (index, exact) = page::lower_bound(bytes, key);
        Ok(exact.then_some((bytes, index)))
    }

    /// The value of a key.
    #[inline]
    pub fn get(&self, tree: TreeRef, key: &[u8]) -> Result<Option<Value<'_>>, Fault> {
        let Some((bytes, index)) = self.find(tree, key)? else { return Ok(None) };
        self.value_at(tree, bytes, index).map(Some)
    }

    pub fn contains(&self, tree: TreeRef, key: &[u8]) -> Result<bool, Fault> {
        Ok(self.find(tree, key)?.is_some())
    }

    #[inline]
    pub(super) fn value_at<'a>(
        &'a self,
        tree: TreeRef,
        bytes: &'a Bytes,
        index: usize,
    ) -> Result<Value<'a>, Fault> {
        match page::stored(bytes, index) {
            Stored::Inline(value) => Ok(Cow::Borrowed(value)),
            Stored::Overflow { size, root } => {
                let mut value = Vec::with_capacity(size);
                self.read_overflow(tree, size, root, &mut value)?;
                Ok(Cow::Owned(value))
            }
        }
    }

    /// Notes the first page on the way to the key that is missing; overflow pages too. For
    /// gathering the misses of many keys before one `fetch`.
    pub fn prefetch(&self, tree: TreeRef, key: &[u8]) -> Result<(), Fault> {
        self.get(tree, key).map(|_| ())
    }

    /// Entries in the tree.
    pub fn count(&self, tree: TreeRef) -> Result<u64, Fault> {
        Ok(self.tree_root(tree)?.count)
    }

    /// Entries whose key is below `key`.
    pub fn rank(&self, tree: TreeRef, key: &[u8]) -> Result<u64, Fault> {
        let root = self.tree_root(tree)?;
        if root.root.is_none() {
            return Ok(0);
        }
        let mut before = 0;
        let mut bytes = self.load(tree, root.root.page, || root.root)?;
        for _ in 0..root.height {
            let parent = bytes;
            let index = page::child_index(parent, key);
            before += (0..index).map(|index| page::child_count(parent, index)).sum::<u64>();
            let child = page::child_page(parent, index);
            bytes = self.load(tree, child, || page::child_ref(parent, index))?;
        }
        Ok(before + page::lower_bound(bytes, key).0 as u64)
    }

    /// The entry that has `index` entries before it.
    pub fn nth(&self, tree: TreeRef, index: u64) -> Result<Option<(&[u8], Value<'_>)>, Fault> {
        let root = self.tree_root(tree)?;
        if index >= root.count {
            return Ok(None);
        }
        let mut left = index;
        let mut bytes = self.load(tree, root.root.page, || root.root)?;
        for _ in 0..root.height {
            let parent = bytes;
            let mut child = 0;
            while left >= page::child_count(parent, child) {
                left -= page::child_count(parent, child);
                child += 1;
            }
            let number = page::child_page(parent, child);
            bytes = self.load(tree, number, || page::child_ref(parent, child))?;
        }
        let index = left as usize;
        Ok(Some((page::key(bytes, index), self.value_at(tree, bytes, index)?)))
    }

    /// A reference whose page was sealed after the reference was written gets its tag.
    pub(super) fn resolve(&self, at: PageRef) -> PageRef {
        if at.is_none() || at.checkpoint_op.get() != 0 {
            return at;
        }
        self.checkpoints.sealed(at.page).unwrap_or(at)
    }

    /// Fills in what is known by now of the root's page: tag and hash.
    pub(super) fn resolve_root(&self, root: &mut TreeRoot) {
        root.root = self.resolve(root.root);
        if !root.root.is_none() && root.hash == [0; 32] {
            root.hash = self.checkpoints.hash(root.root.page).unwrap_or(root.hash);
        }
    }

    /// Roots in memory outlive what is kept of tags and hashes.
    pub(super) fn resolve_roots(&mut self) {
        let mut trees = core::mem::take(self.trees.get_mut());
        for state in trees.values_mut() {
            self.resolve_root(&mut state.root);
        }
        *self.trees.get_mut() = trees;
    }

    /// Fills in every tag and every hash of a child, in a page in memory, that is known by now.
    pub(super) fn resolve_page(&mut self, page: crate::ids::PageNumber) {
        let checkpoints = &self.checkpoints;
        let Some(bytes) = self.cache.get_mut(page) else {
            unreachable!("the caller holds the page in memory");
        };
        let Some(header) = page::header(bytes) else {
            unreachable!("checked when it entered memory");
        };
        let roots = super::forest::holds_roots(TreeRef::new(header.tenant, header.tree));
        page::for_each_ref(bytes, roots, |bytes, at| {
            let old = page::read_ref(bytes, at);
            if !old.is_none()
                && old.checkpoint_op.get() == 0
                && let Some(new) = checkpoints.sealed(old.page)
            {
                page::write_ref(bytes, at, &new);
            }
        });
        page::for_each_hash_unknown(bytes, roots, |child| checkpoints.hash(child));
    }
}
