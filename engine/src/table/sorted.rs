//! Sorted entries in the raw bytes of a block: runs of entries whose keys are stored as what they do not share with the
//! key before, and words by which a run is found. Bytes are walked once when they are first read; using them cannot
//! fail then.

use std::cmp::Ordering;
use std::ops::Range;

use seawall_wal::Lsn;

use super::content::{Content, Form};
use super::references::BlobUse;
use super::version_order;
use crate::codec::{Put, len_u16, len_u32};

/// Bytes before what all keys begin with.
const HEADER_LEN: usize = 4 + 4 + 2 + 2;
/// Word, place in the entries, place in the values.
const RUN_LEN: usize = 4 + 4 + 4;
/// Shared and other bytes of the key, kind, version, length of the value.
const ENTRY_LEN: usize = 2 + 2 + 1 + 8 + 4;
/// Entries of a run in a data block.
pub(super) const DATA_RUN: usize = 16;
/// In leaf and root blocks each entry is found without a walk.
pub(super) const INDEX_RUN: usize = 1;
/// Words that are counted instead of halved: their loads do not wait for each other, and the words of an ordinary block
/// are one wait for memory, where halving would be seven.
const COUNTED_MAX: usize = 128;

/// The raw bytes of a block of sorted entries, taken apart.
#[derive(Clone, Copy)]
pub(super) struct Sorted<'a> {
    /// What all keys begin with.
    common: &'a [u8],
    words: &'a [[u8; 4]],
    entries_at: &'a [[u8; 4]],
    values_at: &'a [[u8; 4]],
    entries: &'a [u8],
    values: &'a [u8],
    /// Bytes before the values.
    values_from: usize,
}

/// Where an entry is; the end is where the next one would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    entry: usize,
    value: usize,
}

/// An entry without its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    /// Bytes of its key that are those of the key before, what is common to all not counted.
    shared: usize,
    /// The rest of its key.
    rest: &'a [u8],
    pub(super) kind: u8,
    pub(super) lsn: Lsn,
    value: &'a [u8],
    /// Where the next one is.
    pub(super) next: Spot,
}

impl<'a> Stored<'a> {
    /// In a table that refers to these blob files.
    pub(super) fn content(&self, blobs: &'a [BlobUse]) -> Content<'a> {
        Content::parse(self.kind, self.value, blobs).expect("the block was checked")
    }
}

impl<'a> Sorted<'a> {
    /// Takes apart what was checked before.
    pub(super) fn new(raw: &'a [u8]) -> Self {
        Self::split(raw).expect("the block was checked")
    }

    fn split(raw: &'a [u8]) -> Option<Self> {
        let (header, rest) = raw.split_first_chunk::<HEADER_LEN>()?;
        let [a, b, c, d, e, f, g, h, i, j, 0, 0] = *header else { return None };
        let runs = u32::from_le_bytes([a, b, c, d]) as usize;
        let entries = u32::from_le_bytes([e, f, g, h]) as usize;
        let (common, rest) = rest.split_at_checked(u16::from_le_bytes([i, j]) as usize)?;
        let (runs, rest) = rest.split_at_checked(runs.checked_mul(RUN_LEN)?)?;
        let (words, places) = runs.split_at(runs.len() / 3);
        let (entries_at, values_at) = places.split_at(places.len() / 2);
        let (entries, values) = rest.split_at_checked(entries)?;
        let values_from = raw.len() - values.len();
        let [words, entries_at, values_at] = [words, entries_at, values_at].map(|bytes| bytes.as_chunks().0);
        Some(Self { common, words, entries_at, values_at, entries, values, values_from })
    }

    pub(super) fn runs(&self) -> usize {
        self.words.len()
    }

    /// Whether it is so many runs of one entry each, with values of this length.
    pub(super) fn has_runs_of_one(&self, count: u32, value_len: usize) -> bool {
        self.runs() == count as usize && (0..self.runs()).all(|run| self.at(self.run(run)).value.len() == value_len)
    }

    /// The value of an entry that is a run, as all are, with values of this length.
    pub(super) fn value_of_run(&self, run: usize, value_len: usize) -> &'a [u8] {
        &self.values[run * value_len..][..value_len]
    }

    /// Key and version of the first entry of a run.
    pub(super) fn place_of_run(&self, run: usize) -> Place {
        let entry = self.at(self.run(run));
        ([self.common, entry.rest].concat(), entry.lsn)
    }

    /// Where a run begins; the end for the one behind the last.
    pub(super) fn run(&self, run: usize) -> Spot {
        match (self.entries_at.get(run), self.values_at.get(run)) {
            (Some(entry), Some(value)) => {
                Spot { entry: u32::from_le_bytes(*entry) as usize, value: u32::from_le_bytes(*value) as usize }
            }
            _ => self.end(),
        }
    }

