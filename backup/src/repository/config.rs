//! Where a repository is and how to talk to it: parsed from a url, completed by options, opened into a [`Repository`].
//! Nothing is contacted before [`RepositoryConfig::open`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, str::FromStr};

use super::{DirectoryRepository, Repository, RepositoryError, check_components};

/// A repository as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryConfig {
    /// Directory or bucket.
    pub location: Location,
}

/// Where the objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `file:///path`: a local or mounted directory.
    Directory {
        /// Absolute path.
        path: PathBuf,
    },
    /// `s3://bucket/prefix`.
    S3 {
        /// Bucket name.
        bucket: String,
        /// Prefix without slashes at its ends; may be empty.
        prefix: String,
        /// Everything else.
        options: Box<S3Options>,
    },
}

/// How to talk to an S3 store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// Base url of the store, `http://host:port` or `https://host`; `None` is AWS.
    pub endpoint: Option<String>,
    /// Region; `None` asks the AWS chain and falls back to `us-east-1`.
    pub region: Option<String>,
    /// Bucket in the path rather than in the host name.
    pub path_style: bool,
    /// Whose requests these are.
    pub credentials: Credentials,
    /// When to give up.
    pub timeouts: S3Timeouts,
    /// Which checksums to send and check; some stores know none.
    pub checksums: Checksums,
}

impl Default for S3Options {
    fn default() -> Self {
        S3Options {
            endpoint: None,
            region: None,
            path_style: false,
            credentials: Credentials::Chain,
            timeouts: S3Timeouts::default(),
            checksums: Checksums::WhenSupported,
        }
    }
}

/// Transport checksums of S3. Every object carries its own digest whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// On every request that can carry one.
    WhenSupported,
    /// Only where the operation demands one.
    WhenRequired,
}

/// Where credentials come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Environment, profile, web identity, container, instance: the AWS order.
    Chain,
    /// Given here.
    Static {
        /// Access key id.
        access_key: String,
        /// Its secret; never printed.
        secret_key: String,
        /// Session token, if temporary.
        session_token: Option<String>,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Chain => f.write_str("Chain"),
            Credentials::Static { access_key, .. } => {
                f.debug_struct("Static").field("access_key", access_key).finish_non_exhaustive()
            }
        }
    }
}

/// Bounds on waiting for an S3 store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct S3Timeouts {
    /// To establish a connection.
    pub connect: Duration,
    /// For the next byte of an answer.
    pub read: Duration,
    /// For one attempt; grows with the size of what is sent.
    pub attempt: Duration,
    /// For an operation with its retries; grows likewise.
    pub operation: Duration,
    /// How long a transfer may run slower than a byte per second.
    pub stall: Duration,
    /// Attempts in all.
    pub attempts_max: u32,
    /// Pause after the first failed attempt; doubles, with jitter.
    pub backoff_first: Duration,
    /// Longest such pause.
    pub backoff_max: Duration,
}

