//! Putting a damaged segment in order: its records are taken from another copy of the log and proven to be the ones that
//! belong there, what of the damaged file follows on them is kept, and the damaged file is put aside. FORMAT.md, "Repair".

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::{Position, Record, RecordHeader, SEGMENT_HEADER_SIZE, SegmentHeader, UnverifiedSegmentHeader};
use crate::identity::ClusterId;
use crate::kept::{kept_path, sync_kept};
use crate::log::{Log, Shared};
use crate::lsn::{Lsn, SegmentNumber, SegmentSize};
use crate::mutant::{Mutant, planted};
use crate::scan::{SegmentScan, read_segment_header};
use crate::segment::{SPARE_FOR_REPAIR, SegmentId};
use crate::source::SegmentSource;
use crate::storage::{Access, AlignedBuffer, Storage, read_exact_at, write_all_at};
use crate::timeline::TimelineHistory;

/// Where damage was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The segment.
    pub segment: SegmentNumber,
    /// The first position in it from which nothing valid follows.
    pub at: Lsn,
}

/// What was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The segment's file.
    pub path: PathBuf,
    /// Up to here its records are those of the other copy.
    pub to: Lsn,
    /// Where the damaged file is kept; `None` if there was none.
    pub kept: Option<PathBuf>,
}

/// A folder of segments of one history.
#[derive(Clone, Copy, Debug)]
pub struct LogPlace<'a> {
    /// Where it lies.
    pub storage: &'a dyn Storage,
    /// The folder.
    pub dir: &'a Path,
    /// Whose log it is.
    pub cluster: ClusterId,
    /// Of its segments.
    pub segment_size: SegmentSize,
    /// Its timelines.
    pub history: &'a TimelineHistory,
}

