//! What commands and the API do with keys and values: the same few operations over an open database, so that
//! `seawall get` on a directory and `GET /v1/kv` on a running node mean one thing.

use std::ops::Bound;
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_engine::{Commit, CommitLevel, Db, Keyspace, Snapshot};
use seawall_wal::Lsn;
use serde::{Deserialize, Serialize};

use crate::config::Span;
use crate::entry::Entry;
use crate::failure::{Failure, Kind};
use crate::http::api::DigestDocument;

/// The keyspace of those who name none.
pub const DEFAULT_KEYSPACE: &str = "default";
/// Entries of one page of a scan.
pub const PAGE_ENTRIES_MAX: usize = 10_000;
/// Bytes of one page of a scan.
pub const PAGE_BYTES_MAX: usize = 16 << 20;

/// Which keys, in which order, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Keys that begin with this.
    pub prefix: Vec<u8>,
    /// This key and those after it.
    pub start: Option<Vec<u8>>,
    /// Keys after this one.
    pub after: Option<Vec<u8>>,
    /// Keys before this one.
    pub end: Option<Vec<u8>>,
    /// From the last to the first.
    pub reverse: bool,
    /// Without values.
    pub keys_only: bool,
    /// Entries at most; also bounded by [`PAGE_ENTRIES_MAX`] and [`PAGE_BYTES_MAX`].
    pub limit: usize,
}

/// Part of a keyspace, as of one LSN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// As of when.
    pub lsn: String,
    /// In order.
    pub entries: Vec<Entry>,
    /// Whether there are more in the range.
    pub more: bool,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its position.
    pub lsn: String,
    /// Its commit time, RFC 3339.
    pub time: String,
    /// What it waited for.
    pub level: String,
}

impl Written {
    /// Of a commit that reached `level`.
    pub fn new(commit: Commit, level: CommitLevel) -> Self {
        Self { lsn: commit.lsn.to_string(), time: rfc3339(commit.time), level: level.to_string() }
    }
}

/// A commit time as text, UTC.
pub fn rfc3339(time: seawall_wal::Timestamp) -> String {
    let micros = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// How a write is to be done.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// What to wait for.
    pub level: CommitLevel,
    /// When to stop waiting.
    pub deadline: Option<Instant>,
    /// How long what is put stays; for ever if not set.
    pub ttl: Option<Duration>,
}

/// How long what is put stays, as requests and options say it: `30m`. At least a microsecond, and at most the 2^64 of them that
/// the log can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl(Duration);

impl From<Ttl> for Duration {
    fn from(ttl: Ttl) -> Self {
        ttl.0
    }
}

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Span(ttl) = text.parse()?;
        match u64::try_from(ttl.as_micros()) {
            Ok(0) => Err(format!("`{text}` is no time for a value to stay; delete the key instead")),
            Ok(_) => Ok(Self(ttl)),
            Err(_) => Err(format!(
                "`{text}` is longer than the 2^64 microseconds that a value can be put for; leave it out, and the value stays"
            )),
        }
    }
}

/// Operations of one atomic write, by key; `None` deletes.
pub type Operations = Vec<(Vec<u8>, Option<Bytes>)>;

/// The value under a key.
pub fn get(db: &Db, keyspace: &str, key: &[u8]) -> Result<Option<Bytes>, Failure> {
    Ok(existing(db, keyspace)?.get(key)?)
}

/// Commits operations as one.
pub fn write(db: &Db, keyspace: &str, operations: Operations, options: WriteOptions) -> Result<Written, Failure> {
    // To delete in a keyspace that is not there is a mistake; to put makes it.
    let puts = operations.iter().any(|(_, value)| value.is_some());
    let found = if puts { db.keyspace(keyspace).map_err(Failure::from) } else { existing(db, keyspace) };
    // On a node that takes no writes that is what stands in the way, not that the keyspace is not there.
    let keyspace = match found {
        Err(_) if !db.takes_writes() => return Err(db.append_time().err().map_or_else(closed, Failure::from)),
        found => found?,
    };
    let mut batch = db.batch();
    if let Some(deadline) = options.deadline {
        batch.deadline(deadline);
    }
    for (key, value) in &operations {
        match (value, options.ttl) {
            (Some(value), None) => batch.put(&keyspace, key, value),
            (Some(value), Some(ttl)) => batch.put_with_ttl(&keyspace, key, value, ttl),
            (None, _) => batch.remove(&keyspace, key),
        };
    }
    Ok(Written::new(batch.commit_with(options.level)?, options.level))
}

