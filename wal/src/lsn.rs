//! Positions in the log: `Lsn`, segment numbers and the fixed segment size that relates them.
//! Everything here is arithmetic; what lies at a position is `format`'s business.

use std::fmt;
use std::str::FromStr;

/// A byte position in the log, the same on every node. As "how far" it is an exclusive end:
/// flushed up to `l` means every byte before `l`. Printed `0/1A2B3C4D`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The beginning of every log.
    pub const ZERO: Self = Self(0);
    /// Beyond every position.
    pub const MAX: Self = Self(u64::MAX);
    /// No log reaches beyond it. A position that comes from outside is compared with it before anything is computed from
    /// it, so that segment boundaries and ends of records stay below 2^64.
    pub const REACHABLE_MAX: Self = Self(u64::MAX >> 1);

    /// The position `offset` bytes after the beginning.
    pub const fn new(offset: u64) -> Self {
        Self(offset)
    }

    /// Bytes between the beginning and this position.
    pub const fn offset(self) -> u64 {
        self.0
    }

    /// Whether a log can get here.
    pub const fn is_reachable(self) -> bool {
        self.0 <= Self::REACHABLE_MAX.0
    }

    /// The position `bytes` further on.
    ///
    /// # Panics
    /// If it would pass 2^64, which no log reaches.
    #[must_use]
    pub const fn advance(self, bytes: u64) -> Self {
        Self(self.0.checked_add(bytes).expect("the log ends before 2^64"))
    }

    /// Bytes from `earlier` to here; 0 if `earlier` is not earlier.
    pub const fn distance_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// As it is displayed, so that what a test or a log prints can be compared with what a command says.
impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:08X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not an LSN of the form `0/1A2B3C4D`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a position: expected two hexadecimal numbers as in 0/1A2B3C4D")]
pub struct ParseLsnError {
    text: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let wrong = || ParseLsnError { text: text.to_owned() };
        let hex = |part: &str| {
            let plain = !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self(hex(high).ok_or_else(wrong)? << 32 | hex(low).ok_or_else(wrong)?))
    }
}

/// The number of a segment: `k` covers `[k*S, (k+1)*S)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of every segment of a cluster: a power of two from 64 KiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// 64 KiB, for tests.
    pub const MIN: Self = Self(64 << 10);
    /// 64 MiB.
    pub const DEFAULT: Self = Self(64 << 20);
    /// 1 GiB.
    pub const MAX: Self = Self(1 << 30);

    /// `bytes` if it is an allowed size.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.0 && bytes <= Self::MAX.0 { Some(Self(bytes)) } else { None }
    }

    /// In bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The segment that holds the byte at `lsn`.
    pub const fn segment_of(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.0 / self.0 as u64)
    }

    /// Whether a log of this size of segments can get to `segment`.
    pub const fn reaches(self, segment: SegmentNumber) -> bool {
        segment.0 <= Lsn::REACHABLE_MAX.0 / self.0 as u64
    }

    /// Distance of `lsn` from the start of its segment.
    pub const fn offset_in_segment(self, lsn: Lsn) -> u32 {
        (lsn.0 % self.0 as u64) as u32
    }

    /// Where `segment` starts.
    pub const fn start_of(self, segment: SegmentNumber) -> Lsn {
        Lsn(segment.0 * self.0 as u64)
    }

    /// Where `segment` ends, which is where the next one starts.
    pub const fn end_of(self, segment: SegmentNumber) -> Lsn {
        self.start_of(segment.next())
    }

    /// The first segment boundary at or after `lsn`.
    pub const fn boundary_at_or_after(self, lsn: Lsn) -> Lsn {
        Lsn(lsn.0.div_ceil(self.0 as u64) * self.0 as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_prints_and_parses_in_one_form() {
        let lsn = Lsn::new(0x3_1A2B_3C4D);
        assert_eq!([lsn.to_string(), format!("{lsn:?}")], ["3/1A2B3C4D"; 2]);
        assert_eq!("3/1A2B3C4D".parse(), Ok(lsn));
        assert_eq!("0/0".parse(), Ok(Lsn::ZERO));
        for wrong in ["", "/", "1", "1/", "/1", "1/2/3", "x/1", "-1/2", "+1/2", "1/123456789"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_boundary_is_its_own_boundary() {
        let size = SegmentSize::MIN;
        assert_eq!(size.boundary_at_or_after(Lsn::ZERO), Lsn::ZERO);
        assert_eq!(size.boundary_at_or_after(Lsn::new(1)), Lsn::new(65536));
        assert_eq!(size.boundary_at_or_after(Lsn::new(65536)), Lsn::new(65536));
        assert_eq!(size.end_of(SegmentNumber(2)), size.start_of(SegmentNumber(3)));
    }

    #[test]
    fn what_a_log_can_reach_has_a_segment_with_an_end() {
        for size in [SegmentSize::MIN, SegmentSize::DEFAULT, SegmentSize::MAX] {
            let last = size.segment_of(Lsn::REACHABLE_MAX);
            assert!(Lsn::REACHABLE_MAX.is_reachable() && size.reaches(last) && !size.reaches(last.next()));
            assert!(size.end_of(last) > Lsn::REACHABLE_MAX && size.end_of(last) < Lsn::MAX);
            assert!(!size.end_of(last).is_reachable() && !Lsn::MAX.is_reachable());
            assert_eq!(size.boundary_at_or_after(Lsn::REACHABLE_MAX), size.end_of(last));
        }
    }
}
