//! An open archive: typed reading and writing of its objects, with every one proven before it is used. What is written
//! when, and what is made of it, is for the archiver, the backup and the restore.

use std::sync::Arc;

use bytes::Bytes;
use seawall_wal::{ClusterId, Lsn, SegmentSize, TimelineId, Timestamp};
use tokio::sync::OnceCell;

use crate::error::{Error, Result};
use crate::format::chunk::{ChunkAbout, ChunkObject};
use crate::format::documents::{ClusterDocument, FrontierDocument, TimelineDocument};
use crate::format::envelope::{CHUNK_HEAD_LEN, Head, Kind, ObjectDamage};
use crate::format::keys;
use crate::repository::{
    Condition, ConditionalWrites, Fetched, PutOutcome, Repository, RepositoryError, RepositoryErrorKind, probe,
};

/// A repository that belongs to one cluster.
#[derive(Clone)]
pub struct Archive {
    inner: Arc<Inner>,
}

struct Inner {
    repository: Arc<dyn Repository>,
    cluster: ClusterDocument,
    conditions: OnceCell<ConditionalWrites>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Archive at {}", self.location())
    }
}

impl Archive {
    /// Opens the archive of `cluster`, making it if the repository is empty.
    ///
    /// # Errors
    /// [`Error::ForeignRepository`], [`Error::SegmentSize`], [`Error::Object`] and the store's.
    pub async fn create_or_open(
        repository: Arc<dyn Repository>,
        cluster: ClusterId,
        segment_size: SegmentSize,
        now: Timestamp,
    ) -> Result<Self> {
        let found = match read_cluster(&repository).await? {
            Some(found) => found,
            None => {
                let document = ClusterDocument { cluster, segment_size, created: now };
                match repository.put(keys::CLUSTER, document.encode(), Condition::IfAbsent).await? {
                    PutOutcome::Stored { .. } => document,
                    // Somebody was faster, perhaps ourselves: what counts is what is there.
                    PutOutcome::ConditionFailed | PutOutcome::Conflict => read_cluster(&repository)
                        .await?
                        .ok_or_else(|| Error::NoArchive { repository: repository.location().to_owned() })?,
                }
            }
        };
        let archive = Self::of(repository, found);
        archive.expect(cluster, segment_size)?;
        Ok(archive)
    }

    /// Opens whatever archive is there, to read from it.
    ///
    /// # Errors
    /// [`Error::NoArchive`], [`Error::Object`] and the store's.
    pub async fn open(repository: Arc<dyn Repository>) -> Result<Self> {
        match read_cluster(&repository).await? {
            Some(found) => Ok(Self::of(repository, found)),
            None => Err(Error::NoArchive { repository: repository.location().to_owned() }),
        }
    }

    fn of(repository: Arc<dyn Repository>, cluster: ClusterDocument) -> Self {
        Archive { inner: Arc::new(Inner { repository, cluster, conditions: OnceCell::new() }) }
    }

    fn expect(&self, cluster: ClusterId, segment_size: SegmentSize) -> Result<()> {
        let found = self.cluster();
        let repository = || self.location().to_owned();
        if found.cluster != cluster {
            return Err(Error::ForeignRepository { repository: repository(), found: found.cluster, expected: cluster });
        }
        if found.segment_size != segment_size {
            let (found, expected) = (found.segment_size.bytes(), segment_size.bytes());
            return Err(Error::SegmentSize { repository: repository(), found, expected });
        }
        Ok(())
    }

    /// Where it is, for messages.
    pub fn location(&self) -> &str {
        self.inner.repository.location()
    }

    /// Whose it is.
    pub fn cluster(&self) -> &ClusterDocument {
        &self.inner.cluster
    }

    /// The store below.
    pub fn repository(&self) -> &Arc<dyn Repository> {
        &self.inner.repository
    }

    /// Whether the store honours conditional writes: probed once, on first use.
    pub async fn conditions(&self) -> Result<ConditionalWrites> {
        let probed = self.inner.conditions.get_or_try_init(|| async {
            let found = probe(self.repository()).await?;
            if found.can_fence() {
                tracing::debug!(repository = self.location(), "{found}");
            } else {
                tracing::error!(repository = self.location(), "{found}: fencing through this store is refused");
            }
            Ok::<_, Error>(found)
        });
        Ok(*probed.await?)
    }

    /// Refuses where a condition would be believed in vain.
    pub async fn require_fencing(&self) -> Result<()> {
        match self.conditions().await? {
            ConditionalWrites::Honoured => Ok(()),
            found => Err(Error::CannotFence { repository: self.location().to_owned(), found }),
        }
    }

