//! A repository in an S3 bucket, through aws-sdk-s3. Every wait is bounded: connecting, the next byte, an attempt, an
//! operation with its retries, and the reading of a body, which the SDK leaves to its caller.

use std::ops::Range;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, ProvideCredentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::{Client, config};
use aws_smithy_http_client::{Builder as HttpClientBuilder, tls};
use bytes::{Bytes, BytesMut};

use super::config::{Checksums, Credentials, S3Options, S3Timeouts};
use super::{
    Condition, Etag, Fetched, LIST_PAGE_MAX, ListPage, ListedObject, ObjectInfo, Operation, PutOutcome, Repository,
    RepositoryError, RepositoryErrorKind, Request, check_range, check_size,
};

/// A transfer this slow or slower for the stall time is given up; attempts are allowed time accordingly.
const BYTES_PER_SECOND_MIN: u64 = 256 * 1024;

/// Bodies up to this size need no more time than the configured attempt.
const BODY_UNHURRIED: usize = 8 * 1024 * 1024;

/// How often a conditional write that met another one (409) is tried.
const CONFLICT_TRIES: u32 = 5;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct S3Repository {
    client: Client,
    bucket: String,
    prefix: String,
    location: String,
    timeouts: S3Timeouts,
}

impl S3Repository {
    /// Makes the client and resolves credentials; the bucket is not contacted yet.
    pub async fn open(bucket: &str, prefix: &str, options: &S3Options) -> Result<Self, RepositoryError> {
        let location = location(bucket, prefix, options);
        let request = Request { repository: &location, key: "", operation: Operation::Open };
        let client = Client::from_conf(client_config(options, &request).await?);
        Ok(S3Repository {
            client,
            bucket: bucket.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            timeouts: options.timeouts,
            location,
        })
    }

