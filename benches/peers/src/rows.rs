//! The rows of the table, in groups that are measured together, and what they share.

mod cold;
mod durable_put;
mod gets;
mod latency;
mod log;
mod open_loop;
mod put;
pub(crate) mod recovery;
mod scan;
mod ycsb;

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::device::Device;
use crate::report::Row;
use crate::rounds::Plan;
use crate::store::{Kind, Settings, Store};

/// What is measured in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Durable puts from 1, 8 and 64 threads
    DurablePut,
    /// The log alone: commits of 1 to 256 threads and of 1024 tasks
    Log,
    /// Latency of commits, with and without rotation of the log
    Latency,
    /// Puts without durability
    Put,
    /// Gets from memtables and from hot tables
    Get,
    /// Gets of 32 keys from a cold disk
    Cold,
    /// Ranges from hot tables
    Scan,
    /// Opening after a crash
    Recovery,
    /// YCSB A to F
    Ycsb,
    /// Durable puts at 70 % of the highest rate, on a schedule
    OpenLoop,
}

impl Group {
    /// What `--quick` leaves.
    pub(crate) const QUICK: [Self; 3] = [Self::DurablePut, Self::Get, Self::Recovery];

    /// Measures it.
    pub(crate) fn measure(self, context: &Context) -> Result<Vec<Row>> {
        match self {
            Self::DurablePut => durable_put::measure(context),
            Self::Log => log::measure(context),
            Self::Latency => latency::measure(context),
            Self::Put => put::measure(context),
            Self::Get => gets::measure(context),
            Self::Cold => cold::measure(context),
            Self::Scan => scan::measure(context),
            Self::Recovery => recovery::measure(context),
            Self::Ycsb => ycsb::measure(context),
            Self::OpenLoop => open_loop::measure(context),
        }
    }
}

/// Where and how rows are measured.
pub(crate) struct Context {
    /// Emptied when all is done.
    pub(crate) dir: PathBuf,
    pub(crate) device: Device,
    pub(crate) plan: Plan,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) sizes: Sizes,
}

/// How much data rows are measured on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// For gets and scans of what is in memory.
    pub(crate) hot_keys: u64,
    /// For gets from the disk.
    pub(crate) cold_keys: u64,
    /// In the log that is recovered.
    pub(crate) recovery_records: u64,
    /// Of YCSB's cache, whose half and fourfold its data are.
    pub(crate) ycsb_cache_bytes: u64,
}

impl Sizes {
    pub(crate) const FULL: Self =
        Self { hot_keys: 200_000, cold_keys: 1_000_000, recovery_records: 1_000_000, ycsb_cache_bytes: 32 << 20 };
    pub(crate) const QUICK: Self = Self { hot_keys: 100_000, recovery_records: 300_000, ..Self::FULL };
}

/// A folder of a row, removed with all in it at the row's end.
struct Folder {
    path: PathBuf,
}

impl Context {
    fn folder(&self, name: &str) -> Result<Folder> {
        let path = self.dir.join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Folder { path })
    }

    /// Opens all stores in a folder, empty ones if it is new.
    fn open(&self, folder: &Folder, settings: &Settings) -> Result<Vec<(Kind, Box<dyn Store>)>> {
        let open = |kind: &Kind| Ok((*kind, kind.open(&folder.path.join(kind.slug()), settings)?));
        self.kinds.iter().map(open).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
