//! The database against a map: random commits, transactions, snapshots, reads, flushes, merges, copies, reopening and
//! crashes, by seed. The map says what each read finds and which transaction must conflict; the database never differs.
//!
//! `SEAWALL_MODEL_SEEDS=10000 cargo test --release -p seawall-engine --test model` runs many seeds and counts what happened.
//! A seed that fails prints the command that runs it alone.

mod common;
mod map;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Entries, all_at, crashed_somehow, inline, threaded};
use map::{Action, Change, Incarnation, Map, Reads, Span, Value, act};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use seawall_engine::mutant::{Mutant, with_mutant};
use seawall_engine::{
    Background, Builder, Commit, CommitLevel, Db, Error, Keyspace, MergeOperator, Snapshot, Transaction,
};
use seawall_wal::clock::ManualClock;
use seawall_wal::storage::{MemoryDisk, Storage};
use seawall_wal::{Clock, Lsn, Timestamp};

const NAMES: [&str; 3] = ["users", "orders", "x"];
const OPEN_MAX: usize = 3;

/// What happened, summed over seeds.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    seeds: u64,
    operations: u64,
    commits: u64,
    transactions: u64,
    conflicts: u64,
    snapshots: u64,
    copies: u64,
    reopenings: u64,
    crashes: u64,
    /// Commits that crashes took away; none of them was acknowledged.
    lost: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        let Self { seeds, operations, commits, transactions, conflicts, snapshots, copies, reopenings, crashes, lost } =
            other;
        self.seeds += seeds;
        self.operations += operations;
        self.commits += commits;
        self.transactions += transactions;
        self.conflicts += conflicts;
        self.snapshots += snapshots;
        self.copies += copies;
        self.reopenings += reopenings;
        self.crashes += crashes;
        self.lost += lost;
    }
}

/// How a seed's database is built, and with which bug while it is opened.
#[derive(Clone, Copy)]
struct Setup {
    build: fn(&MemoryDisk) -> Builder,
    steps: usize,
    while_opening: Option<Mutant>,
    /// Whether time passes; else only as far as commits need it.
    time_passes: bool,
}

/// A transaction, and what the map expects of it.
struct Open {
    transaction: Transaction,
    at: Lsn,
    used: Used,
}

/// What a transaction has read and is going to write.
#[derive(Default)]
struct Used {
    /// Takes effect before `writes`.
    removed: Vec<Span>,
    writes: BTreeMap<(Incarnation, Vec<u8>), Vec<Action>>,
    reads: Reads,
}

impl Used {
    /// What it does to a key.
    fn own(&self, incarnation: Incarnation, key: &[u8]) -> Vec<Action> {
        let removed = self.removed.iter().any(|span| span.contains(incarnation, key)).then_some(Action::Remove);
        let written = self.writes.get(&(incarnation, key.to_owned())).cloned();
        written.unwrap_or(Vec::from_iter(removed))
    }

    fn remove_range(&mut self, span: Span) {
        self.writes.retain(|(incarnation, key), _| !span.contains(*incarnation, key));
        self.removed.extend(Some(span).filter(|span| !span.is_empty()));
    }

    fn writes_nothing(&self) -> bool {
        self.removed.is_empty() && self.writes.is_empty()
    }

    /// The keyspaces it used.
    fn incarnations(&self) -> BTreeSet<Incarnation> {
        let removed = self.removed.iter().map(|span| span.incarnation);
        let written = self.writes.keys().map(|(incarnation, _)| *incarnation);
        removed.chain(written).chain(self.reads.incarnations()).collect()
    }

    fn changes(self) -> Vec<Change> {
        let removed = self.removed.into_iter().map(|span| Change::RemoveRange(span.incarnation, span));
        let written = self.writes.into_iter().flat_map(|((incarnation, key), own)| {
            own.into_iter().map(move |action| Change::Key(incarnation, key.clone(), action))
        });
        removed.chain(written).collect()
    }
}

/// Whether what is to be done to a key depends on what is there.
fn builds_on_stored(actions: &[Action]) -> bool {
    actions.iter().all(|action| matches!(action, Action::Merge(..)))
}

