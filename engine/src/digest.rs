//! The state digest: one hash over everything a snapshot shows, the same on every node at the same LSN whatever its
//! tables look like; and hashes of content-defined ranges, to find out where two nodes differ. FORMAT.md defines it.

use std::fmt;

use bytes::Bytes;
use seawall_wal::Lsn;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::format::KeyspaceId;
use crate::keyspace::Keyspace;
use crate::merge::Found;
use crate::range::Range;
use crate::snapshot::Snapshot;

/// A leaf ends after a key whose hash has so many zero bits at its end: after about a thousand keys.
const LEAF_BITS: u32 = 10;
/// Each level of groups asks for so many more.
const GROUP_BITS: u32 = 4;

/// A hash over everything at an LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// As of when.
    pub lsn: Lsn,
    /// Over all keyspaces.
    pub root: [u8; 32],
    /// Each keyspace, by number.
    pub keyspaces: Vec<KeyspaceDigest>,
}

impl fmt::Display for StateDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A hash over a keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceDigest {
    /// Its number.
    pub id: KeyspaceId,
    /// Its name.
    pub name: String,
    /// Keys in it.
    pub entries: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Over its entries.
    pub root: [u8; 32],
}

/// A hash over a range whose limits follow from the keys alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeDigest {
    /// The range begins after this key, or at the keyspace's beginning.
    pub after: Option<Bytes>,
    /// It goes through this key, or to the keyspace's end.
    pub through: Option<Bytes>,
    /// Keys in it.
    pub entries: u64,
    /// Over its entries.
    pub hash: [u8; 32],
}

impl Snapshot {
    /// The hash over everything in it. Reads everything, in constant memory.
    pub fn digest(&self) -> Result<StateDigest> {
        let mut whole = blake3::Hasher::new();
        let mut keyspaces = Vec::new();
        for keyspace in self.keyspace_handles() {
            let (mut entries, mut bytes) = (0, 0);
            let mut tree = Tree::default();
            let mut leaves = Leaves::new(self.iter(&keyspace));
            while let Some(leaf) = leaves.next()? {
                entries += leaf.entries;
                bytes += leaf.bytes;
                tree.add(1, &leaf.hash, leaf.zeros);
            }
            let root = tree.root();
            whole.update(&keyspace.id().0.to_le_bytes());
            whole.update(&(keyspace.name().len() as u32).to_le_bytes());
            whole.update(keyspace.name().as_bytes());
            whole.update(&entries.to_le_bytes());
            whole.update(&root);
            keyspaces.push(KeyspaceDigest {
                id: keyspace.id(),
                name: keyspace.name().to_owned(),
                entries,
                bytes,
                root,
            });
        }
        Ok(StateDigest { lsn: self.lsn(), root: *whole.finalize().as_bytes(), keyspaces })
    }

    /// The hashes of at most `limit` ranges of a keyspace, beginning after `after`: `None`, or the end of an earlier
    /// range. Fewer come only at the keyspace's end, whose range goes through `None`.
    pub fn digest_ranges(&self, keyspace: &Keyspace, after: Option<&[u8]>, limit: usize) -> Result<Vec<RangeDigest>> {
        use std::ops::Bound;
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut leaves = Leaves::new(self.range::<&[u8]>(keyspace, (lower, Bound::Unbounded)));
        let mut after = after.map(Bytes::copy_from_slice);
        let mut ranges = Vec::new();
        while ranges.len() < limit {
            let Some(leaf) = leaves.next()? else { break };
            let through = leaf.through.clone();
            ranges.push(RangeDigest { after, through: through.clone(), entries: leaf.entries, hash: leaf.hash });
            after = through;
            if after.is_none() {
                break;
            }
        }
        Ok(ranges)
    }
}

