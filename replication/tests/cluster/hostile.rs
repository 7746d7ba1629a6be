//! Whatever somebody does to the replication port, he is cut off in bounded time and memory, and the others are served.

use std::time::{Duration, Instant};

use seawall_replication::driver::{ClientState, RegistryConfig};
use seawall_replication::message::{CREDIT_DEFAULT, Hello, Message, PROTOCOL_VERSIONS, StandbyName, Welcome};
use seawall_wal::{NodeId, Position};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::node::{
    Primary, SIZE, TIMEOUT, assert_same, client_config, follow, make_standby, start, until, until_status,
};

/// Reads until the other side closes, at most so long.
async fn read_to_close(stream: &mut TcpStream, within: Duration) -> Vec<u8> {
    let mut all = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(len) => all.extend_from_slice(&buffer[..len]),
            }
        }
    };
    tokio::time::timeout(within, read).await.expect("the connection is closed in time");
    all
}

fn header(kind: u8, len: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&[kind, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 4]);
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn wire(message: &Message) -> Vec<u8> {
    let frame = message.to_frame();
    [frame.head.as_ref(), frame.log.as_ref()].concat()
}

fn hello(primary: &Primary) -> Message {
    Message::Hello(Hello {
        versions: PROTOCOL_VERSIONS,
        log_format: 1,
        segment_size: SIZE,
        cluster: primary.db.cluster(),
        node: NodeId::random(),
        position: Position::ZERO,
        credit: CREDIT_DEFAULT * 8,
        name: StandbyName::new("rude").unwrap(),
        history: primary.db.history(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_oversized_and_endless_frames_are_cut_off_and_others_are_served() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let _client = follow(&standby, "s", &primary.address());
    let half_hello = wire(&hello(&primary))[..40].to_vec();
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("random bytes", (0..4_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
        ("a body of 4 GiB", header(1, u32::MAX)),
        ("a hello of 257 KiB", header(1, 257 << 10)),
        ("an unknown type", header(77, 4)),
        ("what only an upstream says", header(4, 100)),
        ("a status before hello", wire(&Message::Status(Default::default()))),
        ("a frame that never ends", half_hello),
        ("nothing at all", Vec::new()),
    ];
    for (what, bytes) in attacks {
        let started = Instant::now();
        let mut stream = TcpStream::connect(primary.server.address()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        read_to_close(&mut stream, TIMEOUT * 4).await;
        assert!(started.elapsed() < TIMEOUT * 4, "{what}: {:?}", started.elapsed());
    }
    assert_same(&standby, &primary.db, primary.put(0, 500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_stops_reading_is_cut_off_without_filling_memory() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Primary::start(folder.path(), RegistryConfig::default()).await;
    primary.put(0, 60_000);
    let mut stream = TcpStream::connect(primary.server.address()).await.unwrap();
    stream.write_all(&wire(&hello(&primary))).await.unwrap();
    until("it joined", || primary.registry.report().first().is_some_and(|standby| standby.is_connected())).await;
    // It reads nothing, and says nothing.
    let started = Instant::now();
    until("it is cut off", || !primary.registry.report()[0].is_connected()).await;
    assert!(started.elapsed() < TIMEOUT * 4, "{:?}", started.elapsed());
    let why = primary.registry.report()[0].last_end.clone().unwrap();
    assert!(why.contains("nothing was heard") || why.contains("take a frame"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_allowed_are_closed_and_places_come_back() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(primary.server.address()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut ninth = TcpStream::connect(primary.server.address()).await.unwrap();
    assert!(read_to_close(&mut ninth, TIMEOUT / 2).await.is_empty());
    let _client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.put(0, 100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_of_another_cluster_is_told_and_nothing_is_written() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let other = Primary::start(folders[1].path(), RegistryConfig::default()).await;
    primary.put(0, 100);
    let standby = make_standby(folders[2].path(), &other.address()).await;
    assert_ne!(primary.db.cluster(), other.db.cluster());
    let client = follow(&standby, "s", &primary.address());
    let status =
        until_status(&client, "it is refused", |status| matches!(status.state, ClientState::Refused { .. })).await;
    let ClientState::Refused { why } = status.state else { unreachable!() };
    assert!(why.contains("belongs to another cluster"), "{why}");
    assert_eq!(standby.log().end(), Position::ZERO);
    assert!(primary.registry.report().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_belongs_to_one_node_at_a_time() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let first = make_standby(folders[1].path(), &primary.address()).await;
    let second = make_standby(folders[2].path(), &primary.address()).await;
    let _first = follow(&first, "s", &primary.address());
    assert_same(&first, &primary.db, primary.put(0, 10)).await;
    let client = follow(&second, "s", &primary.address());
    let status = until_status(&client, "it is refused", |status| status.last_error.is_some()).await;
    assert!(status.last_error.unwrap().contains("give each node its own name"));
    assert_same(&first, &primary.db, primary.put(10, 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_says_nothing_or_nonsense_is_left_in_time() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let strange = tokio::spawn(async move {
        let (mut nonsense, _) = listener.accept().await.unwrap();
        nonsense.write_all(&[0x55; 64]).await.unwrap();
        let (silent, _) = listener.accept().await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        drop((nonsense, silent));
    });
    let config = client_config(&standby, "s", Some(&address));
    let config = seawall_replication::driver::ClientConfig { connect_timeout: TIMEOUT, ..config };
    let client = start(config, &standby, None);
    let said = |part: &'static str| {
        until_status(&client, part, move |status| status.last_error.as_ref().is_some_and(|why| why.contains(part)))
    };
    said("does not speak the Seawall replication protocol").await;
    said("nothing was heard").await;
    assert_eq!(standby.log().end(), Position::ZERO);
    client.stop().await.unwrap();
    strange.abort();
}

/// Takes whoever says Hello, and leaves.
async fn welcome_and_leave(listener: &tokio::net::TcpListener, standby: &seawall_engine::Db) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut hello = [0; 16];
    stream.read_exact(&mut hello).await.unwrap();
    let welcome = Message::Welcome(Welcome {
        version: PROTOCOL_VERSIONS.1,
        node: NodeId::random(),
        flush: standby.log().end().lsn,
        oldest: standby.log().end().lsn,
        start: standby.log().end().lsn,
        timeout_ms: 10_000,
        primary: String::new(),
        history: standby.history(),
    });
    stream.write_all(&wire(&welcome)).await.unwrap();
    stream.shutdown().await.unwrap();
    read_to_close(&mut stream, Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_takes_a_standby_and_leaves_it_at_once_is_asked_less_and_less_often() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = follow(&standby, "s", &listener.local_addr().unwrap().to_string());
    welcome_and_leave(&listener, &standby).await;
    let started = Instant::now();
    for _ in 0..6 {
        welcome_and_leave(&listener, &standby).await;
    }
    // At least half of 0.2, 0.4, 0.8, 1.6 and 3.2 s; the first wait began before.
    assert!(started.elapsed() >= Duration::from_millis(3_000), "{:?}", started.elapsed());
    client.stop().await.unwrap();
}

#[tokio::test]
async fn an_address_that_does_not_resolve_or_answer_is_named() {
    let unresolved = seawall_replication::driver::identify("no-such-host.invalid:1", Duration::from_secs(5)).await;
    assert!(unresolved.unwrap_err().to_string().contains("no-such-host.invalid:1"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let refused = seawall_replication::driver::identify(&address.to_string(), Duration::from_secs(5)).await;
    assert!(refused.unwrap_err().to_string().contains("connect to"));
}
