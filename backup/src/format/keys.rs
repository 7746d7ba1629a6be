//! Names of objects. They are made from positions, hashes and times, and never taken from an object.

use std::fmt;
use std::str::FromStr;

use seawall_wal::{Lsn, TimelineId, Timestamp};

/// Which cluster the repository belongs to.
pub const CLUSTER: &str = "cluster";
/// Before every backup's key.
pub const BACKUPS: &str = "backups/";
/// Before every timeline's key.
pub const TIMELINES: &str = "timelines/";

/// The object in which a timeline was claimed.
pub fn timeline(timeline: TimelineId) -> String {
    format!("{TIMELINES}{:08x}", timeline.0)
}

/// The chunk or fence that starts at `start`.
pub fn chunk(timeline: TimelineId, start: Lsn) -> String {
    format!("{}{:016x}", chunks(timeline), start.offset())
}

/// Before every chunk's key of a timeline.
pub fn chunks(timeline: TimelineId) -> String {
    format!("wal/{:08x}/", timeline.0)
}

/// The LSN a listed key of this timeline stands for.
pub fn chunk_start(timeline: TimelineId, key: &str) -> Option<Lsn> {
    let hex = key.strip_prefix(&chunks(timeline))?;
    let lsn = u64::from_str_radix(hex, 16).ok().map(Lsn::new)?;
    (chunk(timeline, lsn) == key).then_some(lsn)
}

/// A timeline's cursor.
pub fn frontier(timeline: TimelineId) -> String {
    format!("frontier/{:08x}", timeline.0)
}

/// A piece of the file with this content.
pub fn piece(hash: &blake3::Hash, piece: u32) -> String {
    format!("tables/{}/{piece:08x}", hash.to_hex())
}

/// A backup's manifest.
pub fn backup(id: &BackupId) -> String {
    format!("{BACKUPS}{id}")
}

/// Names a backup: the microsecond it began and a random number. Ids sort by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

/// The text is not a backup's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a backup id: expected the form 20261121T081500Z-1a2b3c4d")]
pub struct ParseBackupIdError {
    text: String,
}

impl BackupId {
    /// A new id for a backup begun at `started`.
    pub fn new(started: Timestamp) -> Self {
        let micros = i64::try_from(started.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX);
        let random = rand::random::<u16>() & 0xFFF;
        BackupId(format!("{}-{:05x}{random:03x}", time.strftime("%Y%m%dT%H%M%SZ"), micros.rem_euclid(1_000_000)))
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BackupId {
    type Err = ParseBackupIdError;

    fn from_str(text: &str) -> Result<Self, ParseBackupIdError> {
        const SHAPE: &[u8] = b"00000000T000000Z-xxxxxxxx";
        let fits = |(byte, shape): (u8, &u8)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            other => byte == *other,
        };
        if text.len() == SHAPE.len() && text.bytes().zip(SHAPE).all(fits) {
            Ok(BackupId(text.to_owned()))
        } else {
            Err(ParseBackupIdError { text: text.to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_positions_do_and_read_back() {
        let of = |lsn| chunk(TimelineId(3), Lsn::new(lsn));
        assert_eq!(of(0x1A2B), "wal/00000003/0000000000001a2b");
        assert!(of(9) < of(10) && of(10) < of(0x10_0000_0000));
        assert_eq!(chunk_start(TimelineId(3), &of(77)), Some(Lsn::new(77)));
        for strange in ["wal/00000003/77", "wal/00000003/000000000000001A", "wal/00000003/+00000000000001a", "x"] {
            assert_eq!(chunk_start(TimelineId(3), strange), None, "{strange}");
        }
        assert_eq!(chunk_start(TimelineId(4), &of(77)), None);
    }

    #[test]
    fn a_backup_id_sorts_by_time_and_refuses_paths() {
        let early = BackupId::new(Timestamp(1_700_000_000_000_000));
        let late = BackupId::new(Timestamp(1_700_000_001_000_000));
        assert!(early < late);
        assert!(BackupId::new(Timestamp(1_700_000_000_000_001)) > early, "also within a second");
        assert!(early.to_string().starts_with("20231114T221320Z-"), "{early}");
        assert_eq!(early.to_string().parse(), Ok(early));
        for wrong in ["", "latest", "../../../../etc/passwd0000", "20231114T221320Z-ABCDEF01"] {
            let error = wrong.parse::<BackupId>().unwrap_err();
            assert!(error.to_string().contains("20261121T081500Z-1a2b3c4d"), "{error}");
        }
    }
}
