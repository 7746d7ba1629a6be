//! S3's operations over [`Objects`]. Signatures, chunked uploads and XML are `s3s`'s; counting and conditions are ours.

use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt as _;
use md5::{Digest as _, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::dto::*;
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, TrailingHeaders, s3_error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::counters::S3Counters;
use super::objects::{About, Expected, ObjectError, Objects};
use crate::repository::Operation;

/// Largest object accepted, as on AWS for one PUT.
const OBJECT_LEN_MAX: u64 = 5 << 30;

/// A client may be silent for so long in the middle of a body.
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);

const CHUNK: usize = 128 * 1024;
const CHUNKS_AHEAD: usize = 2;

pub(super) struct Service {
    pub(super) objects: Arc<Objects>,
    pub(super) counters: Arc<S3Counters>,
    #[cfg(any(test, feature = "testing"))]
    pub(super) faults: Arc<super::faults::ServerFaults>,
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        self.counters.other.fetch_add(1, Relaxed);
        let named = |name| Bucket { name: Some(name), ..Default::default() };
        let buckets = self.objects.bucket_names().into_iter().map(named).collect();
        Ok(S3Response::new(ListBucketsOutput { buckets: Some(buckets), ..Default::default() }))
    }

    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.counters.other.fetch_add(1, Relaxed);
        match self.objects.create_bucket(&request.input.bucket) {
            Ok(true) => Ok(S3Response::new(CreateBucketOutput::default())),
            Ok(false) => Err(s3_error!(BucketAlreadyOwnedByYou)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(s3_error!(InvalidBucketName)),
            Err(error) => Err(failed(ObjectError::Io(error))),
        }
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.counters.other.fetch_add(1, Relaxed);
        if self.objects.has_bucket(&request.input.bucket) {
            Ok(S3Response::new(HeadBucketOutput::default()))
        } else {
            Err(s3_error!(NoSuchBucket))
        }
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.counters.put.fetch_add(1, Relaxed);
        let twist = self.twist(Operation::Put).await?;
        let mut input = request.input;
        let expected = expected(input.if_none_match.as_ref(), input.if_match.as_ref())?;
        if !self.objects.has_bucket(&input.bucket) {
            return Err(s3_error!(NoSuchBucket));
        }
        if input.content_length.is_some_and(|len| len < 0 || len as u64 > OBJECT_LEN_MAX) {
            return Err(s3_error!(EntityTooLarge));
        }
        let declared = Declared::of(&input, request.headers.get("x-amz-trailer"));
        let (incoming, file) = self.objects.receive().map_err(|error| failed(error.into()))?;
        let received = receive(input.body.take(), file, declared.hasher(), &self.counters.bytes_in).await?;
        declared.check(&received, request.trailing_headers)?;
        let about = About {
            key: input.key,
            size: received.size,
            etag: received.etag.clone(),
            modified_ms: now_ms(),
            metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            crc32: received.sums.checksum_crc32.clone(),
            crc32c: received.sums.checksum_crc32c.clone(),
            crc64nvme: received.sums.checksum_crc64nvme.clone(),
            sha256: received.sums.checksum_sha256.clone(),
        };
        if let Err(error) = self.objects.publish(&input.bucket, &incoming, about, &expected) {
            if matches!(error, ObjectError::ConditionFailed) {
                self.counters.conditions_failed.fetch_add(1, Relaxed);
            }
            return Err(failed(error));
        }
        if twist.lose_answer {
            return Err(s3_error!(InternalError));
        }
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(ETag::Strong(received.etag)),
            checksum_crc32: received.sums.checksum_crc32,
            checksum_crc32c: received.sums.checksum_crc32c,
            checksum_crc64nvme: received.sums.checksum_crc64nvme,
            checksum_sha256: received.sums.checksum_sha256,
            ..Default::default()
        }))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.counters.get.fetch_add(1, Relaxed);
        let twist = self.twist(Operation::Get).await?;
        let input = request.input;
        let (about, file) = self.objects.open_object(&input.bucket, &input.key).map_err(failed)?;
        let is_this = |condition: &ETagCondition| condition.as_etag().is_some_and(|etag| etag.value() == about.etag);
        if input.if_none_match.as_ref().is_some_and(|none| none.is_any() || is_this(none)) {
            return Err(s3_error!(NotModified));
        }
        if input.if_match.as_ref().is_some_and(|one| !one.is_any() && !is_this(one)) {
            return Err(s3_error!(PreconditionFailed));
        }
        let (range, content_range) = match input.range {
            None => (0..about.size, None),
            Some(range) => {
                let range = range.check(about.size)?;
                let header = format!("bytes {}-{}/{}", range.start, range.end - 1, about.size);
                (range, Some(header))
            }
        };
        let whole = content_range.is_none();
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some((range.end - range.start) as i64),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(ETag::Strong(about.etag)),
            last_modified: Some(timestamp(about.modified_ms)),
            metadata: Some(about.metadata.into_iter().collect()),
            // Of the whole object: meaningless, and confusing to clients, with a part of it.
            checksum_crc32: about.crc32.filter(|_| whole),
            checksum_crc32c: about.crc32c.filter(|_| whole),
            checksum_crc64nvme: about.crc64nvme.filter(|_| whole),
            checksum_sha256: about.sha256.filter(|_| whole),
            body: Some(send(file, range, twist, self.counters.clone()).map_err(|error| failed(error.into()))?),
            ..Default::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.counters.head.fetch_add(1, Relaxed);
        self.twist(Operation::Head).await?;
        let about = self.objects.about(&request.input.bucket, &request.input.key).map_err(failed)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(about.size as i64),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(ETag::Strong(about.etag)),
            last_modified: Some(timestamp(about.modified_ms)),
            metadata: Some(about.metadata.into_iter().collect()),
            ..Default::default()
        }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.counters.delete.fetch_add(1, Relaxed);
        self.twist(Operation::Delete).await?;
        self.objects.remove(&request.input.bucket, &request.input.key).map_err(failed)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.counters.delete.fetch_add(1, Relaxed);
        self.twist(Operation::Delete).await?;
        let input = request.input;
        let mut deleted = Vec::with_capacity(input.delete.objects.len());
        for object in input.delete.objects {
            self.objects.remove(&input.bucket, &object.key).map_err(failed)?;
            deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.counters.list.fetch_add(1, Relaxed);
        self.twist(Operation::List).await?;
        let input = request.input;
        let prefix = input.prefix.unwrap_or_default();
        let max = input.max_keys.unwrap_or(1000).clamp(0, 1000);
        let after = input.continuation_token.clone().or(input.start_after.clone());
        let listing = self
            .objects
            .list(&input.bucket, &prefix, after.as_deref(), input.delimiter.as_deref(), max as usize)
            .map_err(failed)?;
        let object = |about: About| Object {
            key: Some(about.key),
            size: Some(about.size as i64),
            e_tag: Some(ETag::Strong(about.etag)),
            last_modified: Some(timestamp(about.modified_ms)),
            ..Default::default()
        };
        let folder = |prefix| CommonPrefix { prefix: Some(prefix) };
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some((listing.objects.len() + listing.folders.len()) as i32),
            max_keys: Some(max),
            is_truncated: Some(listing.more),
            next_continuation_token: listing.last.filter(|_| listing.more),
            contents: Some(listing.objects.into_iter().map(object).collect()),
            common_prefixes: Some(listing.folders.into_iter().map(folder).collect()),
            name: Some(input.bucket),
            prefix: Some(prefix),
            delimiter: input.delimiter,
            start_after: input.start_after,
            continuation_token: input.continuation_token,
            ..Default::default()
        }))
    }
}

