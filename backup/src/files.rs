//! Files in the repository: cut into pieces, named by their content, stored once however many backups list them. Memory
//! is bounded by pieces, not by files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use seawall_engine::{FileHash, TableSource};
use seawall_wal::TimelineId;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::archive::{Archive, blocking};
use crate::error::{Error, Result};
use crate::format::documents::FileEntry;
use crate::format::envelope::{ABOUT_LEN, Envelope, Kind, ObjectDamage};
use crate::format::keys;
use crate::repository::{Condition, PutOutcome};

/// Bytes of a piece; the last one of a file is shorter.
pub const PIECE_LEN: u64 = Kind::Piece.plaintext_len_max() as u64;

/// Pieces of one file fetched at once.
const PIECES_AT_ONCE: usize = 4;

/// The largest file a backup may list, in bytes. What lists a larger one is not ours.
pub const FILE_LEN_MAX: u64 = 4 << 30;

/// Tries of a request that failed for a passing reason, beyond those of the store's own client.
const TRIES: u32 = 5;

/// How many pieces a file of so many bytes has; at least one.
pub fn piece_count(size: u64) -> u32 {
    u32::try_from(size.div_ceil(PIECE_LEN).max(1)).unwrap_or(u32::MAX)
}

/// What storing a file took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileUpload {
    /// It was there already.
    Present,
    /// It is there now.
    Stored {
        /// Bytes sent.
        stored_bytes: u64,
    },
}

impl Archive {
    /// Whether a file is whole in the repository: whether its last piece is.
    pub async fn has_file(&self, file: &FileEntry) -> Result<bool> {
        let key = keys::piece(&file.hash, piece_count(file.size) - 1);
        Ok(tried(|| self.repository().head(&key)).await?.is_some())
    }

    /// Stores the file at `path`, which must have the contents `file` promises, unless it is there already.
    ///
    /// # Errors
    /// [`Error::LocalFile`] if it has not; then the repository holds no such file.
    pub async fn put_file(&self, file: &FileEntry, path: &Path) -> Result<FileUpload> {
        if self.has_file(file).await? {
            return Ok(FileUpload::Present);
        }
        let mut reader = PieceReader::open(path)?;
        let mut stored_bytes = 0;
        let last = piece_count(file.size) - 1;
        for number in 0..=last {
            let (next, piece) = blocking(move || reader.next_piece()).await?;
            reader = next;
            let expected = if number == last { file.size - u64::from(last) * PIECE_LEN } else { PIECE_LEN };
            let whole = number < last || reader.hasher.finalize() == file.hash;
            if piece.len() as u64 != expected || !whole {
                return Err(Error::LocalFile { path: path.to_owned() });
            }
            stored_bytes += self.put_piece(file, number, piece).await?;
        }
        Ok(FileUpload::Stored { stored_bytes })
    }

    /// The same for a file that is in memory.
    pub(crate) async fn put_bytes(&self, bytes: &Bytes) -> Result<(FileEntry, FileUpload)> {
        let file = FileEntry { hash: blake3::hash(bytes), size: bytes.len() as u64 };
        if self.has_file(&file).await? {
            return Ok((file, FileUpload::Present));
        }
        let mut stored_bytes = 0;
        for number in 0..piece_count(file.size) {
            let from = (u64::from(number) * PIECE_LEN) as usize;
            let to = bytes.len().min(from + PIECE_LEN as usize);
            stored_bytes += self.put_piece(&file, number, bytes.slice(from..to)).await?;
        }
        Ok((file, FileUpload::Stored { stored_bytes }))
    }

    async fn put_piece(&self, file: &FileEntry, number: u32, plaintext: Bytes) -> Result<u64> {
        let cluster = self.cluster().cluster;
        let envelope =
            Envelope { kind: Kind::Piece, cluster, timeline: TimelineId(0), about: [0; ABOUT_LEN], plaintext };
        let object = blocking(move || envelope.encode()).await;
        let key = keys::piece(&file.hash, number);
        let outcome = tried(|| self.repository().put(&key, object.clone(), Condition::IfAbsent)).await?;
        Ok(match outcome {
            PutOutcome::Stored { .. } => object.len() as u64,
            // Another backup was faster, or this one was interrupted; either way the name says what it is.
            PutOutcome::ConditionFailed | PutOutcome::Conflict => 0,
        })
    }

    /// One piece of a file, proven as far as its envelope goes.
    pub(crate) async fn piece(&self, file: &FileEntry, number: u32) -> Result<Bytes> {
        let key = keys::piece(&file.hash, number);
        let fetched = tried(|| self.repository().get(&key, None, Kind::Piece.object_len_max())).await?;
        let cluster = self.cluster().cluster;
        let decoded = blocking(move || {
            let envelope = Envelope::decode(&fetched.bytes)?;
            envelope.check(Kind::Piece, cluster, TimelineId(0))?;
            Ok(envelope.plaintext)
        });
        let piece = decoded.await.map_err(|damage| self.damaged(&key, damage))?;
        let last = piece_count(file.size) - 1;
        let expected = if number == last { file.size - u64::from(last) * PIECE_LEN } else { PIECE_LEN };
        if piece.len() as u64 != expected {
            let damage = ObjectDamage::Length { found: piece.len() as u64, expected };
            return Err(self.damaged(&key, damage));
        }
        Ok(piece)
    }

