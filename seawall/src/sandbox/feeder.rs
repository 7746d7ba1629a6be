//! Turns the input into batches, over and over, and remembers what was acknowledged: the oracle against which the nodes are
//! judged at the end. It lives in this process, so no fault that is staged can touch it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::entry::Entry;
use crate::failure::{Failure, Kind};
use crate::http::api::BatchRequest;
use crate::input::{Format, Input, InputError, Keys};

/// The largest file taken as one value; larger ones are left out.
const RECORD_BYTES_MAX: u64 = 512 << 10;
/// Bytes of keys and values in a batch, about.
const BATCH_BYTES: usize = 384 << 10;

/// Batches from an input that begins anew when it ends.
pub(super) struct Feeder {
    path: PathBuf,
    format: Format,
    limit_bytes: u64,
    reading: Mutex<Reading>,
}

struct Reading {
    input: Input,
    round: u64,
    bytes: u64,
    skipped: u64,
    /// Whether this round gave anything: an empty input would begin anew for ever.
    gave: bool,
}

/// A batch and what it holds.
pub(super) struct FedBatch {
    /// As it is sent.
    pub(super) request: BatchRequest,
    /// Keys with the hash of their values.
    pub(super) hashes: Vec<(Vec<u8>, [u8; 32])>,
    /// Of keys and values.
    pub(super) bytes: u64,
}

impl Feeder {
    /// Of `path`, or of the sources that the build of this very program downloaded. Each round takes at most `limit_bytes`.
    pub(super) fn open(path: Option<&Path>, limit_bytes: u64) -> Result<Self, Failure> {
        let path = path.map_or_else(build_sources, |path| Ok(path.to_owned()))?;
        let format = Format::of(&path).map_err(unreadable)?;
        let input = open(&path, format)?;
        let reading = Reading { input, round: 0, bytes: 0, skipped: 0, gave: false };
        Ok(Self { path, format, limit_bytes, reading: Mutex::new(reading) })
    }

    /// Where the input comes from.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Which time the input is being read, from 0.
    pub(super) fn round(&self) -> u64 {
        self.reading.lock().round
    }

    /// Records left out because they were too large.
    pub(super) fn skipped(&self) -> u64 {
        self.reading.lock().skipped
    }

    /// The next batch. From the second round on the keys carry the number of the round, so every key is written once.
    pub(super) fn next_batch(&self) -> Result<FedBatch, Failure> {
        let mut reading = self.reading.lock();
        let mut batch = FedBatch { request: BatchRequest::default(), hashes: Vec::new(), bytes: 0 };
        while (batch.bytes as usize) < BATCH_BYTES {
            let record = match reading.input.next() {
                Some(Ok(record)) if reading.bytes + record.value.len() as u64 <= self.limit_bytes => record,
                Some(Err(InputError::TooLarge { .. })) => {
                    reading.skipped += 1;
                    continue;
                }
                Some(Err(error)) => return Err(unreadable(error)),
                Some(Ok(_)) | None => {
                    if !reading.gave {
                        let message = format!("the input {} holds nothing within the limit", self.path.display());
                        return Err(Failure::new(Kind::Usage, message));
                    }
                    *reading = Reading {
                        input: open(&self.path, self.format)?,
                        round: reading.round + 1,
                        bytes: 0,
                        skipped: reading.skipped,
                        gave: false,
                    };
                    if batch.request.operations.is_empty() { continue } else { break }
                }
            };
            if record.key.is_empty() {
                continue;
            }
            reading.gave = true;
            let key = match reading.round {
                0 => record.key,
                round => [format!("round-{round}/").as_bytes(), &record.key].concat(),
            };
            let bytes = (key.len() + record.value.len()) as u64;
            reading.bytes += record.value.len() as u64;
            batch.bytes += bytes;
            batch.request.operations.push(Entry::new(&key, &record.value));
            batch.hashes.push((key, *blake3::hash(&record.value).as_bytes()));
        }
        Ok(batch)
    }
}

/// What was acknowledged: key to the hash of its value.
#[derive(Default)]
pub(super) struct Oracle {
    known: Mutex<BTreeMap<Vec<u8>, [u8; 32]>>,
}

impl Oracle {
    /// These writes were acknowledged.
    pub(super) fn acknowledged(&self, hashes: Vec<(Vec<u8>, [u8; 32])>) {
        self.known.lock().extend(hashes);
    }

    /// These deletions were acknowledged.
    pub(super) fn deleted(&self, keys: &[Vec<u8>]) {
        let mut known = self.known.lock();
        keys.iter().for_each(|key| {
            known.remove(key);
        });
    }

    /// Keys that should be there.
    pub(super) fn len(&self) -> usize {
        self.known.lock().len()
    }

    /// Whether nothing should be there.
    pub(super) fn is_empty(&self) -> bool {
        self.known.lock().is_empty()
    }

    /// The first path component that most keys share, and those keys: what the accident deletes.
    pub(super) fn largest_prefix(&self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let known = self.known.lock();
        // Two components: the first may be the same for all, as a registry's name is.
        let prefix_of = |key: &[u8]| {
            let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            let at = slashes.take(2).last().map_or(key.len().min(1), |at| at + 1);
            key[..at].to_vec()
        };
        let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        known.keys().for_each(|key| *counts.entry(prefix_of(key)).or_default() += 1);
        let prefix = counts.into_iter().max_by_key(|(_, count)| *count).map(|(prefix, _)| prefix).unwrap_or_default();
        let keys = known.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        (prefix, keys)
    }

    /// Compares with everything a node has, given in order. Says what is missing, wrong or too much.
    pub(super) fn compare(
        &self,
        found: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), Failure>>,
    ) -> Result<Difference, Failure> {
        let known = self.known.lock();
        let mut difference = Difference::default();
        let mut expected = known.iter().peekable();
        for pair in found {
            let (key, value) = pair?;
            difference.seen += 1;
            while expected.next_if(|(wanted, _)| **wanted < key).is_some() {
                difference.missing += 1;
            }
            match expected.next_if(|(wanted, _)| **wanted == key) {
                Some((_, hash)) if hash == blake3::hash(&value).as_bytes() => {}
                Some(_) => difference.wrong += 1,
                None => difference.unexpected += 1,
            }
        }
        difference.missing += expected.count();
        Ok(difference)
    }
}

/// How a node's content differs from what was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Keys the node has.
    pub(super) seen: usize,
    /// Acknowledged and not there.
    pub(super) missing: usize,
    /// There with another value.
    pub(super) wrong: usize,
    /// There, but never acknowledged: allowed for writes whose answer did not arrive.
    pub(super) unexpected: usize,
}

/// Where cargo keeps the sources it downloaded for this build.
fn build_sources() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let sources = home.map(|home| home.join("registry").join("src")).filter(|path| path.is_dir());
    sources.ok_or_else(|| {
        Failure::new(Kind::NotFound, "there are no downloaded sources of a cargo build here to use as input")
            .hint("name other input: --input DIR, FILE.jsonl or FILE.csv")
    })
}

fn open(path: &Path, format: Format) -> Result<Input, Failure> {
    let keys = match format {
        Format::Directory => Keys::Entries,
        Format::JsonLines | Format::Csv => Keys::Numbers,
    };
    Input::open(path, format, keys, RECORD_BYTES_MAX).map_err(unreadable)
}

fn unreadable(error: InputError) -> Failure {
    Failure::new(Kind::NotFound, format!("the sandbox's input: {error}"))
}
