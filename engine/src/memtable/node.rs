//! A node of the tree: versions in order, what they begin with in an array that is searched without looking at any of
//! them, and the version counter by which readers notice that it changed under them.
//!
//! A node is responsible for the versions from `low` up to but not including `high`. `low` never changes; a split lowers
//! `high` and puts a new node to the `right`, so a reader who comes too late finds what it looks for there.

use std::cmp::Ordering::{Greater, Less};
use std::hint::black_box;

use seawall_wal::Lsn;

use super::arena::{Allocator, Link, Record, RecordLink};
use super::sync::{AtomicU32, AtomicU64, GROUP, Ordering, SLOTS, fence, spin_loop, yield_now};
use crate::race::{Mutant, planted};
use crate::table::version_order;

/// So many more bytes must be common to all keys before a node's slots are made anew without them.
const STRIPPED_MORE_MIN: usize = 4;
/// How often a reader looks again before it lets others run.
const SPINS_MAX: u32 = 64;

const _: () = assert!(SLOTS.is_multiple_of(GROUP));

/// A gap in the order of versions.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Start,
    Before(&'a [u8], Lsn),
    After(&'a [u8], Lsn),
    End,
}

impl Place<'_> {
    /// Whether a version lies before the place.
    fn is_behind(self, record: Record<'_>) -> bool {
        match self {
            Self::Start => false,
            Self::Before(key, lsn) => version_order((record.key(), record.lsn()), (key, lsn)) == Less,
            Self::After(key, lsn) => version_order((record.key(), record.lsn()), (key, lsn)) != Greater,
            Self::End => true,
        }
    }
}

/// Leaves and inner nodes. `low <= every version < high`; a version is in at most one leaf.
#[repr(C, align(64))]
pub(super) struct Node {
    /// Odd while the node changes.
    version: AtomicU64,
    /// `count <= SLOTS`.
    count: AtomicU32,
    /// So many bytes are common to `low`, `high` and so to all keys between, and are left out in `starts`.
    stripped: AtomicU32,
    /// The least version the node can have; nothing for the first node of its level.
    low: RecordLink,
    /// The least version to the right; nothing for the last node of its level.
    high: RecordLink,
    right: Link<Self>,
    /// Of an inner node. Set once, before anyone sees it.
    children: Link<Children>,
    /// Eight bytes of each key, from `stripped` on, as a number that orders as the keys do. `u64::MAX` where there is
    /// no version.
    starts: [AtomicU64; SLOTS],
    /// The versions of a leaf; of an inner node the `low` of each child.
    records: [RecordLink; SLOTS],
}

pub(super) struct Children([Link<Node>; SLOTS]);

/// What a slot holds.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a> {
    /// Nothing only in the first slot of the first node of a level, which is behind every place.
    pub(super) record: Option<Record<'a>>,
    pub(super) child: Option<&'a Node>,
}

