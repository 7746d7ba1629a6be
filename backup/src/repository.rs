//! The object store behind the archive: one small trait, its outcomes and its errors. What the objects mean is left to
//! the modules that write them; nothing here knows of logs or backups.
//!
//! Keys are relative to the repository's prefix: components of `[0-9A-Za-z._-]` separated by `/`, none empty or
//! starting with a dot, [`KEY_LEN_MAX`] bytes in all. A key is never also the folder of another key.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub mod config;
pub mod directory;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub mod probe;
#[cfg(feature = "s3")]
pub mod s3;

pub use config::{ConfigError, Location, RepositoryConfig, S3Options, S3Timeouts};
pub use directory::DirectoryRepository;
pub use probe::{ConditionalWrites, probe};
#[cfg(feature = "s3")]
pub use s3::S3Repository;

/// Longest key, prefix excluded, in bytes.
pub const KEY_LEN_MAX: usize = 512;

/// Most objects one page of a listing holds.
pub const LIST_PAGE_MAX: usize = 1000;

/// A store of immutable and overwritable objects with conditional writes.
#[async_trait]
pub trait Repository: Send + Sync + 'static {
    /// Where this is, as an operator writes it: for messages.
    fn location(&self) -> &str;

    /// Reads an object, or exactly `range` of it.
    ///
    /// The announced size is compared with `size_max` before anything is allocated. A range that is not wholly inside
    /// the object is [`RepositoryErrorKind::RangeOutside`].
    async fn get(&self, key: &str, range: Option<Range<u64>>, size_max: u64) -> Result<Fetched, RepositoryError>;

    /// Tells whether an object exists, and its size. A missing bucket looks like a missing object.
    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, RepositoryError>;

    /// Writes an object whole, durably, if `condition` holds.
    ///
    /// Attempts whose answer was lost are repeated, so [`PutOutcome::ConditionFailed`] may be caused by this very call:
    /// the caller compares contents before concluding anything.
    async fn put(&self, key: &str, body: Bytes, condition: Condition) -> Result<PutOutcome, RepositoryError>;

    /// Removes an object; one that is not there counts as removed.
    async fn delete(&self, key: &str) -> Result<(), RepositoryError>;

    /// Lists up to `page` (at most [`LIST_PAGE_MAX`]) keys that start with `prefix` and sort after `start_after`, in
    /// byte order. The next page starts after the last key of this one.
    async fn list(&self, prefix: &str, start_after: Option<&str>, page: usize) -> Result<ListPage, RepositoryError>;
}

/// An object's bytes.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The object, or the range asked for.
    pub bytes: Bytes,
    /// The version read; only whole reads have one.
    pub etag: Option<Etag>,
    /// Size of the whole object in bytes; `None` if the store did not say it with a range.
    pub object_size: Option<u64>,
}

/// What `head` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Size in bytes.
    pub size: u64,
}

/// Names one version of one object; opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etag(pub(crate) String);

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When a put may happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there is replaced.
    Always,
    /// Only if no object has this key.
    IfAbsent,
    /// Only if the object is still this version.
    IfMatch(Etag),
}

/// How a put ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum PutOutcome {
    /// The object is stored durably.
    Stored {
        /// Its version.
        etag: Etag,
    },
    /// The condition does not hold: another writer's object is there, or this call's own from an attempt whose answer
    /// was lost.
    ConditionFailed,
    /// Another conditional write was under way each time it was tried; nothing is known about what it stored.
    Conflict,
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// In byte order of their keys.
    pub objects: Vec<ListedObject>,
    /// Whether keys follow the last one.
    pub more: bool,
}

/// One key of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Relative to the repository.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
}

/// What was asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening the repository.
    Open,
    /// Reading an object.
    Get,
    /// Asking for an object's size.
    Head,
    /// Writing an object.
    Put,
    /// Removing an object.
    Delete,
    /// Listing keys.
    List,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Open => "open",
            Operation::Get => "read",
            Operation::Head => "look up",
            Operation::Put => "write",
            Operation::Delete => "delete",
            Operation::List => "list",
        })
    }
}

/// A request the store did not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation} `{key}` in {repository}: {kind}")]
pub struct RepositoryError {
    /// The repository's location.
    pub repository: String,
    /// The key, or the prefix of a listing; empty when opening.
    pub key: String,
    /// What was asked.
    pub operation: Operation,
    /// Why it failed.
    pub kind: RepositoryErrorKind,
}

