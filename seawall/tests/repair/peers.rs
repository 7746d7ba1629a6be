//! Copies of the log at other nodes, which have the same bytes at the same place.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use seawall::Lsn;
use seawall::node::{Node, NodeOptions, Role, State};

use crate::nodes::{BYTE, PATIENCE, SEGMENT, SIZE, flip, free, listening, wait};

const KEYS: u32 = 400;

/// A primary and its standbys, which all know where the others listen.
struct Cluster {
    folder: tempfile::TempDir,
    primary: SocketAddr,
    standbys: Vec<SocketAddr>,
}

impl Cluster {
    /// All of them have the same log, of several segments, and were started again since, so that it is read from disk.
    fn new(standbys: usize) -> Self {
        let standbys: Vec<_> = (0..standbys).map(|_| free()).collect();
        let cluster = Self { folder: tempfile::tempdir().unwrap(), primary: free(), standbys };
        let primary = cluster.start_primary();
        let following: Vec<_> = (0..cluster.standbys.len()).map(|number| cluster.start_standby(number)).collect();
        let keyspace = primary.db().unwrap().keyspace("numbers").unwrap();
        for number in 0..KEYS {
            keyspace.insert(format!("{number:08}"), vec![number as u8; 700]).unwrap();
        }
        drop(keyspace);
        for standby in &following {
            wait("the standby has it all", || standby.db().unwrap().visible() >= primary.db().unwrap().visible());
        }
        assert!(primary.db().unwrap().log().end().lsn.offset() > (SEGMENT + 2) * SIZE);
        primary.stop(PATIENCE).unwrap();
        following.into_iter().for_each(|standby| drop(standby.stop(PATIENCE).unwrap()));
        cluster
    }

    fn primary_options(&self) -> NodeOptions {
        let repair_from = self.standbys.iter().map(SocketAddr::to_string).collect();
        NodeOptions { repair_from, assume_primary: true, ..listening(self.folder.path(), "primary", self.primary) }
    }

    fn start_primary(&self) -> Node {
        Node::start(self.primary_options()).unwrap()
    }

    fn start_standby(&self, number: usize) -> Node {
        let role = Role::Standby { upstreams: vec![self.primary.to_string()] };
        let name = format!("standby{number}");
        Node::start(NodeOptions { role, ..listening(self.folder.path(), &name, self.standbys[number]) }).unwrap()
    }

    fn segment_of(&self, node: &str) -> PathBuf {
        self.file_of(node, SEGMENT)
    }

    fn file_of(&self, node: &str, segment: u64) -> PathBuf {
        self.folder.path().join(node).join(format!("wal/00000001-{segment:016x}.wal"))
    }

    fn damage(&self, node: &str) {
        flip(&self.segment_of(node), BYTE);
    }

    fn assert_repaired(&self, node: &str) {
        let [ours, theirs] = ["primary", "standby0"].map(|node| std::fs::read(self.segment_of(node)).unwrap());
        assert!(ours == theirs, "the same bytes at the same place");
        let kept = self.folder.path().join(node).join("wal/cut");
        assert_eq!(std::fs::read_dir(kept).unwrap().count(), 1, "what was damaged is kept");
    }
}

/// Reads the segment as a feed does. Damage is met, or not.
fn read_segment(node: &Node) -> Result<(), String> {
    read_segment_number(node, SEGMENT)
}

fn read_segment_number(node: &Node, number: u64) -> Result<(), String> {
    let mut at = Lsn::new(number * SIZE);
    while at.offset() < (number + 1) * SIZE {
        match node.db().unwrap().log().read(at, 8 << 10).map_err(|error| error.to_string())? {
            Some(read) => at = read.end(),
            None => break,
        }
    }
    Ok(())
}

fn assert_all_there(node: &Node) {
    let keyspace = node.db().unwrap().existing_keyspace("numbers").unwrap();
    let mut count = 0_u32;
    for pair in keyspace.iter() {
        let (key, value) = pair.unwrap();
        assert_eq!((key.as_ref(), value[699]), (format!("{count:08}").as_bytes(), count as u8));
        count += 1;
    }
    assert_eq!(count, KEYS);
}

#[test]
fn a_primary_without_an_archive_starts_with_its_log_repaired_from_a_standby() {
    let cluster = Cluster::new(1);
    let standby = cluster.start_standby(0);
    cluster.damage("primary");
    let alone = Node::start(NodeOptions { repair_from: Vec::new(), ..cluster.primary_options() }).unwrap_err();
    assert!(alone.to_string().contains("no other copy of it is known"), "{alone}");
    let primary = cluster.start_primary();
    assert_all_there(&primary);
    cluster.assert_repaired("primary");
    wait("it takes writes", || primary.db().unwrap().keyspace("more").is_ok_and(|more| more.insert("a", "b").is_ok()));
    primary.stop(PATIENCE).unwrap();
    standby.stop(PATIENCE).unwrap();
}

#[test]
fn a_running_primary_and_a_standby_that_was_told_nothing_repair_their_logs_from_each_other() {
    let cluster = Cluster::new(1);
    let (primary, standby) = (cluster.start_primary(), cluster.start_standby(0));
    for (name, node) in [("primary", &primary), ("standby0", &standby)] {
        cluster.damage(name);
        let met = read_segment(node).unwrap_err();
        assert!(met.contains("does not match its checksum"), "{met}");
        wait("it is repaired and read again", || read_segment(node).is_ok());
        wait("nothing is noted any more", || node.db().unwrap().damages().is_empty());
        cluster.assert_repaired(name);
        assert_ne!(node.state().0, State::Failed, "{}", node.state().1);
        assert_all_there(node);
    }
    primary.stop(PATIENCE).unwrap();
    standby.stop(PATIENCE).unwrap();
}

