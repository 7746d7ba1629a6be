//! How fast are entries walked in order?

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seawall_benches::{filled, scan};

const KEYS: u64 = 100_000;

fn scans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    group.sample_size(10).throughput(Throughput::Elements(KEYS));
    for (name, settled) in [("memtable", false), ("tables", true)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (_db, keyspace) = filled(&dir.path().join("db"), KEYS, 100, settled).expect("a database");
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert!(scan(&keyspace, KEYS as usize).expect("reads") > 0));
        });
    }
    group.finish();
}

criterion_group!(benches, scans);
criterion_main!(benches);
