use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Weak};
use std::thread;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::*;

const KEYSPACE: KeyspaceId = KeyspaceId(7);

/// Versions in order: newer ones of a key first.
type Model = BTreeMap<(Vec<u8>, std::cmp::Reverse<u64>), Option<Vec<u8>>>;
type Version = (Vec<u8>, u64, Option<Vec<u8>>);

fn set(memtable_bytes: u64) -> MemtableSet {
    MemtableSet::new(&Arc::new(ChunkPool::new(memtable_bytes, false)))
}

fn lsn(lsn: u64) -> Lsn {
    Lsn::new(lsn)
}

/// The newest version of a key at `at`: its value, or that it was deleted.
fn get(table: &Memtable, key: &[u8], at: Lsn) -> Option<Option<Vec<u8>>> {
    let mut found = None;
    table.versions(key, at, |_, content| {
        found = Some(content.value().map(<[u8]>::to_vec));
        true
    });
    found
}

/// What keys are cruel to a tree that compares a few bytes first.
fn cruel_key(rng: &mut StdRng, shared: &[u8]) -> Vec<u8> {
    let mut key = shared[..[0, 1, 7, 8, 9, 16, shared.len()][rng.random_range(0..7)].min(shared.len())].to_vec();
    let tail = [0, 1, 2, 7, 8, 9, 20][rng.random_range(0..7)];
    key.extend((0..tail).map(|_| [0x00, 0x01, b'a', 0xfe, 0xff][rng.random_range(0..5)]));
    key
}

fn from_entry(entry: EntryRef<'_>) -> Version {
    (entry.key.to_vec(), entry.lsn.offset(), entry.content.value().map(<[u8]>::to_vec))
}

fn forward(table: &Arc<Memtable>, from: Option<(&[u8], Lsn)>) -> Vec<Version> {
    let mut cursor = MemoryCursor::first_from(Arc::clone(table), from);
    let walk = std::iter::from_fn(|| cursor.entry().map(from_entry).inspect(|_| cursor.forward()));
    walk.collect()
}

fn backward(table: &Arc<Memtable>, before: Option<(&[u8], Lsn)>) -> Vec<Version> {
    let mut cursor = MemoryCursor::last_before(Arc::clone(table), before);
    let walk = std::iter::from_fn(|| cursor.entry().map(from_entry).inspect(|_| cursor.back()));
    walk.collect()
}

fn versions<'a>(
    model: impl Iterator<Item = (&'a (Vec<u8>, std::cmp::Reverse<u64>), &'a Option<Vec<u8>>)>,
) -> Vec<Version> {
    model.map(|((key, lsn), value)| (key.clone(), lsn.0, value.clone())).collect()
}

fn check_against(model: &Model, table: &Arc<Memtable>, rng: &mut StdRng, shared: &[u8], lsn_max: u64) {
    let mut visited = Vec::new();
    let visit = |entry: EntryRef<'_>| {
        visited.push(from_entry(entry));
        Ok::<_, ()>(())
    };
    table.for_each(visit).unwrap();
    assert_eq!(visited, versions(model.iter()));
    assert_eq!(forward(table, None), visited);
    visited.reverse();
    assert_eq!(backward(table, None), visited);
    let keys: Vec<_> = model.keys().map(|(key, _)| key.clone()).collect();
    for _ in 0..40 {
        let known = rng.random_bool(0.7);
        let key = if known { keys[rng.random_range(0..keys.len())].clone() } else { cruel_key(rng, shared) };
        let at = [0, 1, rng.random_range(0..=lsn_max), u64::MAX][rng.random_range(0..4)];
        let place = (key.clone(), std::cmp::Reverse(at));
        let ahead = versions(model.range((Bound::Included(&place), Bound::Unbounded)));
        let found = ahead.first().filter(|(found, ..)| *found == key).map(|(.., value)| value.clone());
        let got = get(table, &key, lsn(at));
        assert_eq!(got, found, "{key:?} at {at}");
        assert_eq!(forward(table, Some((&key, lsn(at)))), ahead);
        let behind = versions(model.range((Bound::Unbounded, Bound::Excluded(&place))).rev());
        assert_eq!(backward(table, Some((&key, lsn(at)))), behind);
    }
}

