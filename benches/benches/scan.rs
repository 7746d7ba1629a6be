//! How fast are entries walked in order?

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seawall_benches::{filled_by, scan, scan_borrowed};
use seawall_engine::{Db, Tuning};

const KEYS: u64 = 100_000;
/// Memtables that are written out some ten times while the keys are put.
const SMALL: u64 = 2 << 20;

fn scans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    group.sample_size(10).throughput(Throughput::Elements(KEYS));
    for (name, memtable_bytes, settled) in
        [("memtable", 64 << 20, false), ("level 0", SMALL, false), ("tables", SMALL, true)]
    {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // So that no merge takes the tables of level 0 away.
        let builder =
            Db::builder(dir.path().join("db")).memtable_bytes(memtable_bytes).tune("bench", Tuning::WriteHeavy);
        let (db, keyspace) = filled_by(builder, KEYS, 100, settled).expect("a database");
        println!("scan/{name}: {} tables of level 0", db.stats().levels[0].tables);
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert!(scan(&keyspace, KEYS as usize).expect("reads") > 0));
        });
        group.bench_function(format!("{name}, borrowed"), |bencher| {
            bencher.iter(|| assert!(scan_borrowed(&keyspace, KEYS as usize).expect("reads") > 0));
        });
    }
    group.finish();
}

criterion_group!(benches, scans);
criterion_main!(benches);
