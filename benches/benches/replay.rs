//! How fast is a log read back, as recovery does it?

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seawall_benches::{log_identity, replay, written_log};

fn replays(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    for (len, records) in [(96, 200_000), (1024, 50_000)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (options, history) = log_identity();
        let end = written_log(dir.path(), &options, &history, records, len).expect("a log");
        group.throughput(Throughput::Elements(records));
        group.bench_function(format!("{records} records, {} MiB", end.lsn.offset() >> 20), |bencher| {
            bencher.iter(|| assert_eq!(replay(dir.path(), &options, &history).expect("a whole log"), records));
        });
    }
    group.finish();
}

criterion_group!(benches, replays);
criterion_main!(benches);
