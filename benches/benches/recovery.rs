//! How fast is a database open again that has everything in its log and nothing in tables?

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seawall_benches::{recover, unflushed};

const RECORDS: u64 = 1_000_000;

fn recoveries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    group.sample_size(10);
    let dir = tempfile::tempdir().expect("a temporary directory");
    unflushed(dir.path(), RECORDS).expect("a database");
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function(format!("{RECORDS} records"), |bencher| {
        let recovered = || recover(dir.path(), RECORDS).expect("every record");
        bencher.iter_custom(|times| (0..times).map(|_| recovered()).sum::<Duration>());
    });
    group.finish();
}

criterion_group!(benches, recoveries);
criterion_main!(benches);