fn closed() -> Failure {
    Failure::new(Kind::Unavailable, "the node changed its role at this moment; try again")
}

/// One page of a keyspace.
pub fn scan(db: &Db, keyspace: &str, scan: &Scan) -> Result<Page, Failure> {
    let keyspace = existing(db, keyspace)?;
    let snapshot = db.snapshot()?;
    let limit = scan.limit.min(PAGE_ENTRIES_MAX);
    let mut page = Page { lsn: snapshot.lsn().to_string(), entries: Vec::new(), more: false };
    let mut bytes = 0;
    for pair in pairs(&snapshot, &keyspace, scan) {
        let (key, value) = pair?;
        if page.entries.len() >= limit || bytes >= PAGE_BYTES_MAX {
            page.more = true;
            break;
        }
        bytes += key.len() + if scan.keys_only { 0 } else { value.len() };
        page.entries.push(if scan.keys_only { Entry::of_key(&key) } else { Entry::new(&key, &value) });
    }
    Ok(page)
}

/// The pairs of a scan, however many, whatever its limit.
pub fn pairs(
    snapshot: &Snapshot,
    keyspace: &Keyspace,
    scan: &Scan,
) -> Box<dyn Iterator<Item = seawall_engine::Result<(Bytes, Bytes)>>> {
    match bounds(scan) {
        None => Box::new(std::iter::empty()),
        Some(bounds) => {
            let range = snapshot.range::<Vec<u8>>(keyspace, bounds);
            if scan.reverse { Box::new(range.rev()) } else { Box::new(range) }
        }
    }
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The tightest bounds that all of prefix, start, after and end allow; none if that is nothing.
fn bounds(scan: &Scan) -> Option<Bounds> {
    let lowers = [
        (!scan.prefix.is_empty()).then(|| (scan.prefix.clone(), false)),
        scan.start.clone().map(|key| (key, false)),
        scan.after.clone().map(|key| (key, true)),
    ];
    let lower = lowers.into_iter().flatten().max();
    let upper = [successor(&scan.prefix), scan.end.clone()].into_iter().flatten().min();
    if let (Some((lower, _)), Some(upper)) = (&lower, &upper)
        && lower >= upper
    {
        return None;
    }
    let lower = match lower {
        None => Bound::Unbounded,
        Some((key, false)) => Bound::Included(key),
        Some((key, true)) => Bound::Excluded(key),
    };
    Some((lower, upper.map_or(Bound::Unbounded, Bound::Excluded)))
}

/// The first key after all that begin with `prefix`; none if there is no such key.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut key = prefix[..=last].to_vec();
    key[last] += 1;
    Some(key)
}

/// The digest of the state now, or at an LSN that can still be read.
pub fn digest(db: &Db, lsn: Option<Lsn>) -> Result<DigestDocument, Failure> {
    let snapshot = match lsn {
        Some(lsn) => db.snapshot_at(lsn)?,
        None => db.snapshot()?,
    };
    Ok(DigestDocument::from(&snapshot.digest()?))
}

/// A keyspace that must be there.
pub fn existing(db: &Db, name: &str) -> Result<Keyspace, Failure> {
    db.existing_keyspace(name).map_err(|error| {
        let names = db.keyspaces();
        let hint = if names.is_empty() { String::from("there are none yet") } else { names.join(", ") };
        Failure::from(error).hint(format!("keyspaces here: {hint}"))
    })
}