#[test]
fn a_memtable_is_an_ordered_map_whatever_its_keys_look_like() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let set = set([1, 64 << 10, 64 << 20][seed as usize % 3]);
        let shared: Vec<u8> = {
            let len = [0, 3, 8, 20, 100, 300][rng.random_range(0..6)];
            (0..len).map(|_| [0x00, b'k', 0xff][rng.random_range(0..3)]).collect()
        };
        let mut model = Model::new();
        // Few keys have many versions, many keys have few.
        let keys: Vec<_> = (0..[3, 100, 3000][rng.random_range(0..3)]).map(|_| cruel_key(&mut rng, &shared)).collect();
        for commit in 1..=300 {
            let mut writer = set.writer();
            for _ in 0..rng.random_range(1..10) {
                let key = &keys[rng.random_range(0..keys.len())];
                let len = [0, 1, 30, if rng.random_bool(0.02) { 40_000 } else { 5 }][rng.random_range(0..4)];
                let value = rng.random_bool(0.8).then(|| vec![rng.random(); len]);
                writer.insert(KEYSPACE, key, lsn(commit), value.as_deref().map_or(Content::Delete, Content::Put));
                model.insert((key.clone(), std::cmp::Reverse(commit)), value);
            }
        }
        check_against(&model, set.table(KEYSPACE).unwrap(), &mut rng, &shared, 300);
    }
}

#[test]
fn keys_that_rise_or_fall_or_share_a_long_beginning_are_all_there() {
    let shared = vec![0xab; 300];
    let key = |number: u32| [&shared[..], format!("{number:010}").as_bytes()].concat();
    let orders: [fn(u32) -> u32; 3] = [|number| number, |number| 20_000 - number, |number| number.wrapping_mul(7919)];
    for order in orders {
        let set = set(64 << 20);
        let mut model = Model::new();
        for number in 0..20_000 {
            let key = key(order(number));
            set.writer().insert(KEYSPACE, &key, lsn(1), Content::Put(&[1]));
            model.insert((key, std::cmp::Reverse(1)), Some(vec![1]));
        }
        let mut rng = StdRng::seed_from_u64(1);
        check_against(&model, set.table(KEYSPACE).unwrap(), &mut rng, &shared, 1);
    }
}

#[test]
fn the_last_operation_of_a_commit_on_a_key_replaces_the_one_before() {
    let set = set(1 << 20);
    // Among so many others that it comes to be the first of its leaf, and the least of its parent's.
    for number in (0..2_000_u32).rev() {
        let mut writer = set.writer();
        writer.insert(KEYSPACE, &number.to_le_bytes(), lsn(5), Content::Put(b"first"));
    }
    let mut writer = set.writer();
    for number in 0..2_000_u32 {
        writer.insert(KEYSPACE, &number.to_le_bytes(), lsn(5), Content::Delete);
        writer.insert(KEYSPACE, &number.to_le_bytes(), lsn(5), Content::Put(b"last"));
    }
    drop(writer);
    let table = set.table(KEYSPACE).unwrap();
    let entries = forward(table, None);
    assert_eq!(entries.len(), 2_000);
    assert!(entries.iter().all(|(_, _, value)| value.as_deref() == Some(b"last")));
    assert_eq!(get(table, &7_u32.to_le_bytes(), lsn(5)).unwrap().unwrap(), b"last");
    assert!(get(table, &7_u32.to_le_bytes(), lsn(4)).is_none());
}

