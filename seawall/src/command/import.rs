//! `seawall import`: records of a directory, JSON lines or CSV become keys and values. Batches are pipelined: the next is
//! read while earlier ones reach the disk, and only so many are under way.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use seawall_engine::{Batch, CommitLevel, CommitTicket, Db, Keyspace};
use seawall_wal::format::payload_len_max;
use serde::Serialize;

use super::data::{Data, Place, WriteLevel};
use super::{Context, put};
use crate::client::Client;
use crate::entry::Entry;
use crate::failure::{Failure, Kind};
use crate::http::api::BatchRequest;
use crate::input::{Format, Input, Keys, Record};
use crate::kv::Written;
use crate::output::{Progress, human_bytes, human_seconds};

/// A batch is committed when it has this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Over HTTP, where a batch is JSON.
const BATCH_BYTES_HTTP: usize = 192 << 10;
/// Batches under way.
const TICKETS_MAX: usize = 16;
/// What a key and its value cost in a batch beyond their bytes, and a batch beyond its operations.
const OVERHEAD: usize = 64;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// A directory (path to content), a .jsonl, .ndjson or .csv file, or `-` for standard input
    input: PathBuf,
    /// What the input is [default: judged by its name]
    #[arg(long, value_enum)]
    format: Option<InputFormat>,
    /// The field that is the key; the whole line or row is the value [default: fields `key` and `value`]
    #[arg(long, value_name = "NAME")]
    key_field: Option<String>,
    /// Number the lines or rows for keys
    #[arg(long, conflicts_with = "key_field")]
    number: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    level: WriteLevel,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InputFormat {
    Jsonl,
    Csv,
    Dir,
}

#[derive(Debug, Default, Serialize)]
struct Imported {
    records: u64,
    bytes: u64,
    elapsed_seconds: f64,
    lsn: Option<String>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let format = match arguments.format {
        Some(InputFormat::Jsonl) => Format::JsonLines,
        Some(InputFormat::Csv) => Format::Csv,
        Some(InputFormat::Dir) => Format::Directory,
        None => Format::of(&arguments.input).map_err(|error| Failure::new(Kind::Usage, error))?,
    };
    let keys = match (&arguments.key_field, arguments.number) {
        (Some(name), _) => Keys::Field(name.clone()),
        (None, true) => Keys::Numbers,
        (None, false) => Keys::Entries,
    };
    let data = arguments.place.open(context)?;
    let mut sink = Sink::new(&data, arguments)?;
    let input = Input::open(&arguments.input, format, keys, sink.record_max() as u64);
    let input = input.map_err(|error| Failure::new(Kind::Failed, crate::failure::chain(&error)))?;
    let started = Instant::now();
    let mut progress = Progress::new(context.output, "import");
    let mut done = Imported::default();
    let bytes_total = input.bytes_total;
    let mut failed = None;
    for record in input {
        let taken = record.map_err(|error| Failure::new(Kind::Failed, error)).and_then(|record| {
            let bytes = (record.key.len() + record.value.len()) as u64;
            sink.put(record).map(|()| bytes)
        });
        match taken {
            Ok(bytes) => {
                done.records += 1;
                done.bytes += bytes;
                progress.report(done.records, done.bytes, bytes_total);
            }
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        }
    }
    // What was read before something went wrong is kept, and said.
    let failed = failed.or(sink.finish().err());
    progress.done();
    done.elapsed_seconds = started.elapsed().as_secs_f64();
    let Confirmed { records, lsn } = sink.confirmed();
    (done.records, done.lsn) = (*records, lsn.clone());
    if let Data::Directory(db) = data {
        db.close()?;
    }
    match failed {
        Some(failure) if done.records > 0 => {
            let lsn = done.lsn.as_deref().unwrap_or("0/0");
            let message = format!("{} records were imported, up to {lsn}; then: {failure}", done.records);
            Err(Failure { kind: Kind::Partial, message, ..failure })
        }
        Some(failure) => Err(failure),
        None => context.output.document(&done, |out| {
            let (bytes, seconds) = (human_bytes(done.bytes), human_seconds(done.elapsed_seconds));
            let lsn = done.lsn.as_deref().unwrap_or("0/0");
            writeln!(out, "imported {} records, {bytes}, in {seconds}, up to {lsn}", done.records)
        }),
    }
}

/// What is known to have been committed.
#[derive(Debug, Default)]
struct Confirmed {
    records: u64,
    lsn: Option<String>,
}

/// Where records go.
enum Sink<'a> {
    Directory {
        db: &'a Db,
        keyspace: Keyspace,
        level: CommitLevel,
        batch: Batch,
        /// With the records of each.
        tickets: VecDeque<(CommitTicket, u64)>,
        confirmed: Confirmed,
    },
    Node {
        node: &'a Client,
        place: &'a Place,
        query: String,
        entries: Vec<Entry>,
        bytes: usize,
        confirmed: Confirmed,
    },
}

