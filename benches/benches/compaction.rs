//! How fast are tables merged, in one part and in as many as there are cores? And how fast is sorted data loaded, in bulk
//! and put by put?

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seawall_benches::{KEY_LEN, bulk_load, filled_by, merge, put_each};
use seawall_engine::Db;

const KEYS: u64 = 1_000_000;
const LOADED: u64 = 100_000;
const VALUE_LEN: usize = 112;

fn merges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    group.sample_size(10).throughput(Throughput::Bytes(KEYS * (KEY_LEN + VALUE_LEN) as u64));
    for (name, threads) in [("one part", 1), ("as many parts as cores", 4)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let builder = Db::builder(dir.path().join("db")).merge_threads(threads).table_bytes(8 << 20);
        let (db, _keyspace) = filled_by(builder, KEYS, VALUE_LEN, true).expect("a database");
        group.bench_function(name, |bencher| bencher.iter(|| merge(&db).expect("a merge")));
    }
    group.finish();
}

fn loads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10).throughput(Throughput::Elements(LOADED));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (db, keyspace) = filled_by(Db::builder(dir.path().join("db")), 0, VALUE_LEN, false).expect("a database");
    group.bench_function("bulk", |bencher| {
        bencher.iter(|| assert_eq!(bulk_load(&db, &keyspace, LOADED, VALUE_LEN).expect("a load"), LOADED));
    });
    group.bench_function("buffered puts, then one sync", |bencher| {
        bencher.iter(|| put_each(&db, &keyspace, LOADED, VALUE_LEN).expect("puts"));
    });
    group.finish();
}

criterion_group!(benches, merges, loads);
criterion_main!(benches);
