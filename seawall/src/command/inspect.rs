//! `seawall inspect`: what lies in a data directory that no node has open: control file, manifest, segments, records.
//! Reads only, and tells damage from what is merely unfinished.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use seawall_engine::control::{CONTROL_NAME, ControlFile};
use seawall_engine::manifest::Manifest;
use seawall_engine::{Control, Role};
use seawall_wal::format::{
    NotARecord, RECORD_ALIGNMENT, Record, RecordKind, SEGMENT_HEADER_SIZE, SegmentHeader, UnverifiedSegmentHeader,
};
use seawall_wal::storage::{Access, Disk, Storage, read_exact_at};
use seawall_wal::{Lsn, SegmentId, SegmentSize, TimelineHistory};
use serde::Serialize;

use super::Context;
use crate::failure::{Failure, Kind};
use crate::kv::rfc3339;
use crate::output::{Table, human_bytes};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Print so many records of the log, too
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    records: u32,
    /// Records that end after this LSN
    #[arg(long, value_name = "LSN", requires = "records")]
    from: Option<Lsn>,
}

#[derive(Serialize)]
struct Inspected {
    data_dir: String,
    control: ControlShown,
    manifest: ManifestShown,
    segments: Vec<SegmentShown>,
    records: Vec<RecordShown>,
}

#[derive(Serialize)]
struct ControlShown {
    cluster: String,
    node: String,
    role: &'static str,
    role_detail: Option<String>,
    segment_size_bytes: u32,
    watermark: String,
    clean_shutdown: bool,
    timelines: Vec<TimelineShown>,
    damaged_copies: Vec<String>,
}

#[derive(Serialize)]
struct TimelineShown {
    timeline: u32,
    fork: String,
    begin: String,
}

#[derive(Serialize)]
struct ManifestShown {
    number: u64,
    redo: String,
    redo_time: String,
    keyspaces: Vec<String>,
    tables: usize,
    table_bytes: u64,
    blob_files: usize,
    blob_bytes: u64,
}

#[derive(Serialize)]
struct SegmentShown {
    file: String,
    timeline: u32,
    begin: String,
    /// Where its whole records end.
    end: String,
    #[serde(skip)]
    until: Lsn,
    /// Up to where what this node wrote into it says that the log had been flushed.
    #[serde(skip)]
    flushed: Lsn,
    records: u64,
    first_time: Option<String>,
    last_time: Option<String>,
    /// What lies at `end`: `full`, `end of the log`, `not begun`, or what is wrong there.
    then: String,
}

#[derive(Serialize)]
struct RecordShown {
    lsn: String,
    kind: String,
    time: String,
    payload_bytes: usize,
    flush_stamp: String,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let dir = context.settings()?.config.node.data_dir;
    let storage = Disk::new();
    if !dir.is_dir() {
        return Err(Failure::new(Kind::NotFound, format!("there is no directory {}", dir.display())));
    }
    let nothing = || Failure::new(Kind::NotFound, format!("{} holds no database", dir.display()));
    // Locking leaves a file behind, which somebody else's directory must not get.
    if !dir.join(CONTROL_NAME).exists() {
        return Err(nothing());
    }
    let _lock = storage.lock(&dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Failure::from(seawall_engine::Error::Locked { path: dir.clone() })
            .hint("stop the node, or ask it: seawall status"),
        _ => failed("lock", &dir, &error),
    })?;
    let (control, damaged) = ControlFile::read(&storage, &dir)?.ok_or_else(nothing)?;
    let (manifest, _) = Manifest::read(&storage, &dir, control.manifest_number, &control.manifest_digest)?;
    let mut records = Records { from: arguments.from.unwrap_or_default(), left: arguments.records, shown: Vec::new() };
    let segments = segments(&storage, &dir.join("wal"), &control, &mut records)?;
    let inspected = Inspected {
        data_dir: dir.display().to_string(),
        control: shown_control(
            &control,
            damaged.iter().map(|slot| format!("copy {}: {}", slot.slot, slot.why)).collect(),
        ),
        manifest: shown_manifest(&manifest),
        segments,
        records: records.shown,
    };
    context.output.document(&inspected, |out| write(out, &inspected))?;
    match inspected.segments.iter().find(|segment| segment.then.starts_with(DAMAGE)) {
        None => Ok(()),
        Some(first) => {
            let wrong = format!("the log is damaged in {} at {}: {}", first.file, first.end, first.then);
            let failure = Failure::new(Kind::VerificationFailed, wrong);
            Err(failure.hint("keep the directory as it is, and restore from the archive, or rebuild from another node"))
        }
    }
}

