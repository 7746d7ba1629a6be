//! Opening after a crash: a process of its own fills a store, small commit by small commit, into memtables that are
//! never written out, and is killed. Each slice opens a copy of what it left, which the page cache has forgotten.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;

use super::Context;
use crate::bars::RECOVERY;
use crate::files::{copy, forget};
use crate::load::Work;
use crate::report::Row;
use crate::rounds::{Cell, interleave};
use crate::store::{Durability, Kind, Settings};
use crate::workload::{Random, key, pair};

/// Those that replay a log. LMDB has none; redb and SQLite go back to their last commit without reading one.
const KINDS: [Kind; 4] = [Kind::Seawall, Kind::Rocksdb, Kind::RocksdbTuned, Kind::Fjall];
const SETTINGS: Settings =
    Settings { durability: Durability::Buffered, cache_bytes: 64 << 20, memtable_bytes: 1 << 30 };
/// What the child says when everything is written.
const FILLED: &str = "filled";
/// What is found for a record before a store is opened: as much as Seawall takes for it, and some more.
const MEMORY_PER_RECORD: u64 = 320;
const PAGE_BYTES: usize = 4096;
/// After it what was freed has been given back.
const GIVEN_BACK: Duration = Duration::from_secs(3);
/// Keys that are looked up in what was recovered.
const SAMPLE: u64 = 1000;

/// A process that fills a store and waits to be killed.
#[derive(Args, Debug)]
pub(crate) struct FillArguments {
    kind: Kind,
    dir: std::path::PathBuf,
    records: u64,
}

/// Runs in the child.
pub(crate) fn fill_and_wait(arguments: &FillArguments) -> Result<()> {
    let store = arguments.kind.open(&arguments.dir, &SETTINGS)?;
    for number in 0..arguments.records {
        store.write(&[pair(number)])?;
    }
    store.sync()?;
    println!("{FILLED}");
    std::io::stdout().flush()?;
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

pub(super) fn measure(context: &Context) -> Result<Vec<Row>> {
    let folder = context.folder("recovery")?;
    let records = context.sizes.recovery_records;
    let mut cells = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| context.kinds.contains(kind)) {
        let crashed = folder.path.join(kind.slug());
        crash(kind, &crashed, records).with_context(|| format!("cannot make {kind} crash"))?;
        let again = folder.path.join(format!("{}-again", kind.slug()));
        cells.push(Cell::new(kind.name(), move || {
            copy(&crashed, &again)?;
            forget(&again)?;
            let recovered = open(kind, &again, records);
            std::fs::remove_dir_all(&again)?;
            recovered
        }));
    }
    let row = Row::new("crash recovery, 144 B records", RECOVERY, interleave(cells, &context.plan, &context.device));
    Ok(vec![
        row.note(format!("{records} records, from open to the first get; figures are records a second"))
            .note(format!(
                "{MEMORY_PER_RECORD} bytes of memory for each record are touched and freed before each opening"
            ))
            .note("RocksDB also writes what it recovered into a table before it is open: that is how it comes"),
    ])
}

/// Leaves in `dir` what a killed process leaves.
fn crash(kind: Kind, dir: &Path, records: u64) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("fill").arg(kind.slug()).arg(dir).arg(records.to_string());
    let mut child = child.stdout(Stdio::piped()).spawn()?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut said)?;
    }
    // SIGKILL: nothing of it runs on.
    child.kill()?;
    child.wait()?;
    anyhow::ensure!(said.trim() == FILLED, "it ended before everything was written");
    Ok(())
}

fn open(kind: Kind, dir: &Path, records: u64) -> Result<Work> {
    touch(records * MEMORY_PER_RECORD)?;
    let started = Instant::now();
    let store = kind.open(dir, &SETTINGS)?;
    let last = store.get(&key(records - 1))?;
    let seconds = started.elapsed().as_secs_f64();
    anyhow::ensure!(last == Some(records - 1), "the last record was not recovered");
    let mut random = Random::new(records);
    for _ in 0..SAMPLE {
        let number = random.below(records);
        anyhow::ensure!(store.get(&key(number))? == Some(number), "record {number} was not recovered");
    }
    Ok(Work { operations: records, seconds, latencies: Vec::new() })
}

/// Has the machine find so much memory now. A virtual one gives what was freed back to its host some seconds later, and
/// neither that nor getting it again, which may take longer than a recovery, is to fall into what is measured.
fn touch(bytes: u64) -> Result<()> {
    std::thread::sleep(GIVEN_BACK);
    let mut memory = memmap2::MmapMut::map_anon(usize::try_from(bytes)?)?;
    // Where there are none it is many small ones.
    let _ = memory.advise(memmap2::Advice::HugePage);
    memory.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_called_recovered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Kind::Seawall.open(dir.path(), &SETTINGS).unwrap();
        (0..50).for_each(|number| store.write(&[pair(number)]).unwrap());
        store.sync().unwrap();
        drop(store);
        assert_eq!(open(Kind::Seawall, dir.path(), 50).unwrap().operations, 50);
        assert!(open(Kind::Seawall, dir.path(), 51).is_err());
    }
}
