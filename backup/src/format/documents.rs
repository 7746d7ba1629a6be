//! The objects whose contents are JSON: cluster, timeline, frontier and backup. Text becomes the log's own types here;
//! unknown fields, impossible numbers and histories are refused.

use bytes::Bytes;
use seawall_wal::{
    Chain, ClusterId, Lsn, NodeId, Position, SegmentSize, TimelineEntry, TimelineHistory, TimelineId, TimelineNonce,
    Timestamp,
};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::envelope::{ABOUT_LEN, Envelope, Kind, ObjectDamage};
use super::keys::BackupId;

/// Longest text anybody may put into a document, in bytes.
pub const TEXT_LEN_MAX: usize = 1024;

/// Files one backup may list.
pub const FILES_MAX: usize = 400_000;

/// Whose repository it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDocument {
    /// The cluster.
    pub cluster: ClusterId,
    /// Of every segment.
    pub segment_size: SegmentSize,
    /// When the repository was made.
    pub created: Timestamp,
}

/// A claimed timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineDocument {
    /// The one it forks from; none for a cluster's first.
    pub parent: Option<TimelineId>,
    /// When it was claimed.
    pub claimed: Timestamp,
    /// By whom.
    pub claimant: String,
    /// All timelines up to this one.
    pub history: TimelineHistory,
}

/// How far a timeline is archived, at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontierDocument {
    /// The timeline.
    pub timeline: TimelineId,
    /// Its nonce.
    pub nonce: TimelineNonce,
    /// Everything up to here is in the repository.
    pub position: Position,
    /// Of the last record there.
    pub commit_time: Timestamp,
    /// No commit at or below this time is missing. `commit_time <= asserted`.
    pub asserted: Timestamp,
}

/// A file of a backup, named by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// BLAKE3 of all its bytes.
    #[serde(serialize_with = "hash_to_text", deserialize_with = "hash_from_text")]
    pub hash: blake3::Hash,
    /// Bytes.
    pub size: u64,
}

/// A base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupManifest {
    /// Its name.
    pub id: BackupId,
    /// Who made it.
    pub node: NodeId,
    /// A name for people; may be empty.
    pub label: String,
    /// When it began.
    pub started: Timestamp,
    /// When all its files were stored.
    pub finished: Timestamp,
    /// The timelines the node had gone through.
    pub history: TimelineHistory,
    /// Everything at or below it is in the files, nothing above.
    pub redo: Position,
    /// Time of the last record at or below redo.
    pub redo_time: Timestamp,
    /// The log that belongs to it starts here: where redo's segment does. `log_start.lsn <= redo.lsn`.
    pub log_start: Position,
    /// The log needed to be consistent ends here. `redo.lsn <= stop`.
    pub stop: Lsn,
    /// The engine's manifest file.
    pub manifest: FileEntry,
    /// Tables, and the blob files they refer to.
    pub tables: Vec<FileEntry>,
    /// Digest of the state at `stop`, if it was asked for.
    pub digest: Option<String>,
}

impl BackupManifest {
    /// Every file, the engine's manifest first.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        std::iter::once(&self.manifest).chain(&self.tables)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.size).sum()
    }
}

impl ClusterDocument {
    /// The object to store.
    pub fn encode(&self) -> Bytes {
        let text = ClusterText { segment_size: self.segment_size.bytes(), created_us: self.created.0 };
        seal(Kind::Cluster, self.cluster, TimelineId(0), &text)
    }

    /// Reads whose repository it is; any cluster's.
    pub fn decode(object: &Bytes) -> Result<Self, ObjectDamage> {
        let envelope = Envelope::decode(object)?;
        envelope.check(Kind::Cluster, envelope.cluster, TimelineId(0))?;
        let text: ClusterText = parse(&envelope)?;
        let segment_size = SegmentSize::new(text.segment_size).ok_or_else(|| senseless("impossible segment size"))?;
        Ok(ClusterDocument { cluster: envelope.cluster, segment_size, created: Timestamp(text.created_us) })
    }
}

impl TimelineDocument {
    /// The object to store.
    pub fn encode(&self, cluster: ClusterId) -> Bytes {
        let text = TimelineText {
            parent: self.parent.map_or(0, |parent| parent.0),
            claimed_us: self.claimed.0,
            claimant: clip(&self.claimant),
            history: history_to_text(&self.history),
        };
        seal(Kind::Timeline, cluster, self.history.current().id, &text)
    }