/// How what lies at a segment's end begins if it lost data.
const DAMAGE: &str = "damage: ";

fn shown_control(control: &Control, damaged_copies: Vec<String>) -> ControlShown {
    let (role, role_detail) = match &control.role {
        Role::Normal => ("normal", None),
        Role::Standby => ("standby", None),
        Role::ReadOnlyRestored { at, time, from } => {
            ("restored", Some(format!("to {at}, {}, from {from}", rfc3339(*time))))
        }
    };
    let timelines = control.history.entries().iter().map(|entry| TimelineShown {
        timeline: entry.id.0,
        fork: entry.fork.lsn.to_string(),
        begin: entry.begin.to_string(),
    });
    ControlShown {
        cluster: control.cluster.to_string(),
        node: control.node.to_string(),
        role,
        role_detail,
        segment_size_bytes: control.segment_size.bytes(),
        watermark: control.watermark.to_string(),
        clean_shutdown: control.clean_shutdown,
        timelines: timelines.collect(),
        damaged_copies,
    }
}

fn shown_manifest(manifest: &Manifest) -> ManifestShown {
    let live = manifest.keyspaces.iter().filter(|keyspace| keyspace.dropped == Lsn::MAX);
    ManifestShown {
        number: manifest.number,
        redo: manifest.redo.lsn.to_string(),
        redo_time: rfc3339(manifest.redo_time),
        keyspaces: live.map(|keyspace| keyspace.name.clone()).collect(),
        tables: manifest.tables.len(),
        table_bytes: manifest.tables.iter().map(|table| table.meta.size).sum(),
        blob_files: manifest.blobs.len(),
        blob_bytes: manifest.blobs.iter().map(|blob| blob.meta.size).sum(),
    }
}

/// Records to be printed, and those that are.
struct Records {
    from: Lsn,
    left: u32,
    shown: Vec<RecordShown>,
}

impl Records {
    fn add(&mut self, record: &Record<'_>) {
        if self.left == 0 || record.lsn <= self.from {
            return;
        }
        self.left -= 1;
        self.shown.push(RecordShown {
            lsn: record.lsn.to_string(),
            kind: kind_name(record.header.kind).to_owned(),
            time: rfc3339(record.header.time),
            payload_bytes: record.header.payload_len,
            flush_stamp: record.header.flush_stamp.to_string(),
        });
    }
}

fn kind_name(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Commit => "commit",
        RecordKind::Pad => "pad",
        RecordKind::Time => "time",
        RecordKind::Keyspace => "keyspace",
        RecordKind::MemtableRotate => "memtable_rotate",
        RecordKind::Checkpoint => "checkpoint",
        RecordKind::Promotion => "promotion",
        RecordKind::RestorePoint => "restore_point",
        RecordKind::Blob => "blob",
    }
}

/// Every segment file in the log's folder, in the order of the log.
fn segments(
    storage: &Disk,
    folder: &Path,
    control: &Control,
    records: &mut Records,
) -> Result<Vec<SegmentShown>, Failure> {
    let names = storage.list(folder).map_err(|error| failed("list", folder, &error))?;
    let mut ids: Vec<SegmentId> = names.iter().filter_map(|name| SegmentId::from_file_name(name)).collect();
    ids.sort_unstable();
    let mut shown = Vec::with_capacity(ids.len());
    for id in ids.iter().copied() {
        shown.push(segment(storage, &folder.join(id.file_name()), id, control, records)?);
    }
    // What stands in a segment speaks for those before it, too, if it is one of this node's history.
    let mut flushed = control.watermark;
    for (id, segment) in ids.iter().zip(&mut shown).rev() {
        if control.history.of_segment(id.number, control.segment_size).id == id.timeline {
            flushed = flushed.max(segment.flushed);
        }
        segment.judge(*id, control, flushed);
    }
    Ok(shown)
}