/// Whether operations on one key would have to be a single one of several operators.
fn mixes_operators<'a>(actions: impl Iterator<Item = &'a Action>) -> bool {
    let mut operators = BTreeSet::new();
    for action in actions {
        match action {
            Action::Merge(operator, _) => drop(operators.insert(Some(*operator))),
            _ => return operators.len() > 1,
        }
    }
    operators.len() > 1
}

/// What a transaction sees of a key after one of its own actions. What it puts does not end before it is committed.
fn as_seen(value: Option<Value>, action: &Action) -> Option<Value> {
    match action {
        Action::Put(value, _) => Some((value.clone(), None)),
        action => act(value, 0, action),
    }
}

struct Run {
    random: StdRng,
    /// Says from which length on values lie in blob files, which differs from one opening to the next.
    limits: StdRng,
    disk: MemoryDisk,
    setup: Setup,
    clock: Arc<ManualClock>,
    /// Bytes of memtables and tables.
    sizes: (u64, u64),
    db: Option<Db>,
    map: Map,
    /// Everything up to here was acknowledged as surviving power loss.
    acknowledged: Lsn,
    handles: BTreeMap<Incarnation, Keyspace>,
    snapshots: Vec<Snapshot>,
    transactions: Vec<Open>,
    counts: Counts,
}

