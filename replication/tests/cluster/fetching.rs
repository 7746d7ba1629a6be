//! A node whose log is damaged asks another for it: what it gets is that node's flushed log, whole, or an error that says
//! whether asking again can help. Nobody who asks does any harm.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use seawall_replication::driver::{PeerSource, RegistryConfig};
use seawall_replication::message::{Fetch, Message, PROTOCOL_VERSIONS};
use seawall_wal::{ClusterId, Error, LogBytes, Lsn, SegmentSource, TimelineId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::node::{Primary, SIZE, TIMEOUT, assert_same, follow, make_standby, until};

const FIRST: TimelineId = TimelineId(1);
const PATIENCE: Duration = Duration::from_millis(800);

fn source(address: &str, cluster: ClusterId) -> PeerSource {
    PeerSource::new(address, cluster, SIZE, PATIENCE, Handle::current())
}

/// Does what may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// All that a source has from a place on, piece after piece.
fn fetch_all(source: &dyn SegmentSource, mut from: Lsn) -> Result<Vec<LogBytes>, Error> {
    let mut pieces = Vec::new();
    while let Some(log) = source.fetch(FIRST, from)? {
        assert!(log.start == from && log.timeline == FIRST);
        from = log.end();
        pieces.push(log);
    }
    Ok(pieces)
}

/// Flips a bit of a segment on disk.
fn damage(folder: &Path, segment: u64, offset: u64) {
    let path = folder.join(format!("wal/00000001-{segment:016x}.wal"));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_and_a_standby_that_listens_give_their_flushed_log_and_count_nobody() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let _client = follow(&standby, "s", &primary.address());
    let end = primary.put(0, 3_000);
    assert_same(&standby, &primary.db, end).await;
    assert!(end.offset() > 2 * u64::from(SIZE.bytes()), "several segments");
    until("the standby has flushed it", || standby.log().flushed().value() == end).await;
    let feeding = Primary::over(standby.clone(), RegistryConfig::default(), 0).await;
    for node in [&primary, &feeding] {
        let source = source(&node.address(), node.db.cluster());
        let db = primary.db.clone();
        blocking(move || {
            assert_eq!(source.coverage(FIRST).unwrap(), Some((Lsn::ZERO, end)));
            assert_eq!(source.coverage(TimelineId(2)).unwrap(), None);
            assert_eq!(source.history().unwrap(), Some(db.history()));
            let second = SIZE.start_of(SIZE.segment_of(Lsn::new(u64::from(SIZE.bytes()))));
            for from in [Lsn::ZERO, second] {
                let pieces = fetch_all(&source, from).unwrap();
                assert_eq!(pieces.last().unwrap().end(), end, "all of it, and no more");
                for piece in pieces {
                    let whole = db.log().read(piece.start, piece.bytes.len()).unwrap().unwrap();
                    assert_eq!(whole.bytes, piece.bytes);
                }
            }
        })
        .await;
    }
    assert_eq!(primary.registry.report().len(), 1, "only the standby is one");
    assert!(feeding.registry.report().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_own_copy_is_damaged_says_so_and_notes_it() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Primary::start(folder.path(), RegistryConfig::default()).await;
    primary.put(0, 3_000);
    damage(folder.path(), 1, 20_000);
    let source = source(&primary.address(), primary.db.cluster());
    let (first, second) = blocking(move || {
        let second = Lsn::new(SIZE.bytes().into());
        (fetch_all(&source, Lsn::ZERO), source.fetch(FIRST, second))
    })
    .await;
    for refused in [first.unwrap_err(), second.unwrap_err()] {
        let words = refused.to_string();
        assert!(matches!(refused, Error::Source { .. }), "asking again does not help: {words}");
        assert!(words.contains(&primary.address()) && words.contains("does not match its checksum"), "{words}");
    }
    let [damage] = primary.db.log().damages()[..] else { panic!("{:?}", primary.db.log().damages()) };
    assert_eq!(damage.segment.0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_makes_a_node_believe_that_its_log_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Primary::start(folder.path(), RegistryConfig::default()).await;
    let end = primary.put(0, 3_000);
    for from in [1, 13, 700, 65_537, end.offset() - 9] {
        let fetch = Message::Fetch(Fetch {
            versions: PROTOCOL_VERSIONS,
            log_format: 1,
            segment_size: SIZE,
            cluster: primary.db.cluster(),
            timeline: FIRST,
            from: Lsn::new(from),
        });
        let mut stream = TcpStream::connect(primary.server.address()).await.unwrap();
        stream.write_all(&fetch.to_frame().head).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(TIMEOUT * 10, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer[4], 9, "a Bye, and no log");
        assert!(String::from_utf8_lossy(&answer).contains("neither the start of a segment"), "from {from}");
    }
    assert_eq!(primary.db.log().damages(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_cannot_help_is_told_from_one_that_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Primary::start(folder.path(), RegistryConfig::default()).await;
    primary.put(0, 100);
    let stranger = source(&primary.address(), ClusterId::random());
    let behind = source(&primary.address(), primary.db.cluster());
    let (refused, newer, beyond, foreign) = blocking(move || {
        let far = Lsn::new(40 * u64::from(SIZE.bytes()));
        (
            stranger.fetch(FIRST, Lsn::ZERO),
            behind.fetch(TimelineId(2), Lsn::ZERO),
            behind.fetch(FIRST, far),
            stranger.history(),
        )
    })
    .await;
    let refused = refused.unwrap_err();
    assert!(matches!(&refused, Error::Source { why, .. } if why.contains("another cluster")), "{refused}");
    assert!(matches!(newer.unwrap_err(), Error::Source { .. }));
    assert_eq!(beyond.unwrap(), None);
    assert!(matches!(foreign.unwrap_err(), Error::WrongCluster { .. }));

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    let silent = source(&address, primary.db.cluster());
    let started = Instant::now();
    let error = blocking(move || silent.fetch(FIRST, Lsn::ZERO)).await.unwrap_err();
    assert!(matches!(&error, Error::SourceSilent { source_name, .. } if source_name.contains(&address)), "{error}");
    assert!(started.elapsed() < PATIENCE * 10);
    drop(nobody);
    let gone = source(&address, primary.db.cluster());
    let error = blocking(move || gone.fetch(FIRST, Lsn::ZERO)).await.unwrap_err();
    assert!(matches!(error, Error::SourceSilent { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_was_not_asked_for_is_not_taken() {
    let cluster = ClusterId::random();
    let data = |timeline, start: u64, group_len, offset| {
        Message::Data(seawall_replication::message::Data {
            timeline: TimelineId(timeline),
            group_start: Lsn::new(start),
            group_len,
            offset,
            flush: Lsn::new(200_000),
            time: Default::default(),
            bytes: vec![0; 10].into(),
        })
    };
    let answers = [
        ("another place", data(1, 65_536, 10, 0)),
        ("another timeline", data(2, 0, 10, 0)),
        ("more than a segment", data(1, 0, SIZE.bytes() + 1, 0)),
        ("the middle of a group", data(1, 0, 20, 10)),
        (
            "something else",
            Message::Keepalive(seawall_replication::message::Keepalive {
                flush: Lsn::ZERO,
                time: Default::default(),
                reply: false,
            }),
        ),
    ];
    for (what, answer) in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let liar = source(&listener.local_addr().unwrap().to_string(), cluster);
        let asking = blocking(move || liar.fetch(FIRST, Lsn::ZERO));
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let frame = answer.to_frame();
            stream.write_all(&[frame.head.as_ref(), frame.log.as_ref()].concat()).await.unwrap();
            stream
        };
        let (asked, _stream) = tokio::join!(asking, answering);
        let error = asked.unwrap_err();
        assert!(matches!(error, Error::Source { .. }), "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_answers_in_crumbs_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = source(&listener.local_addr().unwrap().to_string(), ClusterId::random());
    let started = Instant::now();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut fetch = [0; 64];
        while stream.read_exact(&mut fetch).await.is_ok() {
            tokio::time::sleep(PATIENCE / 8).await;
            let from = u64::from_le_bytes(fetch[56..].try_into().unwrap());
            let frame = Message::Data(seawall_replication::message::Data {
                timeline: FIRST,
                group_start: Lsn::new(from),
                group_len: 10,
                offset: 0,
                flush: Lsn::new(200_000),
                time: Default::default(),
                bytes: vec![0; 10].into(),
            });
            let frame = frame.to_frame();
            stream.write_all(&[frame.head.as_ref(), frame.log.as_ref()].concat()).await.unwrap();
        }
    });
    // Each answer comes in time; the segment would take minutes.
    let error = blocking(move || fetch_all(&slow, Lsn::ZERO)).await.unwrap_err();
    assert!(matches!(error, Error::SourceSilent { .. }), "{error}");
    assert!(started.elapsed() < PATIENCE * 40, "{:?}", started.elapsed());
    serving.abort();
}