    /// Asks the store whether the bucket is there for us: a clear answer before anything depends on it.
    pub async fn check_bucket(&self) -> Result<(), RepositoryError> {
        let request = Request { repository: &self.location, key: "", operation: Operation::Open };
        // A listing rather than HEAD: its refusals have a body that says why.
        let asked = self.client.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix).max_keys(1).send();
        asked.await.map(drop).map_err(|error| self.failed(&request, Instant::now(), error))
    }

    /// Creates the bucket; one that is ours already is fine.
    pub async fn create_bucket(&self) -> Result<(), RepositoryError> {
        let request = Request { repository: &self.location, key: "", operation: Operation::Open };
        let started = Instant::now();
        match self.client.create_bucket().bucket(&self.bucket).send().await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code(), Some("BucketAlreadyOwnedByYou")) => Ok(()),
            Err(error) => Err(self.failed(&request, started, error)),
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn failed<E>(&self, request: &Request<'_>, started: Instant, error: SdkError<E, HttpResponse>) -> RepositoryError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        request.failed(kind_of(&self.bucket, started, error))
    }

    async fn get_once(
        &self,
        request: &Request<'_>,
        range: Option<&Range<u64>>,
        size_max: u64,
    ) -> Result<Fetched, RepositoryError> {
        let started = Instant::now();
        let asked = self.client.get_object().bucket(&self.bucket).key(self.full(request.key));
        let asked = asked.set_range(range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)));
        let answer = match asked.send().await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match (status_of(&error), range) {
                    (Some(416), Some(range)) => request.failed(outside(range)),
                    _ => self.failed(request, started, error),
                });
            }
        };
        let damaged = |detail: String| request.failed(RepositoryErrorKind::Damaged { detail });
        let announced = answer.content_length.and_then(|size| u64::try_from(size).ok());
        let size = announced.ok_or_else(|| damaged("the answer announces no length".to_owned()))?;
        let mut object_size = Some(size);
        if let Some(range) = range {
            // `bytes 0-9/100`, or `bytes 0-9/*`.
            object_size = answer.content_range().and_then(|found| found.rsplit_once('/')?.1.parse().ok());
            if answer.content_range.is_none() {
                let detail = "the store ignores ranges; it cannot hold a repository".to_owned();
                return Err(request.failed(RepositoryErrorKind::Other { detail }));
            }
            // A store cuts a range at the object's end rather than refuse it.
            if size != range.end - range.start {
                return Err(request.failed(outside(range)));
            }
        }
        check_size(size, size_max).map_err(|kind| request.failed(kind))?;
        let bytes = self.collect(request, answer.body, size).await?;
        let etag = match range {
            None => answer.e_tag.map(Etag),
            Some(_) => None,
        };
        Ok(Fetched { bytes, etag, object_size })
    }

    /// Reads a body of exactly `size` bytes; no chunk may take longer than the read timeout.
    async fn collect(&self, request: &Request<'_>, mut body: ByteStream, size: u64) -> Result<Bytes, RepositoryError> {
        let damaged = |detail: String| request.failed(RepositoryErrorKind::Damaged { detail });
        let mut bytes = BytesMut::with_capacity(usize::try_from(size).unwrap_or(0));
        loop {
            let wait = self.timeouts.read.max(self.timeouts.stall * 2);
            match tokio::time::timeout(wait, body.next()).await {
                Err(_) => return Err(request.failed(RepositoryErrorKind::Timeout { after: wait })),
                Ok(Some(Ok(chunk))) => bytes.extend_from_slice(&chunk),
                Ok(Some(Err(error))) => return Err(damaged(DisplayErrorContext(error).to_string())),
                Ok(None) => break,
            }
            if bytes.len() as u64 > size {
                return Err(damaged(format!("more than the {size} bytes announced")));
            }
        }
        if (bytes.len() as u64) < size {
            return Err(damaged(format!("{} bytes of {size}", bytes.len())));
        }
        Ok(bytes.freeze())
    }

    async fn put_once(&self, key: &str, body: Bytes, condition: &Condition) -> Result<PutOutcome, PutFailure> {
        let size = body.len();
        let asked = self.client.put_object().bucket(&self.bucket).key(self.full(key));
        let asked = asked.content_length(size as i64).body(ByteStream::from(body));
        let asked = match condition {
            Condition::Always => asked,
            Condition::IfAbsent => asked.if_none_match("*"),
            Condition::IfMatch(etag) => asked.if_match(&etag.0),
        };
        let sent = if size > BODY_UNHURRIED {
            let config = Config::builder().timeout_config(timeout_config(&self.timeouts, size as u64));
            asked.customize().config_override(config).send().await
        } else {
            asked.send().await
        };
        match sent {
            Ok(answer) => match answer.e_tag {
                Some(etag) => Ok(PutOutcome::Stored { etag: Etag(etag) }),
                None => Err(PutFailure::NoEtag),
            },
            Err(error) => match (status_of(&error), condition) {
                // Some stores answer 304 where 412 is meant, and a missing object cannot be the version asked for.
                (Some(412 | 304), _) => Ok(PutOutcome::ConditionFailed),
                (Some(404), Condition::IfMatch(_)) if error.code() == Some("NoSuchKey") => {
                    Ok(PutOutcome::ConditionFailed)
                }
                (Some(409), _) => Ok(PutOutcome::Conflict),
                _ => Err(PutFailure::Sdk(Box::new(error))),
            },
        }
    }

    async fn pause(&self, attempt: u32) {
        let longest = self.timeouts.backoff_first.saturating_mul(1 << attempt.min(16)).min(self.timeouts.backoff_max);
        tokio::time::sleep(longest.mul_f64(rand::random_range(0.5..=1.0))).await;
    }
}

enum PutFailure {
    Sdk(Box<SdkError<PutObjectError, HttpResponse>>),
    NoEtag,
}

