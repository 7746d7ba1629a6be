//! The tree of one keyspace's versions: a B+tree in an arena, with one writer and readers who take no lock. A reader who
//! meets a node that was split since its parent was read goes on to the right, so it misses nothing; a reader who meets
//! one that is being changed looks again.
//!
//! Nodes are never removed and never merged, and what a node is responsible for only shrinks from the right, so a reader
//! who holds a node, however old, finds everything at or after its `low` from there.

use std::sync::Arc;

use seawall_wal::Lsn;

use super::arena::{Allocator, Arena, Kept, Link, Record};
use super::node::{Node, Place, Slot};
use super::sync::SLOTS;
use crate::table::EntryRef;

/// Nodes that are not the last of their level have at least 32 slots in use, so this is for 2^60 versions.
const HEIGHT_MAX: usize = 12;
/// So many leaves fit into a core's nearest cache, and keep as many reads of memory going as it can.
pub(crate) const AHEAD: usize = 16;

pub(super) struct Tree {
    root: Link<Node>,
    /// Goes after the link into it.
    arena: Arc<Arena>,
    #[cfg(test)]
    pub(super) probe: super::probe::Probe,
}

/// What a reader does after a look at a node.
enum Step<'a, T> {
    Right,
    /// To a child, with a version at or behind the place.
    Down(Option<&'a Node>, Option<Record<'a>>),
    Done(T),
}

impl Tree {
    pub(super) fn new(arena: &Arc<Arena>, allocator: &mut Allocator<'_>) -> Self {
        assert!(allocator.is_of(arena), "a tree lies in one arena");
        Self {
            root: Link::new(Some(Node::leaf(allocator))),
            arena: Arc::clone(arena),
            #[cfg(test)]
            probe: super::probe::Probe::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.root().is_leaf() && self.root().count() == 0
    }

    fn root(&self) -> &Node {
        self.root.get().expect("a tree has a root")
    }

    /// The first version behind the place.
    pub(super) fn first_behind(&self, place: Place<'_>) -> Option<Record<'_>> {
        let found = self.in_leaf(place, |leaf, slot| match slot < leaf.count() {
            true => (leaf.record(slot), None),
            false => (None, leaf.right()),
        });
        match found {
            // A leaf that has one to its left begins with its `low`, always.
            (None, Some(right)) => right.record(0),
            (record, _) => record,
        }
    }

    /// Some versions behind the place, in order; nothing only if there are none.
    pub(super) fn page_behind(&self, place: Place<'_>, page: &mut Vec<Kept>) {
        let right = self.in_leaf(place, |leaf, slot| {
            page.clear();
            page.extend((slot..leaf.count()).filter_map(|slot| leaf.record(slot)).map(Record::keep));
            leaf.right()
        });
        if let (true, Some(right)) = (page.is_empty(), right) {
            right.read(|| {
                page.clear();
                page.extend((0..right.count()).filter_map(|slot| right.record(slot)).map(Record::keep));
            });
        }
    }

    /// Some versions before the place, nearest first; nothing only if there are none.
    pub(super) fn page_before(&self, place: Place<'_>, page: &mut Vec<Kept>) {
        // Only the first leaf can have nothing before the place: all others have their `low`.
        self.in_leaf(place, |leaf, slot| {
            page.clear();
            page.extend((0..slot).rev().filter_map(|slot| leaf.record(slot)).map(Record::keep));
        });
    }

    pub(super) fn recall(&self, kept: Kept) -> Record<'_> {
        self.arena.recall(kept)
    }

    /// Looks at the last leaf whose `low` is before the place, and at how many of its versions are.
    fn in_leaf<'a, T>(&'a self, place: Place<'_>, mut look: impl FnMut(&'a Node, usize) -> T) -> T {
        let (mut node, mut bound) = (self.root(), None);
        loop {
            let is_leaf = node.is_leaf();
            let step = node.read(|| {
                if self.is_left_of(node, place, bound) {
                    return Step::Right;
                }
                let before = node.search(place);
                if is_leaf {
                    return Step::Done(look(node, before));
                }
                // The first slot is never behind the place.
                let slot = before.saturating_sub(1);
                Step::Down(node.child(slot), node.bound(slot))
            });
            match step {
                Step::Done(answer) => return answer,
                // What is to the right of a node changes only to something nearer.
                Step::Right => (node, bound) = (node.right().expect("what has a `high` has a right"), None),
                Step::Down(child, behind) => (node, bound) = (child.expect("a slot in use has a child"), behind),
            }
        }
    }

    #[cfg(not(test))]
    fn is_left_of(&self, node: &Node, place: Place<'_>, bound: Option<Record<'_>>) -> bool {
        node.is_left_of(place, bound)
    }

    #[cfg(test)]
    fn is_left_of(&self, node: &Node, place: Place<'_>, bound: Option<Record<'_>>) -> bool {
        !self.probe.stays_left() && node.is_left_of(place, bound)
    }

    /// Brings what inserting newest versions of some keys, [`AHEAD`] at most, will look at into the cache. In a large tree
    /// each insert waits for memory; the ways down do not depend on each other, so here all wait at the same time.
    pub(super) fn anticipate(&self, allocator: &Allocator<'_>, keys: &[&[u8]]) {
        assert!(allocator.is_of(&self.arena), "nobody else changes the tree meanwhile");
        let mut nodes = [self.root(); AHEAD];
        let nodes = &mut nodes[..keys.len()];
        // All leaves are equally deep.
        while !nodes.first().is_none_or(|node| node.is_leaf()) {
            nodes.iter().for_each(|node| node.touch_starts());
            for (node, key) in nodes.iter_mut().zip(keys) {
                let slot = node.search(Place::Before(key, Lsn::MAX));
                *node = node.child(slot - 1).expect("a slot in use has a child");
            }
        }
        nodes.iter().for_each(|node| node.touch());
    }

    /// Adds a version. One with the same key and LSN is replaced.
    pub(super) fn insert<'a>(&'a self, allocator: &mut Allocator<'a>, version: EntryRef<'_>) {
        assert!(allocator.is_of(&self.arena), "a tree lies in one arena, whose allocator is its one writer");
        let EntryRef { key, lsn, .. } = version;
        let record = allocator.record(version);
        let place = Place::After(key, lsn);
        let mut path = [None; HEIGHT_MAX];
        let (mut node, mut height) = (self.root(), 0);
        let mut slot = node.search(place);
        while !node.is_leaf() {
            path[height] = Some((node, slot));
            height += 1;
            node = node.child(slot - 1).expect("a slot in use has a child");
            slot = node.search(place);
        }
        if let Some(before) = slot.checked_sub(1)
            && node.holds(before, key, lsn)
        {
            return node.replace(before, record);
        }
        let mut content = Slot { record: Some(record), child: None };
        loop {
            if node.count() < SLOTS {
                return node.insert(slot, content);
            }
            content = node.split(allocator, slot, content);
            #[cfg(test)]
            self.probe.split();
            let Some(parent) = height.checked_sub(1) else { break };
            height = parent;
            (node, slot) = path[height].expect("the way down");
        }
        let root = Node::root(allocator, self.root(), content);
        self.root.set(root);
    }
}
