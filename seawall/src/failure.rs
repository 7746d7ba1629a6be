//! What went wrong, said once for everybody: a kind that programs act on, a sentence for people, and a hint. The one
//! table here gives every kind its exit code and its HTTP status.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// It failed; the message says why.
    Failed,
    /// The command or request makes no sense.
    Usage,
    /// Done in part.
    Partial,
    /// Whether a write survives is unknown.
    Indeterminate,
    /// No such key, keyspace, backup, path.
    NotFound,
    /// Another process has the directory open.
    Locked,
    /// Data is damaged, or does not match its digest.
    VerificationFailed,
    /// Another node has taken over this history.
    Fenced,
    /// This node takes no writes, or has the wrong role.
    ReadOnly,
    /// Somebody else changed what a transaction had read; run it again.
    Conflict,
    /// Somebody is too far behind; try again later.
    Backpressure,
    /// Larger than it may be.
    TooLarge,
    /// The disk is full.
    DiskFull,
    /// What would make room fails: nothing can be written into tables.
    DiskFailing,
    /// Nobody answers.
    Unreachable,
    /// It took too long, or the server is full.
    Unavailable,
    /// The settings are wrong.
    Config,
    /// Ctrl-C.
    Interrupted,
    /// Asked to stop.
    Terminated,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: u8,
    /// What it means.
    pub meaning: &'static str,
}

/// Every exit code there is.
pub const EXITS: [Exit; 12] = [
    Exit { code: 0, meaning: "ok" },
    Exit { code: 1, meaning: "failed" },
    Exit { code: 2, meaning: "the command line makes no sense" },
    Exit { code: 3, meaning: "done in part, or whether it was done is unknown" },
    Exit { code: 10, meaning: "not found" },
    Exit { code: 11, meaning: "locked: another process has the directory open" },
    Exit { code: 12, meaning: "verification failed: data is damaged or differs" },
    Exit { code: 13, meaning: "fenced: another node has taken over" },
    Exit { code: 14, meaning: "read-only: wrong role for this" },
    Exit { code: 78, meaning: "the settings are wrong" },
    Exit { code: 130, meaning: "interrupted" },
    Exit { code: 143, meaning: "terminated" },
];

/// One row for each kind: its name, exit code and HTTP status.
const KINDS: [(Kind, &str, u8, u16); 19] = [
    (Kind::Failed, "failed", 1, 500),
    (Kind::Usage, "usage", 2, 400),
    (Kind::Partial, "partial", 3, 500),
    (Kind::Indeterminate, "indeterminate", 3, 504),
    (Kind::NotFound, "not_found", 10, 404),
    (Kind::Locked, "locked", 11, 423),
    (Kind::VerificationFailed, "verification_failed", 12, 500),
    (Kind::Fenced, "fenced", 13, 409),
    (Kind::ReadOnly, "read_only", 14, 409),
    (Kind::Conflict, "conflict", 1, 409),
    (Kind::Backpressure, "backpressure", 1, 503),
    (Kind::TooLarge, "too_large", 1, 413),
    (Kind::DiskFull, "disk_full", 1, 507),
    (Kind::DiskFailing, "disk_failing", 1, 503),
    (Kind::Unreachable, "unreachable", 1, 502),
    (Kind::Unavailable, "unavailable", 1, 503),
    (Kind::Config, "config", 78, 500),
    (Kind::Interrupted, "interrupted", 130, 500),
    (Kind::Terminated, "terminated", 143, 500),
];

impl Kind {
    fn row(self) -> (Self, &'static str, u8, u16) {
        KINDS.into_iter().find(|(kind, ..)| *kind == self).unwrap_or(KINDS[0])
    }

    /// As in JSON.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// With which a command ends.
    pub fn exit_code(self) -> u8 {
        self.row().2
    }

    /// With which a request is answered.
    pub fn http_status(self) -> u16 {
        self.row().3
    }
}

/// A failure of a command or a request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What to act on.
    pub kind: Kind,
    /// What happened, in a sentence.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The position of a write whose fate is unknown.
    pub lsn: Option<String>,
    /// When it makes sense to try again.
    pub retry_after_seconds: Option<f64>,
}

impl Failure {
    /// Of a kind, with a message.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), hint: None, lsn: None, retry_after_seconds: None }
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// As JSON on standard error.
    pub fn json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "type": "error",
            "kind": self.kind,
            "code": self.kind.exit_code(),
            "message": self.message,
            "hint": self.hint,
        });
        if let Some(lsn) = &self.lsn {
            json["lsn"] = lsn.as_str().into();
        }
        if let Some(seconds) = self.retry_after_seconds {
            json["retry_after_seconds"] = seconds.into();
        }
        json
    }
}

/// `context: cause: its cause`, for errors that do not print their sources themselves.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// What to do about a file system that is read-only.
const READ_ONLY: &str = "the file system is read-only, which some become when they find damage: the system's log says why; \
                         unmount it, check it (fsck), mount it read-write";