#[test]
fn a_stranger_and_a_peer_with_a_damaged_copy_are_passed_over_for_the_next() {
    let cluster = Cluster::new(2);
    let (damaged_too, whole) = (cluster.start_standby(0), cluster.start_standby(1));
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Node::start(listening(elsewhere.path(), "stranger", free())).unwrap();
    let strangers = stranger.replication_address().unwrap().to_string();
    let asked = std::iter::once(strangers).chain(cluster.primary_options().repair_from).collect();
    cluster.damage("primary");
    cluster.damage("standby0");
    let primary = Node::start(NodeOptions { repair_from: asked, ..cluster.primary_options() }).unwrap();
    assert_all_there(&primary);
    wait("the peer that found its own copy damaged has repaired it too", || read_segment(&damaged_too).is_ok());
    cluster.assert_repaired("primary");
    cluster.assert_repaired("standby0");
    for node in [primary, damaged_too, whole, stranger] {
        assert_ne!(node.state().0, State::Failed, "{}", node.state().1);
        node.stop(PATIENCE).unwrap();
    }
}

#[test]
fn a_peer_that_is_away_is_asked_again_until_it_is_back() {
    let cluster = Cluster::new(1);
    // Where the standby will be, somebody sees that it was asked, and says nothing.
    let asked = |what: &str, of: &dyn Fn()| {
        let away = TcpListener::bind(cluster.standbys[0]).unwrap();
        away.set_nonblocking(true).unwrap();
        of();
        wait(what, || away.accept().is_ok());
    };
    cluster.damage("primary");
    let starting = std::cell::RefCell::new(None);
    asked("a node that starts asks", &|| {
        let options = cluster.primary_options();
        starting.replace(Some(std::thread::spawn(move || Node::start(options).unwrap())));
    });
    let standby = cluster.start_standby(0);
    let primary = starting.take().unwrap().join().unwrap();
    cluster.assert_repaired("primary");
    standby.stop(PATIENCE).unwrap();

    cluster.damage("primary");
    asked("a node that runs asks", &|| drop(read_segment(&primary).unwrap_err()));
    assert_ne!(primary.state().0, State::Failed, "{}", primary.state().1);
    assert!(read_segment(&primary).is_err(), "what is damaged is not served meanwhile");
    let standby = cluster.start_standby(0);
    wait("it is repaired", || read_segment(&primary).is_ok());
    assert_all_there(&primary);
    primary.stop(PATIENCE).unwrap();
    standby.stop(PATIENCE).unwrap();
}

#[test]
fn when_every_copy_is_damaged_the_primary_takes_no_more_writes_and_names_the_place_until_one_is_whole() {
    let cluster = Cluster::new(1);
    let (primary, standby) = (cluster.start_primary(), cluster.start_standby(0));
    cluster.damage("primary");
    cluster.damage("standby0");
    let before = std::fs::read(cluster.segment_of("primary")).unwrap();
    read_segment(&primary).unwrap_err();
    let numbers = primary.db().unwrap().keyspace("numbers").unwrap();
    wait("it gives up", || primary.state().0 == State::Failed);
    let (_, words) = primary.state();
    let peer = cluster.standbys[0].to_string();
    for part in [
        &format!("segment {SEGMENT} of timeline 1 is damaged from 0/") as &str,
        &format!("of its file 00000001-{SEGMENT:016x}.wal, and no other copy helps"),
        &peer,
        "does not match its checksum",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    let refused = numbers.insert("a", "b").unwrap_err();
    assert!(refused.to_string().contains(&words), "who writes hears why: {refused}");
    assert_all_there(&primary);
    assert_eq!(std::fs::read(cluster.segment_of("primary")).unwrap(), before, "nothing was changed");

    // The same bit again: the standby's copy is whole.
    cluster.damage("standby0");
    wait("the primary goes on", || primary.state().0 == State::Running);
    read_segment(&primary).unwrap();
    numbers.insert("a", "b").unwrap();
    wait("the standby goes on", || standby.state().0 == State::Running && standby.db().unwrap().damages().is_empty());
    drop(numbers);
    primary.stop(Duration::from_secs(1)).unwrap();
    standby.stop(Duration::from_secs(1)).unwrap();
}

#[test]
fn damage_in_the_segment_being_written_is_repaired_once_it_is_full_and_stops_no_writes() {
    let cluster = Cluster::new(1);
    let (primary, standby) = (cluster.start_primary(), cluster.start_standby(0));
    let end = primary.db().unwrap().log().end().lsn.offset();
    let (segment, offset) = (end / SIZE, end % SIZE / 2);
    flip(&cluster.file_of("primary", segment), offset);
    read_segment_number(&primary, segment).unwrap_err();
    assert_eq!(primary.db().unwrap().damages().len(), 1);
    let more = primary.db().unwrap().keyspace("more").unwrap();
    while primary.db().unwrap().log().flushed().value().offset() < (segment + 1) * SIZE {
        more.insert("a", [7; 900]).unwrap();
    }
    wait("it is repaired", || primary.db().unwrap().damages().is_empty());
    read_segment_number(&primary, segment).unwrap();
    assert_eq!(primary.state().0, State::Running, "{}", primary.state().1);
    drop(more);
    primary.stop(PATIENCE).unwrap();
    standby.stop(PATIENCE).unwrap();
}