#[async_trait]
impl Repository for S3Repository {
    fn location(&self) -> &str {
        &self.location
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>, size_max: u64) -> Result<Fetched, RepositoryError> {
        let request = Request { repository: &self.location, key, operation: Operation::Get };
        request.check_key()?;
        if let Some(range) = &range {
            let checked = check_range(range, u64::MAX).and_then(|()| check_size(range.end - range.start, size_max));
            checked.map_err(|kind| request.failed(kind))?;
        }
        let started = Instant::now();
        let bound = bound(self.timeouts.operation, range.as_ref().map_or(size_max, |range| range.end - range.start));
        let tries = async {
            let mut attempt = 0;
            loop {
                // The SDK retries until the headers are there; a body that breaks off afterwards is ours to retry.
                match self.get_once(&request, range.as_ref(), size_max).await {
                    Err(error)
                        if attempt + 1 < self.timeouts.attempts_max
                            && matches!(error.kind, RepositoryErrorKind::Damaged { .. }) =>
                    {
                        self.pause(attempt).await;
                        attempt += 1;
                    }
                    done => return done,
                }
            }
        };
        match tokio::time::timeout(bound, tries).await {
            Ok(done) => done,
            Err(_) => Err(request.failed(RepositoryErrorKind::Timeout { after: started.elapsed() })),
        }
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, RepositoryError> {
        let request = Request { repository: &self.location, key, operation: Operation::Head };
        request.check_key()?;
        let started = Instant::now();
        match self.client.head_object().bucket(&self.bucket).key(self.full(key)).send().await {
            Ok(answer) => match answer.content_length.map(u64::try_from) {
                Some(Ok(size)) => Ok(Some(ObjectInfo { size })),
                _ => Err(request
                    .failed(RepositoryErrorKind::Damaged { detail: "the answer announces no length".to_owned() })),
            },
            Err(error) if status_of(&error) == Some(404) => Ok(None),
            Err(error) => Err(self.failed(&request, started, error)),
        }
    }

    async fn put(&self, key: &str, body: Bytes, condition: Condition) -> Result<PutOutcome, RepositoryError> {
        let request = Request { repository: &self.location, key, operation: Operation::Put };
        request.check_key()?;
        let started = Instant::now();
        for attempt in 0..CONFLICT_TRIES {
            match self.put_once(key, body.clone(), &condition).await {
                Ok(PutOutcome::Conflict) => self.pause(attempt).await,
                Ok(outcome) => return Ok(outcome),
                Err(PutFailure::Sdk(error)) => return Err(self.failed(&request, started, *error)),
                Err(PutFailure::NoEtag) => {
                    let detail = "the store names no version (ETag) for what it stored".to_owned();
                    return Err(request.failed(RepositoryErrorKind::Damaged { detail }));
                }
            }
        }
        Ok(PutOutcome::Conflict)
    }

    async fn delete(&self, key: &str) -> Result<(), RepositoryError> {
        let request = Request { repository: &self.location, key, operation: Operation::Delete };
        request.check_key()?;
        let started = Instant::now();
        match self.client.delete_object().bucket(&self.bucket).key(self.full(key)).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(self.failed(&request, started, error)),
        }
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, page: usize) -> Result<ListPage, RepositoryError> {
        let request = Request { repository: &self.location, key: prefix, operation: Operation::List };
        request.check_prefix()?;
        let started = Instant::now();
        let asked = self.client.list_objects_v2().bucket(&self.bucket).prefix(self.full(prefix));
        let asked = asked.set_start_after(start_after.map(|after| self.full(after)));
        let asked = asked.max_keys(page.clamp(1, LIST_PAGE_MAX) as i32);
        let answer = asked.send().await.map_err(|error| self.failed(&request, started, error))?;
        let damaged = |detail: &str| request.failed(RepositoryErrorKind::Damaged { detail: detail.to_owned() });
        let mut objects = Vec::with_capacity(answer.contents().len().min(LIST_PAGE_MAX));
        for object in answer.contents() {
            let key = object.key().and_then(|key| key.strip_prefix(&self.prefix));
            let key = key
                .filter(|key| key.starts_with(prefix))
                .ok_or_else(|| damaged("a key outside the prefix is listed"))?;
            let size = object.size().and_then(|size| u64::try_from(size).ok());
            let size = size.ok_or_else(|| damaged("an object without a size is listed"))?;
            objects.push(ListedObject { key: key.to_owned(), size });
        }
        if !objects.is_sorted_by(|a, b| a.key < b.key) {
            return Err(damaged("the listing is not in order"));
        }
        Ok(ListPage { objects, more: answer.is_truncated().unwrap_or(false) })
    }
}

