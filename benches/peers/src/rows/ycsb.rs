//! YCSB A to F, by data of half the cache and of four times the cache. The cache is the store's own and small; the page
//! cache of the machine is not bounded, so "four times" means more work than the cache can save, not more than memory.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use super::{Context, Folder};
use crate::load::closed;
use crate::report::Row;
use crate::rounds::{Cell, interleave};
use crate::store::{Durability, Settings, Store, fill};
use crate::workload::{KEY_LEN, Random, VALUE_LEN, key, pair};
use crate::zipf::Zipf;

const THREADS: u64 = 8;
/// Entries of a range, at most.
const SCAN_MAX: u64 = 100;

/// A mix of operations, in percent; the rest are updates.
#[derive(Clone, Copy, Debug)]
struct Mix {
    name: char,
    reads: u64,
    scans: u64,
    inserts: u64,
    read_modify_writes: u64,
    keys: Keys,
}

/// Which keys are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// A few most of the time.
    Skewed,
    /// Those inserted last most of the time.
    Latest,
}

impl Mix {
    const fn writes(&self) -> bool {
        self.reads + self.scans < 100
    }
}

const NOTHING: Mix = Mix { name: ' ', reads: 0, scans: 0, inserts: 0, read_modify_writes: 0, keys: Keys::Skewed };
/// In the order that YCSB advises: those that insert come last.
const MIXES: [Mix; 6] = [
    Mix { name: 'A', reads: 50, ..NOTHING },
    Mix { name: 'B', reads: 95, ..NOTHING },
    Mix { name: 'C', reads: 100, ..NOTHING },
    Mix { name: 'F', reads: 50, read_modify_writes: 50, ..NOTHING },
    Mix { name: 'D', reads: 95, inserts: 5, keys: Keys::Latest, ..NOTHING },
    Mix { name: 'E', scans: 95, inserts: 5, ..NOTHING },
];

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let cache_bytes = context.sizes.ycsb_cache_bytes;
    for (size, bytes) in [("half the cache", cache_bytes / 2), ("4x the cache", cache_bytes * 4)] {
        let keys = bytes / (KEY_LEN + VALUE_LEN) as u64;
        let folder = context.folder("ycsb")?;
        let settings = Settings { cache_bytes, ..Settings::new(Durability::Durable) };
        for (_, store) in context.open(&folder, &settings)? {
            fill(&*store, keys)?;
            store.settle()?;
        }
        // Each store's own: what another one inserted is not there.
        let nexts: Vec<_> = context.kinds.iter().map(|_| AtomicU64::new(keys)).collect();
        for (mode, durability) in [("async", Durability::Buffered), ("durable", Durability::Durable)] {
            let (settings, of) = (Settings { durability, ..settings }, format!("{mode}, {size}"));
            rows.extend(mixes(context, &folder, settings, &nexts, &of)?);
        }
    }
    Ok(rows)
}

fn mixes(context: &Context, folder: &Folder, settings: Settings, nexts: &[AtomicU64], of: &str) -> Result<Vec<Row>> {
    let stores = context.open(folder, &settings)?;
    let zipf = Zipf::new(nexts.iter().map(|next| next.load(Ordering::Relaxed)).min().unwrap_or(2));
    let row = |mix: &Mix| {
        let cells = stores.iter().zip(nexts).map(|((kind, store), next)| {
            let (store, zipf, seed) = (&**store, &zipf, AtomicU64::new(1));
            let work = move || {
                let seed = seed.fetch_add(THREADS, Ordering::Relaxed);
                let work = closed(THREADS, context.plan.slice, |thread, turn| {
                    let mut random = Random::new((seed + thread) << 32 | turn);
                    one(store, mix, zipf, next, &mut random)
                })?;
                if settings.durability == Durability::Buffered {
                    store.sync()?;
                }
                Ok(work)
            };
            if settings.durability == Durability::Durable && mix.writes() {
                Cell::durable(kind.name(), work)
            } else {
                Cell::new(kind.name(), work)
            }
        });
        let measured = interleave(cells.collect(), &context.plan, &context.device);
        Row::new(format!("YCSB {}, {of}, {THREADS} threads", mix.name), &[], measured)
    };
    Ok(MIXES.iter().map(row).collect())
}

/// One operation. Keys that others insert at this moment may not be there yet; nothing is made of that.
fn one(store: &dyn Store, mix: &Mix, zipf: &Zipf, next: &AtomicU64, random: &mut Random) -> Result<u64> {
    let rank = zipf.draw(random);
    let number = match mix.keys {
        Keys::Skewed => rank,
        Keys::Latest => next.load(Ordering::Relaxed).saturating_sub(1 + rank),
    };
    let percent = random.below(100);
    if percent < mix.reads {
        store.get(&key(number))?;
    } else if percent < mix.reads + mix.scans {
        store.scan(&key(number), 1 + random.below(SCAN_MAX) as usize)?;
    } else if percent < mix.reads + mix.scans + mix.inserts {
        store.write(&[pair(next.fetch_add(1, Ordering::Relaxed))])?;
    } else {
        if percent < mix.reads + mix.scans + mix.inserts + mix.read_modify_writes {
            store.get(&key(number))?;
        }
        // Another value than is there: a store that compares them would have nothing to write.
        store.write(&[(key(number), pair(random.below(u64::MAX)).1)])?;
    }
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Kind;

    #[test]
    fn every_mix_is_a_whole_and_runs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Kind::Seawall.open(dir.path(), &Settings::new(Durability::Buffered)).unwrap();
        fill(&*store, 100).unwrap();
        let (zipf, next, mut random) = (Zipf::new(100), AtomicU64::new(100), Random::new(1));
        for mix in &MIXES {
            assert!(mix.reads + mix.scans + mix.inserts + mix.read_modify_writes <= 100, "{mix:?}");
            let done: u64 = (0..50).map(|_| one(&*store, mix, &zipf, &next, &mut random).unwrap()).sum();
            assert_eq!(done, 50);
        }
        assert!(next.into_inner() > 100, "two of them insert");
    }
}