impl<'a> Sink<'a> {
    fn new(data: &'a Data, arguments: &'a Arguments) -> Result<Self, Failure> {
        let (place, level) = (&arguments.place, &arguments.level);
        Ok(match data {
            Data::Directory(db) => Self::Directory {
                db,
                keyspace: db.keyspace(&place.keyspace)?,
                level: level.level.unwrap_or_default().0,
                batch: db.batch(),
                tickets: VecDeque::new(),
                confirmed: Confirmed::default(),
            },
            Data::Node(node) => Self::Node {
                node,
                place,
                query: level.query(None),
                entries: Vec::new(),
                bytes: 0,
                confirmed: Confirmed::default(),
            },
        })
    }

    /// Bytes a record may have.
    fn record_max(&self) -> usize {
        match self {
            Self::Directory { db, .. } => payload_len_max(db.log().options().segment_size) - 2 * OVERHEAD,
            Self::Node { .. } => 16 << 20,
        }
    }

    fn put(&mut self, record: Record) -> Result<(), Failure> {
        let size = record.key.len() + record.value.len() + OVERHEAD;
        match self {
            Self::Directory { db, keyspace, batch, .. } => {
                let max = BATCH_BYTES.min(payload_len_max(db.log().options().segment_size));
                if !batch.is_empty() && batch.size() + size > max {
                    self.commit()?;
                    return self.put(record);
                }
                batch.put(keyspace, record.key, record.value);
            }
            Self::Node { entries, bytes, .. } => {
                // Alone, and as it is, if it would not be much of a batch with others.
                if size > BATCH_BYTES_HTTP {
                    self.commit()?;
                    return self.put_alone(record);
                }
                if *bytes + size > BATCH_BYTES_HTTP {
                    self.commit()?;
                    return self.put(record);
                }
                *bytes += size;
                entries.push(Entry::new(&record.key, &record.value));
            }
        }
        Ok(())
    }

    /// For what is large.
    fn put_alone(&mut self, record: Record) -> Result<(), Failure> {
        let Self::Node { node, place, query, confirmed, .. } = self else { return self.put(record) };
        let written = put::send(node, place, query, &record.key, Some(record.value.into()))?;
        confirmed.records += 1;
        confirmed.lsn = Some(written.lsn);
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Failure> {
        match self {
            Self::Directory { db, level, batch, tickets, confirmed, .. } => {
                let full = std::mem::replace(batch, db.batch());
                if !full.is_empty() {
                    let records = full.len() as u64;
                    tickets.push_back((full.commit_ticket_with(*level)?, records));
                }
                while tickets.len() > TICKETS_MAX
                    && let Some(oldest) = tickets.pop_front()
                {
                    confirmed.add(oldest)?;
                }
            }
            Self::Node { node, place, query, entries, bytes, confirmed } => {
                let operations = std::mem::take(entries);
                *bytes = 0;
                post(node, &format!("{}{query}", place.path()), operations, confirmed)?;
            }
        }
        Ok(())
    }

    /// Commits what is left and waits for everything.
    fn finish(&mut self) -> Result<(), Failure> {
        self.commit()?;
        if let Self::Directory { tickets, confirmed, .. } = self {
            return tickets.drain(..).try_for_each(|ticket| confirmed.add(ticket));
        }
        Ok(())
    }

    fn confirmed(&self) -> &Confirmed {
        match self {
            Self::Directory { confirmed, .. } | Self::Node { confirmed, .. } => confirmed,
        }
    }
}

impl Confirmed {
    fn add(&mut self, (ticket, records): (CommitTicket, u64)) -> Result<(), Failure> {
        self.lsn = Some(ticket.wait()?.lsn.to_string());
        self.records += records;
        Ok(())
    }
}

/// Commits a batch; one that is too large for the node's segments, in halves.
fn post(node: &Client, path: &str, mut operations: Vec<Entry>, confirmed: &mut Confirmed) -> Result<(), Failure> {
    if operations.is_empty() {
        return Ok(());
    }
    let request = BatchRequest { operations };
    match node.post::<_, Written>(path, &request, Duration::from_secs(60)) {
        Ok(written) => {
            confirmed.records += request.operations.len() as u64;
            confirmed.lsn = Some(written.lsn);
            Ok(())
        }
        Err(failure) if failure.kind == Kind::TooLarge && request.operations.len() > 1 => {
            operations = request.operations;
            let second = operations.split_off(operations.len() / 2);
            post(node, path, operations, confirmed)?;
            post(node, path, second, confirmed)
        }
        Err(failure) => Err(failure),
    }
}