/// What a test does to one request; nothing outside tests.
#[derive(Debug, Clone, Copy, Default)]
struct Twist {
    lose_answer: bool,
    truncate: Option<u64>,
    flip: Option<u64>,
}

impl Service {
    #[cfg(any(test, feature = "testing"))]
    async fn twist(&self, operation: Operation) -> S3Result<Twist> {
        use super::faults::ServerFault;
        match self.faults.take(operation) {
            None => Ok(Twist::default()),
            Some(ServerFault::SlowDown) => Err(s3_error!(SlowDown)),
            Some(ServerFault::Internal) => Err(s3_error!(InternalError)),
            Some(ServerFault::Conflict) => {
                let code = s3s::S3ErrorCode::Custom("ConditionalRequestConflict".into());
                let mut error = S3Error::with_message(code, "another conditional write is under way");
                error.set_status_code(http::StatusCode::CONFLICT);
                Err(error)
            }
            Some(ServerFault::WriteThenInternal) => Ok(Twist { lose_answer: true, ..Twist::default() }),
            Some(ServerFault::Delay(duration)) => {
                tokio::time::sleep(duration).await;
                Ok(Twist::default())
            }
            Some(ServerFault::Hang) => std::future::pending().await,
            Some(ServerFault::TruncateBody(len)) => Ok(Twist { truncate: Some(len), ..Twist::default() }),
            Some(ServerFault::FlipBit(at)) => Ok(Twist { flip: Some(at), ..Twist::default() }),
        }
    }

