//! What readers and the writer of a memtable meet at. They take no lock, so here weaker orders than one after the other
//! matter: with `--cfg loom` these are loom's, which tries every order that the language allows (`orderings`). Nodes are small
//! then, so that few steps do all there is to do to a tree.

#[cfg(loom)]
pub(super) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence},
    thread::yield_now,
};
#[cfg(not(loom))]
pub(super) use std::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence},
    thread::yield_now,
};

use crate::race::{Mutant, planted};

#[cfg(not(loom))]
pub(super) const SLOTS: usize = 64;
/// Slots are searched in groups of a cache line's worth.
#[cfg(not(loom))]
pub(super) const GROUP: usize = 8;
#[cfg(loom)]
pub(super) const SLOTS: usize = 2;
#[cfg(loom)]
pub(super) const GROUP: usize = 1;

/// This order, or none where its bug is planted.
pub(super) fn order(order: Ordering, bug: Mutant) -> Ordering {
    if planted(bug) { Ordering::Relaxed } else { order }
}

/// That something was written, by one thread, before anybody else reads it. Only loom looks.
pub(super) struct Written(#[cfg(loom)] loom::cell::UnsafeCell<()>);

impl Written {
    #[cfg(not(loom))]
    pub(super) fn new() -> Self {
        Self()
    }

    #[cfg(not(loom))]
    pub(super) fn read(&self) {}

    #[cfg(loom)]
    pub(super) fn new() -> Self {
        let written = loom::cell::UnsafeCell::new(());
        written.with_mut(|_| ());
        Self(written)
    }

    #[cfg(loom)]
    pub(super) fn read(&self) {
        self.0.with(|_| ());
    }
}
