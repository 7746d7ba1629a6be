//! How many durable commits a second? By threads that each wait, and by one that keeps many tickets open.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seawall_benches::{commit, commit_pipelined, filled};
use seawall_engine::CommitLevel;

fn commits(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (db, keyspace) = filled(&dir.path().join("db"), 1, 112, false).expect("a database");
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(10);
    for threads in [1, 8, 64] {
        // Enough for each that starting the threads does not count.
        let each = (512 / threads).max(100);
        group.throughput(Throughput::Elements(threads * each));
        group.bench_function(format!("local, {threads} threads"), |bencher| {
            bencher.iter(|| commit(&keyspace, &db, threads, each, CommitLevel::Local).expect("commits"));
        });
    }
    group.throughput(Throughput::Elements(8192));
    group.bench_function("local, 8192 tickets", |bencher| {
        bencher.iter(|| commit_pipelined(&keyspace, &db, 8192).expect("commits"));
    });
    group.bench_function("buffered, 1 thread", |bencher| {
        bencher.iter(|| commit(&keyspace, &db, 1, 8192, CommitLevel::Buffered).expect("commits"));
    });
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