/// Why the store did not serve a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryErrorKind {
    /// No object has this key.
    #[error("there is no such object")]
    NotFound,
    /// Wrong or missing credentials, or no permission.
    #[error("access denied ({detail}); check the access key, its secret and its permissions")]
    Denied {
        /// The store's words.
        detail: String,
    },
    /// The bucket, or the directory, does not exist.
    #[error("`{bucket}` does not exist; create it, or correct the repository's url")]
    NoSuchBucket {
        /// Bucket or directory.
        bucket: String,
    },
    /// No connection.
    #[error("the store cannot be reached ({detail}); check the endpoint and the network")]
    Unreachable {
        /// What the transport said.
        detail: String,
    },
    /// No answer in time.
    #[error("no answer within {}; check the endpoint, the network and the store's load", humane(*.after))]
    Timeout {
        /// How long this call waited, retries included.
        after: Duration,
    },
    /// The store asks for fewer requests.
    #[error("the store asks to slow down; retry later, or raise its request limits")]
    Throttled,
    /// The object is larger than any this key may hold.
    #[error("the object has {size} bytes where at most {size_max} are allowed; it is not one of ours")]
    TooLarge {
        /// Announced size in bytes.
        size: u64,
        /// The caller's limit in bytes.
        size_max: u64,
    },
    /// The range is not inside the object.
    #[error("bytes {start}..{end} are not inside the object")]
    RangeOutside {
        /// First byte.
        start: u64,
        /// Exclusive end.
        end: u64,
    },
    /// The answer does not match what was announced.
    #[error("the answer is incomplete or damaged ({detail})")]
    Damaged {
        /// What differs.
        detail: String,
    },
    /// The store failed inside.
    #[error("the store failed ({detail}); retry later")]
    Internal {
        /// The store's words.
        detail: String,
    },
    /// The key is not one this crate makes.
    #[error("the key is not allowed: {reason}")]
    InvalidKey {
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// Anything else.
    #[error("{detail}")]
    Other {
        /// What happened.
        detail: String,
    },
}

impl RepositoryErrorKind {
    /// Whether the same request may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            RepositoryErrorKind::Unreachable { .. }
                | RepositoryErrorKind::Timeout { .. }
                | RepositoryErrorKind::Throttled
                | RepositoryErrorKind::Damaged { .. }
                | RepositoryErrorKind::Internal { .. }
        )
    }
}

impl RepositoryError {
    /// Whether the object simply is not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == RepositoryErrorKind::NotFound
    }

    /// Whether the same request may succeed later without anybody's help.
    pub fn is_transient(&self) -> bool {
        self.kind.is_transient()
    }
}

/// Puts the store's name, key and operation to a failure's kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) repository: &'a str,
    pub(crate) key: &'a str,
    pub(crate) operation: Operation,
}

impl Request<'_> {
    pub(crate) fn failed(&self, kind: RepositoryErrorKind) -> RepositoryError {
        RepositoryError {
            repository: self.repository.to_owned(),
            key: self.key.to_owned(),
            operation: self.operation,
            kind,
        }
    }

    /// Refuses keys outside the rules, so that no implementation meets a path it cannot hold.
    pub(crate) fn check_key(&self) -> Result<(), RepositoryError> {
        check_components(self.key).map_err(|reason| self.invalid(reason))
    }

    /// A listing's prefix follows the rules up to its last, unfinished, component.
    pub(crate) fn check_prefix(&self) -> Result<(), RepositoryError> {
        match self.key.rsplit_once('/') {
            None => check_characters(self.key),
            Some((folders, rest)) => check_components(folders).and_then(|()| check_characters(rest)),
        }
        .map_err(|reason| self.invalid(reason))
    }

    fn invalid(&self, reason: &'static str) -> RepositoryError {
        self.failed(RepositoryErrorKind::InvalidKey { reason })
    }
}

/// Refuses an object larger than the caller's limit, before anything is allocated for it.
pub(crate) fn check_size(size: u64, size_max: u64) -> Result<(), RepositoryErrorKind> {
    if size > size_max { Err(RepositoryErrorKind::TooLarge { size, size_max }) } else { Ok(()) }
}

/// Refuses a range that is not wholly inside an object of `size` bytes.
pub(crate) fn check_range(range: &Range<u64>, size: u64) -> Result<(), RepositoryErrorKind> {
    let (start, end) = (range.start, range.end);
    if start >= end || end > size { Err(RepositoryErrorKind::RangeOutside { start, end }) } else { Ok(()) }
}

/// The key rules of the module's head; also used for prefixes of repositories.
pub(crate) fn check_components(key: &str) -> Result<(), &'static str> {
    if key.len() > KEY_LEN_MAX {
        return Err("it is longer than 512 bytes");
    }
    for component in key.split('/') {
        if component.is_empty() {
            return Err("it has an empty component");
        }
        if component.starts_with('.') {
            return Err("a component starts with a dot");
        }
        check_characters(component)?;
    }
    Ok(())
}

fn check_characters(text: &str) -> Result<(), &'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if text.bytes().all(allowed) { Ok(()) } else { Err("it has a character outside [0-9A-Za-z._-]") }
}

fn humane(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: &str) -> Request<'_> {
        Request { repository: "memory", key, operation: Operation::Get }
    }

    #[test]
    fn keys_that_could_leave_the_repository_are_refused() {
        let long = "x".repeat(KEY_LEN_MAX + 1);
        for key in ["", "/a", "a/", "a//b", "../a", "a/../b", ".tmp/a", "a b", "a\0b", "a\\b", "é", &long] {
            let error = request(key).check_key().unwrap_err();
            assert!(matches!(error.kind, RepositoryErrorKind::InvalidKey { .. }), "{key:?}");
        }
        for key in ["a", "wal/00000001/0000000000000000", "tables/ab_c-d.e"] {
            request(key).check_key().unwrap();
        }
        for prefix in ["", "wal", "wal/", "wal/0000"] {
            request(prefix).check_prefix().unwrap();
        }
        request("wal//x").check_prefix().unwrap_err();
    }

    #[test]
    fn messages_name_operation_key_store_and_remedy() {
        let error = request("wal/1").failed(RepositoryErrorKind::Timeout { after: Duration::from_millis(1500) });
        assert_eq!(
            error.to_string(),
            "cannot read `wal/1` in memory: no answer within 1.5 s; check the endpoint, the network and the store's load"
        );
    }
}