    #[cfg(not(any(test, feature = "testing")))]
    async fn twist(&self, _: Operation) -> S3Result<Twist> {
        Ok(Twist::default())
    }
}

fn failed(error: ObjectError) -> S3Error {
    match error {
        ObjectError::NoSuchBucket => s3_error!(NoSuchBucket),
        ObjectError::NoSuchKey => s3_error!(NoSuchKey),
        ObjectError::ConditionFailed => s3_error!(PreconditionFailed),
        ObjectError::Io(error) => {
            tracing::error!(%error, "the object directory failed");
            s3_error!(InternalError, "{error}")
        }
    }
}

fn expected(none: Option<&ETagCondition>, one: Option<&ETagCondition>) -> S3Result<Expected> {
    match (none, one) {
        (None, None) => Ok(Expected::Anything),
        (Some(none), None) if none.is_any() => Ok(Expected::Absent),
        (None, Some(one)) if one.is_any() => Ok(Expected::Present),
        (None, Some(one)) => match one.as_etag() {
            Some(etag) => Ok(Expected::Etag(etag.value().to_owned())),
            None => Err(s3_error!(InvalidRequest)),
        },
        // As on AWS: If-None-Match of a write takes `*` only, and not both at once.
        (Some(_), _) => Err(s3_error!(NotImplemented)),
    }
}

/// The checksums a client says it sends, in headers or after the body.
struct Declared {
    headers: Checksum,
    algorithm: Option<String>,
    trailer: String,
}

impl Declared {
    fn of(input: &PutObjectInput, trailer: Option<&http::HeaderValue>) -> Self {
        let headers = Checksum {
            checksum_crc32: input.checksum_crc32.clone(),
            checksum_crc32c: input.checksum_crc32c.clone(),
            checksum_crc64nvme: input.checksum_crc64nvme.clone(),
            checksum_sha1: input.checksum_sha1.clone(),
            checksum_sha256: input.checksum_sha256.clone(),
            ..Default::default()
        };
        let trailer = trailer.and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
        let algorithm = input.checksum_algorithm.as_ref().map(|algorithm| algorithm.as_str().to_ascii_lowercase());
        Declared { headers, algorithm, trailer }
    }

    fn hasher(&self) -> ChecksumHasher {
        let wants = |name: &str, header: &Option<String>| {
            let in_trailer = self.trailer.split(',').any(|t| t.trim() == format!("x-amz-checksum-{name}"));
            header.is_some() || self.algorithm.as_deref() == Some(name) || in_trailer
        };
        ChecksumHasher {
            crc32: wants("crc32", &self.headers.checksum_crc32).then(Default::default),
            crc32c: wants("crc32c", &self.headers.checksum_crc32c).then(Default::default),
            crc64nvme: wants("crc64nvme", &self.headers.checksum_crc64nvme).then(Default::default),
            sha1: wants("sha1", &self.headers.checksum_sha1).then(Default::default),
            sha256: wants("sha256", &self.headers.checksum_sha256).then(Default::default),
        }
    }