    pub(super) fn end(&self) -> Spot {
        Spot { entry: self.entries.len(), value: self.values.len() }
    }

    /// The entry at a spot that is not the end.
    pub(super) fn at(&self, spot: Spot) -> Stored<'a> {
        self.parse(spot).expect("the block was checked")
    }

    #[inline]
    fn parse(&self, spot: Spot) -> Option<Stored<'a>> {
        let (header, rest) = self.entries.get(spot.entry..)?.split_first_chunk::<ENTRY_LEN>()?;
        let shared = u16::from_le_bytes([header[0], header[1]]) as usize;
        let rest = rest.get(..u16::from_le_bytes([header[2], header[3]]) as usize)?;
        let value_len = u32::from_le_bytes(*header[13..].first_chunk()?) as usize;
        let value = self.values.get(spot.value..)?.get(..value_len)?;
        let next = Spot { entry: spot.entry + ENTRY_LEN + rest.len(), value: spot.value + value_len };
        Some(Stored { shared, rest, kind: header[4], lsn: lsn_of(header), value, next })
    }

    /// Makes `key` the whole key of an entry; it was that of the entry before, or the entry begins a run.
    pub(super) fn key_of(&self, entry: &Stored<'_>, key: &mut Vec<u8>) {
        if entry.shared == 0 {
            key.clear();
            key.extend_from_slice(self.common);
        } else {
            key.truncate(self.common.len() + entry.shared);
        }
        key.extend_from_slice(entry.rest);
    }

    /// Whether an entry has this key. The one before it has.
    pub(super) fn is_same_key(&self, entry: &Stored<'_>, key: &[u8]) -> bool {
        match entry.shared {
            0 => entry.rest == &key[self.common.len()..],
            shared => entry.rest.is_empty() && shared == key.len() - self.common.len(),
        }
    }

    /// Where the value of an entry lies in the raw bytes.
    pub(super) fn value_range(&self, spot: Spot, entry: &Stored<'_>) -> Range<usize> {
        let start = self.values_from + spot.value;
        start..start + entry.value.len()
    }

    /// Makes `key` the whole key of the entry at a spot, which is not the end.
    pub(super) fn key_at(&self, spot: Spot, key: &mut Vec<u8>) {
        self.walk(
            self.entries_at.partition_point(|at| u32::from_le_bytes(*at) as usize <= spot.entry) - 1,
            key,
            |at, _| at == spot,
        );
    }

    /// The entry before a spot, which is not the first. `key` becomes its whole key.
    pub(super) fn before(&self, spot: Spot, key: &mut Vec<u8>) -> Spot {
        let run = self.entries_at.partition_point(|at| (u32::from_le_bytes(*at) as usize) < spot.entry) - 1;
        self.walk(run, key, |_, entry| entry.next == spot)
    }

    /// Walks a run to the entry that is looked for.
    fn walk(&self, run: usize, key: &mut Vec<u8>, is_it: impl Fn(Spot, &Stored<'a>) -> bool) -> Spot {
        let mut spot = self.run(run);
        loop {
            let entry = self.at(spot);
            self.key_of(&entry, key);
            if is_it(spot, &entry) {
                return spot;
            }
            spot = entry.next;
        }
    }

    /// The first run that begins at or after a place in the order of versions; `runs()` if none does.
    pub(super) fn run_from(&self, key: &[u8], lsn: Lsn) -> usize {
        match self.behind_common(key) {
            Ok(rest) => self.run_from_rest(rest, lsn),
            Err(Ordering::Less) => 0,
            Err(_) => self.runs(),
        }
    }

    /// The first entry at or after a place in the order of versions, and whether it is one of this key.
    pub(super) fn seek(&self, key: &[u8], lsn: Lsn) -> (Spot, bool) {
        let rest = match self.behind_common(key) {
            Ok(rest) => rest,
            Err(Ordering::Less) => return (self.run(0), false),
            Err(_) => return (self.end(), false),
        };
        let run = self.run_from_rest(rest, lsn);
        // What is looked for is in the run before, or begins this one.
        let end = self.run(run);
        if let Some(run) = run.checked_sub(1)
            && let Some(found) = self.seek_in_run(self.run(run), end, rest, lsn)
        {
            return found;
        }
        let same = self.entries.len() > end.entry && self.at(end).rest == rest;
        (end, same)
    }

    /// The first entry from `start` to `end` at or after a place, and whether it is one of that key. The one at `start`,
    /// which begins a run, is before the place.
    #[inline]
    fn seek_in_run(&self, start: Spot, end: Spot, wanted: &[u8], lsn: Lsn) -> Option<(Spot, bool)> {
        let mut entries = &self.entries[start.entry..end.entry];
        let mut value = start.value;
        // How many bytes of `wanted` the key before has.
        let mut matched = 0;
        while let Some((header, following)) = entries.split_first_chunk::<ENTRY_LEN>() {
            let shared = u16::from_le_bytes([header[0], header[1]]) as usize;
            let (rest, following) = following.split_at(u16::from_le_bytes([header[2], header[3]]) as usize);
            // A key that shares more with the one before compares as that did, and one that shares less is greater.
            let found = match shared.cmp(&matched) {
                Ordering::Greater => None,
                Ordering::Less => Some(false),
                Ordering::Equal => {
                    let wanted = &wanted[matched..];
                    let same = common_len(rest, wanted);
                    matched += same;
                    match (rest.get(same), wanted.get(same)) {
                        (None, None) => (lsn_of(header) <= lsn).then_some(true),
                        (None, Some(_)) => None,
                        (Some(_), None) => Some(false),
                        (Some(a), Some(b)) => (a > b).then_some(false),
                    }
                }
            };
            if let Some(same) = found {
                return Some((Spot { entry: end.entry - entries.len(), value }, same));
            }
            value += u32::from_le_bytes([header[13], header[14], header[15], header[16]]) as usize;
            entries = following;
        }
        None
    }

    /// What follows the common bytes in a key, or how a key without them compares to all here.
    fn behind_common<'k>(&self, key: &'k [u8]) -> Result<&'k [u8], Ordering> {
        let (begin, rest) = key.split_at(self.common.len().min(key.len()));
        match begin.cmp(self.common) {
            Ordering::Equal => Ok(rest),
            other => Err(other),
        }
    }

    fn run_from_rest(&self, rest: &[u8], lsn: Lsn) -> usize {
        let wanted = word(rest);
        let mut low = count_while(self.words, |word| word < wanted);
        let mut high = low + count_while(&self.words[low..], |word| word == wanted);
        while low < high {
            let middle = low.midpoint(high);
            let entry = self.at(self.run(middle));
            match version_order((entry.rest, entry.lsn), (rest, lsn)) {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

fn lsn_of(header: &[u8; ENTRY_LEN]) -> Lsn {
    Lsn::new(u64::from_le_bytes(std::array::from_fn(|at| header[5 + at])))
}

/// How many words from the first on have what rising words first have and then have not.
fn count_while(mut words: &[[u8; 4]], has: impl Fn(u32) -> bool) -> usize {
    let mut count = 0;
    while words.len() > COUNTED_MAX {
        let (left, right) = words.split_at(words.len() / 2);
        if has(u32::from_le_bytes(right[0])) {
            count += left.len();
            words = right;
        } else {
            words = left;
        }
    }
    // Wrapping, which it never does: checked additions are made one by one, these several at once.
    let counted =
        words.iter().fold(0_u32, |counted, word| counted.wrapping_add(u32::from(has(u32::from_le_bytes(*word)))));
    count + counted as usize
}

/// The first four bytes as a number that rises with them, zeros behind fewer: keys with the same one are compared.
fn word(bytes: &[u8]) -> u32 {
    let [a, b, c, d] = match bytes.first_chunk() {
        Some(four) => *four,
        None => std::array::from_fn(|at| bytes.get(at).copied().unwrap_or(0)),
    };
    u32::from(a) << 24 | u32::from(b) << 16 | u32::from(c) << 8 | u32::from(d)
}

pub(super) fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A key and a version of it.
pub(super) type Place = (Vec<u8>, Lsn);

/// Checks that raw bytes are so many entries in order, at least one, and that runs and words are theirs. Gives the places
/// of the first and the last one. The table refers to these blob files.
pub(super) fn check(raw: &[u8], count: u32, blobs: &[BlobUse]) -> Result<(Place, Place), &'static str> {
    let block = Sorted::split(raw).ok_or("its parts are longer than it")?;
    let (mut spot, mut run, mut entries) = (Spot { entry: 0, value: 0 }, 0, 0);
    let mut key = Vec::new();
    let (mut first, mut previous): (Option<Place>, Option<Place>) = (None, None);
    while spot != block.end() {
        let entry = block.parse(spot).ok_or("an entry is longer than it")?;
        let begins_run = run < block.runs() && block.run(run) == spot;
        if begins_run {
            if entry.shared != 0 || block.words[run] != word(entry.rest).to_le_bytes() {
                return Err("a run does not begin as it says");
            }
            run += 1;
        } else if previous.is_none() {
            return Err("its first entry begins no run");
        } else if block.common.len() + entry.shared > key.len() {
            return Err("a key shares more than there is");
        }
        block.key_of(&entry, &mut key);
        Content::parse(entry.kind, entry.value, blobs).ok_or("an entry is of no known kind")?;
        if let Some((before, lsn)) = &previous {
            if !version_order((before, *lsn), (&key, entry.lsn)).is_lt() {
                return Err("its entries are out of order");
            }
            if !begins_run && common_len(before, &key) != block.common.len() + entry.shared {
                return Err("a key shares more than it says");
            }
        }
        first.get_or_insert_with(|| (key.clone(), entry.lsn));
        let (before, lsn) = previous.get_or_insert_default();
        before.clone_from(&key);
        *lsn = entry.lsn;
        entries += 1;
        spot = entry.next;
    }
    match first.zip(previous) {
        Some(ends) if run == block.runs() && entries == count => Ok(ends),
        _ => Err("its runs or its number of entries are wrong"),
    }
}

/// Gathers entries in order, and lays them out when all are known.
#[derive(Debug)]
pub(super) struct SortedBuilder {
    /// Entries of a run.
    run: usize,
    /// The keys, whole, one after the other.
    keys: Vec<u8>,
    pending: Vec<Pending>,
    values: Vec<u8>,
    /// Bytes of all entries if nothing is common to all keys.
    entries_len: usize,
}

#[derive(Debug)]
struct Pending {
    /// Where its key ends in the keys.
    key_end: usize,
    /// What its key has in common with the one before.
    shared: usize,
    kind: u8,
    lsn: Lsn,
    /// Where its value ends in the values.
    value_end: usize,
}

impl SortedBuilder {
    /// With runs of so many entries.
    pub(super) fn new(run: usize) -> Self {
        Self { run, keys: Vec::new(), pending: Vec::new(), values: Vec::new(), entries_len: 0 }
    }

    pub(super) fn push<'c>(&mut self, key: &[u8], lsn: Lsn, form: impl Into<Form<'c>>) {
        let form = form.into();
        let shared = common_len(self.last_key(), key);
        self.entries_len += ENTRY_LEN + key.len() - if self.begins_run() { 0 } else { shared };
        self.keys.put(key);
        form.store(&mut self.values);
        let (key_end, value_end) = (self.keys.len(), self.values.len());
        self.pending.push(Pending { key_end, shared, kind: form.kind, lsn, value_end });
    }

    fn begins_run(&self) -> bool {
        self.pending.len().is_multiple_of(self.run)
    }

    fn last_key(&self) -> &[u8] {
        match self.pending.as_slice() {
            [] => &[],
            [one] => &self.keys[..one.key_end],
            [.., before, last] => &self.keys[before.key_end..last.key_end],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Bytes it takes at most if it is laid out now.
    pub(super) fn len(&self) -> usize {
        HEADER_LEN + self.pending.len().div_ceil(self.run) * RUN_LEN + self.entries_len + self.values.len()
    }

    /// Bytes it grows by at most when such an entry comes.
    pub(super) fn growth<'c>(key: &[u8], form: impl Into<Form<'c>>) -> usize {
        RUN_LEN + ENTRY_LEN + key.len() + form.into().len()
    }

    /// Its raw bytes and number of entries; the builder is empty again.
    pub(super) fn take(&mut self) -> (Vec<u8>, u32) {
        let first = self.pending.first().map_or(0, |first| first.key_end);
        let common = common_len(&self.keys[..first], self.last_key());
        let runs = self.pending.len().div_ceil(self.run);
        let (mut words, mut entries_at, mut values_at) = (Vec::new(), Vec::new(), Vec::new());
        let mut entries = Vec::with_capacity(self.entries_len);
        let (mut key_at, mut value_at) = (0, 0);
        for (number, entry) in self.pending.iter().enumerate() {
            let key = &self.keys[key_at + common..entry.key_end];
            let shared = match number.is_multiple_of(self.run) {
                true => {
                    words.put_u32(word(key));
                    entries_at.put_u32(len_u32(entries.len()));
                    values_at.put_u32(len_u32(value_at));
                    0
                }
                false => entry.shared - common,
            };
            entries.put_u16(len_u16(shared));
            entries.put_u16(len_u16(key.len() - shared));
            entries.put_u8(entry.kind);
            entries.put_u64(entry.lsn.offset());
            entries.put_u32(len_u32(entry.value_end - value_at));
            entries.put(&key[shared..]);
            (key_at, value_at) = (entry.key_end, entry.value_end);
        }
        let mut raw = Vec::with_capacity(self.len());
        raw.put_u32(len_u32(runs));
        raw.put_u32(len_u32(entries.len()));
        raw.put_u16(len_u16(common));
        raw.put_u16(0);
        raw.put(&self.keys[..common]);
        for part in [&words, &entries_at, &values_at, &entries, &self.values] {
            raw.put(part);
        }
        let count = len_u32(self.pending.len());
        self.keys.clear();
        self.pending.clear();
        self.values.clear();
        self.entries_len = 0;
        (raw, count)
    }
}