impl Node {
    pub(super) fn leaf<'a>(allocator: &mut Allocator<'a>) -> &'a Self {
        allocator.place(Self::new(None, None, None, None))
    }

    /// The parent of two nodes that had none.
    pub(super) fn root<'a>(allocator: &mut Allocator<'a>, left: &'a Self, right: Slot<'a>) -> &'a Self {
        let children = allocator.place(Children::new());
        let node = allocator.place(Self::new(None, None, None, Some(children)));
        node.insert_unseen(0, Slot { record: None, child: Some(left) });
        node.insert_unseen(1, right);
        node
    }

    fn new(low: Option<Record<'_>>, high: Option<Record<'_>>, right: Option<&Self>, kids: Option<&Children>) -> Self {
        Self {
            version: AtomicU64::new(0),
            count: AtomicU32::new(0),
            stripped: AtomicU32::new(0),
            low: RecordLink::new(low),
            high: RecordLink::new(high),
            right: Link::new(right),
            children: Link::new(kids),
            starts: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            records: std::array::from_fn(|_| RecordLink::new(None)),
        }
    }

    pub(super) fn count(&self) -> usize {
        (self.count.load(Ordering::Relaxed) as usize).min(SLOTS)
    }

    pub(super) fn record(&self, slot: usize) -> Option<Record<'_>> {
        self.records[slot].get()
    }

    pub(super) fn child(&self, slot: usize) -> Option<&Self> {
        self.children.get()?.0[slot].get()
    }

    pub(super) fn right(&self) -> Option<&Self> {
        self.right.get()
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.children.get().is_none()
    }

    /// What lies behind the versions of a slot: the next one's, or `high`.
    pub(super) fn bound(&self, slot: usize) -> Option<Record<'_>> {
        if slot + 1 < self.count() { self.record(slot + 1) } else { self.high.get() }
    }

    /// Whether the place lies to the right of this node. `bound` is a version known not to lie before the place, or
    /// nothing; when it is this node's `high` no key need be looked at.
    pub(super) fn is_left_of(&self, place: Place<'_>, bound: Option<Record<'_>>) -> bool {
        let Some(high) = self.high.get() else { return false };
        !bound.is_some_and(|bound| bound.is(high)) && place.is_behind(high)
    }

    /// How many slots lie before the place, which is not left of `low` and not right of `high`.
    pub(super) fn search(&self, place: Place<'_>) -> usize {
        let key = match place {
            Place::Start => return 0,
            Place::Before(key, _) | Place::After(key, _) => key,
            Place::End => return self.count(),
        };
        if self.is_leaf() {
            // A leaf is in no cache most often. Which line of its records is wanted is known only when its starts are there.
            self.touch_records();
        }
        let count = self.count();
        // A place between `low` and `high` begins with the bytes that are left out.
        let wanted = start_of(key, self.stripped.load(Ordering::Relaxed));
        let mut from = self.starts_below(wanted).min(count);
        let mut to = from;
        while to < count && self.starts[to].load(Ordering::Relaxed) == wanted {
            to += 1;
        }
        while from < to {
            let middle = from.midpoint(to);
            let record = self.record(middle).inspect(|record| record.prefetch());
            if record.is_none_or(|record| place.is_behind(record)) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }

    /// Whether a slot has just this version; looks at it only if it begins alike.
    pub(super) fn holds(&self, slot: usize, key: &[u8], lsn: Lsn) -> bool {
        self.starts[slot].load(Ordering::Relaxed) == start_of(key, self.stripped.load(Ordering::Relaxed))
            && self.record(slot).is_some_and(|record| record.lsn() == lsn && record.key() == key)
    }

    /// How many starts are less. All loads of a round are independent, so that a node that is in no cache costs the time
    /// of two misses, not six.
    fn starts_below(&self, wanted: u64) -> usize {
        let is_below = |slot: usize| usize::from(self.starts[slot].load(Ordering::Relaxed) < wanted);
        let group: usize = (1..SLOTS / GROUP).map(|group| is_below(group * GROUP)).sum();
        let first = group * GROUP;
        first + (first..first + GROUP).map(is_below).sum::<usize>()
    }

    /// Reads a word of each cache line that a search looks at, and waits for none of them.
    pub(super) fn touch_starts(&self) {
        let starts = self.starts.iter().step_by(GROUP).map(|start| start.load(Ordering::Relaxed));
        black_box(starts.fold(self.count() as u64, |all, start| all ^ start));
    }

    /// As `touch_starts`, of each line that an insert changes.
    pub(super) fn touch(&self) {
        self.touch_starts();
        self.touch_records();
    }

    fn touch_records(&self) {
        // What nobody looks at is no business of loom, which would try all orders of it.
        if cfg!(not(loom)) {
            black_box(self.records.iter().step_by(GROUP).filter(|record| record.get().is_some()).count());
        }
    }

    /// Looks at the node until it did not change meanwhile; a change takes well under a microsecond, unless the writer is
    /// interrupted in it. What `look` reads may be torn when its answer is thrown away.
    pub(super) fn read<T>(&self, mut look: impl FnMut() -> T) -> T {
        let mut spins = 0;
        loop {
            let before = self.version.load(Ordering::Acquire);
            if before.is_multiple_of(2) {
                let answer = look();
                // If anything `look` saw was written after `before`, then the change to odd is seen below.
                if !planted(Mutant::LookNotFenced) {
                    fence(Ordering::Acquire);
                }
                if self.version.load(Ordering::Relaxed) == before || planted(Mutant::ChangeNotNoticed) {
                    return answer;
                }
            }
            spins += 1;
            if spins < SPINS_MAX { spin_loop() } else { yield_now() }
        }
    }

    /// Changes the node. Only the one who holds the arena's allocator does.
    fn write(&self, change: impl FnOnce()) {
        let before = self.version.load(Ordering::Relaxed);
        if !planted(Mutant::ChangeNotAnnounced) {
            self.version.store(before + 1, Ordering::Relaxed);
        }
        if !planted(Mutant::ChangeNotFenced) {
            fence(Ordering::Release);
        }
        change();
        self.version.store(before + 2, Ordering::Release);
    }

    /// Exchanges a record for one with the same key and LSN, which is no change to the order.
    pub(super) fn replace(&self, slot: usize, record: Record<'_>) {
        self.records[slot].set(Some(record));
    }

    /// Puts something into a node with room, before what is in the slot now.
    pub(super) fn insert(&self, slot: usize, content: Slot<'_>) {
        self.write(|| self.insert_unseen(slot, content));
    }

    fn insert_unseen(&self, slot: usize, content: Slot<'_>) {
        let count = self.count();
        let children = self.children.get();
        for to in (slot + 1..=count).rev() {
            self.starts[to].store(self.starts[to - 1].load(Ordering::Relaxed), Ordering::Relaxed);
            self.records[to].set(self.records[to - 1].get());
        }
        if let Some(Children(children)) = children {
            for to in (slot + 1..=count).rev() {
                children[to].set(children[to - 1].get().expect("a slot in use has a child"));
            }
            children[slot].set(content.child.expect("a slot of an inner node has a child"));
        }
        self.starts[slot].store(self.start(content.record), Ordering::Relaxed);
        self.records[slot].set(content.record);
        self.count.store(count as u32 + 1, Ordering::Relaxed);
    }

    /// Puts something into a full node by moving its upper half, or what is new if that is at the very end, into a new
    /// node to the right. Gives that node and its `low`, for the parent.
    pub(super) fn split<'a>(&'a self, allocator: &mut Allocator<'a>, slot: usize, content: Slot<'a>) -> Slot<'a> {
        let ascending = slot == SLOTS && self.high.get().is_none();
        let at = if ascending { SLOTS } else { SLOTS / 2 };
        let separator = if ascending { content.record } else { self.record(at) };
        let children = (!self.is_leaf()).then(|| allocator.place(Children::new()));
        let right = allocator.place(Self::new(separator, self.high.get(), self.right.get(), children));
        right.stripped.store(self.stripped.load(Ordering::Relaxed), Ordering::Relaxed);
        right.strip();
        for from in at..SLOTS {
            right.adopt(from - at, self, from);
        }
        right.count.store((SLOTS - at) as u32, Ordering::Relaxed);
        if slot > at || ascending {
            right.insert_unseen(slot - at, content);
        }
        self.write(|| {
            self.high.set(separator);
            if !planted(Mutant::SplitNotLinked) {
                self.right.set(right);
            }
            self.count.store(at as u32, Ordering::Relaxed);
            self.starts[at..].iter().for_each(|start| start.store(u64::MAX, Ordering::Relaxed));
            self.strip();
            if slot <= at && !ascending {
                self.insert_unseen(slot, content);
            }
        });
        Slot { record: separator, child: Some(right) }
    }

    /// Fills a slot with what a slot of another node holds.
    fn adopt(&self, slot: usize, from: &Self, other: usize) {
        let record = from.record(other);
        let alike = self.stripped.load(Ordering::Relaxed) == from.stripped.load(Ordering::Relaxed);
        let start = if alike { from.starts[other].load(Ordering::Relaxed) } else { self.start(record) };
        self.starts[slot].store(start, Ordering::Relaxed);
        self.records[slot].set(record);
        if let (Some(Children(children)), Some(child)) = (self.children.get(), from.child(other)) {
            children[slot].set(child);
        }
    }

    /// Leaves more of the keys out, if much more is common to them now.
    fn strip(&self) {
        let (Some(low), Some(high)) = (self.low.get(), self.high.get()) else { return };
        let common = low.key().iter().zip(high.key()).take_while(|(a, b)| a == b).count();
        if common >= self.stripped.load(Ordering::Relaxed) as usize + STRIPPED_MORE_MIN {
            self.stripped.store(common as u32, Ordering::Relaxed);
            for slot in 0..self.count() {
                self.starts[slot].store(self.start(self.record(slot)), Ordering::Relaxed);
            }
        }
    }

    fn start(&self, record: Option<Record<'_>>) -> u64 {
        record.map_or(0, |record| start_of(record.key(), self.stripped.load(Ordering::Relaxed)))
    }
}

impl Children {
    fn new() -> Self {
        Self(std::array::from_fn(|_| Link::new(None)))
    }
}

/// The eight bytes of a key behind so many, zeros where it ends. Keys with different starts are in the order of these; of
/// equal ones it says nothing.
fn start_of(key: &[u8], stripped: u32) -> u64 {
    let rest = key.get(stripped as usize..).unwrap_or_default();
    match rest.first_chunk() {
        #[expect(clippy::big_endian_bytes, reason = "it orders as bytes do, and never leaves memory")]
        Some(start) => u64::from_be_bytes(*start),
        None => rest.iter().enumerate().fold(0, |start, (at, byte)| start | u64::from(*byte) << (56 - 8 * at)),
    }
}