fn outside(range: &Range<u64>) -> RepositoryErrorKind {
    RepositoryErrorKind::RangeOutside { start: range.start, end: range.end }
}

fn location(bucket: &str, prefix: &str, options: &S3Options) -> String {
    let place = if prefix.is_empty() { format!("s3://{bucket}") } else { format!("s3://{bucket}/{prefix}") };
    match &options.endpoint {
        Some(endpoint) => format!("{place} at {endpoint}"),
        None => place,
    }
}

async fn client_config(options: &S3Options, request: &Request<'_>) -> Result<Config, RepositoryError> {
    let http = HttpClientBuilder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http.clone())
        .force_path_style(options.path_style)
        .retry_config(
            RetryConfig::adaptive()
                .with_max_attempts(options.timeouts.attempts_max)
                .with_initial_backoff(options.timeouts.backoff_first)
                .with_max_backoff(options.timeouts.backoff_max),
        )
        .timeout_config(timeout_config(&options.timeouts, 0))
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled().upload_enabled(true).grace_period(options.timeouts.stall).build(),
        );
    config = match options.checksums {
        Checksums::WhenSupported => config
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenSupported),
        Checksums::WhenRequired => config
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired),
    };
    config.set_endpoint_url(options.endpoint.clone());
    let (provider, region) = match &options.credentials {
        Credentials::Static { access_key, secret_key, session_token } => {
            let given = config::Credentials::new(access_key, secret_key, session_token.clone(), None, "seawall");
            (SharedCredentialsProvider::new(given), options.region.clone())
        }
        Credentials::Chain => {
            let mut loader = aws_config::defaults(BehaviorVersion::latest())
                .http_client(http)
                .timeout_config(timeout_config(&options.timeouts, 0));
            if let Some(region) = &options.region {
                loader = loader.region(Region::new(region.clone()));
            }
            let chain = bounded(request, &options.timeouts, loader.load()).await?;
            let provider = chain.credentials_provider().ok_or_else(|| no_credentials(request, "the chain is empty"))?;
            // Asked once here, so that a missing key is told at start and not by the first upload.
            bounded(request, &options.timeouts, provider.provide_credentials())
                .await?
                .map_err(|error| no_credentials(request, &DisplayErrorContext(error).to_string()))?;
            (provider, chain.region().map(|region| region.as_ref().to_owned()))
        }
    };
    let region = region.unwrap_or_else(|| "us-east-1".to_owned());
    Ok(config.credentials_provider(provider).region(Region::new(region)).build())
}

async fn bounded<T>(
    request: &Request<'_>,
    timeouts: &S3Timeouts,
    work: impl Future<Output = T>,
) -> Result<T, RepositoryError> {
    let after = timeouts.attempt;
    tokio::time::timeout(after, work).await.map_err(|_| request.failed(RepositoryErrorKind::Timeout { after }))
}

fn no_credentials(request: &Request<'_>, why: &str) -> RepositoryError {
    let detail =
        format!("no credentials were found: {why}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile");
    request.failed(RepositoryErrorKind::Denied { detail })
}

fn timeout_config(timeouts: &S3Timeouts, size: u64) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(timeouts.connect)
        .read_timeout(bound(timeouts.read, size))
        .operation_attempt_timeout(bound(timeouts.attempt, size))
        .operation_timeout(bound(timeouts.operation, size))
        .build()
}

