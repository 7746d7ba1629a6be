//! `seawall bench commit`: durable commits of a whole database on a disk, and where the time of one goes. Rounds take
//! turns with plain synced writes, so that what the disk itself costs is known from the same seconds.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use seawall_engine::{Create, Db, Keyspace};
use serde::Serialize;

use super::device::{Device, device};
use super::disk::PlainWrites;
use super::scratch::Scratch;
use super::{Context, median};
use crate::failure::{Failure, Kind};
use crate::output::{Output, Table, human_count};

const ROUNDS: usize = 3;
const THREADS: [usize; 3] = [1, 8, 64];
const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 112;
/// Commits of a thread in one round whose times are kept: far more than a disk gives, and a bound.
const KEPT_MAX: usize = 1 << 20;

#[derive(Args, Debug)]
pub(in crate::command) struct Arguments {
    /// A directory on the disk; files made in it are removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// About how long, in all
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

#[derive(Serialize)]
struct Measured {
    #[serde(flatten)]
    device: Device,
    /// How the log made its groups durable.
    durable_write: String,
    rounds: usize,
    key_bytes: usize,
    value_bytes: usize,
    /// Durable writes a second of the plain method: F.
    f_per_second: f64,
    commits: Vec<Figure>,
}

/// Of so many threads, each waiting for its own commits. Times are in microseconds.
#[derive(Serialize)]
struct Figure {
    threads: usize,
    per_second: f64,
    ratio_to_f: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    /// Means, which add up to the mean of a commit.
    parts: Parts,
    commits_per_flush: f64,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Parts {
    /// Making the batch.
    encode: f64,
    /// Its checksum, the log's lock, and the memtable; beside other committers their turns as well.
    append_and_apply: f64,
    /// The disk's: the group's write and sync.
    write_and_sync: f64,
    /// From the append until the group's write begins, and from its sync until the committer runs again.
    gather_and_wake: f64,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let scratch = Scratch::new(&arguments.dir)?;
    if context.output == Output::Text {
        context.output.note(format!("measuring for about {} s in {}", arguments.seconds, arguments.dir.display()));
    }
    let slices = ROUNDS * (THREADS.len() + 1);
    let slice = Duration::from_secs_f64(f64::from(arguments.seconds) / slices as f64);
    let measured = measure(&arguments.dir, &scratch.path, slice)?;
    context.output.document(&measured, |out| write(out, &measured))
}

fn measure(dir: &Path, scratch: &Path, slice: Duration) -> Result<Measured, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Kind::Failed, format!("cannot measure: {error}"));
    let mut plain = PlainWrites::new(scratch).map_err(|error| failed(&error))?;
    let db = Db::builder(scratch.join("data")).create(Create::Always).open().map_err(Failure::from)?;
    let keyspace = db.keyspace("bench").map_err(Failure::from)?;
    let mut plain_rates = Vec::new();
    let mut rounds = THREADS.map(|threads| (threads, Vec::new()));
    for _ in 0..ROUNDS {
        plain_rates.push(plain.per_second(slice).map_err(|error| failed(&error))?);
        for (threads, rounds) in &mut rounds {
            rounds.push(Round::run(&db, &keyspace, *threads, slice).map_err(Failure::from)?);
        }
    }
    let durable_write = db.stats().log.durable_write.to_string();
    drop(keyspace);
    db.close().map_err(Failure::from)?;
    let f = median(&plain_rates);
    let commits = rounds.map(|(threads, rounds)| figure(threads, &rounds, f)).into();
    let (key_bytes, value_bytes) = (KEY_BYTES, VALUE_BYTES);
    Ok(Measured {
        device: device(dir),
        durable_write,
        rounds: ROUNDS,
        key_bytes,
        value_bytes,
        f_per_second: f,
        commits,
    })
}

/// What one commit took, in nanoseconds.
#[derive(Clone, Copy)]
struct Times {
    encode: u32,
    append: u32,
    wait: u32,
}

impl Times {
    fn total(self) -> f64 {
        f64::from(self.encode) + f64::from(self.append) + f64::from(self.wait)
    }
}

struct Round {
    per_second: f64,
    commits_per_flush: f64,
    /// Of the mean flush, microseconds.
    flush: f64,
    times: Vec<Times>,
}

impl Round {
    fn run(db: &Db, keyspace: &Keyspace, threads: usize, slice: Duration) -> seawall_engine::Result<Self> {
        let stop = AtomicBool::new(false);
        let before = db.stats().log;
        let started = Instant::now();
        let times = std::thread::scope(|scope| {
            let committer = |thread: usize| {
                let stop = &stop;
                scope.spawn(move || commit_until(db, keyspace, thread as u64, stop))
            };
            let committers: Vec<_> = (0..threads).map(committer).collect();
            std::thread::sleep(slice);
            stop.store(true, Ordering::Relaxed);
            let mut all = Vec::new();
            for committer in committers {
                all.extend(committer.join().unwrap_or(Err(seawall_engine::Error::Closed))?);
            }
            Ok::<_, seawall_engine::Error>(all)
        })?;
        let seconds = started.elapsed().as_secs_f64();
        let after = db.stats().log;
        let (records, flushes) = (after.records - before.records, (after.flushes - before.flushes).max(1));
        Ok(Self {
            per_second: records as f64 / seconds,
            commits_per_flush: records as f64 / flushes as f64,
            flush: (after.flush_micros - before.flush_micros) as f64 / flushes as f64,
            times,
        })
    }
}