impl LogPlace<'_> {
    /// Puts a segment in order that nobody has open for writing. Holds one segment in memory.
    ///
    /// # Errors
    /// [`Error::Source`] if the source has nothing beyond the damage, [`Error::CorruptRecord`] or [`Error::Foreign`] if
    /// what it has is damaged too or of another history: then nothing was changed. [`Error::Io`] from the disk.
    pub fn repair(&self, damage: Damage, source: &dyn SegmentSource) -> Result<Repaired> {
        let mended = self.mend(damage, source)?;
        self.put_in_place(&mended).inspect_err(|_| self.discard(&mended.temporary))
    }

    /// Makes the file that is to be.
    fn mend(&self, damage: Damage, source: &dyn SegmentSource) -> Result<Mended> {
        let entry = self.history.of_segment(damage.segment, self.segment_size);
        let id = SegmentId { number: damage.segment, timeline: entry.id };
        let bytes = self.fetch(id, source)?;
        let (header, end) = self.prove(id, &bytes, source.name())?;
        if end.lsn <= damage.at {
            let why =
                format!("it has segment {} up to {} only, and the damage begins at {}", id.number, end.lsn, damage.at);
            return Err(Error::Source { source_name: source.name().to_owned(), at: damage.at, why });
        }
        let path = self.dir.join(id.file_name());
        let damaged = self.damaged_file(&path)?;
        let mut image = AlignedBuffer::zeroed(self.segment_size.bytes() as usize);
        image[..bytes.len()].copy_from_slice(&bytes);
        if let Some(damaged) = &damaged {
            image[bytes.len()..].copy_from_slice(&damaged[bytes.len()..]);
        }
        let temporary = self.dir.join(SPARE_FOR_REPAIR);
        self.remove(&temporary)?;
        self.write_durably(&temporary, &image).inspect_err(|_| self.discard(&temporary))?;
        Ok(Mended { id, header, temporary, path, to: end.lsn, was_there: damaged.is_some() })
    }

    fn write_durably(&self, path: &Path, image: &[u8]) -> Result<()> {
        let file = self.storage.open(path, Access::CreateNew).map_err(|error| Error::io("create", path, error))?;
        write_all_at(&*file, image, 0).map_err(|error| Error::io("write", path, error))?;
        if !planted(Mutant::RepairNotSynced) {
            file.sync_data().map_err(|error| Error::io("sync", path, error))?;
        }
        Ok(())
    }

    /// After a failure: a disk that was full is not to stay so because of what did not fit.
    fn discard(&self, temporary: &Path) {
        if let Err(error) = self.remove(temporary) {
            tracing::warn!(%error, "what is left of a repair that failed is in the way until the next one, or the next start");
        }
    }

    /// The segment's bytes from the source, its header first: as many as it has, and none from beyond the fork that ends
    /// its timeline here.
    fn fetch(&self, id: SegmentId, source: &dyn SegmentSource) -> Result<Vec<u8>> {
        let (start, end) = (self.segment_size.start_of(id.number), self.segment_size.end_of(id.number));
        let end = end.min(self.history.end_of(id.timeline));
        let mut bytes = Vec::new();
        loop {
            let from = start.advance(bytes.len() as u64);
            if from >= end {
                return Ok(bytes);
            }
            let Some(log) = source.fetch(id.timeline, from)? else { return Ok(bytes) };
            if log.start != from
                || log.timeline != id.timeline
                || log.bytes.is_empty()
                || log.end() > self.segment_size.end_of(id.number)
            {
                let why = format!(
                    "it answered with {} bytes of timeline {} from {}",
                    log.bytes.len(),
                    log.timeline,
                    log.start
                );
                return Err(Error::Source { source_name: source.name().to_owned(), at: from, why });
            }
            let within = log.bytes.len().min(end.distance_from(from) as usize);
            bytes.extend_from_slice(&log.bytes[..within]);
        }
    }

    /// The fetched header, and where the fetched records end, once they are proven to be those of this history at this place: every record is whole
    /// and continues the one before, and the headers of this segment, as far as it can be read, and of the next say the same.
    fn prove(&self, id: SegmentId, bytes: &[u8], source: &str) -> Result<(SegmentHeader, Position)> {
        let start = self.segment_size.start_of(id.number);
        let nothing = || Error::Source {
            source_name: source.to_owned(),
            at: start,
            why: String::from("it does not have this segment"),
        };
        let head = bytes.first_chunk::<SEGMENT_HEADER_SIZE>().ok_or_else(nothing)?;
        let corrupt = |at| Error::CorruptRecord { at, segment: id.number, timeline: id.timeline };
        let UnverifiedSegmentHeader::Parsed(header) = UnverifiedSegmentHeader::parse(head) else {
            return Err(corrupt(start));
        };
        self.check_header(id, &header)?;
        let (mut end, mut place) = (header.previous, header.first_record());
        let mut rest = &bytes[SEGMENT_HEADER_SIZE..];
        while !rest.is_empty() {
            let record = Record::parse(rest, place, header.salt, header.size).map_err(|_| corrupt(place))?;
            if !record.header.continues(end.chain) {
                return Err(corrupt(place));
            }
            rest = rest.get(record.lsn.distance_from(place) as usize..).ok_or_else(|| corrupt(place))?;
            (end, place) = (record.position(), record.lsn);
        }
        if !planted(Mutant::RepairUnproven) {
            self.compare(id, bytes, &header, end)?;
        }
        Ok((header, end))
    }

    /// Whether the proven bytes are of the history that is here, as far as anything of it is left: every record of the
    /// damaged segment that is whole is the same in them, and the next segment goes on where they end.
    fn compare(&self, id: SegmentId, bytes: &[u8], theirs: &SegmentHeader, end: Position) -> Result<()> {
        let path = self.dir.join(id.file_name());
        for (field, expected) in self.known_ends(id) {
            if end.lsn >= expected.lsn && end != expected {
                return Err(self.foreign(id, field, end.to_string(), expected.to_string()));
            }
        }
        let file = match self.storage.open(&path, Access::ReadDirect) {
            Ok(file) if file.len().is_ok_and(|len| len == u64::from(self.segment_size.bytes())) => file,
            // None of its records is left to say that the copy is of this log, so it has to reach where the segment ends.
            _ => {
                let until = self.segment_size.end_of(id.number).min(self.history.end_of(id.timeline));
                let is_whole = end.lsn >= until || self.known_ends(id).any(|(_, expected)| end == expected);
                let short = || self.foreign(id, "end", end.to_string(), until.to_string());
                return if is_whole { Ok(()) } else { Err(short()) };
            }
        };
        // If the header here is gone: with the salt of the segment that is offered, the records are whole if they are its.
        let header = self.known_header(id);
        let known = header.unwrap_or(*theirs);
        let mut is_proven = header.is_some() || self.known_ends(id).any(|(_, expected)| end == expected);
        let mut differs = None;
        let scan = SegmentScan::new(file, known, Lsn::ZERO);
        let searched = scan.search(|header, _| {
            is_proven = true;
            let place = self.segment_size.offset_in_segment(header.start) as usize;
            let theirs =
                bytes.get(place..).map(|theirs| RecordHeader::parse(theirs, header.start, known.salt, known.size));
            if header.start < end.lsn && !theirs.is_some_and(|theirs| theirs.is_ok_and(|theirs| theirs == *header)) {
                differs.get_or_insert(header.start);
            }
        });
        // What cannot be read says nothing.
        drop(searched);
        match differs {
            Some(at) => {
                Err(self.foreign(id, "record", format!("another one at {at}"), String::from("the one that is here")))
            }
            None if is_proven => Ok(()),
            None => {
                let (found, expected) = ("one under which nothing here is whole", "that of the segment that is here");
                Err(self.foreign(id, "header", found.to_owned(), expected.to_owned()))
            }
        }
    }

    /// Where this segment ends, as far as its surroundings say so, and which of them do: the next segment, and at a fork,
    /// where that is another timeline's, the history.
    pub(crate) fn known_ends(&self, id: SegmentId) -> impl Iterator<Item = (&'static str, Position)> + use<> {
        let number = id.number.next();
        let timeline = self.history.of_segment(number, self.segment_size).id;
        let next = self.known_header(SegmentId { number, timeline }).map(|next| next.previous);
        let fork = (timeline != id.timeline).then(|| self.history.fork_after(id.timeline)).flatten();
        let ends = [("position before the next segment", next), ("position at the fork", fork)];
        ends.into_iter().filter_map(|(field, position)| Some((field, position?)))
    }

    fn check_header(&self, id: SegmentId, header: &SegmentHeader) -> Result<()> {
        let foreign = id.foreign_field(header, self.cluster, self.segment_size, self.history);
        if let Some((field, found, expected)) = foreign {
            return Err(self.foreign(id, field, found, expected));
        }
        match self.known_header(id) {
            Some(known) if known != *header => {
                Err(self.foreign(id, "header", format!("{header:?}"), format!("{known:?}")))
            }
            _ => Ok(()),
        }
    }

    /// The header of a segment here, if it can be read.
    fn known_header(&self, id: SegmentId) -> Option<SegmentHeader> {
        let file = self.storage.open(&self.dir.join(id.file_name()), Access::ReadDirect).ok()?;
        match read_segment_header(&*file).ok()? {
            UnverifiedSegmentHeader::Parsed(header) => Some(header),
            _ => None,
        }
    }

    fn foreign(&self, id: SegmentId, field: &'static str, found: String, expected: String) -> Error {
        Error::Foreign { path: self.dir.join(id.file_name()), field, found, expected }
    }

    /// The bytes of the damaged file; `None` if there is none, or none of the right size. What cannot be read of it is lost
    /// here, which is what the other copy is for: those parts are zeros.
    fn damaged_file(&self, path: &Path) -> Result<Option<AlignedBuffer>> {
        const PART: usize = 64 << 10;
        let file = match self.storage.open(path, Access::ReadDirect) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", path, error)),
        };
        let size = self.segment_size.bytes() as usize;
        if file.len().map_err(|error| Error::io("read", path, error))? != size as u64 {
            return Ok(None);
        }
        let mut bytes = AlignedBuffer::zeroed(size);
        for (number, part) in bytes.chunks_mut(PART).enumerate() {
            if read_exact_at(&*file, part, (number * PART) as u64).is_err() {
                part.fill(0);
            }
        }
        Ok(Some(bytes))
    }

    /// Removes a file, if it is there.
    fn remove(&self, path: &Path) -> Result<()> {
        match self.storage.remove(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Gives the new file the segment's name, and the damaged one another.
    fn put_in_place(&self, mended: &Mended) -> Result<Repaired> {
        let kept = match mended.was_there {
            true => Some(self.keep(mended)?),
            false => None,
        };
        self.storage
            .rename(&mended.temporary, &mended.path)
            .map_err(|error| Error::io("rename", &mended.temporary, error))?;
        self.storage.sync_dir(self.dir).map_err(|error| Error::io("sync", self.dir, error))?;
        Ok(Repaired { path: mended.path.clone(), to: mended.to, kept })
    }

    fn keep(&self, mended: &Mended) -> Result<PathBuf> {
        let path = kept_path(self.storage, self.dir, self.segment_size.start_of(mended.id.number), "damaged")?;
        self.storage.hard_link(&mended.path, &path).map_err(|error| Error::io("link", &path, error))?;
        sync_kept(self.storage, &path)?;
        Ok(path)
    }
}

/// A file that is to take a segment's name.
struct Mended {
    id: SegmentId,
    header: SegmentHeader,
    temporary: PathBuf,
    path: PathBuf,
    to: Lsn,
    was_there: bool,
}

impl Log {
    /// Puts a segment in order while the log is open; see [`LogPlace::repair`]. One after the other: a second caller waits.
    ///
    /// # Errors
    /// As there, and [`Error::WrongMode`] for a segment that is still being written: later it can be repaired.
    pub fn repair(&self, damage: Damage, source: &dyn SegmentSource) -> Result<Repaired> {
        let shared = &self.shared;
        // They make their file under the same name.
        let _one = (!planted(Mutant::RepairsTogether)).then(|| shared.repairing.lock());
        let history = shared.history.read().clone();
        if !shared.is_wholly_flushed(damage.segment, &history) {
            let operation = "put it in order before it is full and flushed";
            return Err(Error::WrongMode { operation, actual: "writing to that segment" });
        }
        let place = shared.place(&history);
        let mended = place.mend(damage, source)?;
        // Held, so that the segment cannot become a spare meanwhile.
        let segments = shared.segments.read();
        if !segments.contains_key(&damage.segment) {
            drop(segments);
            place.discard(&mended.temporary);
            return Err(Error::Removed { requested: damage.at, oldest: self.oldest() });
        }
        let repaired = place.put_in_place(&mended).inspect_err(|_| place.discard(&mended.temporary))?;
        drop(segments);
        shared.know_header(mended.header);
        shared.damages.lock().remove(&damage.segment);
        Ok(repaired)
    }
}

impl Shared {
    /// Whether nothing is written to this segment's file any more, now and later: what is still to be flushed would go to
    /// the file that a repair puts aside, be acknowledged, and be in no segment. That a later segment has begun does not say
    /// so: the last records of this one may be on their way.
    pub(crate) fn is_wholly_flushed(&self, segment: SegmentNumber, history: &TimelineHistory) -> bool {
        let size = self.options.segment_size;
        if planted(Mutant::RepairBeforeFlush) {
            return self.tail.lock().active.as_ref().is_some_and(|active| active.header.segment > segment);
        }
        let end = size.end_of(segment).min(history.end_of(history.of_segment(segment, size).id));
        self.flushed.value() >= end
    }

    pub(crate) fn place<'a>(self: &'a Arc<Self>, history: &'a TimelineHistory) -> LogPlace<'a> {
        LogPlace {
            storage: &*self.storage,
            dir: &self.dir,
            cluster: self.options.cluster,
            segment_size: self.options.segment_size,
            history,
        }
    }
}