/// The time allowed for moving `size` bytes, where `base` is allowed for a small body.
fn bound(base: Duration, size: u64) -> Duration {
    let unhurried = BODY_UNHURRIED as u64;
    base + Duration::from_secs(size.saturating_sub(unhurried) / BYTES_PER_SECOND_MIN)
}

fn status_of<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// Sorts an SDK failure by what a caller or an operator can do about it.
fn kind_of<E>(bucket: &str, started: Instant, error: SdkError<E, HttpResponse>) -> RepositoryErrorKind
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = status_of(&error);
    match &error {
        SdkError::TimeoutError(_) => RepositoryErrorKind::Timeout { after: started.elapsed() },
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            RepositoryErrorKind::Timeout { after: started.elapsed() }
        }
        SdkError::DispatchFailure(failure) if failure.is_io() => {
            RepositoryErrorKind::Unreachable { detail: DisplayErrorContext(error).to_string() }
        }
        SdkError::ResponseError(_) => RepositoryErrorKind::Damaged { detail: DisplayErrorContext(error).to_string() },
        SdkError::ServiceError(_) => {
            let code = error.code().unwrap_or_default();
            let message = error.message().unwrap_or("no message");
            let status = status.unwrap_or(0);
            let detail = if code.is_empty() { format!("{status}: {message}") } else { format!("{code}: {message}") };
            kind_of_answer(bucket, status, code, detail)
        }
        _ => RepositoryErrorKind::Other { detail: DisplayErrorContext(error).to_string() },
    }
}

/// The same by status and code, as S3 stores answer.
fn kind_of_answer(bucket: &str, status: u16, code: &str, detail: String) -> RepositoryErrorKind {
    match (status, code) {
        (_, "NoSuchBucket") => RepositoryErrorKind::NoSuchBucket { bucket: bucket.to_owned() },
        (404, _) => RepositoryErrorKind::NotFound,
        (_, "ExpiredToken" | "InvalidToken" | "AuthorizationHeaderMalformed" | "InvalidAccessKeyId")
        | (401 | 403, _) => RepositoryErrorKind::Denied { detail },
        (429, _) | (_, "SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded") => {
            RepositoryErrorKind::Throttled
        }
        (503, _) => RepositoryErrorKind::Throttled,
        (500..=599, _) | (_, "RequestTimeout") => RepositoryErrorKind::Internal { detail },
        (301, _) => {
            RepositoryErrorKind::Other { detail: format!("the bucket is in another region ({detail}); set `region`") }
        }
        _ => RepositoryErrorKind::Other { detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_to_do_about_them() {
        let kind = |status, code| kind_of_answer("b", status, code, String::new());
        let detail = String::new;
        assert_eq!(kind(404, "NoSuchKey"), RepositoryErrorKind::NotFound);
        assert_eq!(kind(404, "NoSuchBucket"), RepositoryErrorKind::NoSuchBucket { bucket: "b".to_owned() });
        assert_eq!(kind(403, "SignatureDoesNotMatch"), RepositoryErrorKind::Denied { detail: detail() });
        assert_eq!(kind(400, "ExpiredToken"), RepositoryErrorKind::Denied { detail: detail() });
        assert_eq!(kind(503, "SlowDown"), RepositoryErrorKind::Throttled);
        assert_eq!(kind(500, "InternalError"), RepositoryErrorKind::Internal { detail: detail() });
        assert!(kind(500, "InternalError").is_transient() && !kind(403, "AccessDenied").is_transient());
    }

    #[test]
    fn the_default_bounds_are_the_documented_ones_and_grow_with_size() {
        let timeouts = S3Timeouts::default();
        let of = |size| {
            let config = timeout_config(&timeouts, size);
            (
                config.connect_timeout(),
                config.read_timeout(),
                config.operation_attempt_timeout(),
                config.operation_timeout(),
            )
        };
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(of(0), (seconds(3), seconds(10), seconds(60), seconds(300)));
        assert_eq!(of((8 << 20) + 10 * 256 * 1024), (seconds(3), seconds(20), seconds(70), seconds(310)));
    }
}