    /// Reads the object under the timeline's key.
    pub fn decode(object: &Bytes, cluster: &ClusterDocument, timeline: TimelineId) -> Result<Self, ObjectDamage> {
        let envelope = Envelope::decode(object)?;
        envelope.check(Kind::Timeline, cluster.cluster, timeline)?;
        let text: TimelineText = parse(&envelope)?;
        let history = history_from_text(text.history, cluster.segment_size)?;
        let parent = (text.parent != 0).then_some(TimelineId(text.parent));
        let before = history.entries().iter().rev().nth(1).map(|entry| entry.id);
        if history.current().id != timeline || parent != before {
            return Err(senseless("its history is another timeline's"));
        }
        Ok(TimelineDocument { parent, claimed: Timestamp(text.claimed_us), claimant: text.claimant, history })
    }
}

impl FrontierDocument {
    /// The object to store.
    pub fn encode(&self, cluster: ClusterId) -> Bytes {
        let text = FrontierText {
            nonce: self.nonce.to_string(),
            lsn: self.position.lsn.to_string(),
            chain: self.position.chain.to_string(),
            commit_time_us: self.commit_time.0,
            asserted_us: self.asserted.0,
        };
        seal(Kind::Frontier, cluster, self.timeline, &text)
    }

    /// Reads the object under the timeline's frontier key.
    pub fn decode(object: &Bytes, cluster: ClusterId, timeline: TimelineId) -> Result<Self, ObjectDamage> {
        let envelope = Envelope::decode(object)?;
        envelope.check(Kind::Frontier, cluster, timeline)?;
        let text: FrontierText = parse(&envelope)?;
        Ok(FrontierDocument {
            timeline,
            nonce: identity(&text.nonce)?,
            position: position(&text.lsn, &text.chain)?,
            commit_time: Timestamp(text.commit_time_us),
            asserted: Timestamp(text.asserted_us.max(text.commit_time_us)),
        })
    }
}

impl BackupManifest {
    /// The object to store.
    ///
    /// # Panics
    /// If it lists more than [`FILES_MAX`] files; a backup refuses that before it begins.
    pub fn encode(&self, cluster: ClusterId) -> Bytes {
        assert!(self.tables.len() <= FILES_MAX, "too many files for one backup");
        let text = BackupText {
            id: self.id.to_string(),
            node: self.node.to_string(),
            label: clip(&self.label),
            started_us: self.started.0,
            finished_us: self.finished.0,
            history: history_to_text(&self.history),
            redo_lsn: self.redo.lsn.to_string(),
            redo_chain: self.redo.chain.to_string(),
            redo_time_us: self.redo_time.0,
            log_start_lsn: self.log_start.lsn.to_string(),
            log_start_chain: self.log_start.chain.to_string(),
            stop_lsn: self.stop.to_string(),
            manifest: self.manifest,
            tables: self.tables.clone(),
            digest: self.digest.as_deref().map(clip),
        };
        seal(Kind::Backup, cluster, self.history.current().id, &text)
    }