impl Run {
    fn new(seed: u64, setup: Setup) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let sizes =
            ([2 << 10, 8 << 10, 32 << 10][random.random_range(0..3)], [512, 2 << 10][random.random_range(0..2)]);
        let mut run = Self {
            random,
            limits: StdRng::seed_from_u64(!seed),
            disk: MemoryDisk::new(),
            setup,
            clock: Arc::new(ManualClock::new(Timestamp(1_700_000_000_300_000))),
            sizes,
            db: None,
            map: Map::default(),
            acknowledged: Lsn::ZERO,
            handles: BTreeMap::new(),
            snapshots: Vec::new(),
            transactions: Vec::new(),
            counts: Counts { seeds: 1, ..Counts::default() },
        };
        run.open();
        run
    }

    fn db(&self) -> &Db {
        self.db.as_ref().unwrap()
    }

    fn open(&mut self) {
        let (memtable_bytes, table_bytes) = self.sizes;
        let least = [None, Some(1), Some(20), Some(800)][self.limits.random_range(0..4)];
        let builder = (self.setup.build)(&self.disk)
            .clock(self.clock.clone())
            .blob_bytes(least)
            .memtable_bytes(memtable_bytes)
            .table_bytes(table_bytes);
        let open = || builder.open().unwrap();
        self.db = Some(match self.setup.while_opening {
            Some(mutant) => with_mutant(mutant, open),
            None => open(),
        });
    }

    fn chance(&mut self, of_hundred: u32) -> bool {
        self.random.random_range(0..100) < of_hundred
    }

    fn key(&mut self) -> Vec<u8> {
        let len = self.random.random_range(1..4);
        (0..len).map(|_| b"abc\xff\x00"[self.random.random_range(0..5)]).collect()
    }

    /// Random bytes do not compress, so that levels fill.
    fn value(&mut self) -> Vec<u8> {
        let len = match self.random.random_range(0..40) {
            0 => 3_000,
            1..4 => 900,
            _ => self.random.random_range(0..30),
        };
        let mut value = vec![0; len];
        self.random.fill(&mut value[..]);
        value
    }

    /// Mostly a value or a remove; the rest is rarer and stranger.
    fn action(&mut self) -> Action {
        match self.random.random_range(0..100) {
            0..45 => Action::Put(self.value(), None),
            45..60 => {
                let ttl = [0, 400_000, 1_000_000, 3_500_000, 60_000_000][self.random.random_range(0..5)];
                Action::Put(self.value(), Some(ttl))
            }
            60..80 => Action::Remove,
            80..90 => Action::Merge(MergeOperator::Add, self.random.random::<i64>().to_le_bytes().to_vec()),
            90..94 => Action::Merge(MergeOperator::Max, self.value()),
            _ => {
                let len = self.random.random_range(0..6);
                Action::Merge(MergeOperator::Append, (0..len).map(|_| self.random.random()).collect())
            }
        }
    }

    fn bounds(&mut self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        if self.chance(30) {
            return (Bound::Unbounded, Bound::Unbounded);
        }
        let (a, b) = (self.key(), self.key());
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let upper = match self.random.random_range(0..3) {
            0 => Bound::Unbounded,
            1 if low < high => Bound::Excluded(high),
            _ => Bound::Included(high),
        };
        (if self.chance(50) { Bound::Included(low) } else { Bound::Excluded(low) }, upper)
    }

    /// Of what is to be removed: to the end less often, or there would never be much.
    fn bounds_to_remove(&mut self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        loop {
            let bounds = self.bounds();
            if bounds.1 != Bound::Unbounded || self.chance(10) {
                return bounds;
            }
        }
    }

    /// A keyspace that is there now, made if need be.
    fn keyspace(&mut self) -> (Incarnation, Keyspace) {
        let name = NAMES[self.random.random_range(0..NAMES.len())];
        let incarnation = match self.map.live(name) {
            Some(incarnation) => incarnation,
            None => {
                self.db().keyspace(name).unwrap();
                let (lsn, time) = self.applied();
                // Like all changes of keyspaces it is waited for.
                self.acknowledged = lsn;
                self.map.create(name, lsn, time)
            }
        };
        let db = self.db.as_ref().unwrap();
        let handle = self.handles.entry(incarnation).or_insert_with(|| db.existing_keyspace(name).unwrap());
        (incarnation, handle.clone())
    }

    fn applied(&self) -> (Lsn, u64) {
        let (position, time) = self.db().applied();
        (position.lsn, time.0)
    }

    fn level(&mut self) -> CommitLevel {
        if self.chance(50) { CommitLevel::Local } else { CommitLevel::Buffered }
    }

    fn committed(&mut self, Commit { lsn, time }: Commit, changes: Vec<Change>, level: CommitLevel) {
        self.map.commit(lsn, time.0, changes);
        self.counts.commits += 1;
        if level == CommitLevel::Local {
            self.acknowledged = lsn;
        }
    }

    fn batch(&mut self) {
        let mut batch = self.db().batch();
        let mut changes = Vec::new();
        for _ in 0..self.random.random_range(1..6) {
            let (incarnation, keyspace) = self.keyspace();
            if self.chance(8) {
                let bounds = self.bounds_to_remove();
                batch.remove_range(&keyspace, bounds.clone());
                changes.push(Change::RemoveRange(incarnation, Span { incarnation, bounds }));
                continue;
            }
            let key = self.key();
            let action = self.action();
            match &action {
                Action::Put(value, None) => batch.put(&keyspace, &key, value),
                Action::Put(value, Some(ttl)) => {
                    batch.put_with_ttl(&keyspace, &key, value, Duration::from_micros(*ttl))
                }
                Action::Remove => batch.remove(&keyspace, &key),
                Action::Merge(operator, operand) => batch.merge(&keyspace, &key, *operator, operand),
            };
            changes.push(Change::Key(incarnation, key, action));
        }
        if batch.is_empty() {
            // Ranges without a key in them, which leave no record.
            return;
        }
        let level = self.level();
        let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for change in &changes {
            if let Change::Key(incarnation, key, action) = change {
                by_key.entry((incarnation, key)).or_default().push(action);
            }
        }
        let mixed = by_key.values().any(|actions| mixes_operators(actions.iter().copied()));
        match batch.commit_with(level) {
            Ok(commit) => {
                assert!(!mixed, "operators were mixed");
                self.committed(commit, changes, level);
            }
            Err(Error::MixedOperators { .. }) => assert!(mixed, "operators were not mixed"),
            Err(error) => panic!("{error}"),
        }
    }

    fn begin(&mut self) {
        if self.transactions.len() == OPEN_MAX {
            return;
        }
        let transaction = self.db().transaction().unwrap();
        let at = transaction.lsn();
        assert!(at >= self.acknowledged, "what was acknowledged is visible");
        self.transactions.push(Open { transaction, at, used: Used::default() });
    }

    fn use_transaction(&mut self) {
        if self.transactions.is_empty() {
            return self.begin();
        }
        let index = self.random.random_range(0..self.transactions.len());
        let (incarnation, keyspace) = self.keyspace();
        let (key, kind) = (self.key(), self.random.random_range(0..10));
        match kind {
            0..4 if self.chance(10) => {
                let bounds = self.bounds_to_remove();
                let open = &mut self.transactions[index];
                match open.transaction.remove_range(&keyspace, bounds.clone()) {
                    Ok(()) => open.used.remove_range(Span { incarnation, bounds }),
                    Err(error) => assert!(matches!(error, Error::TooLarge { what: "batch", .. }), "{error}"),
                }
            }
            0..4 => {
                let action = self.action();
                let open = &mut self.transactions[index];
                let written = match &action {
                    Action::Put(value, None) => open.transaction.put(&keyspace, &key, value),
                    Action::Put(value, Some(ttl)) => {
                        open.transaction.put_with_ttl(&keyspace, &key, value, Duration::from_micros(*ttl))
                    }
                    Action::Remove => open.transaction.remove(&keyspace, &key),
                    Action::Merge(operator, operand) => open.transaction.merge(&keyspace, &key, *operator, operand),
                };
                let mut own = open.used.own(incarnation, &key);
                own.push(action);
                match written {
                    Ok(()) => {
                        assert!(!mixes_operators(own.iter()), "operators were mixed");
                        open.used.writes.insert((incarnation, key), own);
                    }
                    Err(Error::MixedOperators { .. }) => {
                        assert!(mixes_operators(own.iter()), "operators were not mixed")
                    }
                    Err(error) => assert!(matches!(error, Error::TooLarge { what: "batch", .. }), "{error}"),
                }
            }
            4..7 => {
                let mut keys = vec![key];
                if self.chance(30) {
                    keys.extend((0..self.random.random_range(0..5)).map(|_| self.key()));
                }
                let open = &mut self.transactions[index];
                let found = match &keys[..] {
                    [key] => vec![open.transaction.get(&keyspace, key).unwrap()],
                    keys => open.transaction.multi_get(&keyspace, keys).unwrap(),
                };
                for (key, found) in keys.into_iter().zip(found) {
                    let own = open.used.own(incarnation, &key);
                    let stored = self.map.value(incarnation, &key, open.at);
                    if builds_on_stored(&own) {
                        open.used.reads.keys.insert((incarnation, key.clone()));
                        let ends = stored.as_ref().and_then(|(_, end)| *end);
                        open.used.reads.ends.extend(ends.map(|end| (incarnation, key.clone(), end)));
                    }
                    let expected = own.iter().fold(stored, as_seen).map(|(value, _)| value);
                    assert_eq!(found, expected.map(Bytes::from), "{key:?} in a transaction");
                }
            }
            _ => self.walk_transaction(index, incarnation, &keyspace),
        }
    }

    /// Walks some steps of a range of a transaction from both ends.
    fn walk_transaction(&mut self, index: usize, incarnation: Incarnation, keyspace: &Keyspace) {
        let bounds = self.bounds();
        let open = &mut self.transactions[index];
        let mut expected = self.map.values(incarnation, open.at);
        expected.retain(|key, _| !open.used.removed.iter().any(|span| span.contains(incarnation, key)));
        for ((_, key), own) in open.used.writes.range((incarnation, Vec::new())..(incarnation.next(), Vec::new())) {
            let stored = expected.remove(key).filter(|_| builds_on_stored(own));
            expected.extend(own.iter().fold(stored, as_seen).map(|value| (key.clone(), value)));
        }
        let mut expected = expected.range(bounds.clone());
        let mut range = open.transaction.range(keyspace, bounds.clone());
        let patience = self.random.random_range(0..12);
        let (mut front, mut back) = (None, None);
        for _ in 0..patience {
            let forward = self.random.random_bool(0.5);
            let (found, wanted) = match forward {
                true => (range.next(), expected.next()),
                false => (range.next_back(), expected.next_back()),
            };
            let found = found.transpose().unwrap().map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert_eq!(found, wanted.map(|(key, (value, _))| (key.clone(), value.clone())), "walking a transaction");
            if let Some((key, (_, Some(end)))) = wanted {
                open.used.reads.ends.push((incarnation, key.clone(), *end));
            }
            let Some((key, _)) = found else {
                front = Some(bounds.clone());
                break;
            };
            match forward {
                true => front = Some((bounds.0.clone(), Bound::Included(key))),
                false => back = Some((Bound::Included(key), bounds.1.clone())),
            }
        }
        open.used.reads.spans.extend([front, back].into_iter().flatten().map(|bounds| Span { incarnation, bounds }));
    }

    fn finish_transaction(&mut self) {
        if self.transactions.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.transactions.len());
        let Open { transaction, at, used } = self.transactions.swap_remove(index);
        if self.chance(10) {
            return;
        }
        self.counts.transactions += 1;
        let level = self.level();
        let dropped = used.incarnations().into_iter().any(|incarnation| self.map.is_dropped(incarnation));
        let conflicts = self.map.conflicts(&used.reads, at);
        let removals = self.map.removals(&used.reads, at);
        let end = self.db().log().end();
        let committed = transaction.commit_with(level);
        match committed {
            Ok(commit) if used.writes_nothing() => {
                // With threads the last commit may wait to be applied.
                assert!(commit.lsn <= end.lsn);
                assert_eq!(self.db().log().end(), end, "nothing was written");
            }
            Ok(commit) => {
                assert!(!dropped, "a transaction that used a dropped keyspace was committed");
                assert!(conflicts.is_empty(), "committed over {conflicts:?}, begun at {at}");
                assert!(removals.is_empty(), "committed over {removals:?}, begun at {at}");
                self.committed(commit, used.changes(), level);
            }
            Err(Error::Conflict { keyspace, key, lsn }) => {
                let named = (keyspace, key.to_vec(), lsn);
                let expected = conflicts.contains(&named) || removals.contains(&(named.0.clone(), lsn));
                assert!(!used.writes_nothing() && expected, "{named:?} is none of {conflicts:?} or {removals:?}");
                assert_eq!(self.db().log().end(), end, "a conflict writes nothing");
                self.counts.conflicts += 1;
            }
            Err(Error::UnknownKeyspace { .. }) => assert!(!used.writes_nothing() && dropped, "no keyspace was dropped"),
            Err(error) => panic!("{error}"),
        }
    }

    /// Gets of several keys, one by one and at once, as of a snapshot or now.
    fn get(&mut self) {
        let count = self.random.random_range(1..30);
        let keys: Vec<_> = (0..count).map(|_| self.key()).collect();
        let (incarnation, keyspace) = self.keyspace();
        if let Some(snapshot) = self.snapshots.first().filter(|_| self.random.random_bool(0.5)) {
            let expected: Vec<_> =
                keys.iter().map(|key| self.map.get(incarnation, key, snapshot.lsn()).map(Bytes::from)).collect();
            assert_eq!(snapshot.multi_get(&keyspace, &keys).unwrap(), expected, "at {}", snapshot.lsn());
            assert_eq!(snapshot.get(&keyspace, &keys[0]).unwrap(), expected[0], "at {}", snapshot.lsn());
            return;
        }
        let before = self.db().visible();
        let (many, one) = (keyspace.multi_get(&keys).unwrap(), keyspace.get(&keys[0]).unwrap());
        // With threads it may be flushed in between.
        if self.db().visible() == before {
            assert!(before >= self.acknowledged, "what was acknowledged is visible");
            let expected: Vec<_> =
                keys.iter().map(|key| self.map.get(incarnation, key, before).map(Bytes::from)).collect();
            assert_eq!((&one, &many), (&expected[0], &expected), "at {before}");
        }
    }

    /// A range or prefix as of now, walked from both ends to the end.
    fn walk(&mut self) {
        let snapshot = self.db().snapshot().unwrap();
        let (incarnation, keyspace) = self.keyspace();
        let all = self.map.all(incarnation, snapshot.lsn());
        if self.chance(30) {
            let prefix = self.key();
            let found: Vec<_> = snapshot.prefix(&keyspace, &prefix).map(|pair| pair.unwrap().0.to_vec()).collect();
            let expected = all.keys().filter(|key| key.starts_with(&prefix));
            assert!(found.iter().eq(expected), "prefix {prefix:?}");
            return;
        }
        let bounds = self.bounds();
        let mut range = snapshot.range(&keyspace, bounds.clone());
        let mut expected = all.range(bounds);
        loop {
            let owned = |pair: Result<(Bytes, Bytes), Error>| pair.map(|(key, value)| (key.to_vec(), value.to_vec()));
            let (found, wanted) = match self.random.random_range(0..3) {
                0 => (range.next().map(owned), expected.next()),
                1 => (range.next_back().map(owned), expected.next_back()),
                _ => {
                    let found = range.next_borrowed();
                    (found.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec()))), expected.next())
                }
            };
            let found = found.transpose().unwrap();
            assert_eq!(found, wanted.map(|(key, value)| (key.clone(), value.clone())));
            if found.is_none() {
                break;
            }
        }
    }

    /// Everything as of a snapshot.
    fn check(&self, snapshot: &Snapshot) {
        assert_eq!(snapshot.time().0, self.map.time_at(snapshot.lsn()), "the time at {}", snapshot.lsn());
        let there = self.map.there(snapshot.lsn());
        assert_eq!(snapshot.keyspaces(), there.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for (name, incarnation) in there {
            let keyspace = snapshot.keyspace(name).unwrap();
            let expected: Entries = self.map.all(incarnation, snapshot.lsn()).into_iter().collect();
            assert_eq!(all_at(snapshot, &keyspace), expected, "{name} at {}", snapshot.lsn());
        }
    }

    fn check_now(&self) {
        let snapshot = self.db().snapshot().unwrap();
        assert!(snapshot.lsn() >= self.acknowledged, "what was acknowledged is visible");
        self.check(&snapshot);
    }

    fn let_go(&mut self) {
        self.snapshots.clear();
        self.transactions.clear();
        self.handles.clear();
    }

    fn reopen(&mut self) {
        self.let_go();
        self.db.take().unwrap().close().unwrap();
        self.acknowledged = self.map.end();
        self.open();
        assert!(self.db().applied().0.lsn >= self.acknowledged, "a clean shutdown loses nothing");
        self.check_now();
        self.counts.reopenings += 1;
    }

    fn crash(&mut self) {
        let crashed = crashed_somehow(&self.disk, &mut self.random);
        self.let_go();
        self.db = None;
        self.disk = crashed;
        self.open();
        let applied = self.db().applied().0.lsn;
        assert!(applied >= self.acknowledged, "{applied} after {} was acknowledged", self.acknowledged);
        self.counts.lost += self.map.cut(applied);
        self.check_now();
        self.counts.crashes += 1;
    }

    /// A copy holds a prefix, which is everything that was flushed.
    fn copy(&mut self) {
        // Never used before: a crash can bring removed files back.
        let folder = &PathBuf::from(format!("/copy-{}", self.counts.operations));
        let at = self.db().checkpoint(folder).unwrap();
        assert!(at >= self.acknowledged);
        let copy = Db::builder(folder).storage(Arc::new(self.disk.clone())).background(Background::Inline);
        let copy = copy.open().unwrap();
        let snapshot = copy.snapshot().unwrap();
        assert_eq!(snapshot.lsn(), at);
        self.check(&snapshot);
        drop((snapshot, copy));
        for folder in [folder.to_owned(), folder.join("tables"), folder.join("wal")] {
            for name in self.disk.list(&folder).unwrap() {
                self.disk.remove(&folder.join(name)).unwrap();
            }
        }
        self.counts.copies += 1;
    }

    fn drop_keyspace(&mut self) {
        let name = NAMES[self.random.random_range(0..NAMES.len())];
        match (self.map.live(name), self.db().drop_keyspace(name)) {
            (Some(incarnation), Ok(lsn)) => {
                self.map.drop_at(incarnation, lsn, self.applied().1);
                self.acknowledged = lsn;
            }
            (None, Err(Error::UnknownKeyspace { .. })) => {}
            (live, dropped) => panic!("{live:?} {dropped:?}"),
        }
    }

    fn step(&mut self) {
        self.counts.operations += 1;
        if self.setup.time_passes && self.chance(15) {
            let micros = [1_000, 300_000, 1_000_000, 5_000_000][self.random.random_range(0..4)];
            self.clock.set(Timestamp(self.clock.now().0 + micros));
        }
        match self.random.random_range(0..1000) {
            0..300 => self.batch(),
            300..350 => self.get(),
            350..400 => self.walk(),
            400..460 => self.begin(),
            460..740 => self.use_transaction(),
            740..850 => self.finish_transaction(),
            850..880 if self.snapshots.len() < OPEN_MAX => {
                let snapshot = self.db().snapshot().unwrap();
                self.snapshots.push(snapshot);
                self.counts.snapshots += 1;
            }
            850..910 => {
                if !self.snapshots.is_empty() {
                    let index = self.random.random_range(0..self.snapshots.len());
                    let snapshot = self.snapshots.swap_remove(index);
                    self.check(&snapshot);
                }
            }
            910..930 => self.db().flush().unwrap(),
            930..940 => self.db().compact().unwrap(),
            940..955 => drop(self.db().sync().unwrap()),
            955..963 => self.drop_keyspace(),
            963..966 => drop(self.keyspace()),
            966..970 => {
                let lsn = self.db().append_time().unwrap();
                self.acknowledged = lsn;
                self.map.push(lsn, self.applied().1);
            }
            970..974 => self.copy(),
            974..985 => self.reopen(),
            _ => self.crash(),
        }
    }

    fn end(&mut self) {
        while !self.transactions.is_empty() {
            self.finish_transaction();
        }
        for snapshot in &self.snapshots {
            self.check(snapshot);
        }
        self.check_now();
        let snapshot = self.db().snapshot().unwrap();
        let digest = snapshot.digest().unwrap();
        self.db().compact().unwrap();
        assert_eq!(snapshot.digest().unwrap(), digest, "merging changes no digest");
        self.db().verify_tables().unwrap();
    }
}