#[test]
fn keyspaces_of_a_set_do_not_mix() {
    let set = set(1 << 20);
    let keyspaces: Vec<_> = (1..=500).map(KeyspaceId).collect();
    let mut writer = set.writer();
    for keyspace in keyspaces.iter().rev() {
        writer.insert(*keyspace, b"k", lsn(1), Content::Put(&keyspace.0.to_le_bytes()));
    }
    drop(writer);
    for keyspace in &keyspaces {
        assert_eq!(get(set.table(*keyspace).unwrap(), b"k", lsn(1)).unwrap().unwrap(), keyspace.0.to_le_bytes()[..]);
    }
    assert!(set.table(KeyspaceId(501)).is_none());
    assert_eq!(set.tables().into_iter().map(|(keyspace, _)| keyspace).collect::<Vec<_>>(), keyspaces);
}

#[test]
fn bytes_are_what_was_taken_and_chunks_go_round_within_their_bound() {
    let pool = Arc::new(ChunkPool::new(4 << 20, false));
    let fill = |entries: u32| {
        let set = MemtableSet::new(&pool);
        assert_eq!(set.bytes(), 0);
        for number in 0..entries {
            let before = set.bytes();
            set.writer().insert(KEYSPACE, &number.wrapping_mul(7919).to_le_bytes(), lsn(1), Content::Put(&[0; 100]));
            assert!(set.bytes() >= before + 104, "an entry takes at least what it holds");
        }
        set
    };
    assert_eq!(pool.kept_bytes(), 0);
    let set = fill(10_000);
    let cost = set.bytes() / 10_000;
    assert!((120..180).contains(&cost), "{cost} bytes for an entry of 104");
    set.writer().insert(KEYSPACE, b"large", lsn(2), Content::Put(&vec![0; 9 << 20]));
    let bytes = set.bytes();
    assert!(bytes > 9 << 20);
    let cursor = MemoryCursor::first_from(Arc::clone(set.table(KEYSPACE).unwrap()), None);
    drop(set);
    assert_eq!(pool.kept_bytes(), 0, "a cursor holds what it walks over");
    drop(cursor);
    let kept = pool.kept_bytes();
    assert!(kept > 1 << 20 && kept < bytes - (9 << 20) + (128 << 10), "{kept}");
    let (first, second) = (fill(20_000), fill(20_000));
    assert_eq!(pool.kept_bytes(), 0, "they are used before memory is asked for");
    drop((first, second));
    assert_eq!(pool.kept_bytes(), 4 << 20, "no more than one set of memtables");
}

#[test]
fn to_anticipate_inserts_changes_nothing() {
    let mut rng = StdRng::seed_from_u64(5);
    let keys: Vec<Vec<u8>> = (0..5000).map(|_| cruel_key(&mut rng, &[b'x'; 40])).collect();
    let (plain, anticipated) = (set(4 << 20), set(4 << 20));
    for (number, keys) in keys.chunks(AHEAD).enumerate() {
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).filter(|key| !key.is_empty()).collect();
        anticipated.writer().anticipate(KEYSPACE, &keys);
        for set in [&plain, &anticipated] {
            keys.iter().for_each(|key| set.writer().insert(KEYSPACE, key, lsn(number as u64 + 1), Content::Put(b"v")));
        }
    }
    let all = |set: &MemtableSet| forward(set.table(KEYSPACE).unwrap(), None);
    assert_eq!(all(&anticipated), all(&plain));
    assert_eq!(anticipated.bytes(), plain.bytes());
}