/// An LSN as people write it.
pub fn parse_lsn(text: &str) -> Result<Lsn, Failure> {
    text.parse().map_err(|error| Failure::new(Kind::Usage, format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan_of(prefix: &str, start: Option<&str>, end: Option<&str>) -> Scan {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Scan { prefix: bytes(prefix), start: start.map(bytes), end: end.map(bytes), ..Scan::default() }
    }

    #[test]
    fn bounds_are_the_tightest_of_prefix_start_and_end() {
        let included = |key: &str| Bound::Included(key.as_bytes().to_vec());
        let excluded = |key: &str| Bound::Excluded(key.as_bytes().to_vec());
        assert_eq!(bounds(&scan_of("", None, None)), Some((Bound::Unbounded, Bound::Unbounded)));
        assert_eq!(bounds(&scan_of("ab", None, None)), Some((included("ab"), excluded("ac"))));
        assert_eq!(bounds(&scan_of("ab", Some("abx"), Some("b"))), Some((included("abx"), excluded("ac"))));
        assert_eq!(bounds(&scan_of("ab", Some("a"), Some("abc"))), Some((included("ab"), excluded("abc"))));
        assert_eq!(bounds(&scan_of("b", None, Some("a"))), None);
        assert_eq!(bounds(&Scan { after: Some(b"k".to_vec()), ..Scan::default() }).unwrap().0, excluded("k"));
        assert_eq!(successor(b"\xff\xff"), None);
        assert_eq!(successor(b"a\xff").unwrap(), b"b");
    }

    #[test]
    fn what_is_written_is_read_scanned_and_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let size = seawall_wal::SegmentSize::MIN;
        let db = Db::builder(dir.path()).segment_size(size).open().unwrap();
        let missing = get(&db, "default", b"a").unwrap_err();
        assert_eq!(
            (missing.kind, missing.hint.as_deref()),
            (Kind::NotFound, Some("keyspaces here: there are none yet"))
        );
        let puts = ["a", "b", "c"].map(|key| (key.as_bytes().to_vec(), Some(Bytes::from_static(b"v")))).to_vec();
        write(&db, "default", puts, WriteOptions::default()).unwrap();
        write(&db, "default", vec![(b"b".to_vec(), None)], WriteOptions::default()).unwrap();
        assert_eq!(get(&db, "default", b"b").unwrap(), None);
        let page = scan(&db, "default", &Scan { limit: 1, reverse: true, ..Scan::default() }).unwrap();
        assert_eq!((page.entries, page.more), (vec![Entry::new(b"c", b"v")], true));
        let page = scan(&db, "default", &Scan { limit: 2, keys_only: true, ..Scan::default() }).unwrap();
        assert_eq!((page.entries, page.more), (vec![Entry::of_key(b"a"), Entry::of_key(b"c")], false));
    }

    #[test]
    fn a_time_to_live_is_some_time_and_one_that_the_log_can_say() {
        for (text, micros) in [("1us", 1), ("30m", 1_800_000_000), ("18446744073709s", 18_446_744_073_709_000_000)] {
            assert_eq!(Duration::from(text.parse::<Ttl>().unwrap()).as_micros(), micros, "{text}");
        }
        for (text, expected) in [
            ("0s", "`0s` is no time for a value to stay; delete the key instead"),
            ("999ns", "is no time for a value to stay"),
            ("18446744073710s", "is longer than the 2^64 microseconds that a value can be put for"),
            ("-5s", "`-5s` is not a duration such as \"1s\""),
            ("soon", "is not a duration"),
            ("5", "is not a duration"),
            ("", "is not a duration"),
        ] {
            let message = text.parse::<Ttl>().unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_put_for_a_time_goes_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let size = seawall_wal::SegmentSize::MIN;
        let db = Db::builder(dir.path()).segment_size(size).open().unwrap();
        let put = |key: &str, seconds| {
            let options = WriteOptions { ttl: Some(Duration::from_secs(seconds)), ..WriteOptions::default() };
            write(&db, "default", vec![(key.as_bytes().to_vec(), Some(Bytes::from_static(b"v")))], options).unwrap();
        };
        put("soon", 1);
        put("late", 3_600);
        assert!(get(&db, "default", b"soon").unwrap().is_some());
        std::thread::sleep(Duration::from_millis(2_100));
        db.append_time().unwrap();
        assert_eq!(get(&db, "default", b"soon").unwrap(), None);
        assert!(get(&db, "default", b"late").unwrap().is_some());
    }
}