    /// A whole file in memory, its digest checked. `progress` is told of bytes as they come.
    pub async fn file(&self, file: &FileEntry, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<Vec<u8>> {
        let key = keys::piece(&file.hash, 0);
        if file.size > FILE_LEN_MAX {
            let damage = ObjectDamage::Contents { why: format!("a file of {} bytes is too large", file.size) };
            return Err(self.damaged(&key, damage));
        }
        let mut bytes = Vec::new();
        let mut asked: std::collections::VecDeque<tokio::task::JoinHandle<Result<Bytes>>> = Default::default();
        let count = piece_count(file.size);
        let mut next = 0;
        while (bytes.len() as u64) < file.size || next < count || !asked.is_empty() {
            while next < count && asked.len() < PIECES_AT_ONCE {
                let (archive, file) = (self.clone(), *file);
                asked.push_back(tokio::spawn(async move { archive.piece(&file, next).await }));
                next += 1;
            }
            let Some(first) = asked.pop_front() else { break };
            let piece = match first.await {
                Ok(Ok(piece)) => piece,
                failed => {
                    asked.iter().for_each(|task| task.abort());
                    return match failed {
                        Ok(Err(error)) => Err(error),
                        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                        _ => Err(Error::Ended { why: "the runtime is shutting down".to_owned() }),
                    };
                }
            };
            progress(piece.len() as u64);
            if bytes.is_empty() {
                // Only now: the first piece has proven that there is such a file.
                bytes.reserve_exact(usize::try_from(file.size).unwrap_or(0));
            }
            bytes.extend_from_slice(&piece);
        }
        let expected = file.hash;
        let (bytes, found) = blocking(move || {
            let found = blake3::hash(&bytes);
            (bytes, found)
        })
        .await;
        if found != expected {
            return Err(self.damaged(&key, ObjectDamage::Digest));
        }
        Ok(bytes)
    }

    /// Reads a whole file and checks its digest, one piece in memory at a time. Returns the bytes read.
    pub async fn check_file(&self, file: &FileEntry) -> Result<u64> {
        let mut hasher = blake3::Hasher::new();
        for number in 0..piece_count(file.size) {
            let piece = self.piece(file, number).await?;
            hasher = blocking(move || {
                hasher.update(&piece);
                hasher
            })
            .await;
        }
        if hasher.finalize() != file.hash {
            return Err(self.damaged(&keys::piece(&file.hash, 0), ObjectDamage::Digest));
        }
        Ok(file.size)
    }
}

/// A local file, read piece by piece and hashed on the way.
struct PieceReader {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
}

impl PieceReader {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        Ok(PieceReader { path: path.to_owned(), file, hasher: blake3::Hasher::new() })
    }

    fn next_piece(mut self) -> Result<(Self, Bytes)> {
        let mut piece = Vec::with_capacity(PIECE_LEN as usize);
        let read = (&mut self.file).take(PIECE_LEN).read_to_end(&mut piece);
        read.map_err(Error::io("read", &self.path))?;
        self.hasher.update(&piece);
        Ok((self, piece.into()))
    }
}

/// Tries a request again that failed for a passing reason, a few times.
pub(crate) async fn tried<T, F>(mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, crate::repository::RepositoryError>>,
{
    let mut pause = Duration::from_millis(50);
    for _ in 1..TRIES {
        match call().await {
            Err(error) if error.is_transient() => tracing::debug!(%error, "tried again"),
            done => return Ok(done?),
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        pause *= 3;
    }
    Ok(call().await?)
}

/// Runs `work` for every item, `at_once` of them at a time; the first error ends it.
pub(crate) async fn in_parallel<I, T, F>(
    items: impl IntoIterator<Item = I>,
    at_once: usize,
    mut work: impl FnMut(I) -> F,
    mut done: impl FnMut(T),
) -> Result<()>
where
    F: Future<Output = Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let mut running = JoinSet::new();
    let mut items = items.into_iter();
    loop {
        while running.len() < at_once.max(1)
            && let Some(item) = items.next()
        {
            running.spawn(work(item));
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(Ok(result)) => done(result?),
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) => return Err(Error::Ended { why: "the runtime is shutting down".to_owned() }),
        }
    }
}

/// The archive as the engine's [`TableSource`], for threads that may block.
#[derive(Debug, Clone)]
pub struct ArchiveTables {
    archive: Archive,
    runtime: Handle,
}

impl ArchiveTables {
    /// `runtime` does the waiting; the methods must not be called from its own threads.
    pub fn new(archive: Archive, runtime: Handle) -> Self {
        ArchiveTables { archive, runtime }
    }
}

impl TableSource for ArchiveTables {
    fn fetch(&self, hash: &FileHash, size: u64) -> seawall_engine::Result<Vec<u8>> {
        let file = FileEntry { hash: blake3::Hash::from_bytes(*hash.as_bytes()), size };
        let fetched = self.runtime.block_on(self.archive.file(&file, &|_| {}));
        fetched.map_err(|error| {
            let at = seawall_wal::Lsn::ZERO;
            crate::timelines::to_log_error(&self.archive, at, error).into()
        })
    }
}