#[test]
fn a_cursor_sees_all_there_was_when_it_was_made_while_the_memtable_grows() {
    let set = set(64 << 20);
    let mut rng = StdRng::seed_from_u64(3);
    let mut keys: Vec<u32> = (0..6_000).collect();
    keys.shuffle(&mut rng);
    let (before, after) = keys.split_at(3_000);
    for key in before {
        set.writer().insert(KEYSPACE, &key.to_le_bytes(), lsn(1), Content::Put(b"1"));
    }
    let table = set.table(KEYSPACE).unwrap();
    let mut up = MemoryCursor::first_from(Arc::clone(table), None);
    let mut down = MemoryCursor::last_before(Arc::clone(table), None);
    let (mut met_up, mut met_down) = (Vec::new(), Vec::new());
    let mut after = after.iter();
    while up.entry().is_some() || down.entry().is_some() {
        met_up.extend(up.entry().map(from_entry));
        met_down.extend(down.entry().map(from_entry));
        up.forward();
        down.back();
        // New keys, and new versions of old ones.
        for key in after.by_ref().take(2) {
            set.writer().insert(KEYSPACE, &key.to_le_bytes(), lsn(2), Content::Put(b"2"));
            set.writer().insert(KEYSPACE, &before[*key as usize % 3_000].to_le_bytes(), lsn(2), Content::Delete);
        }
    }
    met_down.reverse();
    for met in [met_up, met_down] {
        assert!(met.is_sorted_by(|a, b| (&a.0, b.1) < (&b.0, a.1)), "in order, none twice");
        let old: HashSet<_> = met.iter().filter(|(_, lsn, _)| *lsn == 1).map(|(key, ..)| key.clone()).collect();
        assert_eq!(old.len(), 3_000);
        assert!(met.len() > 3_000, "some new ones are met");
    }
}

/// Keys with beginnings of several lengths that many share.
fn shuffled_keys(count: u32) -> Vec<Vec<u8>> {
    let beginnings: [&[u8]; 4] = [b"", b"eight by", b"a beginning of more than sixteen bytes", &[0xff; 100]];
    let key =
        |number: u32| [beginnings[number as usize % 4], &number.wrapping_mul(2_654_435_769).to_le_bytes()].concat();
    (0..count).map(key).collect()
}

/// Inserts a few thousand keys, and looks for all of them whenever a node was split of which its parent does not know.
fn keys_missed_during_splits(plant_bug: bool) -> usize {
    let set = Arc::new(set(64 << 20));
    let keys = Arc::new(shuffled_keys(3_000));
    set.writer().insert(KEYSPACE, &keys[0], lsn(1), Content::Delete);
    let missed = Arc::new(AtomicUsize::new(0));
    let inserted = Arc::new(AtomicUsize::new(1));
    let probe = &set.table(KEYSPACE).unwrap().tree.probe;
    if plant_bug {
        probe.plant_bug();
    }
    probe.on_split({
        let (set, keys): (Weak<MemtableSet>, _) = (Arc::downgrade(&set), Arc::clone(&keys));
        let (missed, inserted) = (Arc::clone(&missed), Arc::clone(&inserted));
        move || {
            let set = set.upgrade().unwrap();
            let inserted = inserted.load(Ordering::Relaxed);
            let table = set.table(KEYSPACE).unwrap();
            let found = keys[..inserted].iter().filter(|key| get(table, key, lsn(1)).is_some()).count();
            let lost = inserted - found;
            missed.fetch_add(lost, Ordering::Relaxed);
        }
    });
    for key in &keys[1..] {
        set.writer().insert(KEYSPACE, key, lsn(1), Content::Delete);
        inserted.fetch_add(1, Ordering::Relaxed);
    }
    missed.load(Ordering::Relaxed)
}

#[test]
fn no_key_is_missed_between_a_split_and_its_parents_hearing_of_it() {
    assert_eq!(keys_missed_during_splits(false), 0);
}

#[test]
fn a_tree_whose_readers_do_not_go_to_the_right_is_found_out() {
    assert!(keys_missed_during_splits(true) > 0);
}

