//! The real program, killed with `kill -9` fifty times under load, the primary mostly and the standby now and then: every
//! write it acknowledged is there in the end, and primary and standby hold the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::Rng as _;
use seawall::entry::Entry;
use seawall::http::api::BatchRequest;
use seawall::sandbox::{Api, NodeProcess};

const CYCLES: usize = 50;
const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn fifty_kills_under_load_lose_no_acknowledged_write_and_leave_equal_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_seawall"));
    let mut primary = NodeProcess::new(binary, &folder.path().join("primary"), "primary").unwrap();
    let mut standby = NodeProcess::new(binary, &folder.path().join("standby"), "standby").unwrap();
    // A small memtable and small segments, so that kills meet flushes, merges and switches of segments too.
    let small = "[log]\nsegment_size = \"1MiB\"\n\n[engine]\nmemtable_size = \"1MiB\"\n\n[backpressure]\n\
                 max_replication_lag_bytes = \"256MiB\"\nwal_disk_free_min = \"16MiB\"\n";
    primary.configure("primary", "timeout = \"2s\"\n", small).unwrap();
    start(&mut primary);
    let upstream = format!("upstream = \"{}\"\ntimeout = \"2s\"\n", primary.replication);
    standby.configure("standby", &upstream, small).unwrap();
    start(&mut standby);

    let acknowledged: Mutex<BTreeMap<Vec<u8>, Vec<u8>>> = Mutex::default();
    let (number, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let address = primary.http;
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let pairs = pairs(&number);
                    let operations = pairs.iter().map(|(key, value)| Entry::new(key, value)).collect();
                    let written =
                        Api::new(address).write("load", &BatchRequest { operations }, "local", Duration::from_secs(5));
                    match written {
                        Ok(_) => acknowledged.lock().unwrap().extend(pairs),
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
        }
        for cycle in 0..CYCLES {
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(20..250)));
            let victim = if cycle % 7 == 6 { &mut standby } else { &mut primary };
            victim.kill().unwrap();
            start(victim);
            // It answers while it still opens; what was acknowledged before that says nothing of it.
            let before = acknowledged.lock().unwrap().len();
            wait("writes are acknowledged again", || acknowledged.lock().unwrap().len() > before);
        }
        stop.store(true, Ordering::Relaxed);
    });

    let acknowledged = acknowledged.into_inner().unwrap();
    let (primary, standby) = (Api::new(primary.http), Api::new(standby.http));
    let digest = primary.digest(None).unwrap();
    wait("the standby has caught up", || standby.status().is_ok_and(|status| status.log.visible.0 >= digest.lsn.0));
    assert_eq!(standby.digest(Some(&digest.lsn.to_string())).unwrap().digest, digest.digest);
    let found: BTreeMap<Vec<u8>, Vec<u8>> = primary.scan_all("load").map(Result::unwrap).collect();
    let lost = acknowledged.iter().filter(|(key, value)| found.get(*key) != Some(value)).count();
    println!("{CYCLES} kills, {} records acknowledged, {lost} lost", acknowledged.len());
    assert_eq!(lost, 0);
    assert!(acknowledged.len() > 10 * CYCLES, "there was load: {}", acknowledged.len());
}

/// A batch of keys that were never written before.
fn pairs(number: &AtomicU64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut random = rand::rng();
    (0..random.random_range(1..20))
        .map(|_| {
            let number = number.fetch_add(1, Ordering::Relaxed);
            let mut value = vec![0; random.random_range(0..2000)];
            random.fill(&mut value[..]);
            (format!("{number:012}").into_bytes(), value)
        })
        .collect()
}

fn start(node: &mut NodeProcess) {
    node.start(&[]).unwrap();
    let until = Instant::now() + PATIENCE;
    while Api::new(node.http).status().is_err() {
        if let Err(status) = node.is_running() {
            panic!("{} ended ({status}):\n{}", node.name, node.last_words());
        }
        assert!(Instant::now() < until, "{} does not answer:\n{}", node.name, node.last_words());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