/// What fails in the background is tried again at least so often.
const STUCK_RETRY_SECONDS: f64 = 2.0;

impl From<seawall_engine::Error> for Failure {
    fn from(error: seawall_engine::Error) -> Self {
        use seawall_engine::{Error as E, Refusal};
        let kind = match &error {
            E::Locked { .. } => Kind::Locked,
            E::NotFound { .. } | E::UnknownKeyspace { .. } => Kind::NotFound,
            E::SnapshotTooOld { .. } | E::SnapshotTooNew { .. } => Kind::NotFound,
            E::CorruptControl { .. } | E::CorruptManifest { .. } | E::CorruptTable { .. } | E::Incomplete { .. } => {
                Kind::VerificationFailed
            }
            // Who has a copy may be starting as well: whoever watches over this process may start it again.
            error if error.is_for_want_of_an_answer() => Kind::Unreachable,
            E::CorruptPayload { .. } | E::Irreparable { .. } | E::NoCopy { .. } => Kind::VerificationFailed,
            E::Refused { reason, .. } => match reason {
                Refusal::Superseded => Kind::Fenced,
                Refusal::Damaged => Kind::VerificationFailed,
                Refusal::Stopping => Kind::Unavailable,
                Refusal::Failed | Refusal::Unconfirmed => Kind::ReadOnly,
            },
            E::TooLarge { .. } | E::TooMany { .. } | E::TooManyRanges { .. } => Kind::TooLarge,
            E::Conflict { .. } => Kind::Conflict,
            E::EmptyKey | E::EmptyName | E::Unsorted { .. } | E::LevelUnavailable { .. } => Kind::Usage,
            E::WrongOperand { .. } | E::MixedOperators { .. } => Kind::Usage,
            E::ReadOnly { .. } | E::WrongState { .. } => Kind::ReadOnly,
            E::Backpressure(_) => Kind::Backpressure,
            E::Indeterminate { .. } => Kind::Indeterminate,
            E::DiskFull { .. } => Kind::DiskFull,
            E::Stuck { .. } => Kind::DiskFailing,
            E::Closed | E::Stalled { .. } => Kind::Unavailable,
            // A file that must be there and is not is damage; a place where nothing can be made is none.
            E::Io { operation, source, .. }
                if *operation != "create" && source.kind() == std::io::ErrorKind::NotFound =>
            {
                Kind::VerificationFailed
            }
            E::Log(seawall_wal::Error::Foreign { .. }) => Kind::VerificationFailed,
            E::Log(seawall_wal::Error::Corrupt { .. } | seawall_wal::Error::CorruptRecord { .. }) => {
                Kind::VerificationFailed
            }
            _ => Kind::Failed,
        };
        let mut failure = Self::new(kind, chain(&error));
        match &error {
            E::Refused { reason: Refusal::Superseded, .. } => {
                failure.hint = Some(String::from(
                    "ask the node that took over; keep this one's data until nobody needs what only they have",
                ));
            }
            E::Locked { .. } => {
                failure.hint = Some(String::from("a running node can be asked over HTTP: add --url"));
            }
            E::NotFound { path } => {
                failure.hint = Some(format!("`seawall init --data-dir {}` makes one", path.display()));
            }
            E::Io { source, .. } | E::Log(seawall_wal::Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem =>
            {
                failure.hint = Some(format!("{READ_ONLY}, and open the database again"));
            }
            E::Stuck { cause, .. } => {
                failure.retry_after_seconds = Some(STUCK_RETRY_SECONDS);
                failure.hint = match &**cause {
                    E::Io { source, .. } if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                        Some(format!("{READ_ONLY}; nothing that was acknowledged is lost"))
                    }
                    E::Io { .. } => Some(String::from(
                        "the system's log says what is wrong with the disk; nothing that was acknowledged is lost, it is in the log",
                    )),
                    _ => None,
                };
            }
            E::Io { .. } if kind == Kind::VerificationFailed => {
                failure.hint =
                    Some(String::from("part of the data is missing; restore this node from a standby or the archive"));
            }
            E::Poisoned { .. } => {
                failure.hint = Some(String::from(
                    "the system's log says what is wrong with the disk; once it is sound, open the database again: \
                     what was acknowledged is there",
                ));
            }
            E::Indeterminate { lsn, .. } => {
                failure.lsn = Some(lsn.to_string());
                failure.hint =
                    Some(String::from("it is there as a whole or not at all: read it before writing it again"));
            }
            E::Backpressure(held) => failure.retry_after_seconds = Some(held.retry_after.as_secs_f64()),
            _ => {}
        }
        failure
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::new(Kind::Config, error)
    }
}