/// One writer puts `count` keys in random order while three readers get what was published, and walk both ways. Says
/// what went wrong, first of all.
fn readers_beside_a_writer(count: u32, plant_bug: bool) -> Result<u64, String> {
    let set = set(64 << 20);
    let keys = shuffled_keys(count);
    set.writer().insert(KEYSPACE, &keys[0], lsn(1), Content::Put(&0_u32.to_le_bytes()));
    let table = set.table(KEYSPACE).unwrap();
    if plant_bug {
        table.tree.probe.plant_bug();
    }
    // Splits take long, now and then, so that readers meet them on any machine.
    table.tree.probe.on_split({
        let splits = AtomicUsize::new(0);
        move || {
            if splits.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
                thread::yield_now();
            }
        }
    });
    let published = AtomicUsize::new(1);
    let failed: Mutex<Option<String>> = Mutex::new(None);
    let checks = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for (number, key) in keys.iter().enumerate().skip(1) {
                if failed.lock().unwrap().is_some() {
                    break;
                }
                set.writer().insert(KEYSPACE, key, lsn(number as u64), Content::Put(&(number as u32).to_le_bytes()));
                published.store(number + 1, Ordering::Release);
            }
            published.store(usize::MAX, Ordering::Release);
        });
        for seed in 0..3 {
            let (keys, published, failed, checks) = (&keys, &published, &failed, &checks);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed);
                while failed.lock().unwrap().is_none() {
                    let there = published.load(Ordering::Acquire);
                    let last = there == usize::MAX;
                    let there = there.min(keys.len());
                    let result = check_gets(table, &keys[..there], &mut rng)
                        .and_then(|()| check_walks(table, &keys[..there], &mut rng));
                    if let Err(wrong) = result {
                        failed.lock().unwrap().get_or_insert(wrong);
                    }
                    checks.fetch_add(1, Ordering::Relaxed);
                    if last {
                        break;
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap().map_or(Ok(checks.into_inner() as u64), Err)
}

fn check_gets(table: &Memtable, keys: &[Vec<u8>], rng: &mut StdRng) -> Result<(), String> {
    for round in 0..2_000 {
        // What came last is where the splits are.
        let number =
            if round % 2 == 0 { rng.random_range(0..keys.len()) } else { keys.len() - 1 - round % keys.len().min(100) };
        match get(table, &keys[number], Lsn::MAX) {
            Some(Some(value)) if value == (number as u32).to_le_bytes()[..] => {}
            other => return Err(format!("key {number} of {}: {other:?}", keys.len())),
        }
    }
    Ok(())
}

fn check_walks(table: &Arc<Memtable>, keys: &[Vec<u8>], rng: &mut StdRng) -> Result<(), String> {
    // A walk over everything takes long; a part of it from anywhere shows as much.
    let from = keys[rng.random_range(0..keys.len())].clone();
    for is_forward in [true, false] {
        let mut cursor = match is_forward {
            true => MemoryCursor::first_from(Arc::clone(table), Some((&from, Lsn::MAX))),
            false => MemoryCursor::last_before(Arc::clone(table), Some((&from, Lsn::ZERO))),
        };
        let mut walked: Vec<Vec<u8>> = Vec::new();
        while let Some(entry) = cursor.entry().filter(|_| walked.len() < 5_000) {
            walked.push(entry.key.to_vec());
            if is_forward { cursor.forward() } else { cursor.back() }
        }
        let is_complete = cursor.entry().is_none();
        if !is_forward {
            walked.reverse();
        }
        if !walked.is_sorted_by(|a, b| a < b) {
            return Err("a walk is out of order".to_owned());
        }
        let (first, last) = (walked.first().unwrap_or(&from), walked.last().unwrap_or(&from));
        let met: HashSet<_> = walked.iter().collect();
        let due = |key: &Vec<u8>| match is_forward {
            true => *key >= from && (is_complete || key <= last),
            false => *key <= from && (is_complete || key >= first),
        };
        if let Some(missed) = keys.iter().find(|key| due(key) && !met.contains(key)) {
            return Err(format!("a walk misses {missed:?}"));
        }
    }
    Ok(())
}

#[test]
fn readers_miss_nothing_while_a_writer_fills_the_tree() {
    let checks = readers_beside_a_writer(300_000, false).unwrap();
    assert!(checks >= 3);
}

#[test]
fn readers_beside_a_writer_notice_a_tree_that_loses_keys() {
    assert!(readers_beside_a_writer(300_000, true).is_err());
}
