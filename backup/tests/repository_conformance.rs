//! One suite of promises for every kind of repository. `SEAWALL_TEST_S3=http://host:port/bucket` (credentials from the
//! AWS environment) runs it against another S3 store too; the bucket must exist.

use std::sync::Arc;

use bytes::Bytes;
use seawall_backup::repository::memory::MemoryRepository;
use seawall_backup::repository::{
    Condition, ConditionalWrites, DirectoryRepository, Etag, PutOutcome, Repository, RepositoryConfig,
    RepositoryErrorKind, probe,
};
use seawall_backup::s3_server::S3Server;
use tokio::task::JoinSet;

const LIMIT: u64 = 64 << 20;

#[tokio::test]
async fn memory_keeps_every_promise() {
    conforms(Arc::new(MemoryRepository::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_every_promise() {
    let dir = tempfile::tempdir().unwrap();
    conforms(Arc::new(DirectoryRepository::open(dir.path().join("a/b")).await.unwrap())).await;
    let left = std::fs::read_dir(dir.path().join("a/b/.tmp")).unwrap().count();
    assert_eq!(left, 0, "temporary files are removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_s3_server_keeps_every_promise_through_the_real_sdk() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path(), "ak", "sk", ([127, 0, 0, 1], 0).into()).await.unwrap();
    server.create_bucket("conformance").unwrap();
    for url in ["s3://conformance", "s3://conformance/some/prefix"] {
        let config = RepositoryConfig::parse(url).unwrap();
        let config = config.with_endpoint(server.endpoint()).with_credentials("ak", "sk");
        conforms(config.open().await.unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_s3_store_of_the_environment_keeps_every_promise() {
    let Ok(place) = std::env::var("SEAWALL_TEST_S3") else {
        eprintln!("SEAWALL_TEST_S3 names no store: nothing to test");
        return;
    };
    let (endpoint, bucket) = place.rsplit_once('/').expect("SEAWALL_TEST_S3 is endpoint/bucket");
    let config = RepositoryConfig::parse(&format!("s3://{bucket}/seawall-conformance")).unwrap();
    conforms(config.with_endpoint(endpoint).open().await.unwrap()).await;
}

async fn conforms(repository: Arc<dyn Repository>) {
    let run = format!("run-{:016x}", rand_u64());
    let r = repository.as_ref();
    what_is_put_can_be_got_whole_and_in_parts(r, &format!("{run}/a")).await;
    what_is_not_there_is_told_so(r, &format!("{run}/b")).await;
    a_condition_that_does_not_hold_changes_nothing(r, &format!("{run}/c")).await;
    a_version_can_be_replaced_once(r, &format!("{run}/d")).await;
    listings_are_in_byte_order_page_by_page(r, &format!("{run}/e")).await;
    sizes_and_ranges_are_checked(r, &format!("{run}/f")).await;
    keys_of_other_shapes_are_refused(r).await;
    of_many_creators_at_once_one_wins(&repository, &format!("{run}/g")).await;
    of_many_replacers_at_once_one_wins(&repository, &format!("{run}/h")).await;
    eight_megabytes_survive_the_trip(r, &format!("{run}/i")).await;
    assert_eq!(probe(&repository).await.unwrap(), ConditionalWrites::Honoured);
    remove_all(r, &run).await;
    assert!(r.list(&run, None, 10).await.unwrap().objects.is_empty(), "nothing is left");
}

async fn what_is_put_can_be_got_whole_and_in_parts(r: &dyn Repository, k: &str) {
    let etag = stored(r.put(k, Bytes::from_static(b"hello world"), Condition::Always).await.unwrap());
    let whole = r.get(k, None, LIMIT).await.unwrap();
    assert_eq!((&whole.bytes[..], whole.etag), (&b"hello world"[..], Some(etag)));
    let part = r.get(k, Some(6..11), LIMIT).await.unwrap();
    assert_eq!((&part.bytes[..], part.etag), (&b"world"[..], None));
    assert_eq!(&r.get(k, Some(0..1), LIMIT).await.unwrap().bytes[..], b"h");
    assert_eq!(r.head(k).await.unwrap().unwrap().size, 11);
    stored(r.put(k, Bytes::new(), Condition::Always).await.unwrap());
    assert_eq!(r.get(k, None, LIMIT).await.unwrap().bytes.len(), 0, "empty objects are objects");
    assert_eq!(r.head(k).await.unwrap().unwrap().size, 0);
}

async fn what_is_not_there_is_told_so(r: &dyn Repository, k: &str) {
    let error = r.get(k, None, LIMIT).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(error.key, k);
    assert!(error.to_string().contains("cannot read"), "{error}");
    assert!(r.get(k, Some(0..1), LIMIT).await.unwrap_err().is_not_found());
    assert_eq!(r.head(k).await.unwrap(), None);
    r.delete(k).await.unwrap();
    stored(r.put(k, Bytes::from_static(b"x"), Condition::IfAbsent).await.unwrap());
    r.delete(k).await.unwrap();
    assert_eq!(r.head(k).await.unwrap(), None);
    stored(r.put(k, Bytes::from_static(b"y"), Condition::IfAbsent).await.unwrap());
}

async fn a_condition_that_does_not_hold_changes_nothing(r: &dyn Repository, k: &str) {
    let first = Bytes::from_static(b"first");
    let etag = stored(r.put(k, first.clone(), Condition::IfAbsent).await.unwrap());
    let again = r.put(k, first.clone(), Condition::IfAbsent).await.unwrap();
    assert_eq!(again, PutOutcome::ConditionFailed, "the same bytes make no difference");
    let other = r.put(k, Bytes::from_static(b"other"), Condition::IfAbsent).await.unwrap();
    assert_eq!(other, PutOutcome::ConditionFailed);
    let got = r.get(k, None, LIMIT).await.unwrap();
    assert_eq!((got.bytes, got.etag.as_ref()), (first, Some(&etag)));
    let missing = r.put(&format!("{k}-missing"), Bytes::from_static(b"x"), Condition::IfMatch(etag)).await.unwrap();
    assert_eq!(missing, PutOutcome::ConditionFailed);
    assert_eq!(r.head(&format!("{k}-missing")).await.unwrap(), None);
}

async fn a_version_can_be_replaced_once(r: &dyn Repository, k: &str) {
    let one = stored(r.put(k, Bytes::from_static(b"one"), Condition::Always).await.unwrap());
    let two = stored(r.put(k, Bytes::from_static(b"two"), Condition::IfMatch(one.clone())).await.unwrap());
    assert_ne!(one, two);
    let late = r.put(k, Bytes::from_static(b"late"), Condition::IfMatch(one)).await.unwrap();
    assert_eq!(late, PutOutcome::ConditionFailed);
    stored(r.put(k, Bytes::from_static(b"three"), Condition::IfMatch(two)).await.unwrap());
    assert_eq!(&r.get(k, None, LIMIT).await.unwrap().bytes[..], b"three");
}

async fn listings_are_in_byte_order_page_by_page(r: &dyn Repository, k: &str) {
    // `-` and `.` sort before `/`: a walk folder by folder that forgets it gets the order wrong.
    let mut keys: Vec<String> = ["a-b", "a.b", "a/b", "a/c/d", "a0", "b/1", "b/2", "B", "c"]
        .iter()
        .map(|key| format!("{k}/{key}"))
        .chain((0..12).map(|n| format!("{k}/many/{n:04}")))
        .collect();
    for (n, key) in keys.iter().enumerate() {
        stored(r.put(key, Bytes::from(vec![0; n]), Condition::IfAbsent).await.unwrap());
    }
    let sizes: Vec<(String, u64)> = keys.iter().cloned().zip(0..).collect();
    keys.sort();
    for page in [1, 2, 5, 100] {
        let (mut listed, mut after, mut pages) = (vec![], None::<String>, 0);
        loop {
            let found = r.list(&format!("{k}/"), after.as_deref(), page).await.unwrap();
            pages += 1;
            assert!(found.objects.len() <= page);
            for object in &found.objects {
                assert!(sizes.contains(&(object.key.clone(), object.size)), "{object:?}");
            }
            after = found.objects.last().map(|object| object.key.clone());
            listed.extend(found.objects.into_iter().map(|object| object.key));
            if !found.more {
                break;
            }
        }
        assert_eq!(listed, keys, "pages of {page}");
        assert!(pages <= keys.len() / page + 1, "{pages} pages of {page}");
    }
    let many = r.list(&format!("{k}/many/000"), Some(&format!("{k}/many/0007")), 100).await.unwrap();
    assert_eq!(many.objects.iter().map(|o| &o.key[o.key.len() - 4..]).collect::<Vec<_>>(), ["0008", "0009"]);
    let half = r.list(&format!("{k}/a"), None, 100).await.unwrap();
    assert_eq!(half.objects.len(), 5, "a prefix may end inside a component");
    assert_eq!(r.list(&format!("{k}/nothing"), None, 100).await.unwrap(), Default::default());
}

async fn sizes_and_ranges_are_checked(r: &dyn Repository, k: &str) {
    stored(r.put(k, Bytes::from(vec![7; 1000]), Condition::Always).await.unwrap());
    let error = r.get(k, None, 999).await.unwrap_err();
    assert_eq!(error.kind, RepositoryErrorKind::TooLarge { size: 1000, size_max: 999 });
    assert!(error.to_string().contains("1000 bytes where at most 999"), "{error}");
    let (whole, part) = (r.get(k, None, 1000).await.unwrap(), r.get(k, Some(900..1000), 100).await.unwrap());
    assert_eq!((whole.bytes.len(), part.bytes.len()), (1000, 100));
    assert_eq!((whole.object_size, part.object_size), (Some(1000), Some(1000)), "the object's, not the range's");
    assert!(matches!(r.get(k, Some(0..101), 100).await.unwrap_err().kind, RepositoryErrorKind::TooLarge { .. }));
    let outside = [999..1001, 1000..1001, 5000..6000];
    for range in outside {
        let error = r.get(k, Some(range.clone()), LIMIT).await.unwrap_err();
        assert_eq!(error.kind, RepositoryErrorKind::RangeOutside { start: range.start, end: range.end });
    }
}

async fn keys_of_other_shapes_are_refused(r: &dyn Repository) {
    for key in ["", "/etc/passwd", "../up", "a/../../b", "a//b", ".hidden", "a b", "a\0"] {
        let body = Bytes::from_static(b"x");
        for error in [
            r.get(key, None, LIMIT).await.unwrap_err(),
            r.put(key, body, Condition::Always).await.unwrap_err(),
            r.head(key).await.unwrap_err(),
            r.delete(key).await.unwrap_err(),
        ] {
            assert!(matches!(error.kind, RepositoryErrorKind::InvalidKey { .. }), "{key:?}: {error}");
        }
    }
}

async fn of_many_creators_at_once_one_wins(repository: &Arc<dyn Repository>, k: &str) {
    let mut racers = JoinSet::new();
    for racer in 0..16_u8 {
        let (repository, k) = (repository.clone(), k.to_owned());
        racers.spawn(async move {
            let body = Bytes::from(vec![racer; 100_000]);
            let outcome = repository.put(&k, body, Condition::IfAbsent).await.unwrap();
            matches!(outcome, PutOutcome::Stored { .. }).then_some(racer)
        });
    }
    let winners: Vec<u8> = racers.join_all().await.into_iter().flatten().collect();
    let [winner] = winners[..] else { panic!("winners: {winners:?}") };
    assert_eq!(repository.get(k, None, LIMIT).await.unwrap().bytes, vec![winner; 100_000]);
}

async fn of_many_replacers_at_once_one_wins(repository: &Arc<dyn Repository>, k: &str) {
    let etag = stored(repository.put(k, Bytes::from_static(b"old"), Condition::Always).await.unwrap());
    let mut racers = JoinSet::new();
    for racer in 0..16_u8 {
        let (repository, k, etag) = (repository.clone(), k.to_owned(), etag.clone());
        racers.spawn(async move {
            let body = Bytes::from(vec![racer; 10_000]);
            let outcome = repository.put(&k, body, Condition::IfMatch(etag)).await.unwrap();
            matches!(outcome, PutOutcome::Stored { .. }).then_some(racer)
        });
    }
    let winners: Vec<u8> = racers.join_all().await.into_iter().flatten().collect();
    let [winner] = winners[..] else { panic!("winners: {winners:?}") };
    assert_eq!(repository.get(k, None, LIMIT).await.unwrap().bytes, vec![winner; 10_000]);
}

async fn eight_megabytes_survive_the_trip(r: &dyn Repository, k: &str) {
    let body: Vec<u8> = (0..9 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let body = Bytes::from(body);
    stored(r.put(k, body.clone(), Condition::IfAbsent).await.unwrap());
    assert!(r.get(k, None, LIMIT).await.unwrap().bytes == body);
    let middle = r.get(k, Some(4_000_000..8_000_000), LIMIT).await.unwrap().bytes;
    assert!(middle == body.slice(4_000_000..8_000_000));
}

async fn remove_all(r: &dyn Repository, prefix: &str) {
    loop {
        let found = r.list(prefix, None, 1000).await.unwrap();
        for object in &found.objects {
            r.delete(&object.key).await.unwrap();
        }
        if !found.more {
            return;
        }
    }
}

fn stored(outcome: PutOutcome) -> Etag {
    match outcome {
        PutOutcome::Stored { etag } => etag,
        other => panic!("not stored: {other:?}"),
    }
}

fn rand_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