impl From<crate::config::ArchiveSettingsError> for Failure {
    fn from(error: crate::config::ArchiveSettingsError) -> Self {
        Self::new(Kind::Config, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_ends_with_an_exit_code_that_is_explained() {
        for (kind, name, code, status) in KINDS {
            assert!(EXITS.iter().any(|exit| exit.code == code), "{name} ends with {code}, which nothing explains");
            assert!((400..600).contains(&status), "{name}");
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
    }

    #[test]
    fn what_is_missing_is_damage_and_what_cannot_be_made_is_not() {
        let not_found = |operation| seawall_engine::Error::Io {
            operation,
            path: std::path::PathBuf::from("/data/tables/x"),
            source: std::sync::Arc::new(std::io::ErrorKind::NotFound.into()),
        };
        let (read, create) = (Failure::from(not_found("read")), Failure::from(not_found("create")));
        assert_eq!((read.kind, read.hint.is_some()), (Kind::VerificationFailed, true));
        assert_eq!((create.kind, create.hint), (Kind::Failed, None));
    }

    #[test]
    fn what_only_a_person_can_mend_is_not_started_again() {
        let path = std::path::PathBuf::from("/data");
        let lost = seawall_engine::Error::Incomplete { path: path.clone(), found: String::from("a log") };
        let why = seawall_replication::Malformed::Value("checksum");
        let slots = crate::node::Error::from(seawall_replication::Error::SlotFile { path, why });
        assert_eq!([Failure::from(lost), Failure::from(slots)].map(|failure| failure.kind.exit_code()), [12, 12]);
    }

    #[test]
    fn writes_that_a_node_refuses_say_why_and_whom_to_ask() {
        use seawall_engine::Refusal as R;
        let told = |reason| {
            Failure::from(seawall_engine::Error::Refused { reason, why: std::sync::Arc::from("timeline 2 took over") })
        };
        let reasons = [R::Superseded, R::Damaged, R::Failed, R::Stopping, R::Unconfirmed];
        let kinds = [Kind::Fenced, Kind::VerificationFailed, Kind::ReadOnly, Kind::Unavailable, Kind::ReadOnly];
        assert_eq!(reasons.map(|reason| told(reason).kind), kinds);
        let refused = told(R::Superseded);
        assert_eq!(refused.message, "this node takes no writes: timeline 2 took over");
        assert!(refused.hint.is_some_and(|hint| hint.contains("ask the node that took over")));
    }

    #[test]
    fn who_meets_a_read_only_file_system_is_told_to_mount_it_read_write() {
        let (path, read_only) = (std::path::PathBuf::from("/data/wal"), std::io::ErrorKind::ReadOnlyFilesystem);
        let source = std::sync::Arc::new(read_only.into());
        let log = seawall_wal::Error::io("sync", path.clone(), read_only.into());
        for error in [seawall_engine::Error::Log(log), seawall_engine::Error::Io { operation: "sync", path, source }] {
            let failure = Failure::from(error);
            assert_eq!(failure.kind, Kind::Failed);
            assert!(failure.hint.is_some_and(|hint| hint.contains("mount it read-write")), "{}", failure.message);
        }
    }

    #[test]
    fn who_cannot_write_because_no_table_can_be_written_is_told_why_and_that_nothing_is_lost() {
        let told = |errno| {
            let path = std::path::PathBuf::from("/data/tables/x");
            let source = std::sync::Arc::new(std::io::Error::from_raw_os_error(errno));
            let cause = Box::new(seawall_engine::Error::Io { operation: "create", path, source });
            Failure::from(seawall_engine::Error::Stuck { work: "writing memtables out", cause })
        };
        let [failing, read_only] = [told(5), told(30)];
        for failure in [&failing, &read_only] {
            assert_eq!((failure.kind, failure.kind.http_status()), (Kind::DiskFailing, 503));
            assert!(failure.message.contains("cannot create /data/tables/x: "), "{}", failure.message);
            assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains("nothing that was acknowledged is lost")));
        }
        assert!(read_only.hint.is_some_and(|hint| hint.contains("mount it read-write")));
        assert!(failing.hint.is_some_and(|hint| !hint.contains("mount")));
    }

    #[test]
    fn a_conflict_is_told_from_other_failures() {
        let conflict = seawall_engine::Error::Conflict {
            keyspace: String::from("users"),
            key: bytes::Bytes::from_static(b"ann"),
            lsn: seawall_wal::Lsn::new(4096),
        };
        let failure = Failure::from(conflict);
        assert_eq!((failure.kind, failure.kind.exit_code(), failure.kind.http_status()), (Kind::Conflict, 1, 409));
        assert_eq!(
            failure.message,
            "key `ann` of keyspace `users` was changed by the commit at 0/00001000 after this transaction had read it; \
             nothing was written, run the transaction again"
        );
    }

    #[test]
    fn a_failure_says_kind_code_message_and_hint() {
        let json = Failure::new(Kind::Locked, "busy").hint("wait").json();
        assert_eq!(
            json,
            serde_json::json!({"type": "error", "kind": "locked", "code": 11, "message": "busy", "hint": "wait"})
        );
    }
}