    /// Reads the object under the backup's key.
    pub fn decode(object: &Bytes, cluster: &ClusterDocument, id: &BackupId) -> Result<Self, ObjectDamage> {
        let envelope = Envelope::decode(object)?;
        envelope.check(Kind::Backup, cluster.cluster, envelope.timeline)?;
        let text: BackupText = parse(&envelope)?;
        let history = history_from_text(text.history, cluster.segment_size)?;
        if text.id != id.to_string() || history.current().id != envelope.timeline {
            return Err(ObjectDamage::Place);
        }
        let redo = position(&text.redo_lsn, &text.redo_chain)?;
        let log_start = position(&text.log_start_lsn, &text.log_start_chain)?;
        let stop = lsn(&text.stop_lsn)?;
        if stop < redo.lsn || redo.lsn < log_start.lsn || text.tables.len() > FILES_MAX {
            return Err(senseless("it ends before it begins, or lists too many files"));
        }
        Ok(BackupManifest {
            id: id.clone(),
            node: identity(&text.node)?,
            label: text.label,
            started: Timestamp(text.started_us),
            finished: Timestamp(text.finished_us),
            history,
            redo,
            redo_time: Timestamp(text.redo_time_us),
            log_start,
            stop,
            manifest: text.manifest,
            tables: text.tables,
            digest: text.digest,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterText {
    segment_size: u32,
    created_us: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimelineText {
    parent: u32,
    claimed_us: u64,
    claimant: String,
    history: Vec<EntryText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryText {
    id: u32,
    nonce: String,
    fork_lsn: String,
    fork_chain: String,
    begin: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FrontierText {
    nonce: String,
    lsn: String,
    chain: String,
    commit_time_us: u64,
    asserted_us: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupText {
    id: String,
    node: String,
    label: String,
    started_us: u64,
    finished_us: u64,
    history: Vec<EntryText>,
    redo_lsn: String,
    redo_chain: String,
    redo_time_us: u64,
    log_start_lsn: String,
    log_start_chain: String,
    stop_lsn: String,
    manifest: FileEntry,
    tables: Vec<FileEntry>,
    digest: Option<String>,
}

fn seal(kind: Kind, cluster: ClusterId, timeline: TimelineId, text: &impl Serialize) -> Bytes {
    let plaintext = serde_json::to_vec(text).expect("documents have only text and numbers").into();
    Envelope { kind, cluster, timeline, about: [0; ABOUT_LEN], plaintext }.encode()
}

fn parse<T: DeserializeOwned>(envelope: &Envelope) -> Result<T, ObjectDamage> {
    serde_json::from_slice(&envelope.plaintext).map_err(|error| ObjectDamage::Contents { why: error.to_string() })
}

fn history_to_text(history: &TimelineHistory) -> Vec<EntryText> {
    let text = |entry: &TimelineEntry| EntryText {
        id: entry.id.0,
        nonce: entry.nonce.to_string(),
        fork_lsn: entry.fork.lsn.to_string(),
        fork_chain: entry.fork.chain.to_string(),
        begin: entry.begin.to_string(),
    };
    history.entries().iter().map(text).collect()
}

fn history_from_text(entries: Vec<EntryText>, size: SegmentSize) -> Result<TimelineHistory, ObjectDamage> {
    let entry = |text: EntryText| {
        Ok(TimelineEntry {
            id: TimelineId(text.id),
            nonce: identity(&text.nonce)?,
            fork: position(&text.fork_lsn, &text.fork_chain)?,
            begin: lsn(&text.begin)?,
        })
    };
    let entries = entries.into_iter().map(entry).collect::<Result<_, ObjectDamage>>()?;
    TimelineHistory::from_entries(entries, size).map_err(|error| senseless(&error.to_string()))
}

fn position(text: &str, chain: &str) -> Result<Position, ObjectDamage> {
    let plain = chain.len() == 16 && chain.bytes().all(|byte| byte.is_ascii_hexdigit());
    let chain = plain.then(|| u64::from_str_radix(chain, 16).ok()).flatten();
    Ok(Position { lsn: lsn(text)?, chain: Chain(chain.ok_or_else(|| senseless("a chain is not 16 hex digits"))?) })
}

fn lsn(text: &str) -> Result<Lsn, ObjectDamage> {
    text.parse().map_err(|error: seawall_wal::ParseLsnError| senseless(&error.to_string()))
}

fn identity<T: std::str::FromStr>(text: &str) -> Result<T, ObjectDamage> {
    text.parse().map_err(|_| senseless("an identity is not 32 hex digits"))
}

fn clip(text: &str) -> String {
    let mut len = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    text[..len].to_owned()
}

fn senseless(why: &str) -> ObjectDamage {
    ObjectDamage::Contents { why: why.to_owned() }
}

fn hash_to_text<S: Serializer>(hash: &blake3::Hash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hash.to_hex())
}

fn hash_from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<blake3::Hash, D::Error> {
    let text = String::deserialize(deserializer)?;
    blake3::Hash::from_hex(&text).map_err(|_| D::Error::custom("a hash is not 64 hex digits"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::MIN;

    fn cluster() -> ClusterDocument {
        ClusterDocument { cluster: ClusterId::from_bytes([1; 16]), segment_size: SIZE, created: Timestamp(7) }
    }

    fn history() -> TimelineHistory {
        let fork = Position { lsn: Lsn::new(70_000), chain: Chain(u64::MAX) };
        TimelineHistory::first(TimelineNonce::from_bytes([1; 16]))
            .forked(TimelineId(2), TimelineNonce::from_bytes([2; 16]), fork, SIZE)
            .unwrap()
    }

    fn backup() -> BackupManifest {
        let file = |n: u8| FileEntry { hash: blake3::hash(&[n]), size: u64::from(n) };
        BackupManifest {
            id: BackupId::new(Timestamp(1_700_000_000_000_000)),
            node: NodeId::from_bytes([4; 16]),
            label: "nightly".to_owned(),
            started: Timestamp(1_700_000_000_000_000),
            finished: Timestamp(1_700_000_001_000_000),
            history: history(),
            redo: Position { lsn: Lsn::new(140_000), chain: Chain(5) },
            redo_time: Timestamp(1_600_000_000_000_000),
            log_start: Position { lsn: Lsn::new(131_072), chain: Chain(4) },
            stop: Lsn::new(140_000),
            manifest: file(1),
            tables: vec![file(2), file(3)],
            digest: None,
        }
    }

    #[test]
    fn every_document_reads_back() {
        let cluster = cluster();
        assert_eq!(ClusterDocument::decode(&cluster.encode()), Ok(cluster.clone()));
        let timeline = TimelineDocument {
            parent: Some(TimelineId(1)),
            claimed: Timestamp(9),
            claimant: "b".to_owned(),
            history: history(),
        };
        let object = timeline.encode(cluster.cluster);
        assert_eq!(TimelineDocument::decode(&object, &cluster, TimelineId(2)), Ok(timeline));
        assert_eq!(TimelineDocument::decode(&object, &cluster, TimelineId(3)), Err(ObjectDamage::Place));
        let frontier = FrontierDocument {
            timeline: TimelineId(2),
            nonce: TimelineNonce::from_bytes([2; 16]),
            position: Position { lsn: Lsn::new(140_000), chain: Chain(5) },
            commit_time: Timestamp(5),
            asserted: Timestamp(6),
        };
        let object = frontier.encode(cluster.cluster);
        assert_eq!(FrontierDocument::decode(&object, cluster.cluster, TimelineId(2)), Ok(frontier));
        let backup = backup();
        let object = backup.encode(cluster.cluster);
        assert_eq!(BackupManifest::decode(&object, &cluster, &backup.id), Ok(backup.clone()));
        let other = BackupId::new(Timestamp(0));
        assert_eq!(BackupManifest::decode(&object, &cluster, &other), Err(ObjectDamage::Place));
    }

    fn sealed(kind: Kind, timeline: u32, json: &str) -> Bytes {
        let plaintext = Bytes::copy_from_slice(json.as_bytes());
        let timeline = TimelineId(timeline);
        Envelope { kind, cluster: cluster().cluster, timeline, about: [0; ABOUT_LEN], plaintext }.encode()
    }

    #[test]
    fn documents_that_prove_their_digest_and_make_no_sense_are_refused() {
        for json in [
            "",
            "{}",
            r#"{"segment_size":1000,"created_us":0}"#,
            r#"{"segment_size":65536,"created_us":-1}"#,
            r#"{"segment_size":65536,"created_us":0,"extra":1}"#,
        ] {
            let error = ClusterDocument::decode(&sealed(Kind::Cluster, 0, json)).unwrap_err();
            assert!(matches!(error, ObjectDamage::Contents { .. }), "{json}: {error:?}");
        }
        let entry = r#"{"id":1,"nonce":"01010101010101010101010101010101","fork_lsn":"0/0","fork_chain":"0000000000000000","begin":"0/1"}"#;
        let json = format!(r#"{{"parent":0,"claimed_us":0,"claimant":"","history":[{entry}]}}"#);
        let error = TimelineDocument::decode(&sealed(Kind::Timeline, 1, &json), &cluster(), TimelineId(1)).unwrap_err();
        assert!(error.to_string().contains("segment boundary"), "{error}");
        let beyond = entry.replace(r#""fork_lsn":"0/0""#, r#""fork_lsn":"FFFFFFFF/FFFFFFFF""#);
        let json = format!(r#"{{"parent":0,"claimed_us":0,"claimant":"","history":[{beyond}]}}"#);
        let error = TimelineDocument::decode(&sealed(Kind::Timeline, 1, &json), &cluster(), TimelineId(1)).unwrap_err();
        assert!(error.to_string().contains("no log reaches"), "{error}");
        for wrong in [r#""lsn":"../x""#, r#""lsn":"0/0","chain":"+000000000000000""#] {
            let json =
                format!(r#"{{"nonce":"01010101010101010101010101010101",{wrong},"commit_time_us":0,"asserted_us":0}}"#);
            let object = sealed(Kind::Frontier, 1, &json);
            FrontierDocument::decode(&object, cluster().cluster, TimelineId(1)).unwrap_err();
        }
    }

    #[test]
    fn a_manifest_cannot_name_a_file() {
        let json = String::from_utf8(Envelope::decode(&backup().encode(cluster().cluster)).unwrap().plaintext.to_vec());
        let hash = blake3::hash(&[2]).to_hex().to_string();
        let json = json.unwrap().replace(&hash, "../../../../etc/cron.d/evil");
        let error = BackupManifest::decode(&sealed(Kind::Backup, 2, &json), &cluster(), &backup().id).unwrap_err();
        assert!(error.to_string().contains("64 hex"), "{error}");
    }
}