impl SegmentShown {
    /// Calls the end of the whole records damage where records must have followed: before what had been flushed, or on an
    /// older timeline before the next one's fork.
    fn judge(&mut self, id: SegmentId, control: &Control, flushed: Lsn) {
        let (size, fork) = (control.segment_size, control.history.end_of(id.timeline));
        let needed = flushed.min(fork).min(size.end_of(id.number));
        if self.until < needed && !self.then.starts_with(DAMAGE) && !self.then.starts_with("foreign") {
            self.then = format!("{DAMAGE}the log was flushed to {needed} at least; here is {}", self.then);
        }
    }
}

fn segment(
    storage: &Disk,
    path: &Path,
    id: SegmentId,
    control: &Control,
    records: &mut Records,
) -> Result<SegmentShown, Failure> {
    let size = control.segment_size;
    let begin = size.start_of(id.number);
    let mut shown = SegmentShown {
        file: id.file_name(),
        timeline: id.timeline.0,
        begin: begin.to_string(),
        end: begin.to_string(),
        until: begin,
        flushed: Lsn::ZERO,
        records: 0,
        first_time: None,
        last_time: None,
        then: String::new(),
    };
    let file = storage.open(path, Access::Read).map_err(|error| failed("open", path, &error))?;
    let len = file.len().map_err(|error| failed("read", path, &error))?;
    let mut head = [0; SEGMENT_HEADER_SIZE];
    shown.then = if len < SEGMENT_HEADER_SIZE as u64 {
        format!("{DAMAGE}the file is shorter than a header")
    } else {
        read_exact_at(&*file, &mut head, 0).map_err(|error| failed("read", path, &error))?;
        match UnverifiedSegmentHeader::parse(&head) {
            UnverifiedSegmentHeader::Prepared => String::from("not begun"),
            UnverifiedSegmentHeader::Unreadable => format!("{DAMAGE}the header does not match its checksum"),
            UnverifiedSegmentHeader::TooNew(version) => format!("written by a newer version, {version}"),
            UnverifiedSegmentHeader::Parsed(header) => match foreign(&header, id, control) {
                Some(why) => why,
                None => {
                    let map = file.map().map_err(|error| failed("map", path, &error))?;
                    let then = walk(&map, &header, size, &mut shown, records);
                    if header.writer == control.node {
                        // A header is written once everything before its segment was flushed.
                        let stamped = stamped(&map, &header, size, shown.until);
                        shown.flushed = stamped.max(header.previous.lsn);
                    }
                    then
                }
            },
        }
    };
    Ok(shown)
}

fn foreign(header: &SegmentHeader, id: SegmentId, control: &Control) -> Option<String> {
    if header.cluster != control.cluster {
        return Some(format!("foreign: it belongs to cluster {}", header.cluster));
    }
    if header.timeline != id.timeline || header.segment != id.number || header.size != control.segment_size {
        return Some(String::from("foreign: its header does not fit its name"));
    }
    let known = |history: &TimelineHistory| {
        history.entries().iter().any(|entry| entry.id == header.timeline && entry.nonce == header.nonce)
    };
    (!known(&control.history)).then(|| String::from("foreign: of a timeline this node's history does not have"))
}

