//! Sources in the order of what they have next, as a heap: the one whose turn it is stands first, and when it has moved on,
//! finding the next takes as many comparisons as the number of sources has binary digits, or two if it stays the first.

use std::cmp::Ordering;

use seawall_wal::Lsn;

use super::source::Source;
use crate::error::Result;
use crate::table::{EntryRef, version_order};

/// Which way a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Keys rise; of a key, newer versions come first.
    Forward,
    /// The other way round.
    Backward,
}

/// What several sources have, in one order.
#[derive(Debug)]
pub(super) struct Queue {
    sources: Vec<Source>,
    /// Numbers of the sources that have something left. None comes before the one it stands under: under place `n` are places `2n + 1` and `2n + 2`.
    heap: Vec<usize>,
    way: Way,
}

impl Queue {
    pub(super) fn new(sources: Vec<Source>, way: Way) -> Self {
        let mut queue = Self { sources, heap: Vec::new(), way };
        queue.build();
        queue
    }

    /// What comes next.
    pub(super) fn entry(&self) -> Option<EntryRef<'_>> {
        self.heap.first().and_then(|first| self.sources[*first].entry())
    }

    /// Key and LSN of what comes next.
    pub(super) fn place(&self) -> Option<(&[u8], Lsn)> {
        self.heap.first().and_then(|first| self.sources[*first].place())
    }

    /// Goes on to what comes after it.
    pub(super) fn step(&mut self) -> Result<()> {
        let Some(first) = self.heap.first() else { return Ok(()) };
        let source = &mut self.sources[*first];
        match self.way {
            Way::Forward => source.forward()?,
            Way::Backward => source.back()?,
        }
        if source.place().is_none() {
            self.heap.swap_remove(0);
        }
        self.sink(0);
        Ok(())
    }

    /// Whether this holds for a source.
    pub(super) fn any(&self, holds: impl Fn(&Source) -> bool) -> bool {
        self.heap.iter().any(|number| holds(&self.sources[*number]))
    }

    /// Moves sources to other places, in the direction of the walk.
    pub(super) fn move_each(&mut self, go: impl Fn(&mut Source) -> Result<()>) -> Result<()> {
        self.sources.iter_mut().try_for_each(go)?;
        self.build();
        Ok(())
    }

    fn build(&mut self) {
        self.heap.clear();
        self.heap.extend((0..self.sources.len()).filter(|number| self.sources[*number].place().is_some()));
        for place in (0..self.heap.len() / 2).rev() {
            self.sink(place);
        }
    }

    /// Lets the source at a place of the heap sink until none under it comes before it.
    fn sink(&mut self, mut place: usize) {
        loop {
            let mut under = 2 * place + 1;
            if under >= self.heap.len() {
                return;
            }
            if under + 1 < self.heap.len() && self.is_before(under + 1, under) {
                under += 1;
            }
            if !self.is_before(under, place) {
                return;
            }
            self.heap.swap(place, under);
            place = under;
        }
    }

    /// Whether what the source at place `a` of the heap has comes before what the one at `b` has.
    fn is_before(&self, a: usize, b: usize) -> bool {
        let place = |at: usize| self.sources[self.heap[at]].place().expect("it has something left");
        version_order(place(a), place(b))
            == match self.way {
                Way::Forward => Ordering::Less,
                Way::Backward => Ordering::Greater,
            }
    }
}
