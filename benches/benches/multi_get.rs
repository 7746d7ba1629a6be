//! How long do reads of many keys at once take beside as many reads of one?

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seawall_benches::{filled, get, multi_get};

const KEYS: u64 = 200_000;
const GETS: u64 = 8192;

fn multi_gets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("multi_get");
    group.sample_size(10).throughput(Throughput::Elements(GETS));
    for (name, settled) in [("memtable", false), ("tables", true)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (_db, keyspace) = filled(&dir.path().join("db"), KEYS, 100, settled).expect("a database");
        group.bench_function(format!("{name}, one by one"), |bencher| {
            bencher.iter(|| assert_eq!(get(&keyspace, KEYS, GETS).expect("reads"), GETS));
        });
        for at_once in [32, 1024] {
            group.bench_function(format!("{name}, {at_once} at once"), |bencher| {
                bencher.iter(|| assert_eq!(multi_get(&keyspace, KEYS, GETS, at_once).expect("reads"), GETS));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, multi_gets);
criterion_main!(benches);
