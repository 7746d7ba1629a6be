//! Buckets and objects in a directory. The index in memory decides; files carry what is needed to rebuild it.
//!
//! ```text
//! format                     names the layout
//! lock                       held while a server runs
//! incoming/<random>          being received
//! buckets/<bucket>/<blake3 of the key>
//!     body ‖ about (JSON) ‖ len(about) u32 ‖ crc32(about) u32 ‖ "SWS3OBJ1"
//! ```
//! Names of files are hashes because keys are anybody's: no key can name a path.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use seawall_wal::storage::FileLock;
use serde::{Deserialize, Serialize};

const FORMAT: &[u8] = b"seawall-s3 1\n";
const MAGIC: &[u8; 8] = b"SWS3OBJ1";
const TRAILER_LEN: u64 = 16;
const ABOUT_LEN_MAX: u32 = 64 * 1024;

/// What is known of an object besides its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) etag: String,
    /// Milliseconds since 1970.
    pub(super) modified_ms: u64,
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) crc32: Option<String>,
    #[serde(default)]
    pub(super) crc32c: Option<String>,
    #[serde(default)]
    pub(super) crc64nvme: Option<String>,
    #[serde(default)]
    pub(super) sha256: Option<String>,
}

/// A condition on what is stored under a key.
#[derive(Debug, Clone)]
pub(super) enum Expected {
    Anything,
    Absent,
    Present,
    Etag(String),
}

/// Why an object was not stored, read or listed.
#[derive(Debug)]
pub(super) enum ObjectError {
    NoSuchBucket,
    NoSuchKey,
    ConditionFailed,
    Io(io::Error),
}

impl From<io::Error> for ObjectError {
    fn from(error: io::Error) -> Self {
        ObjectError::Io(error)
    }
}

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another server has it.
    #[error("{} is being served by another process; stop that one first", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// It holds something else.
    #[error("{} is neither empty nor an object directory; choose another", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
    /// It cannot be read or written.
    #[error("cannot use {} as an object directory", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

type Buckets = BTreeMap<String, BTreeMap<String, About>>;

#[derive(Debug)]
pub(super) struct Objects {
    dir: PathBuf,
    buckets: Mutex<Buckets>,
    /// Held for as long as this lives.
    _lock: FileLock,
}

