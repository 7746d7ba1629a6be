//! A long mixed run of one store: writers, readers and scans over data larger than its cache, and what that costs:
//! latencies, memory, and bytes written. In turns with memtables so large that nothing is written out, and as usual.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cpu::wait_until_quiet;
use crate::histogram::Histogram;
use crate::standstill::{Standstills, Watch};
use crate::statistics::Spread;
use crate::store::{Durability, Kind, Settings, Store, fill};
use crate::workload::{KEY_LEN, Random, VALUE_LEN, key, pair};

/// Runs writers, readers and scans for a long time and says what they waited for
#[derive(Args, Debug)]
pub(crate) struct MixedArguments {
    /// The store
    #[arg(long, value_enum, default_value_t = Kind::Seawall)]
    store: Kind,
    /// A directory on the device to measure; what is made in it is removed again
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Seconds as usual, all turns together; each turn begins with a third of its time with nothing written out
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How often the two take turns; ratios are of each turn, and the first does not count if there are more
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    turns: u64,
    /// MiB of the store's cache
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    cache_mib: u64,
    /// The data, in times of the cache
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    times: u64,
    /// MiB of memtables
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    memtable_mib: u64,
    /// Threads that put
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=256))]
    writers: u64,
    /// Threads that get
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=256))]
    readers: u64,
    /// Threads that scan 100 entries at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=256))]
    scanners: u64,
    /// Puts a second of all writers together, called on a schedule and timed from it; as many as go if not given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Gets and scans a second of each thread that reads; as many as go if not given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    read_rate: Option<u64>,
    /// Writers wait for the disk
    #[arg(long)]
    durable: bool,
}

/// Entries of a scan.
const SCAN: usize = 100;
/// A wait that counts as a stall.
const STALL: Duration = Duration::from_millis(100);
/// How long a store may take to finish what it does behind the callers' backs, before bytes written are counted.
const PATIENCE: Duration = Duration::from_secs(60);
/// Quiet moments in a row, or nearly, that mean it has finished.
const QUIET_LOOKS: usize = 25;
/// Memtables in which a phase fits.
const MEMTABLE_HUGE: u64 = 8 << 30;

pub(crate) fn run(arguments: &MixedArguments) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("seawall-peers-").tempdir_in(&arguments.dir)?;
    let dir = folder.path().join(arguments.store.slug());
    let keys = arguments.cache_mib * arguments.times * (1 << 20) / (KEY_LEN + VALUE_LEN) as u64;
    let durability = if arguments.durable { Durability::Durable } else { Durability::Buffered };
    let cache_bytes = arguments.cache_mib << 20;
    let settings = Settings { durability, cache_bytes, memtable_bytes: arguments.memtable_mib << 20 };
    {
        let store = arguments.store.open(&dir, &Settings { durability: Durability::Buffered, ..settings })?;
        fill(&*store, keys)?;
        store.settle()?;
    }
    println!("{}: {keys} keys, {} times its cache, {durability:?} puts", arguments.store, arguments.times);
    let quiet = Settings { memtable_bytes: MEMTABLE_HUGE, ..settings };
    let time = Duration::from_secs(arguments.seconds) / arguments.turns as u32;
    let (mut puts, mut gets) = (Tail::of("put"), Tail::of("get"));
    for turn in 0..arguments.turns as usize {
        let without = phase(arguments, &dir, &quiet, keys, time / 3)?;
        print!("\nturn {}: nothing written out\n{without}", turn + 1);
        let with = phase(arguments, &dir, &settings, keys, time)?;
        print!("\nturn {}: as usual\n{with}", turn + 1);
        puts.add((&with.puts, &with.standstills), (&without.puts, &without.standstills));
        gets.add((&with.gets, &with.standstills), (&without.gets, &without.standstills));
        print!("{}{}", puts.since(turn), gets.since(turn));
    }
    println!("\nof all turns but the first, if there are more");
    let first = usize::from(arguments.turns > 1);
    print!("{}{}", puts.since(first), gets.since(first));
    Ok(())
}

/// The p99.9 of one operation as usual, to that with nothing written out, turn by turn.
struct Tail {
    of: &'static str,
    all: Vec<f64>,
    /// Without the time in which the machine stood still.
    moving: Vec<f64>,
}

impl Tail {
    fn of(of: &'static str) -> Self {
        Self { of, all: Vec::new(), moving: Vec::new() }
    }

    /// Adds a turn, unless nobody called.
    fn add(&mut self, with: (&Waits, &Standstills), without: (&Waits, &Standstills)) {
        if with.0.count() > 0 && without.0.count() > 0 {
            let tail = |waits: &Waits, still| waits.histogram(still).quantile(0.999).as_secs_f64();
            self.all.push(tail(with.0, None) / tail(without.0, None));
            self.moving.push(tail(with.0, Some(with.1)) / tail(without.0, Some(without.1)));
        }
    }