/// The ranges `(after, through]` in which two lists of ranges of the same stretch differ.
pub fn differing_ranges(ours: &[RangeDigest], theirs: &[RangeDigest]) -> Vec<(Option<Bytes>, Option<Bytes>)> {
    let mut differing: Vec<(Option<Bytes>, Option<Bytes>)> = Vec::new();
    let (mut a, mut b) = (ours.iter().peekable(), theirs.iter().peekable());
    // `None` is the end of the keyspace, behind every key.
    let behind = |range: &RangeDigest, other: &RangeDigest| match (&range.through, &other.through) {
        (None, _) => other.through.is_some(),
        (Some(_), None) => false,
        (Some(range), Some(other)) => range > other,
    };
    loop {
        let (mut left, mut right) = match (a.next(), b.next()) {
            (None, None) => return differing,
            (Some(range), None) | (None, Some(range)) => {
                differing.push((range.after.clone(), range.through.clone()));
                continue;
            }
            (Some(left), Some(right)) => (left, right),
        };
        if left.hash == right.hash && left.through == right.through {
            continue;
        }
        let after = left.after.clone();
        // Limits that one side lacks are passed until both sides have one again.
        while left.through != right.through {
            let next = if behind(left, right) {
                b.next().map(|range| right = range)
            } else {
                a.next().map(|range| left = range)
            };
            if next.is_none() {
                break;
            }
        }
        let through = if behind(left, right) { &left.through } else { &right.through };
        differing.push((after, through.clone()));
    }
}

struct Leaf {
    hash: [u8; 32],
    entries: u64,
    bytes: u64,
    /// Zero bits at the end of the last key's hash; 0 if the keyspace ends there.
    zeros: u32,
    /// The last key, or `None` at the keyspace's end.
    through: Option<Bytes>,
}

/// Cuts a keyspace into leaves.
struct Leaves {
    range: Range,
}

impl Leaves {
    fn new(range: Range) -> Self {
        Self { range }
    }

    fn next(&mut self) -> Result<Option<Leaf>> {
        let mut hasher = blake3::Hasher::new();
        let (mut entries, mut bytes) = (0, 0);
        while let Some(entry) = self.range.next_found() {
            let Found { key, value, expiry } = entry?;
            // A key has at most 65535 bytes and a value fits into a record, so both lengths fit.
            hasher.update(&(key.len() as u32).to_le_bytes());
            hasher.update(&(value.len() as u32).to_le_bytes());
            hasher.update(&expiry.map_or(0, |expiry| expiry.0).to_le_bytes());
            hasher.update(key);
            hasher.update(value);
            entries += 1;
            bytes += (key.len() + value.len()) as u64;
            let zeros = xxh3_64(key).trailing_zeros();
            if zeros >= LEAF_BITS {
                let hash = *hasher.finalize().as_bytes();
                return Ok(Some(Leaf { hash, entries, bytes, zeros, through: Some(Bytes::copy_from_slice(key)) }));
            }
        }
        let last = Leaf { hash: *hasher.finalize().as_bytes(), entries, bytes, zeros: 0, through: None };
        Ok((entries > 0).then_some(last))
    }
}

/// Groups of hashes, level by level; only the open group of each level is in memory.
#[derive(Default)]
struct Tree {
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    open: Option<blake3::Hasher>,
    closed: u64,
    last: [u8; 32],
}

impl Tree {
    fn add(&mut self, level: usize, hash: &[u8; 32], zeros: u32) {
        if self.levels.len() < level {
            self.levels.push(Level::default());
        }
        let group = self.levels[level - 1].open.get_or_insert_with(|| {
            let mut group = blake3::Hasher::new();
            group.update(&[level as u8]);
            group
        });
        group.update(hash);
        if zeros >= LEAF_BITS + GROUP_BITS * level as u32 {
            self.close(level, zeros);
        }
    }

    fn close(&mut self, level: usize, zeros: u32) {
        let open = &mut self.levels[level - 1];
        if let Some(group) = open.open.take() {
            let hash = *group.finalize().as_bytes();
            (open.closed, open.last) = (open.closed + 1, hash);
            self.add(level + 1, &hash, zeros);
        }
    }

    fn root(mut self) -> [u8; 32] {
        let mut level = 1;
        while level <= self.levels.len() {
            self.close(level, 0);
            if self.levels[level - 1].closed == 1 {
                return self.levels[level - 1].last;
            }
            level += 1;
        }
        [0; 32]
    }
}