fn run(seed: u64, setup: Setup) -> Counts {
    let mut run = Run::new(seed, setup);
    for _ in 0..setup.steps {
        run.step();
    }
    run.end();
    run.counts
}

/// Runs seeds; one that fails says how to run it alone.
fn run_all(seeds: impl IntoIterator<Item = u64>, setup: Setup, test: &str) -> Counts {
    let mut counts = Counts::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| run(seed, setup))) {
            Ok(more) => counts.add(more),
            Err(panic) => {
                eprintln!(
                    "the model differs; to see it again: SEAWALL_MODEL_SEED={seed} cargo test -p seawall-engine --test \
                     model {test}"
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
    counts
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

/// The one that is asked for, or as many as are asked for, or the usual ones.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    match number("SEAWALL_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEAWALL_MODEL_SEEDS").unwrap_or(usual),
    }
}

const INLINE: Setup = Setup { build: inline, steps: 150, while_opening: None, time_passes: true };

#[test]
fn it_is_a_map_whatever_happens_in_one_order() {
    let begun = std::time::Instant::now();
    let counts = run_all(seeds(400), INLINE, "it_is_a_map_whatever_happens_in_one_order");
    if number("SEAWALL_MODEL_SEEDS").is_some() {
        // Past the test's own output, which is not shown when it passes.
        let seconds = begun.elapsed().as_secs_f64();
        writeln!(
            std::io::stderr(),
            "{counts:?} in {seconds:.1} s, {:.2} ms a seed",
            seconds * 1e3 / counts.seeds as f64
        )
        .unwrap();
    }
    if counts.seeds >= 100 {
        let Counts { transactions, conflicts, copies, crashes, lost, .. } = counts;
        let rarest = [transactions, conflicts, copies, crashes, lost].into_iter().min().unwrap();
        assert!(rarest >= counts.seeds / 10, "{counts:?}");
    }
}

#[test]
fn it_is_a_map_whatever_happens_with_its_threads() {
    let seeds = match number("SEAWALL_MODEL_SEEDS") {
        Some(many) => 0..many / 20,
        None => seeds(20),
    };
    // Its thread would write the time into the log when it likes.
    let setup = Setup { build: threaded, steps: 300, while_opening: None, time_passes: false };
    run_all(seeds, setup, "it_is_a_map_whatever_happens_with_its_threads");
}

/// With which word the map notices.
#[track_caller]
fn caught(run: impl Fn(u64) -> Counts) -> String {
    let caught = (0..400).find_map(|seed| catch_unwind(AssertUnwindSafe(|| run(seed))).err());
    let panic = caught.expect("the bug survives the model");
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap()
}

#[track_caller]
fn caught_always(mutant: Mutant) -> String {
    caught(|seed| with_mutant(mutant, || run(seed, INLINE)))
}

#[test]
fn the_model_catches_transactions_that_are_not_checked() {
    for mutant in
        [Mutant::UncheckedTransactions, Mutant::UncheckedRanges, Mutant::UncheckedUnflushed, Mutant::UncheckedExpiry]
    {
        let words = caught_always(mutant);
        assert!(words.starts_with("committed over"), "{mutant:?}: {words}");
    }
}

#[test]
fn the_model_catches_a_transaction_that_does_not_see_its_own_writes() {
    assert!(caught_always(Mutant::OwnWritesUnseenBackward).contains("walking a transaction"));
    let words = caught_always(Mutant::OwnRangeDeletesUnseen);
    assert!(words.contains("a transaction") && words.contains(DIFFERS), "{words}");
}

/// What a read that differs from the map says.
const DIFFERS: &str = "assertion `left == right` failed";

#[test]
fn the_model_catches_snapshots_that_move() {
    assert!(caught_always(Mutant::SnapshotsReadNewest).contains(DIFFERS));
    // A view asserts, too, that nobody reads below its floor.
    let words = caught_always(Mutant::MergeForgetsSnapshots);
    assert!(words.contains(DIFFERS) || words.contains(".floor"), "{words}");
}

#[test]
fn the_model_catches_values_given_for_other_keys() {
    assert!(caught_always(Mutant::ManyAnsweredInKeyOrder).contains(DIFFERS));
}

#[test]
fn the_model_catches_deletes_that_come_back() {
    let setup = Setup { while_opening: Some(Mutant::DeletesNotApplied), ..INLINE };
    let words = caught(|seed| run(seed, setup));
    assert!(words.contains(DIFFERS), "{words}");
    // Seen by a read, or by a transaction that finds nothing newer.
    let words = caught_always(Mutant::DeletesNotWrittenOut);
    assert!(words.contains(DIFFERS) || words.starts_with("committed over"), "{words}");
}

#[test]
fn the_model_catches_values_that_end_at_another_time() {
    for mutant in [Mutant::ExpiryByWallClock, Mutant::ExpiryAtTheFloorForOperands] {
        let words = caught_always(mutant);
        assert!(words.contains(DIFFERS), "{mutant:?}: {words}");
    }
}

#[test]
fn the_model_catches_operands_that_are_lost_or_count_for_readers_before_them() {
    for mutant in [Mutant::OperandsReplaceEachOther, Mutant::OperandsFoldedAcrossTheFloor] {
        let words = caught_always(mutant);
        // A table asserts the order of what it is given.
        assert!(words.contains(DIFFERS) || words == "versions are written in order", "{mutant:?}: {words}");
    }
}

#[test]
fn the_model_catches_ranges_that_come_back() {
    for mutant in [
        Mutant::RangeDeletesSpareTheirCommit,
        Mutant::RangeDeletesInTablesUnseen,
        Mutant::RangeDeletesNotWrittenOut,
        Mutant::RangeDeletesCutToKeys,
        Mutant::RangeDeletesDroppedAboveTheBottom,
    ] {
        let words = caught_always(mutant);
        let known =
            words.contains(DIFFERS) || words.starts_with("committed over") || words == "a range holds something";
        assert!(known, "{mutant:?}: {words}");
    }
}

#[test]
fn the_model_catches_merges_of_the_wrong_tables() {
    for mutant in [Mutant::PickIgnoresTheNextLevel, Mutant::PickSeesTheBottomEverywhere] {
        let words = caught_always(mutant);
        let known = words.contains(DIFFERS)
            || words.starts_with("committed over")
            || words == "tables of one level do not overlap";
        assert!(known, "{mutant:?}: {words}");
    }
}

#[test]
fn the_model_catches_large_values_that_are_taken_for_others_or_forgotten() {
    for mutant in [Mutant::BlobsNotRenumbered, Mutant::KeptBlobsForgotten] {
        let words = caught_always(mutant);
        assert!(words.contains("CorruptTable") || words.contains("the block was checked"), "{mutant:?}: {words}");
    }
}

#[test]
fn the_model_catches_commits_that_are_acknowledged_but_not_synced() {
    use seawall_wal::mutant::{Mutant, with_mutant};
    let words = caught(|seed| with_mutant(Mutant::NoSync, || run(seed, INLINE)));
    assert!(words.ends_with("was acknowledged"), "{words}");
}