    /// A line on the turns from this one on; none if there were no calls.
    fn since(&self, turn: usize) -> String {
        let spread = |ratios: &[f64]| {
            let spread = Spread::of(ratios.get(turn..)?)?;
            Some(format!("{:.2} ({:.2} - {:.2})", spread.median, spread.min, spread.max))
        };
        let both = spread(&self.all).zip(spread(&self.moving));
        both.map_or_else(String::new, |(all, moving)| {
            format!("{} p99.9 as usual / with nothing written out: {all}; while the machine ran: {moving}\n", self.of)
        })
    }
}

/// How long the callers of one operation waited.
#[derive(Default)]
struct Waits {
    /// How long the calls themselves took, whenever they should have begun.
    calls: Histogram,
    quick: Histogram,
    /// From when to when each of the others lasted; those beyond the most that are kept count as if they had been quick.
    slow: Vec<(Instant, Instant)>,
}

/// From here on it is remembered when it was.
const SLOW: Duration = Duration::from_millis(2);
const SLOW_MAX: usize = 1 << 20;

impl Waits {
    /// A call that ends now, for which somebody waited since `began` and which was made at `called`.
    fn add(&mut self, began: Instant, called: Instant) {
        let now = Instant::now();
        self.calls.add(now - called);
        if now - began >= SLOW && self.slow.len() < SLOW_MAX {
            self.slow.push((began, now));
        } else {
            self.quick.add(now - began);
        }
    }

    fn merge(&mut self, other: Self) {
        self.calls.merge(&other.calls);
        self.quick.merge(&other.quick);
        self.slow.extend(other.slow);
    }

    /// Of all; without the time in which the machine stood still, if it is given.
    fn histogram(&self, standstills: Option<&Standstills>) -> Histogram {
        let mut all = self.quick.clone();
        for (began, ended) in &self.slow {
            all.add(*ended - *began - standstills.map_or(Duration::ZERO, |all| all.within(*began, *ended)));
        }
        all
    }

    fn count(&self) -> u64 {
        self.quick.count() + self.slow.len() as u64
    }
}

/// What a phase gave.
struct Outcome {
    elapsed: Duration,
    puts: Waits,
    gets: Waits,
    scans: Waits,
    standstills: Standstills,
    /// Bytes this process gave to the device, the log included, after the store was done.
    written_bytes: u64,
    /// Bytes of tables, if the store counts them.
    table_bytes: Option<u64>,
    /// The most memory that was not files.
    memory_bytes: u64,
    report: String,
}

/// The work of one thread: what it does, by turn, and what it counts.
type Operation<'a> = &'a (dyn Fn(&mut Random, u64) -> Result<()> + Sync);

fn phase(arguments: &MixedArguments, dir: &Path, settings: &Settings, keys: u64, time: Duration) -> Result<Outcome> {
    let store = arguments.store.open(dir, settings)?;
    let store: &dyn Store = &*store;
    // What the phase before left to be done is not this one's.
    wait_until_done();
    let done = AtomicBool::new(false);
    let memory = AtomicU64::new(memory_bytes());
    let (io, tables) = (written_bytes()?, store.table_bytes_written());
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let put = |random: &mut Random, turn: u64| {
        let (_, value) = pair(turn);
        store.write(&[(key(random.below(keys)), value)])
    };
    let get = |random: &mut Random, _: u64| {
        store.get(&key(random.below(keys)))?.context("a key is missing")?;
        Ok(())
    };
    let scan = |random: &mut Random, _: u64| store.scan(&key(random.below(keys)), SCAN).map(drop);
    let threads = |count: u64, rate: Option<f64>, operation: Operation<'_>| -> Result<Waits> {
        std::thread::scope(|scope| {
            let each = rate.map(|rate| Duration::from_secs_f64(count as f64 / rate));
            let running: Vec<_> = (0..count)
                .map(|_| {
                    let seed = next.fetch_add(1, Ordering::Relaxed) << 40;
                    let done = &done;
                    scope.spawn(move || worker(operation, seed, each, done))
                })
                .collect();
            let mut all = Waits::default();
            for thread in running {
                all.merge(thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
            }
            Ok(all)
        })
    };
    let per_second = |rate: Option<u64>, threads: u64| rate.map(|rate| (rate * threads) as f64);
    let watch = Watch::start()?;
    let (puts, gets, scans) = std::thread::scope(|scope| -> Result<_> {
        let puts = scope.spawn(|| threads(arguments.writers, per_second(arguments.rate, 1), &put));
        let gets = scope.spawn(|| threads(arguments.readers, per_second(arguments.read_rate, arguments.readers), &get));
        let scans =
            scope.spawn(|| threads(arguments.scanners, per_second(arguments.read_rate, arguments.scanners), &scan));
        while began.elapsed() < time {
            std::thread::sleep(Duration::from_millis(100).min(time.saturating_sub(began.elapsed())));
            memory.fetch_max(memory_bytes(), Ordering::Relaxed);
        }
        done.store(true, Ordering::Release);
        let outcome = |thread: std::thread::ScopedJoinHandle<'_, Result<Waits>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
        };
        Ok((outcome(puts)?, outcome(gets)?, outcome(scans)?))
    })?;
    let (elapsed, standstills) = (began.elapsed(), watch.stop());
    store.sync()?;
    wait_until_done();
    let table_bytes = store.table_bytes_written().zip(tables).map(|(after, before)| after - before);
    Ok(Outcome {
        elapsed,
        puts,
        gets,
        scans,
        standstills,
        written_bytes: written_bytes()? - io,
        table_bytes,
        memory_bytes: memory.into_inner(),
        report: store.report(),
    })
}