fn commit_until(db: &Db, keyspace: &Keyspace, thread: u64, stop: &AtomicBool) -> seawall_engine::Result<Vec<Times>> {
    let mut times = Vec::new();
    let mut number = 0_u64;
    let value = [0x5E; VALUE_BYTES];
    let nanos = |time: Duration| u32::try_from(time.as_nanos()).unwrap_or(u32::MAX);
    while !stop.load(Ordering::Relaxed) {
        let mut key = [0; KEY_BYTES];
        // Spread over the key space, and no two the same.
        key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        key[8..].copy_from_slice(&thread.to_le_bytes());
        number += 1;
        let began = Instant::now();
        let mut batch = db.batch();
        batch.put(keyspace, key, value);
        let encoded = Instant::now();
        let ticket = batch.commit_ticket()?;
        let appended = Instant::now();
        ticket.wait()?;
        let done = Instant::now();
        if times.len() < KEPT_MAX {
            let (encode, append) = (nanos(encoded - began), nanos(appended - encoded));
            times.push(Times { encode, append, wait: nanos(done - appended) });
        }
    }
    Ok(times)
}

fn figure(threads: usize, rounds: &[Round], f: f64) -> Figure {
    let of = |pick: fn(&Round) -> f64| median(&rounds.iter().map(pick).collect::<Vec<_>>());
    let mean = |pick: fn(&Times) -> u32| {
        let means = rounds.iter().map(|round| {
            let sum: f64 = round.times.iter().map(|times| f64::from(pick(times))).sum();
            sum / 1e3 / round.times.len().max(1) as f64
        });
        median(&means.collect::<Vec<_>>())
    };
    let mut totals: Vec<f64> = rounds.iter().flat_map(|round| &round.times).map(|times| times.total() / 1e3).collect();
    totals.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| totals.get((totals.len() as f64 * share) as usize).copied().unwrap_or_default();
    let flush = of(|round| round.flush);
    let parts = Parts {
        encode: mean(|times| times.encode),
        append_and_apply: mean(|times| times.append),
        write_and_sync: flush,
        gather_and_wake: mean(|times| times.wait) - flush,
    };
    let per_second = of(|round| round.per_second);
    Figure {
        threads,
        per_second,
        ratio_to_f: per_second / f,
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        parts,
        commits_per_flush: of(|round| round.commits_per_flush),
    }
}

fn write(out: &mut dyn Write, measured: &Measured) -> io::Result<()> {
    measured.device.write(out)?;
    writeln!(out, "log by      {}", measured.durable_write)?;
    let f = measured.f_per_second;
    writeln!(out, "F           {} 4 KiB writes + fdatasync a second, {:.1} us each", human_count(f), 1e6 / f)?;
    let (key, value) = (measured.key_bytes, measured.value_bytes);
    writeln!(out, "\ndurable commits, {key} byte keys, {value} byte values; medians of {} rounds", measured.rounds)?;
    let mut table = Table::new(&["THREADS", "PER SECOND", "x F", "P50 us", "P99 us", "P99.9 us", "COMMITS A FLUSH"]);
    for figure in &measured.commits {
        table.row([
            figure.threads.to_string(),
            human_count(figure.per_second),
            format!("{:.2}", figure.ratio_to_f),
            format!("{:.1}", figure.p50),
            format!("{:.1}", figure.p99),
            format!("{:.1}", figure.p999),
            format!("{:.1}", figure.commits_per_flush),
        ]);
    }
    table.write(out)?;
    writeln!(out, "\nwhere the time of a commit goes, means in us")?;
    let mut table = Table::new(&["THREADS", "ENCODE", "APPEND+APPLY", "WRITE+SYNC", "GATHER+WAKE"]);
    for Figure { threads, parts, .. } in &measured.commits {
        let parts = [parts.encode, parts.append_and_apply, parts.write_and_sync, parts.gather_and_wake];
        let row = std::iter::once(threads.to_string()).chain(parts.map(|part| format!("{part:.2}")));
        table.row(row);
    }
    table.write(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_to_a_commit_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path()).unwrap();
        let measured = measure(dir.path(), &scratch.path, Duration::from_millis(60)).unwrap();
        assert_eq!(measured.commits.len(), THREADS.len());
        for figure in &measured.commits {
            assert!(figure.per_second > 0.0 && figure.commits_per_flush >= 0.5, "{}", figure.threads);
            assert!(figure.p50 > 0.0 && figure.p50 <= figure.p99 && figure.p99 <= figure.p999);
        }
        // Of one round: figures of several are medians, of one round here and another there on a busy machine.
        let db = Db::builder(scratch.path.join("alone")).create(Create::Always).open().unwrap();
        let keyspace = db.keyspace("bench").unwrap();
        let round = Round::run(&db, &keyspace, 1, Duration::from_millis(200)).unwrap();
        let alone = figure(1, &[round], measured.f_per_second);
        let Parts { encode, append_and_apply, write_and_sync, gather_and_wake } = alone.parts;
        let sum = encode + append_and_apply + write_and_sync + gather_and_wake;
        // The one committer does nothing else.
        assert!((sum * alone.per_second / 1e6 - 1.0).abs() < 0.5, "{sum}");
        drop(keyspace);
        db.close().unwrap();
        assert!(measured.f_per_second > 0.0);
        drop(scratch);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "files were left behind");
    }
}
