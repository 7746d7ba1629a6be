//! What is damaged of an open log, from the moment it is met until it is repaired; and whether a read that failed goes on
//! failing. How a damaged segment gets whole again is `repair`'s business.

use std::collections::BTreeMap;
use std::io;

use crate::error::{Error, Result};
use crate::format::{SegmentHeader, UnverifiedSegmentHeader};
use crate::log::{Log, Shared};
use crate::lsn::{Lsn, SegmentNumber};
use crate::repair::{Damage, LogPlace};
use crate::scan::{Scanned, SegmentScan, read_segment_header};
use crate::segment::SegmentId;
use crate::storage::{Access, is_of_device};

/// What opening and readers of an open log met, until it is repaired.
pub(crate) type Damages = BTreeMap<SegmentNumber, Noted>;

/// Damage of one segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    /// The first position that was met.
    pub(crate) at: Lsn,
    pub(crate) cause: Cause,
}

/// How damage was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It was read and does not check out, or its file is gone.
    Checked,
    /// The device did not read it. It may the next time.
    Unread,
}

impl Noted {
    /// It was met again, perhaps elsewhere in the segment.
    pub(crate) fn add(&mut self, other: Self) {
        self.at = self.at.min(other.at);
        if other.cause == Cause::Checked {
            self.cause = Cause::Checked;
        }
    }
}

impl Log {
    /// Damage that opening this log met in segments it did not need, and that its readers have met since, in segments that
    /// are still here, and that was not repaired.
    pub fn damages(&self) -> Vec<Damage> {
        let segments = self.shared.segments.read();
        let mut damages = self.shared.damages.lock();
        damages.retain(|segment, _| segments.contains_key(segment));
        damages.iter().map(|(segment, noted)| Damage { segment: *segment, at: noted.at }).collect()
    }

    /// Reads a segment again if it counts as damaged only because the device did not read it. Whether it is whole: then it is
    /// not damaged any more. One failed read is not damage yet, because a node that has no other copy would stop writing for
    /// it. (A failed sync is another matter: that is never tried again.)
    ///
    /// # Errors
    /// [`Error::Io`] if the segment cannot be opened for another reason than the device's.
    pub fn read_again(&self, segment: SegmentNumber) -> Result<bool> {
        let shared = &self.shared;
        let history = shared.history.read().clone();
        let is_unread = shared.damages.lock().get(&segment).is_some_and(|noted| noted.cause == Cause::Unread);
        if !is_unread || !shared.is_wholly_flushed(segment, &history) {
            return Ok(false);
        }
        let id = SegmentId { number: segment, timeline: history.of_segment(segment, shared.options.segment_size).id };
        match shared.place(&history).whole_segment(id) {
            Ok(Some(header)) => {
                shared.know_header(header);
                // What a reader met meanwhile stays.
                let mut damages = shared.damages.lock();
                damages.retain(|known, noted| *known != segment || noted.cause == Cause::Checked);
                Ok(!damages.contains_key(&segment))
            }
            Ok(None) => {
                shared.damages.lock().entry(segment).and_modify(|noted| noted.cause = Cause::Checked);
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                shared.damages.lock().entry(segment).and_modify(|noted| noted.cause = Cause::Checked);
                Ok(false)
            }
            Err(error) if is_of_device(&error) => Ok(false),
            Err(error) => Err(Error::io("read", shared.path_of(id), error)),
        }
    }
}

impl LogPlace<'_> {
    /// The header of a segment that is whole: all its records continue the one before, from its header's previous position
    /// to where it has to end. Read past the page cache.
    fn whole_segment(&self, id: SegmentId) -> io::Result<Option<SegmentHeader>> {
        let file = self.storage.open(&self.dir.join(id.file_name()), Access::ReadDirect)?;
        if file.len()? != u64::from(self.segment_size.bytes()) {
            return Ok(None);
        }
        let UnverifiedSegmentHeader::Parsed(header) = read_segment_header(&*file)? else { return Ok(None) };
        if id.foreign_field(&header, self.cluster, self.segment_size, self.history).is_some() {
            return Ok(None);
        }
        let until = self.segment_size.end_of(id.number).min(self.history.end_of(id.timeline));
        let mut end = header.previous;
        let mut scan = SegmentScan::new(file, header, Lsn::ZERO);
        while end.lsn < until {
            end = match scan.peek()? {
                Scanned::Record(record) if record.header.continues(end.chain) => record.position(),
                _ => return Ok(None),
            };
            scan.move_to(end.lsn);
        }
        Ok(self.known_ends(id).all(|(_, expected)| end == expected).then_some(header))
    }
}

impl Shared {
    /// From now on readers find the segment by this header, if it is still here.
    pub(crate) fn know_header(&self, header: SegmentHeader) {
        if let Some(known) = self.segments.write().get_mut(&header.segment) {
            *known = Some(header);
        }
    }
}