    /// What stands under the key of `timeline` and `start`, proven; `None` if nothing does.
    pub async fn chunk(&self, timeline: TimelineId, start: Lsn) -> Result<Option<ChunkObject>> {
        let key = keys::chunk(timeline, start);
        let Some(object) = self.get(&key, Kind::Chunk.object_len_max()).await? else { return Ok(None) };
        let cluster = self.cluster().cluster;
        // Decompressing and hashing megabytes is no work for the threads that wait for the network.
        let decoded = blocking(move || ChunkObject::decode(&object, cluster, timeline, start)).await;
        decoded.map(Some).map_err(|damage| self.damaged(&key, damage))
    }

    /// What the object under the key of `timeline` and `start` says of itself, and whether it is a fence. The contents
    /// are neither fetched nor proven, but an object that is shorter or longer than it says is damaged.
    pub async fn chunk_head(&self, timeline: TimelineId, start: Lsn) -> Result<Option<(ChunkAbout, bool)>> {
        let key = keys::chunk(timeline, start);
        let head = self.repository().get(&key, Some(0..CHUNK_HEAD_LEN as u64), CHUNK_HEAD_LEN as u64).await;
        let fetched = match head {
            Ok(fetched) => fetched,
            Err(error) if error.is_not_found() => return Ok(None),
            // Too short to have a head.
            Err(RepositoryError { kind: RepositoryErrorKind::RangeOutside { .. }, .. }) => {
                return Err(self.damaged(&key, ObjectDamage::NotAnObject));
            }
            Err(error) => return Err(error.into()),
        };
        let parsed = ChunkAbout::parse_head(&fetched.bytes, self.cluster().cluster, timeline, start);
        let parsed = parsed.and_then(|parsed| check_size(&fetched).map(|()| parsed));
        parsed.map(Some).map_err(|damage| self.damaged(&key, damage))
    }

    /// A timeline's cursor.
    pub async fn frontier(&self, timeline: TimelineId) -> Result<Option<FrontierDocument>> {
        let key = keys::frontier(timeline);
        let Some(object) = self.get(&key, Kind::Frontier.object_len_max()).await? else { return Ok(None) };
        let decoded = FrontierDocument::decode(&object, self.cluster().cluster, timeline);
        decoded.map(Some).map_err(|damage| self.damaged(&key, damage))
    }

    pub(crate) async fn put_frontier(&self, frontier: &FrontierDocument) -> Result<()> {
        let object = frontier.encode(self.cluster().cluster);
        // Whoever writes last says how far it came; chunks beyond it are found by name.
        let _ = self.repository().put(&keys::frontier(frontier.timeline), object, Condition::Always).await?;
        Ok(())
    }

    /// Who claimed a timeline, and with which history.
    pub async fn timeline(&self, timeline: TimelineId) -> Result<Option<TimelineDocument>> {
        let key = keys::timeline(timeline);
        let Some(object) = self.get(&key, Kind::Timeline.object_len_max()).await? else { return Ok(None) };
        let decoded = TimelineDocument::decode(&object, self.cluster(), timeline);
        decoded.map(Some).map_err(|damage| self.damaged(&key, damage))
    }

    /// A whole object of at most `size_max` bytes, unproven.
    pub(crate) async fn get(&self, key: &str, size_max: u64) -> Result<Option<Bytes>> {
        match self.repository().get(key, None, size_max).await {
            Ok(fetched) => Ok(Some(fetched.bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn damaged(&self, key: &str, damage: ObjectDamage) -> Error {
        Error::Object { repository: self.location().to_owned(), key: key.to_owned(), damage }
    }
}

/// Whether an object, of which the head was fetched, has the size its head says, as far as the store told its size.
fn check_size(head: &Fetched) -> Result<(), ObjectDamage> {
    let expected = Head::parse(&head.bytes)?.object_len();
    match head.object_size {
        Some(found) if found != expected => Err(ObjectDamage::Length { found, expected }),
        _ => Ok(()),
    }
}

async fn read_cluster(repository: &Arc<dyn Repository>) -> Result<Option<ClusterDocument>> {
    let object = match repository.get(keys::CLUSTER, None, Kind::Cluster.object_len_max()).await {
        Ok(fetched) => fetched.bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let decoded = ClusterDocument::decode(&object);
    decoded.map(Some).map_err(|damage| Error::Object {
        repository: repository.location().to_owned(),
        key: keys::CLUSTER.to_owned(),
        damage,
    })
}

/// Runs work that keeps a core busy away from the threads that wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