/// Goes through the records of a segment and says what stands where they end.
fn walk(
    bytes: &[u8],
    header: &SegmentHeader,
    size: SegmentSize,
    shown: &mut SegmentShown,
    records: &mut Records,
) -> String {
    let start = size.start_of(header.segment);
    let (mut at, mut chain) = (header.first_record(), header.previous.chain);
    let then = loop {
        if at >= size.end_of(header.segment) {
            break String::from("full");
        }
        let rest = bytes.get(at.distance_from(start) as usize..).unwrap_or_default();
        let record = match Record::parse(rest, at, header.salt, size) {
            Ok(record) if record.header.continues(chain) => record,
            Ok(_) => break String::from("a whole record that does not continue the chain"),
            Err(NotARecord::Header) => break String::from("end of the log"),
            Err(NotARecord::Payload) => break String::from("a header whose payload is not whole"),
            Err(NotARecord::Chain) => break String::from("a whole record that does not continue the chain"),
            Err(NotARecord::Unknown) => break String::from("a record of a newer version"),
        };
        if record.header.kind != RecordKind::Pad {
            shown.records += 1;
            let time = rfc3339(record.header.time);
            shown.first_time.get_or_insert_with(|| time.clone());
            shown.last_time = Some(time);
            records.add(&record);
        }
        (at, chain) = (record.lsn, record.header.chain);
    };
    shown.end = at.to_string();
    shown.until = at;
    then
}

/// The greatest flush stamp among whole records at `from` or anywhere behind it in a segment.
fn stamped(bytes: &[u8], header: &SegmentHeader, size: SegmentSize, from: Lsn) -> Lsn {
    let (start, end) = (size.start_of(header.segment), size.end_of(header.segment));
    let mut stamped = Lsn::ZERO;
    let mut at = from;
    while at < end {
        let rest = bytes.get(at.distance_from(start) as usize..).unwrap_or_default();
        match Record::parse(rest, at, header.salt, size) {
            Ok(record) => {
                stamped = stamped.max(record.header.flush_stamp);
                at = record.lsn;
            }
            Err(_) => at = at.advance(RECORD_ALIGNMENT as u64),
        }
    }
    stamped
}

fn failed(operation: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(Kind::Failed, format!("cannot {operation} {}: {error}", PathBuf::from(path).display()))
}

fn write(out: &mut dyn Write, inspected: &Inspected) -> io::Result<()> {
    let Inspected { data_dir, control, manifest, segments, records } = inspected;
    writeln!(out, "{data_dir}")?;
    writeln!(out, "cluster   {}\nnode      {}", control.cluster, control.node)?;
    let detail = control.role_detail.as_deref().map(|detail| format!(" {detail}")).unwrap_or_default();
    writeln!(out, "role      {}{detail}", control.role)?;
    let clean = if control.clean_shutdown { "shut down cleanly" } else { "not shut down cleanly" };
    writeln!(out, "control   flushed to {} at least, {clean}", control.watermark)?;
    control.damaged_copies.iter().try_for_each(|copy| writeln!(out, "          damaged: {copy}"))?;
    let bytes = human_bytes(manifest.table_bytes);
    let (tables, keyspaces) = (manifest.tables, manifest.keyspaces.join(", "));
    writeln!(
        out,
        "manifest  {}: {tables} tables, {bytes}, up to {}; keyspaces: {keyspaces}",
        manifest.number, manifest.redo
    )?;
    if manifest.blob_files > 0 {
        writeln!(out, "          {} files of large values, {}", manifest.blob_files, human_bytes(manifest.blob_bytes))?;
    }
    for timeline in &control.timelines {
        writeln!(out, "timeline  {}: forked at {}, begins at {}", timeline.timeline, timeline.fork, timeline.begin)?;
    }
    writeln!(out)?;
    let mut table = Table::new(&["SEGMENT", "BEGIN", "END", "RECORDS", "LAST TIME", "THEN"]);
    for segment in segments {
        let last = segment.last_time.clone().unwrap_or_else(|| String::from("-"));
        let (begin, end) = (segment.begin.clone(), segment.end.clone());
        table.row([segment.file.clone(), begin, end, segment.records.to_string(), last, segment.then.clone()]);
    }
    table.write(out)?;
    if records.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(&["LSN", "KIND", "TIME", "BYTES", "FLUSHED THEN"]);
    for record in records {
        let (kind, time, stamp) = (record.kind.clone(), record.time.clone(), record.flush_stamp.clone());
        table.row([record.lsn.clone(), kind, time, record.payload_bytes.to_string(), stamp]);
    }
    table.write(out)
}