/// Waits until the store has done what it does behind the callers' backs. Between two merges it is quiet for a moment.
fn wait_until_done() {
    for _ in 0..QUIET_LOOKS {
        wait_until_quiet(PATIENCE);
    }
}

/// Does the operation over and over until told to stop; on a schedule if there is one, and timed from it then.
fn worker(operation: Operation<'_>, seed: u64, each: Option<Duration>, done: &AtomicBool) -> Result<Waits> {
    let (mut random, mut waits, mut turn) = (Random::new(seed), Waits::default(), seed);
    let mut due = Instant::now();
    while !done.load(Ordering::Acquire) {
        if let Some(each) = each {
            due += each;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let called = Instant::now();
        // What the scheduler took before we were awake is nobody's fault here, unless the call before was late.
        let began = each.filter(|each| due + *each < called).map_or(called, |_| due);
        operation(&mut random, turn)?;
        waits.add(began, called);
        turn += 1;
    }
    Ok(waits)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "{:<6}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}", "", "per s", "p50", "p99", "p99.9", "max", ">100 ms")?;
        for standstills in [None, Some(&self.standstills)] {
            if standstills.is_some() {
                writeln!(f, "while the machine ran:")?;
            }
            for (name, waits) in [("put", &self.puts), ("get", &self.gets), ("scan", &self.scans)] {
                let latencies = waits.histogram(standstills);
                let micros = |latency: Duration| format!("{:.1} us", latency.as_nanos() as f64 / 1e3);
                let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| micros(latencies.quantile(share)));
                let (rate, max) = (latencies.count() as f64 / seconds, micros(latencies.max()));
                writeln!(
                    f,
                    "{name:<6}{rate:>12.0}{p50:>12}{p99:>12}{p999:>12}{max:>12}{:>12}",
                    latencies.above(STALL)
                )?;
            }
        }
        write!(f, "longest call by itself:")?;
        for (name, waits) in [("put", &self.puts), ("get", &self.gets), ("scan", &self.scans)] {
            write!(f, " {name} {:.1?} ({} above 100 ms)", waits.calls.max(), waits.calls.above(STALL))?;
        }
        writeln!(f)?;
        let still = &self.standstills;
        let (count, total, longest) = (still.count(), still.total(), still.longest());
        writeln!(f, "the machine stood still {count} times, {total:.1?} in all, {longest:.1?} at most")?;
        let put = (self.puts.count() * (KEY_LEN + VALUE_LEN) as u64).max(1) as f64;
        let tables =
            self.table_bytes.map_or_else(|| String::from("not counted"), |bytes| format!("{:.2}", bytes as f64 / put));
        writeln!(
            f,
            "bytes put {:.0} MiB; written to tables for each: {tables}; to the device, log included: {:.2}",
            put / f64::from(1 << 20),
            self.written_bytes as f64 / put
        )?;
        writeln!(f, "most memory {} MiB\n{}", self.memory_bytes >> 20, self.report)
    }
}

/// Memory of this process that is not files.
fn memory_bytes() -> u64 {
    field("/proc/self/status", "RssAnon:").map_or(0, |kib| kib << 10)
}

/// Bytes this process gave to the device, or will have when the kernel writes them.
fn written_bytes() -> Result<u64> {
    let all = field("/proc/self/io", "write_bytes:").context("there is no /proc/self/io to count bytes with")?;
    Ok(all)
}

fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_of_each_store_that_counts_its_tables_says_what_it_cost() {
        let dir = tempfile::tempdir().unwrap();
        for store in Kind::all().into_iter().filter(|kind| matches!(kind, Kind::Seawall | Kind::Rocksdb)) {
            let arguments = MixedArguments {
                store,
                dir: dir.path().to_owned(),
                seconds: 2,
                turns: 2,
                cache_mib: 1,
                times: 1,
                memtable_mib: 1,
                writers: 1,
                readers: 1,
                scanners: 1,
                rate: None,
                read_rate: Some(100),
                durable: false,
            };
            run(&arguments).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