    fn check(&self, received: &Received, trailers: Option<TrailingHeaders>) -> S3Result<()> {
        let trailers = trailers.and_then(|trailers| trailers.take());
        let trailing = |name: &str| {
            let value = trailers.as_ref()?.get(format!("x-amz-checksum-{name}"))?;
            value.to_str().ok().map(str::to_owned)
        };
        let (said, found) = (&self.headers, &received.sums);
        for (name, said, found) in [
            ("crc32", &said.checksum_crc32, &found.checksum_crc32),
            ("crc32c", &said.checksum_crc32c, &found.checksum_crc32c),
            ("crc64nvme", &said.checksum_crc64nvme, &found.checksum_crc64nvme),
            ("sha1", &said.checksum_sha1, &found.checksum_sha1),
            ("sha256", &said.checksum_sha256, &found.checksum_sha256),
        ] {
            let said = trailing(name).or_else(|| said.clone());
            if said.is_some() && said != *found {
                return Err(s3_error!(BadDigest));
            }
        }
        Ok(())
    }
}

struct Received {
    size: u64,
    etag: String,
    sums: Checksum,
}

/// Writes a body to a file as it comes, with bounded memory and patience.
async fn receive(
    body: Option<StreamingBlob>,
    file: std::fs::File,
    mut hasher: ChecksumHasher,
    bytes_in: &AtomicU64,
) -> S3Result<Received> {
    let mut file = tokio::fs::File::from_std(file);
    let mut md5 = Md5::new();
    let mut size = 0;
    if let Some(mut body) = body {
        loop {
            let chunk = match tokio::time::timeout(BODY_READ_TIMEOUT, body.try_next()).await {
                Err(_) => return Err(s3_error!(RequestTimeout)),
                Ok(Err(_)) => return Err(s3_error!(IncompleteBody)),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => chunk,
            };
            size += chunk.len() as u64;
            if size > OBJECT_LEN_MAX {
                return Err(s3_error!(EntityTooLarge));
            }
            bytes_in.fetch_add(chunk.len() as u64, Relaxed);
            md5.update(&chunk);
            hasher.update(&chunk);
            file.write_all(&chunk).await.map_err(|error| failed(error.into()))?;
        }
    }
    file.flush().await.map_err(|error| failed(error.into()))?;
    let etag = md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Received { size, etag, sums: hasher.finalize() })
}

/// Streams part of a file, a few chunks ahead of the client.
fn send(
    mut file: std::fs::File,
    range: Range<u64>,
    twist: Twist,
    counters: Arc<S3Counters>,
) -> io::Result<StreamingBlob> {
    file.seek(SeekFrom::Start(range.start))?;
    let mut file = tokio::fs::File::from_std(file);
    let (chunks, mut receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(CHUNKS_AHEAD);
    tokio::spawn(async move {
        let mut at = range.start;
        while at < range.end {
            let want = (range.end - at).min(CHUNK as u64) as usize;
            let mut chunk = vec![0; want];
            let read = file.read_exact(&mut chunk).await;
            if let Some(flip) = twist.flip.and_then(|flip| flip.checked_sub(at))
                && let Some(byte) = chunk.get_mut(flip as usize)
            {
                *byte ^= 1;
            }
            let cut =
                twist.truncate.map(|len| (range.start + len).saturating_sub(at) as usize).filter(|len| *len < want);
            chunk.truncate(cut.unwrap_or(want));
            at += chunk.len() as u64;
            counters.bytes_out.fetch_add(chunk.len() as u64, Relaxed);
            let chunk = read.map(|_| Bytes::from(chunk));
            let broken = chunk.is_err() || cut.is_some();
            if chunks.send(chunk).await.is_err() {
                return;
            }
            if broken {
                let _ = chunks.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
                return;
            }
        }
    });
    Ok(StreamingBlob::wrap(futures::stream::poll_fn(move |context| receiver.poll_recv(context))))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn timestamp(ms: u64) -> Timestamp {
    (SystemTime::UNIX_EPOCH + Duration::from_millis(ms)).into()
}
