//! How fast does memory take keys, in order and not? Batches of a thousand that nobody waits for: the log's copy is in it,
//! the disk is not.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use seawall_benches::{KeyOrder, empty, fill};

const KEYS: u64 = 100_000;

fn memtable(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memtable");
    group.sample_size(10).throughput(Throughput::Elements(KEYS));
    for (name, order) in [("random order", KeyOrder::Random), ("ascending order", KeyOrder::Ascending)] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || {
                    let dir = tempfile::tempdir().expect("a temporary directory");
                    (empty(&dir.path().join("db")).expect("a database"), dir)
                },
                |((db, keyspace), dir)| {
                    fill(&db, &keyspace, KEYS, 100, order).expect("puts");
                    (db, keyspace, dir)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, memtable);
criterion_main!(benches);