impl Objects {
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { dir: dir.to_owned(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let format = dir.join("format");
        match fs::read(&format) {
            Ok(found) if found == FORMAT => {}
            Ok(_) => return Err(OpenError::Foreign { dir: dir.to_owned() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if fs::read_dir(dir).map_err(failed)?.next().is_some() {
                    return Err(OpenError::Foreign { dir: dir.to_owned() });
                }
                fs::write(&format, FORMAT).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"));
        let lock = lock.and_then(FileLock::try_new).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => OpenError::Locked { dir: dir.to_owned() },
            _ => failed(error),
        })?;
        let _ = fs::remove_dir_all(dir.join("incoming"));
        fs::create_dir_all(dir.join("incoming")).map_err(failed)?;
        fs::create_dir_all(dir.join("buckets")).map_err(failed)?;
        let buckets = load(&dir.join("buckets")).map_err(failed)?;
        Ok(Objects { dir: dir.to_owned(), buckets: Mutex::new(buckets), _lock: lock })
    }

    /// True if the bucket is new.
    pub(super) fn create_bucket(&self, bucket: &str) -> io::Result<bool> {
        if !is_bucket_name(bucket) {
            return Err(io::Error::new(ErrorKind::InvalidInput, format!("`{bucket}` is not a bucket name")));
        }
        let mut buckets = self.buckets.lock();
        if buckets.contains_key(bucket) {
            return Ok(false);
        }
        fs::create_dir_all(self.bucket_dir(bucket))?;
        buckets.insert(bucket.to_owned(), BTreeMap::new());
        Ok(true)
    }

    pub(super) fn bucket_names(&self) -> Vec<String> {
        self.buckets.lock().keys().cloned().collect()
    }

    pub(super) fn has_bucket(&self, bucket: &str) -> bool {
        self.buckets.lock().contains_key(bucket)
    }

    /// A file to receive a body into, removed unless [`publish`](Self::publish)ed.
    pub(super) fn receive(&self) -> io::Result<(Incoming, File)> {
        let path = self.dir.join("incoming").join(format!("{:032x}", rand::random::<u128>()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok((Incoming { path }, file))
    }

    /// Gives a received body its key if `expected` holds: checked and done in one step.
    pub(super) fn publish(
        &self,
        bucket: &str,
        incoming: &Incoming,
        about: About,
        expected: &Expected,
    ) -> Result<(), ObjectError> {
        append_about(&incoming.path, &about)?;
        let mut buckets = self.buckets.lock();
        let objects = buckets.get_mut(bucket).ok_or(ObjectError::NoSuchBucket)?;
        match (expected, objects.get(&about.key)) {
            (Expected::Anything, _) | (Expected::Absent, None) | (Expected::Present, Some(_)) => {}
            (Expected::Etag(etag), Some(stored)) if *etag == stored.etag => {}
            (Expected::Present | Expected::Etag(_), None) => return Err(ObjectError::NoSuchKey),
            (Expected::Absent | Expected::Etag(_), Some(_)) => return Err(ObjectError::ConditionFailed),
        }
        fs::rename(&incoming.path, self.object_path(bucket, &about.key))?;
        objects.insert(about.key.clone(), about);
        Ok(())
    }

    /// The object's file, whose first `size` bytes are the body, as it is now whatever replaces it later.
    pub(super) fn open_object(&self, bucket: &str, key: &str) -> Result<(About, File), ObjectError> {
        let buckets = self.buckets.lock();
        let about = buckets.get(bucket).ok_or(ObjectError::NoSuchBucket)?.get(key).ok_or(ObjectError::NoSuchKey)?;
        Ok((about.clone(), File::open(self.object_path(bucket, key))?))
    }

    pub(super) fn about(&self, bucket: &str, key: &str) -> Result<About, ObjectError> {
        let buckets = self.buckets.lock();
        buckets.get(bucket).ok_or(ObjectError::NoSuchBucket)?.get(key).cloned().ok_or(ObjectError::NoSuchKey)
    }

    /// Removing what is not there is fine.
    pub(super) fn remove(&self, bucket: &str, key: &str) -> Result<(), ObjectError> {
        let mut buckets = self.buckets.lock();
        let objects = buckets.get_mut(bucket).ok_or(ObjectError::NoSuchBucket)?;
        if objects.contains_key(key) {
            fs::remove_file(self.object_path(bucket, key))?;
            objects.remove(key);
        }
        Ok(())
    }

    /// Up to `max` entries after `after`, and whether more follow.
    pub(super) fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        delimiter: Option<&str>,
        max: usize,
    ) -> Result<Listing, ObjectError> {
        let buckets = self.buckets.lock();
        let objects = buckets.get(bucket).ok_or(ObjectError::NoSuchBucket)?;
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut listing = Listing::default();
        let matching = objects.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        for (key, about) in matching {
            let folder = delimiter.and_then(|delimiter| {
                let at = key[prefix.len()..].find(delimiter)?;
                Some(&key[..prefix.len() + at + delimiter.len()])
            });
            // A common prefix is listed once; later keys under it are passed over, also on the next page.
            let listed = |folder| {
                listing.folders.last().is_some_and(|last| last == folder)
                    || after.is_some_and(|after| after.starts_with(folder))
            };
            if folder.is_some_and(listed) {
                listing.last = Some(key.clone());
                continue;
            }
            if listing.objects.len() + listing.folders.len() == max {
                listing.more = true;
                break;
            }
            listing.last = Some(key.clone());
            match folder {
                Some(folder) => listing.folders.push(folder.to_owned()),
                None => listing.objects.push(about.clone()),
            }
        }
        Ok(listing)
    }

    fn bucket_dir(&self, bucket: &str) -> PathBuf {
        self.dir.join("buckets").join(bucket)
    }

    fn object_path(&self, bucket: &str, key: &str) -> PathBuf {
        self.bucket_dir(bucket).join(file_name(key))
    }
}

/// A page of keys.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) objects: Vec<About>,
    pub(super) folders: Vec<String>,
    pub(super) last: Option<String>,
    pub(super) more: bool,
}

/// A body being received.
#[derive(Debug)]
pub(super) struct Incoming {
    path: PathBuf,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn file_name(key: &str) -> String {
    blake3::hash(key.as_bytes()).to_hex().to_string()
}

fn is_bucket_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    (3..=63).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.')
}

fn append_about(path: &Path, about: &About) -> io::Result<()> {
    let json = serde_json::to_vec(about)?;
    let len = u32::try_from(json.len()).ok().filter(|len| *len <= ABOUT_LEN_MAX);
    let len = len.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the object's metadata is too long"))?;
    let mut file = OpenOptions::new().append(true).open(path)?;
    let mut trailer = json;
    let crc = crc32fast::hash(&trailer);
    trailer.extend_from_slice(&len.to_le_bytes());
    trailer.extend_from_slice(&crc.to_le_bytes());
    trailer.extend_from_slice(MAGIC);
    file.write_all(&trailer)
}

fn load(dir: &Path) -> io::Result<Buckets> {
    let mut buckets = Buckets::new();
    for bucket in fs::read_dir(dir)? {
        let bucket = bucket?;
        let mut objects = BTreeMap::new();
        for object in fs::read_dir(bucket.path())? {
            let path = object?.path();
            match load_about(&path) {
                Ok(about) if path.file_name().is_some_and(|name| name == file_name(&about.key).as_str()) => {
                    objects.insert(about.key.clone(), about);
                }
                // A power cut may leave such a file; the archive's own digests find what is missing.
                Ok(_) | Err(_) => tracing::warn!(path = %path.display(), "not a whole object: passed over"),
            }
        }
        buckets.insert(bucket.file_name().to_string_lossy().into_owned(), objects);
    }
    Ok(buckets)
}

fn load_about(path: &Path) -> io::Result<About> {
    let broken = || io::Error::new(ErrorKind::InvalidData, "not a whole object");
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut trailer = [0; TRAILER_LEN as usize];
    file.seek(SeekFrom::Start(len.checked_sub(TRAILER_LEN).ok_or_else(broken)?))?;
    file.read_exact(&mut trailer)?;
    let [l0, l1, l2, l3, c0, c1, c2, c3, magic @ ..] = trailer;
    let about_len = u32::from_le_bytes([l0, l1, l2, l3]);
    if magic != *MAGIC || about_len > ABOUT_LEN_MAX {
        return Err(broken());
    }
    let body_len = len.checked_sub(TRAILER_LEN + u64::from(about_len)).ok_or_else(broken)?;
    file.seek(SeekFrom::Start(body_len))?;
    let mut json = vec![0; about_len as usize];
    file.read_exact(&mut json)?;
    if crc32fast::hash(&json) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(broken());
    }
    let about: About = serde_json::from_slice(&json)?;
    if about.size != body_len {
        return Err(broken());
    }
    Ok(about)
}
