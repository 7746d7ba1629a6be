//! Sources in the order of what they have next, as a heap: the one whose turn it is stands first, and when it has moved on,
//! finding the next takes as many comparisons as the number of sources has binary digits, or two if it stays the first.
//! Most are of numbers that stand in the heap: to look at a key is to follow its source to a block.

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
    /// The sources that have something left. None comes before the one it stands under: under place `n` are places `2n + 1` and `2n + 2`.
    heap: Vec<Head>,
    way: Way,
}

/// A source that has something left.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// Of the key it has next.
    word: u128,
    number: usize,
}

impl Head {
    fn of(sources: &[Source], number: usize) -> Option<Self> {
        sources[number].place().map(|(key, _)| Self { word: word(key), number })
    }
}

/// The first bytes as a number that does not fall while keys rise, zeros behind fewer: keys with the same one are compared.
fn word(key: &[u8]) -> u128 {
    let first = match key.first_chunk() {
        Some(first) => *first,
        None => std::array::from_fn(|at| key.get(at).copied().unwrap_or(0)),
    };
    u128::from_le_bytes(first).swap_bytes()
}

impl Queue {
    pub(super) fn new(sources: Vec<Source>, way: Way) -> Self {
        let mut queue = Self { sources, heap: Vec::new(), way };
        queue.build();
        queue
    }

    /// What comes next.
    pub(super) fn entry(&self) -> Option<EntryRef<'_>> {
        self.heap.first().and_then(|first| self.sources[first.number].entry())
    }

    /// Key and LSN of what comes next.
    pub(super) fn place(&self) -> Option<(&[u8], Lsn)> {
        self.heap.first().and_then(|first| self.sources[first.number].place())
    }

    /// Goes on to what comes after it.
    pub(super) fn step(&mut self) -> Result<()> {
        let Some(Head { number, .. }) = self.heap.first().copied() else { return Ok(()) };
        match self.way {
            Way::Forward => self.sources[number].forward()?,
            Way::Backward => self.sources[number].back()?,
        }
        match Head::of(&self.sources, number) {
            Some(head) => self.heap[0] = head,
            None => {
                self.heap.swap_remove(0);
            }
        }
        self.sink(0);
        Ok(())
    }

    /// Whether this holds for a source.
    pub(super) fn any(&self, holds: impl Fn(&Source) -> bool) -> bool {
        self.heap.iter().any(|head| holds(&self.sources[head.number]))
    }

    /// Moves sources to other places, in the direction of the walk.
    pub(super) fn move_each(&mut self, go: impl Fn(&mut Source) -> Result<()>) -> Result<()> {
        self.sources.iter_mut().try_for_each(go)?;
        self.build();
        Ok(())
    }

    fn build(&mut self) {
        self.heap.clear();
        self.heap.extend((0..self.sources.len()).filter_map(|number| Head::of(&self.sources, number)));
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
        let (a, b) = (&self.heap[a], &self.heap[b]);
        let place = |head: &Head| self.sources[head.number].place().expect("it has something left");
        let order = a.word.cmp(&b.word).then_with(|| version_order(place(a), place(b)));
        order
            == match self.way {
                Way::Forward => Ordering::Less,
                Way::Backward => Ordering::Greater,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_never_contradict_the_keys() {
        let keys: [&[u8]; 9] =
            [b"", b"\0", b"\0\0", b"a", b"a\0", b"abcdefghijklmno", b"abcdefghijklmnop", b"abcdefghijklmnopq", b"\xff"];
        for pair in keys.windows(2) {
            assert!(pair[0] < pair[1] && word(pair[0]) <= word(pair[1]), "{pair:?}");
        }
        assert!(word(b"a") < word(b"abcdefghijklmno") && word(b"abcdefghijklmno") < word(b"abcdefghijklmnop"));
    }
}