impl Default for S3Timeouts {
    fn default() -> Self {
        S3Timeouts {
            connect: Duration::from_secs(3),
            read: Duration::from_secs(10),
            attempt: Duration::from_secs(60),
            operation: Duration::from_secs(300),
            stall: Duration::from_secs(5),
            attempts_max: 5,
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// A repository url that makes no sense, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{url}` is not a repository url: {reason}; expected s3://bucket/prefix or file:///path")]
pub struct ConfigError {
    /// As given.
    pub url: String,
    /// What is wrong with it.
    pub reason: String,
}

impl RepositoryConfig {
    /// Parses `file:///path` or `s3://bucket/prefix?endpoint=…&region=…&path_style=true&checksums=when_required`.
    /// An endpoint implies path style unless `path_style=false` is said.
    pub fn parse(url: &str) -> Result<Self, ConfigError> {
        let location = match url.split_once("://") {
            Some(("file", rest)) => parse_directory(rest),
            Some(("s3", rest)) => parse_s3(rest),
            Some((scheme, _)) => Err(format!("the scheme `{scheme}` is not known")),
            None => Err("it has no scheme".to_owned()),
        };
        match location {
            Ok(location) => Ok(RepositoryConfig { location }),
            Err(reason) => Err(ConfigError { url: url.to_owned(), reason }),
        }
    }

    /// Another endpoint; implies path style. No effect on a directory.
    pub fn with_endpoint(mut self, url: impl Into<String>) -> Self {
        if let Some(options) = self.s3_options_mut() {
            options.endpoint = Some(url.into());
            options.path_style = true;
        }
        self
    }

    /// Another region. No effect on a directory.
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        if let Some(options) = self.s3_options_mut() {
            options.region = Some(region.into());
        }
        self
    }

    /// Explicit credentials. No effect on a directory.
    pub fn with_credentials(mut self, access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        if let Some(options) = self.s3_options_mut() {
            options.credentials = Credentials::Static {
                access_key: access_key.into(),
                secret_key: secret_key.into(),
                session_token: None,
            };
        }
        self
    }

    /// Other bounds on waiting. No effect on a directory.
    pub fn with_timeouts(mut self, timeouts: S3Timeouts) -> Self {
        if let Some(options) = self.s3_options_mut() {
            options.timeouts = timeouts;
        }
        self
    }

    /// The S3 options, if this is an S3 location.
    pub fn s3_options_mut(&mut self) -> Option<&mut S3Options> {
        match &mut self.location {
            Location::Directory { .. } => None,
            Location::S3 { options, .. } => Some(options),
        }
    }

    /// Opens the repository. A directory is created; a bucket is not.
    pub async fn open(&self) -> Result<Arc<dyn Repository>, RepositoryError> {
        match &self.location {
            Location::Directory { path } => Ok(Arc::new(DirectoryRepository::open(path).await?)),
            #[cfg(feature = "s3")]
            Location::S3 { bucket, prefix, options } => {
                Ok(Arc::new(super::S3Repository::open(bucket, prefix, options).await?))
            }
            #[cfg(not(feature = "s3"))]
            Location::S3 { .. } => {
                Err(super::Request { repository: &self.to_string(), key: "", operation: super::Operation::Open }
                    .failed(super::RepositoryErrorKind::Other {
                        detail: "this build has no S3 client; build with the feature `s3`".to_owned(),
                    }))
            }
        }
    }
}

impl FromStr for RepositoryConfig {
    type Err = ConfigError;

    fn from_str(url: &str) -> Result<Self, ConfigError> {
        RepositoryConfig::parse(url)
    }
}

/// The url without its options: what messages show.
impl fmt::Display for RepositoryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Location::Directory { path } => write!(f, "file://{}", path.display()),
            Location::S3 { bucket, prefix, .. } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Location::S3 { bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

fn parse_directory(rest: &str) -> Result<Location, String> {
    if !rest.starts_with('/') {
        return Err("the path must be absolute: file:// is followed by a third slash".to_owned());
    }
    if rest.contains('\0') {
        return Err("the path has a NUL byte".to_owned());
    }
    Ok(Location::Directory { path: PathBuf::from(rest) })
}

fn parse_s3(rest: &str) -> Result<Location, String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    check_bucket(bucket)?;
    let prefix = prefix.trim_end_matches('/');
    if !prefix.is_empty() {
        check_components(prefix).map_err(|reason| format!("the prefix `{prefix}` is not allowed: {reason}"))?;
    }
    let options = parse_options(query)?;
    Ok(Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned(), options: Box::new(options) })
}

/// The rules every S3 store shares: 3 to 63 of lower-case letters, digits, dots and hyphens.
fn check_bucket(bucket: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    if bucket.is_empty() {
        return Err("it names no bucket".to_owned());
    }
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(allowed) {
        return Err(format!("`{bucket}` is not a bucket name (3 to 63 lower-case letters, digits, dots and hyphens)"));
    }
    Ok(())
}

fn parse_options(query: &str) -> Result<S3Options, String> {
    let mut options = S3Options::default();
    let mut path_style = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "endpoint" => options.endpoint = Some(parse_endpoint(value)?),
            "region" if !value.is_empty() => options.region = Some(value.to_owned()),
            "path_style" => path_style = Some(parse_bool(name, value)?),
            "checksums" => {
                options.checksums = match value {
                    "when_supported" => Checksums::WhenSupported,
                    "when_required" => Checksums::WhenRequired,
                    _ => return Err("`checksums` is when_supported or when_required".to_owned()),
                }
            }
            "region" => return Err("`region` has no value".to_owned()),
            _ => {
                return Err(format!("the option `{name}` is not known (endpoint, region, path_style, checksums)"));
            }
        }
    }
    options.path_style = path_style.unwrap_or(options.endpoint.is_some());
    Ok(options)
}

fn parse_endpoint(value: &str) -> Result<String, String> {
    let host = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://"));
    match host {
        Some(host) if !host.is_empty() => Ok(value.trim_end_matches('/').to_owned()),
        _ => Err(format!("the endpoint `{value}` must start with http:// or https://")),
    }
}

fn parse_bool(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("`{name}` is true or false, not `{value}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(url: &str) -> (String, String, S3Options) {
        match RepositoryConfig::parse(url).unwrap().location {
            Location::S3 { bucket, prefix, options } => (bucket, prefix, *options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn urls_carry_bucket_prefix_and_options() {
        let (bucket, prefix, options) = s3("s3://logs/prod/eu/?endpoint=http://127.0.0.1:9000/&region=eu-west-1");
        assert_eq!((bucket.as_str(), prefix.as_str()), ("logs", "prod/eu"));
        assert_eq!(options.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(options.region.as_deref(), Some("eu-west-1"));
        assert!(options.path_style, "an endpoint implies path style");
        assert!(!s3("s3://logs").2.path_style);
        assert!(!s3("s3://logs?endpoint=https://h&path_style=false").2.path_style);
        let directory = RepositoryConfig::parse("file:///var/backup").unwrap();
        assert_eq!(directory.location, Location::Directory { path: "/var/backup".into() });
        assert_eq!(directory.to_string(), "file:///var/backup");
    }

    #[test]
    fn each_bad_url_is_told_its_own_fault() {
        for (url, part) in [
            ("", "no scheme"),
            ("/var/backup", "no scheme"),
            ("http://h/b", "`http` is not known"),
            ("file://var/backup", "must be absolute"),
            ("s3://", "names no bucket"),
            ("s3://A_B/x", "not a bucket name"),
            ("s3://logs/../x", "starts with a dot"),
            ("s3://logs/a//b", "empty component"),
            ("s3://logs?endpoint=127.0.0.1:9000", "must start with http"),
            ("s3://logs?path_style=yes", "true or false"),
            ("s3://logs?color=red", "`color` is not known"),
            ("s3://logs?region=", "no value"),
        ] {
            let error = RepositoryConfig::parse(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
            assert!(error.contains("s3://bucket/prefix"), "{error}");
        }
    }

    #[test]
    fn the_secret_is_never_printed() {
        let config = RepositoryConfig::parse("s3://logs").unwrap().with_credentials("ak", "hush-hush");
        assert!(!format!("{config:?} {config}").contains("hush"));
    }
}
