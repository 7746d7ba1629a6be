//! Every store keeps what it is given, small.

use crate::store::{Durability, Kind, Settings, fill};
use crate::workload::{key, pair, random_keys};

const KEYS: u64 = 2500;

#[test]
fn every_store_reads_what_was_written_and_finds_it_again() {
    for kind in Kind::all() {
        for durability in [Durability::Durable, Durability::Buffered] {
            let dir = tempfile::tempdir().unwrap();
            let settings = Settings { durability, cache_bytes: 8 << 20, memtable_bytes: 8 << 20 };
            let store = kind.open(dir.path(), &settings).unwrap();
            fill(&*store, KEYS).unwrap();
            store.write(&[pair(KEYS)]).unwrap();
            store.sync().unwrap();
            assert_eq!(store.get(&key(KEYS)).unwrap(), Some(KEYS), "{kind}");
            store.settle().unwrap();
            drop(store);

            let store = kind.open(dir.path(), &settings).unwrap();
            assert_eq!(store.get(&key(17)).unwrap(), Some(17), "{kind}");
            assert_eq!(store.get(&key(KEYS + 1)).unwrap(), None, "{kind}");
            assert_eq!(store.scan(&[0; 16], 10_000).unwrap() as u64, KEYS + 1, "{kind}");
            assert_eq!(store.scan(&key(5), 7).unwrap(), 7, "{kind}");
            let keys = random_keys(2 * KEYS, 32, 9);
            let there = keys.iter().filter(|key| store.get(key).unwrap().is_some()).count();
            for many in [store.get_in_one_view(&keys), store.multi_get(&keys)].into_iter().flatten() {
                assert_eq!(many.unwrap(), there, "{kind}");
            }
        }
    }
}

#[test]
fn writers_of_one_store_do_not_lose_each_others_pairs() {
    for kind in Kind::all() {
        let dir = tempfile::tempdir().unwrap();
        let store = kind.open(dir.path(), &Settings::new(Durability::Durable)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = &store;
                scope.spawn(move || (0..10).for_each(|number| store.write(&[pair(thread * 10 + number)]).unwrap()));
            }
        });
        assert_eq!(store.scan(&[0; 16], 100).unwrap(), 40, "{kind}");
    }
}
