//! What a caller is told, and how soon, when a store refuses, fails, loses answers, or falls silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seawall_backup::repository::{
    Condition, DirectoryRepository, Location, Operation, PutOutcome, Repository, RepositoryConfig, RepositoryErrorKind,
    S3Repository, S3Timeouts,
};
use seawall_backup::s3_server::{S3Server, ServerFault, StartError};

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

/// Short enough to test, with retries left in.
fn hasty() -> S3Timeouts {
    S3Timeouts {
        connect: Duration::from_millis(300),
        read: Duration::from_millis(400),
        attempt: Duration::from_millis(800),
        operation: Duration::from_secs(3),
        stall: Duration::from_millis(500),
        attempts_max: 3,
        backoff_first: Duration::from_millis(10),
        backoff_max: Duration::from_millis(50),
    }
}

struct Store {
    _dir: tempfile::TempDir,
    server: S3Server,
}

impl Store {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = S3Server::start(dir.path(), "ak", "sk", LOOPBACK.into()).await.unwrap();
        server.create_bucket("logs").unwrap();
        Store { _dir: dir, server }
    }

    fn config(&self, url: &str, secret: &str) -> RepositoryConfig {
        let config = RepositoryConfig::parse(url).unwrap().with_endpoint(self.server.endpoint());
        config.with_credentials("ak", secret).with_timeouts(hasty())
    }

    async fn open(&self) -> Arc<dyn Repository> {
        self.config("s3://logs/p", "sk").open().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_credentials_are_told_apart_from_a_missing_bucket() {
    let store = Store::start().await;
    let wrong = store.config("s3://logs/p", "wrong").open().await.unwrap();
    for error in [
        wrong.get("a", None, 10).await.unwrap_err(),
        wrong.put("a", Bytes::from_static(b"x"), Condition::IfAbsent).await.unwrap_err(),
        wrong.list("", None, 10).await.unwrap_err(),
        wrong.delete("a").await.unwrap_err(),
        wrong.head("a").await.unwrap_err(),
    ] {
        assert!(matches!(error.kind, RepositoryErrorKind::Denied { .. }), "{error:?}");
        assert!(error.to_string().contains("check the access key"), "{error}");
        assert!(error.to_string().contains("s3://logs/p at http://127.0.0.1:"), "{error}");
        assert!(!error.is_transient());
    }
    let missing = store.config("s3://nowhere/p", "sk").open().await.unwrap();
    for error in [
        missing.get("a", None, 10).await.unwrap_err(),
        missing.put("a", Bytes::from_static(b"x"), Condition::IfAbsent).await.unwrap_err(),
        missing.list("", None, 10).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, RepositoryErrorKind::NoSuchBucket { bucket: "nowhere".to_owned() });
        assert!(error.to_string().contains("create it, or correct"), "{error}");
    }
    assert_eq!(missing.head("a").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_is_checked_and_created_on_request() {
    let store = Store::start().await;
    let open = async |url: &str, secret: &str| match store.config(url, secret).location {
        Location::S3 { bucket, prefix, options } => S3Repository::open(&bucket, &prefix, &options).await.unwrap(),
        Location::Directory { .. } => unreachable!(),
    };
    let new = open("s3://fresh", "sk").await;
    assert!(matches!(new.check_bucket().await.unwrap_err().kind, RepositoryErrorKind::NoSuchBucket { .. }));
    new.create_bucket().await.unwrap();
    new.create_bucket().await.unwrap();
    new.check_bucket().await.unwrap();
    let wrong = open("s3://fresh", "wrong").await;
    assert!(matches!(wrong.check_bucket().await.unwrap_err().kind, RepositoryErrorKind::Denied { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_endpoint_is_told_so_in_bounded_time() {
    // A port that was free a moment ago, and nobody listens on.
    let free = std::net::TcpListener::bind(SocketAddr::from(LOOPBACK)).unwrap().local_addr().unwrap();
    let config = RepositoryConfig::parse("s3://logs").unwrap().with_endpoint(format!("http://{free}"));
    let repository = config.with_credentials("ak", "sk").with_timeouts(hasty()).open().await.unwrap();
    let started = Instant::now();
    let error = repository.get("a", None, 10).await.unwrap_err();
    assert!(matches!(error.kind, RepositoryErrorKind::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("check the endpoint and the network"), "{error}");
    assert!(error.is_transient());
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_endpoint_is_given_up_in_bounded_time() {
    // Accepts, reads nothing, says nothing: worse than a closed port.
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(LOOPBACK)).await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let silent = tokio::spawn(async move {
        let mut held = vec![];
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    let config = RepositoryConfig::parse("s3://logs").unwrap().with_endpoint(endpoint);
    let repository = config.with_credentials("ak", "sk").with_timeouts(hasty()).open().await.unwrap();
    let body = Bytes::from_static(b"x");
    let started = Instant::now();
    let (get, put, head, list, delete) = tokio::join!(
        repository.get("a", None, 10),
        repository.put("a", body, Condition::IfAbsent),
        repository.head("a"),
        repository.list("", None, 10),
        repository.delete("a"),
    );
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    for error in [get.unwrap_err(), put.unwrap_err(), head.unwrap_err(), list.unwrap_err(), delete.unwrap_err()] {
        assert!(matches!(error.kind, RepositoryErrorKind::Timeout { .. }), "{error:?}");
        assert!(error.to_string().contains("no answer within"), "{error}");
    }
    silent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_in_the_store_is_retried_and_then_given_up() {
    let store = Store::start().await;
    let repository = store.open().await;
    let _ = repository.put("a", Bytes::from_static(b"x"), Condition::Always).await.unwrap();
    store.server.faults().fail_next(Operation::Get, ServerFault::Hang);
    assert_eq!(&repository.get("a", None, 10).await.unwrap().bytes[..], b"x", "one hanging attempt is retried");
    store.server.faults().fail_always(Some(ServerFault::Hang));
    let started = Instant::now();
    let error = repository.get("a", None, 10).await.unwrap_err();
    assert!(matches!(error.kind, RepositoryErrorKind::Timeout { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_failures_are_retried_and_lasting_ones_told_apart() {
    let store = Store::start().await;
    let repository = store.open().await;
    let faults = store.server.faults();
    let put = async |key: &str| repository.put(key, Bytes::from_static(b"x"), Condition::IfAbsent).await;
    faults.fail_next(Operation::Put, ServerFault::SlowDown);
    faults.fail_next(Operation::Put, ServerFault::Internal);
    assert!(matches!(put("a").await.unwrap(), PutOutcome::Stored { .. }));
    faults.fail_always(Some(ServerFault::SlowDown));
    assert_eq!(put("b").await.unwrap_err().kind, RepositoryErrorKind::Throttled);
    faults.fail_always(Some(ServerFault::Internal));
    assert!(matches!(put("b").await.unwrap_err().kind, RepositoryErrorKind::Internal { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_retried_and_a_lasting_one_is_an_outcome() {
    let store = Store::start().await;
    let repository = store.open().await;
    let faults = store.server.faults();
    let put = async |key: &str| repository.put(key, Bytes::from_static(b"x"), Condition::IfAbsent).await.unwrap();
    faults.fail_next(Operation::Put, ServerFault::Conflict);
    faults.fail_next(Operation::Put, ServerFault::Conflict);
    assert!(matches!(put("a").await, PutOutcome::Stored { .. }));
    faults.fail_always(Some(ServerFault::Conflict));
    assert_eq!(put("b").await, PutOutcome::Conflict);
    faults.fail_always(None);
    assert_eq!(repository.head("b").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_write_whose_answer_was_lost_says_the_condition_failed_and_the_object_is_ours() {
    let store = Store::start().await;
    let repository = store.open().await;
    store.server.faults().fail_next(Operation::Put, ServerFault::WriteThenInternal);
    let outcome = repository.put("a", Bytes::from_static(b"mine"), Condition::IfAbsent).await.unwrap();
    assert_eq!(outcome, PutOutcome::ConditionFailed);
    assert_eq!(&repository.get("a", None, 10).await.unwrap().bytes[..], b"mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_fetched_again_and_never_returned_short() {
    let store = Store::start().await;
    let repository = store.open().await;
    let body = Bytes::from(vec![3; 300_000]);
    let _ = repository.put("a", body.clone(), Condition::Always).await.unwrap();
    store.server.faults().fail_next(Operation::Get, ServerFault::TruncateBody(1000));
    store.server.faults().fail_next(Operation::Get, ServerFault::TruncateBody(200_000));
    assert!(repository.get("a", None, 1 << 20).await.unwrap().bytes == body);
    store.server.faults().fail_always(Some(ServerFault::TruncateBody(1000)));
    let error = repository.get("a", None, 1 << 20).await.unwrap_err();
    assert!(matches!(error.kind, RepositoryErrorKind::Damaged { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_object_is_refused_before_its_body_is_read() {
    const SIZE: u64 = 32 << 20;
    let store = Store::start().await;
    // It takes its time to get so much there.
    let config = RepositoryConfig::parse("s3://logs/p").unwrap().with_endpoint(store.server.endpoint());
    let repository = config.with_credentials("ak", "sk").open().await.unwrap();
    let _ = repository.put("a", Bytes::from(vec![0; SIZE as usize]), Condition::Always).await.unwrap();
    let before = store.server.counters().bytes_out;
    let error = repository.get("a", None, 1 << 20).await.unwrap_err();
    assert_eq!(error.kind, RepositoryErrorKind::TooLarge { size: SIZE, size_max: 1 << 20 });
    assert!(error.to_string().contains("it is not one of ours"), "{error}");
    let read = store.server.counters().bytes_out - before;
    // What the kernel takes on its way counts as sent.
    assert!(read < SIZE / 2, "{read} bytes were sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_objects_over_a_restart_and_guards_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let start = || S3Server::start(dir.path().join("s3"), "ak", "sk", LOOPBACK.into());
    let server = start().await.unwrap();
    server.create_bucket("logs").unwrap();
    let open = async |server: &S3Server| {
        let config = RepositoryConfig::parse("s3://logs").unwrap().with_endpoint(server.endpoint());
        config.with_credentials("ak", "sk").open().await.unwrap()
    };
    let repository = open(&server).await;
    let _ = repository.put("wal/1", Bytes::from_static(b"one"), Condition::IfAbsent).await.unwrap();
    let _ = repository.put("wal/2", Bytes::from_static(b"two"), Condition::IfAbsent).await.unwrap();
    repository.delete("wal/2").await.unwrap();
    let refused = start().await.err().unwrap();
    assert!(refused.to_string().contains("another process"), "{refused}");
    let counters = server.counters();
    assert_eq!((counters.put, counters.delete, counters.bytes_in), (2, 1, 6));
    server.stop().await;

    let server = start().await.unwrap();
    let repository = open(&server).await;
    assert_eq!(&repository.get("wal/1", None, 10).await.unwrap().bytes[..], b"one");
    assert_eq!(repository.list("", None, 10).await.unwrap().objects.len(), 1);
    let again = repository.put("wal/1", Bytes::from_static(b"x"), Condition::IfAbsent).await.unwrap();
    assert_eq!(again, PutOutcome::ConditionFailed);
    server.stop().await;

    std::fs::write(dir.path().join("precious"), "data").unwrap();
    let foreign = S3Server::start(dir.path(), "ak", "sk", LOOPBACK.into()).await.err().unwrap();
    assert!(matches!(foreign, StartError::Directory(_)) && foreign.to_string().contains("choose another"), "{foreign}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_finishes_its_request_is_cut_off() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let store = Store::start().await;
    let mut stream = tokio::net::TcpStream::connect(store.server.addr()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let started = Instant::now();
    let mut answer = vec![];
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(started.elapsed() > Duration::from_secs(5), "cut off after {:?}", started.elapsed());
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_or_was_removed_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let error = DirectoryRepository::open(dir.path().join("file/below")).await.unwrap_err();
    assert_eq!(error.operation, Operation::Open);
    assert!(error.to_string().contains("file/below"), "{error}");
    let repository = DirectoryRepository::open(dir.path().join("repo")).await.unwrap();
    std::fs::remove_dir_all(dir.path().join("repo")).unwrap();
    let body = Bytes::from_static(b"x");
    for error in [
        repository.put("a/b", body, Condition::IfAbsent).await.unwrap_err(),
        repository.get("a/b", None, 10).await.unwrap_err(),
        repository.head("a/b").await.unwrap_err(),
        repository.list("", None, 10).await.unwrap_err(),
    ] {
        assert!(matches!(error.kind, RepositoryErrorKind::NoSuchBucket { .. }), "{error:?}");
    }
    assert!(!dir.path().join("repo").exists(), "an unmounted repository is not created anew where it was");
}
