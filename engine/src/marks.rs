//! Which time readers have: that of the last record they see, cut down to whole seconds, so that it follows from the log
//! alone. Marks say where in the log a new second begins; between two marks the time stands still.

use seawall_wal::{Lsn, Timestamp};

use crate::error::{Error, Result};
use crate::manifest::{MARKS_MAX, TimeMark};
use crate::mutant::{Mutant, planted};

const SECOND_MICROS: u64 = 1_000_000;

/// A time cut down to whole seconds.
pub(crate) fn second_of(time: Timestamp) -> Timestamp {
    Timestamp(time.0 - time.0 % SECOND_MICROS)
}

fn start_of(second: u64) -> Timestamp {
    Timestamp(second.saturating_mul(SECOND_MICROS))
}

/// When a reader looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// It sees everything up to here.
    pub(crate) lsn: Lsn,
    /// The time there, in whole seconds. What has expired by then it does not see.
    pub(crate) time: Timestamp,
}

impl Moment {
    /// Whether a value that ends at `expiry` has ended.
    pub(crate) fn is_past(self, expiry: Timestamp) -> bool {
        match planted(Mutant::ExpiryByWallClock) {
            true => expiry <= seawall_wal::Clock::now(&seawall_wal::SystemClock),
            false => expiry <= self.time,
        }
    }
}

/// The marks from the floor on, by LSN and time. There are none as long as nothing that was written can expire: then it
/// does not matter what time it is. The first one is at or below the floor unless older ones had to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeMarks(Vec<TimeMark>);

impl TimeMarks {
    pub(crate) fn new(marks: Vec<TimeMark>) -> Self {
        Self(marks)
    }

    /// Whether the record at `time` begins a second that has to be marked. `expires` is whether it writes something that can
    /// expire.
    pub(crate) fn want(&self, time: Timestamp, expires: bool) -> bool {
        match self.0.last() {
            Some(last) => last.second < time.0 / SECOND_MICROS,
            None => expires,
        }
    }

    /// Marks the record at `lsn`.
    pub(crate) fn push(&mut self, lsn: Lsn, time: Timestamp) {
        if self.0.is_empty() {
            // What is older than the first thing that can expire has no need of a time.
            self.0.push(TimeMark { lsn: Lsn::ZERO, second: 0 });
        }
        assert!(self.0.last().is_some_and(|last| last.lsn < lsn), "records are marked in their order");
        if self.0.len() == MARKS_MAX {
            self.0.remove(0);
        }
        self.0.push(TimeMark { lsn, second: time.0 / SECOND_MICROS });
    }

    /// The time of a reader at `lsn`, which is not below the floor.
    ///
    /// # Errors
    /// [`Error::SnapshotTooOld`] if so many seconds were marked since that it is not known any more.
    pub(crate) fn moment(&self, lsn: Lsn) -> Result<Moment> {
        let time = match (self.0.first(), self.0.last()) {
            (_, Some(last)) if last.lsn <= lsn => start_of(last.second),
            (Some(first), _) if lsn < first.lsn => {
                return Err(Error::SnapshotTooOld { requested: lsn, oldest: first.lsn });
            }
            (None, _) => Timestamp(0),
            _ => start_of(self.0[self.0.partition_point(|mark| mark.lsn <= lsn) - 1].second),
        };
        Ok(Moment { lsn, time })
    }

    /// The first record whose readers do not see what ends at `expiry`.
    pub(crate) fn end_of(&self, expiry: Timestamp) -> Option<Lsn> {
        self.0.get(self.0.partition_point(|mark| start_of(mark.second) < expiry)).map(|mark| mark.lsn)
    }

    /// Forgets what only readers below `floor` need.
    pub(crate) fn forget_below(&mut self, floor: Lsn) {
        let needless = self.0.partition_point(|mark| mark.lsn <= floor).saturating_sub(1);
        self.0.drain(..needless);
    }

    /// Those at or below `lsn`.
    pub(crate) fn up_to(&self, lsn: Lsn) -> Vec<TimeMark> {
        self.0[..self.0.partition_point(|mark| mark.lsn <= lsn)].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks() -> TimeMarks {
        let mut marks = TimeMarks::default();
        for (lsn, micros) in [(100, 5_200_000), (140, 6_000_000), (160, 9_999_999)] {
            assert!(marks.want(Timestamp(micros), true));
            marks.push(Lsn::new(lsn), Timestamp(micros));
        }
        marks
    }

    fn seconds_at(marks: &TimeMarks, lsn: u64) -> u64 {
        marks.moment(Lsn::new(lsn)).unwrap().time.0 / SECOND_MICROS
    }

    #[test]
    fn a_reader_has_the_second_of_the_last_record_it_sees() {
        let marks = marks();
        assert_eq!([99, 100, 139, 140, 159, 160, 999].map(|lsn| seconds_at(&marks, lsn)), [0, 5, 5, 6, 6, 9, 9]);
        assert!(!marks.want(Timestamp(9_999_999), true));
        assert!(marks.want(Timestamp(10_000_000), false));
        assert!(!TimeMarks::default().want(Timestamp(10_000_000), false), "nothing can expire");
        assert_eq!(seconds_at(&TimeMarks::default(), 5), 0);
    }

    #[test]
    fn what_ends_within_a_second_ends_with_it() {
        let marks = marks();
        let ends = |micros| marks.end_of(Timestamp(micros)).map(Lsn::offset);
        assert_eq!(
            [5_000_000, 5_000_001, 6_000_000, 6_000_001, 9_000_001].map(ends),
            [Some(100), Some(140), Some(140), Some(160), None]
        );
    }

    #[test]
    fn the_floor_keeps_its_time() {
        let mut marks = marks();
        marks.forget_below(Lsn::new(150));
        assert_eq!([140, 150, 160].map(|lsn| seconds_at(&marks, lsn)), [6, 6, 9]);
        assert_eq!(marks.up_to(Lsn::new(159)).len(), 1);
    }

    #[test]
    fn a_reader_whose_second_was_forgotten_is_told_so() {
        let mut marks = marks();
        for second in 10..5_000 {
            marks.push(Lsn::new(second * 100), Timestamp(second * SECOND_MICROS));
        }
        assert_eq!(marks.up_to(Lsn::MAX).len(), MARKS_MAX);
        assert!(matches!(marks.moment(Lsn::new(160)), Err(Error::SnapshotTooOld { .. })));
        assert_eq!(seconds_at(&marks, 499_950), 4_999);
    }
}
