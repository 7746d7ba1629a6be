//! How long does a read of one key take: from memory, from tables, and of a key that is not there?

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seawall_benches::{filled, get};

const KEYS: u64 = 200_000;
const GETS: u64 = 10_000;

fn gets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("get");
    group.sample_size(10).throughput(Throughput::Elements(GETS));
    for (name, settled) in [("memtable", false), ("tables", true)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (_db, keyspace) = filled(&dir.path().join("db"), KEYS, 100, settled).expect("a database");
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(get(&keyspace, KEYS, GETS).expect("reads"), GETS));
        });
        group.bench_function(format!("{name}, every other key missing"), |bencher| {
            bencher.iter(|| assert!(get(&keyspace, 2 * KEYS, GETS).expect("reads") < GETS));
        });
    }
    group.finish();
}

criterion_group!(benches, gets);
criterion_main!(benches);
