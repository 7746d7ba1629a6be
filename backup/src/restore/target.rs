//! What a restore is asked for, as people write it.

use std::fmt;
use std::str::FromStr;

use seawall_wal::{Lsn, Timestamp};

use crate::error::{Error, written};
use crate::format::BackupId;

/// Where a restore is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreTarget {
    /// Everything that is archived.
    Latest,
    /// Every record that ends at or before this position.
    Lsn(Lsn),
    /// Every commit at or before this time.
    Time(Timestamp),
    /// Exactly what a base backup holds.
    Backup(BackupId),
}

impl FromStr for RestoreTarget {
    type Err = Error;

    /// `latest`, `0/1A2B3C4D`, `2026-11-21T08:15:00Z` or a backup's id.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "latest" {
            return Ok(RestoreTarget::Latest);
        }
        if let Ok(lsn) = text.parse() {
            return Ok(RestoreTarget::Lsn(lsn));
        }
        if let Ok(id) = text.parse() {
            return Ok(RestoreTarget::Backup(id));
        }
        let time: Option<jiff::Timestamp> = text.parse().ok();
        match time.and_then(|time| u64::try_from(time.as_microsecond()).ok()) {
            Some(micros) => Ok(RestoreTarget::Time(Timestamp(micros))),
            None => Err(Error::Target { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for RestoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreTarget::Latest => f.write_str("latest"),
            RestoreTarget::Lsn(lsn) => lsn.fmt(f),
            RestoreTarget::Time(time) => f.write_str(&written(*time)),
            RestoreTarget::Backup(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_as_they_are_written() {
        for text in ["latest", "0/1A2B3C4D", "2026-11-21T08:15:00.123456Z", "20261121T081500Z-1a2b3c4d"] {
            assert_eq!(text.parse::<RestoreTarget>().unwrap().to_string(), text);
        }
        let zoned: RestoreTarget = "2026-11-21T09:15:00+01:00".parse().unwrap();
        assert_eq!(zoned.to_string(), "2026-11-21T08:15:00Z");
    }

    #[test]
    fn what_is_no_target_is_told_what_would_be() {
        for text in ["", "newest", "yesterday", "2026-11-21", "2026-11-21T08:15:00", "0/", "1900-01-01T00:00:00Z"] {
            let error = text.parse::<RestoreTarget>().unwrap_err().to_string();
            assert!(error.contains("expected latest, a position as 0/1A2B3C4D, a time as"), "{text}: {error}");
        }
    }
}
