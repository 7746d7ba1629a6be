//! Nodes as programs embed them: a standby that can only be rebuilt from a base backup, a promotion that moves writes, and
//! a restored copy that becomes the primary while the cluster it came from is fenced.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use seawall::backup::backup::BackupOptions;
use seawall::backup::repository::RepositoryConfig;
use seawall::backup::restore::{RestoreOptions, RestoreTarget};
use seawall::node::{ArchiveOptions, Node, NodeOptions, PromoteOptions, Role, State};
use seawall::{Error, Refusal, SegmentSize, TimelineId, Tuning};

const PATIENCE: Duration = Duration::from_secs(30);

fn archive(folder: &Path) -> Option<ArchiveOptions> {
    let url = format!("file://{}", folder.join("archive").display());
    let repository = RepositoryConfig::parse(&url).unwrap();
    Some(ArchiveOptions { repository, interval: Duration::from_millis(100), required: true })
}

fn options(folder: &Path, name: &str) -> NodeOptions {
    NodeOptions {
        segment_size: SegmentSize::MIN,
        memtable_bytes: 128 << 10,
        replication_listen: Some("127.0.0.1:0".parse().unwrap()),
        replication_timeout: Duration::from_secs(2),
        archive: archive(folder),
        ..NodeOptions::new(name.parse().unwrap(), folder.join(name))
    }
}

fn standby(folder: &Path, name: &str, upstreams: &[&Node]) -> Node {
    let upstreams = upstreams.iter().map(|node| node.replication_address().unwrap().to_string()).collect();
    Node::start(NodeOptions { role: Role::Standby { upstreams }, ..options(folder, name) }).unwrap()
}

fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn key(number: u32) -> String {
    format!("{number:08}")
}

fn fill(node: &Node, from: u32, to: u32) {
    let keyspace = node.db().unwrap().keyspace("numbers").unwrap();
    (from..to).for_each(|number| keyspace.insert(key(number), vec![7; 1000]).map(drop).unwrap());
}

fn numbers(node: &Node) -> Vec<u32> {
    let keyspace = node.db().unwrap().existing_keyspace("numbers").unwrap();
    keyspace.iter().map(|pair| String::from_utf8_lossy(&pair.unwrap().0).parse().unwrap()).collect()
}

fn digest(node: &Node) -> String {
    node.db().unwrap().snapshot().unwrap().digest().unwrap().to_string()
}

fn archived(node: &Node) -> bool {
    node.archiver().is_some_and(|status| status.archived.lsn >= node.db().unwrap().log().flushed().value())
}

#[test]
fn what_a_node_is_told_of_a_keyspace_decides_how_its_tables_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let tunings = [("numbers".to_owned(), Tuning::ReadHeavy)].into();
    let node = Node::start(NodeOptions { tunings, archive: None, ..options(folder.path(), "primary") }).unwrap();
    let level0 = || node.db().unwrap().stats().levels[0].tables;
    let write_out = |name: &str| {
        let keyspace = node.db().unwrap().keyspace(name).unwrap();
        for _ in 0..5 {
            keyspace.insert("key", "value").unwrap();
            node.db().unwrap().flush().unwrap();
        }
    };
    write_out("numbers");
    wait("four tables were enough for a merge", || level0() < 4);
    let left = level0();
    write_out("others");
    assert_eq!(level0(), left + 5, "of a keyspace nothing was said of, five tables wait for more");
    node.stop(PATIENCE).unwrap();
}

/// A primary whose log nobody can read from its beginning: only its base backup leads to it.
fn primary_with_a_base_backup(folder: &Path) -> Node {
    let primary = Node::start(options(folder, "primary")).unwrap();
    fill(&primary, 0, 400);
    wait("all is archived", || archived(&primary));
    primary.create_backup(&BackupOptions::default()).unwrap();
    fill(&primary, 400, 500);
    primary.db().unwrap().flush().unwrap();
    wait("the first segments are recycled", || primary.db().unwrap().log().oldest().offset() > 0);
    // The archive loses its beginning, as an expiry would take it.
    std::fs::remove_file(&files_in(&folder.join("archive/wal/00000001"))[0]).unwrap();
    primary
}

/// All files of a folder, in the order of their names.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

#[test]
fn a_standby_whose_base_backup_does_not_come_is_not_promoted_and_gives_it_up_when_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let primary = primary_with_a_base_backup(folder.path());
    // Who opens a pipe waits for its other end: an object that does not come.
    let table = primary.last_backup().unwrap().tables[0].hash.to_string();
    let object = files_in(&folder.path().join("archive/tables").join(table)).remove(0);
    let aside = folder.path().join("aside");
    std::fs::rename(&object, &aside).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&object).status().unwrap().success());
    let node = standby(folder.path(), "standby", &[&primary]);
    wait("it restores", || folder.path().join("standby.rebuild").exists());
    // Its data are older than what is acknowledged, and are about to be exchanged: they are not promoted.
    let refused = node.promote(PromoteOptions { unfenced: true, ..PromoteOptions::default() }).unwrap_err().to_string();
    let backup = primary.last_backup().unwrap().id;
    assert!(
        refused.starts_with(&format!("this node is being rebuilt from base backup {backup}, because")),
        "{refused}"
    );
    let options = node.options().clone();
    let began = Instant::now();
    assert!(node.stop(Duration::from_secs(1)).unwrap().is_nothing());
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    // Whoever still waits goes on.
    drop(std::fs::OpenOptions::new().write(true).open(&object).unwrap());
    std::fs::rename(&aside, &object).unwrap();

    let again = Node::start(options).unwrap();
    let shows = || again.db().is_ok_and(|db| db.visible() >= primary.db().unwrap().visible());
    wait("it is rebuilt after all", || shows() && digest(&again) == digest(&primary));
    assert_eq!(numbers(&again).len(), 500);
    again.stop(PATIENCE).unwrap();
    primary.stop(PATIENCE).unwrap();
}

#[test]
fn a_standby_that_no_log_reaches_is_rebuilt_from_a_base_backup_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let primary = primary_with_a_base_backup(folder.path());

    let standby = standby(folder.path(), "standby", &[&primary]);
    wait("the standby has it all", || {
        // There is none while the new data take the place of the old.
        standby
            .db()
            .is_ok_and(|db| db.existing_keyspace("numbers").is_ok() && db.visible() >= primary.db().unwrap().visible())
    });
    assert_eq!(standby.following().unwrap().status.base_backups, 1);
    assert_eq!(digest(&standby), digest(&primary));
    fill(&primary, 500, 510);
    wait("it follows", || numbers(&standby).len() == 510);
    standby.stop(PATIENCE).unwrap();
    assert!(primary.stop(PATIENCE).unwrap().archive_bytes == 0);
}

#[test]
fn a_node_that_is_dropped_lets_its_directory_go_and_loses_nothing_acknowledged() {
    for with_archive in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive(folder.path()).filter(|_| with_archive);
        let options = |name: &str| NodeOptions { archive: archive.clone(), ..options(folder.path(), name) };
        for count in 1..=3 {
            // Whether somebody else was promoted is not asked: nobody is there to answer.
            let primary = Node::start(NodeOptions { assume_primary: true, ..options("primary") }).unwrap();
            fill(&primary, count * 10, count * 10 + 10);
            wait("it archives", || !with_archive || primary.archiver().is_some());
            let upstreams = vec![primary.replication_address().unwrap().to_string()];
            let role = Role::Standby { upstreams };
            let standby = Node::start(NodeOptions { role, ..options("standby") }).unwrap();
            wait("the standby has it all", || {
                standby.db().unwrap().existing_keyspace("numbers").is_ok()
                    && numbers(&standby).len() == count as usize * 10
            });
            for node in [&primary, &standby] {
                let again = node.open().unwrap_err().to_string();
                assert_eq!(again, "this node is open already, so it cannot be opened");
            }
            drop(primary);
            drop(standby);
            for name in ["primary", "standby"] {
                let builder = seawall::Db::builder(folder.path().join(name)).create(seawall::Create::Never);
                let mut opened = None;
                wait(&format!("the directory of the {name} is free"), || {
                    opened = match builder.clone().open() {
                        Err(Error::Locked { .. }) => None,
                        found => Some(found.unwrap()),
                    };
                    opened.is_some()
                });
                let keyspace = opened.as_ref().unwrap().existing_keyspace("numbers").unwrap();
                assert_eq!(keyspace.iter().count(), count as usize * 10);
            }
        }
    }
}

#[test]
fn promotion_moves_writes_and_the_old_primary_comes_back_read_only_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Node::start(options(folder.path(), "primary")).unwrap();
    fill(&primary, 0, 50);
    let standby = standby(folder.path(), "standby", &[&primary]);
    wait("the standby has it all", || standby.db().unwrap().visible() >= primary.db().unwrap().visible());
    let refused = standby.db().unwrap().existing_keyspace("numbers").unwrap().insert("x", "y").unwrap_err();
    assert!(matches!(refused, Error::ReadOnly { .. }), "{refused}");
    primary.stop(PATIENCE).unwrap();

    let promoted = standby.promote(PromoteOptions::default()).unwrap();
    assert_eq!((promoted.history.current().id.0, promoted.fenced), (2, true));
    fill(&standby, 50, 60);
    assert_eq!(numbers(&standby).len(), 60);
    let again = standby.promote(PromoteOptions::default()).unwrap_err();
    assert_eq!(again.to_string(), "this node is the primary already, so it cannot be promoted");

    let old = Node::start(options(folder.path(), "primary")).unwrap();
    wait("the old primary knows", || old.state().0 == State::Fenced);
    assert!(old.state().1.contains("timeline 2 took over at"), "{}", old.state().1);
    let refused = old.db().unwrap().existing_keyspace("numbers").unwrap().insert("x", "y").unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: Refusal::Superseded, .. }), "{refused}");
    assert!(refused.to_string().contains(&old.state().1), "{refused}");
    assert_eq!(numbers(&old).len(), 50, "it still reads");
    let refused = old.promote(PromoteOptions::default()).unwrap_err().to_string();
    assert!(
        refused.starts_with("this node was superseded, so it cannot be promoted: timeline 2 took over"),
        "{refused}"
    );
    old.stop(PATIENCE).unwrap();
    let follows = {
        let upstreams = vec![standby.replication_address().unwrap().to_string()];
        Node::start(NodeOptions { role: Role::Standby { upstreams }, ..options(folder.path(), "primary") }).unwrap()
    };
    wait("it follows the new primary", || numbers(&follows).len() == 60);
    assert_eq!(digest(&follows), digest(&standby));
    follows.stop(PATIENCE).unwrap();
    standby.stop(PATIENCE).unwrap();
}

#[test]
fn a_restarted_primary_names_the_standbys_it_waits_for_and_writes_when_one_has_connected() {
    let folder = tempfile::tempdir().unwrap();
    let options = |name: &str| NodeOptions { archive: None, ..options(folder.path(), name) };
    let standby = |name: &str, upstream: &Node| {
        let upstreams = vec![upstream.replication_address().unwrap().to_string()];
        Node::start(NodeOptions { role: Role::Standby { upstreams }, ..options(name) }).unwrap()
    };
    let primary = Node::start(options("primary")).unwrap();
    fill(&primary, 0, 10);
    let follows = standby("standby", &primary);
    wait("the standby has it all", || follows.db().unwrap().visible() >= primary.db().unwrap().visible());
    follows.stop(PATIENCE).unwrap();
    primary.stop(PATIENCE).unwrap();

    let primary = Node::new(options("primary")).unwrap();
    let early = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            loop {
                match primary.db() {
                    Ok(db) => return db.existing_keyspace("numbers").unwrap().insert("x", "y"),
                    Err(_) => std::thread::yield_now(),
                }
            }
        });
        primary.open().unwrap();
        writing.join().unwrap()
    });
    assert!(matches!(early, Err(Error::Refused { reason: Refusal::Unconfirmed, .. })), "at once: {early:?}");
    let numbers = primary.db().unwrap().existing_keyspace("numbers").unwrap();
    wait("it says what it waits for", || {
        let refused = numbers.insert("x", "y").unwrap_err();
        assert!(matches!(refused, Error::Refused { reason: Refusal::Unconfirmed, .. }), "{refused}");
        refused.to_string().contains("1 of its standbys (standby) must connect first")
            && refused.to_string().contains("start it with --assume-primary")
    });
    assert_eq!(primary.state().0, State::ReadOnly);
    assert!(primary.state().1.contains("(standby) must connect first"), "{}", primary.state().1);
    let connected = |name: &str| {
        primary.standbys().iter().any(|standby| standby.name.to_string() == name && standby.is_connected())
    };
    let stranger = standby("stranger", &primary);
    wait("a new standby is fed", || connected("stranger") && stranger.db().is_ok());
    std::thread::sleep(Duration::from_millis(300));
    assert!(numbers.insert("x", "y").is_err(), "who has just come knows of no promotion");
    stranger.stop(PATIENCE).unwrap();
    let follows = standby("standby", &primary);
    wait("it writes", || primary.state() == (State::Running, String::new()));
    fill(&primary, 10, 20);
    drop(numbers);
    follows.stop(PATIENCE).unwrap();
    primary.stop(PATIENCE).unwrap();
}

#[test]
fn a_standby_with_other_data_than_it_had_confirms_nothing_to_a_restarted_primary() {
    let folder = tempfile::tempdir().unwrap();
    let options = |name: &str| NodeOptions { archive: None, ..options(folder.path(), name) };
    let start = |assume_primary| {
        let primary = Node::start(NodeOptions { assume_primary, ..options("primary") }).unwrap();
        let upstreams = vec![primary.replication_address().unwrap().to_string()];
        let standby = Node::start(NodeOptions { role: Role::Standby { upstreams }, ..options("standby") }).unwrap();
        (primary, standby)
    };
    let stop = |(primary, standby): (Node, Node)| {
        standby.stop(PATIENCE).unwrap();
        primary.stop(PATIENCE).unwrap();
    };
    let has_all = |(primary, standby): &(Node, Node)| {
        let all = primary.db().unwrap().visible();
        primary.standbys().iter().any(|standby| standby.is_connected())
            && standby.db().is_ok_and(|db| db.visible() >= all)
    };
    let writes = |assume_primary, numbers: std::ops::Range<u32>| {
        let nodes = start(assume_primary);
        wait("the primary writes", || nodes.0.state().0 == State::Running);
        fill(&nodes.0, numbers.start, numbers.end);
        wait("the standby has it all", || has_all(&nodes));
        stop(nodes);
    };
    let refuses = |why: &str| {
        // What it was fed while the primary asked proves nothing to the primary when it asks again.
        for again in [false, true] {
            let nodes = start(false);
            wait("the standby is fed", || has_all(&nodes));
            std::thread::sleep(Duration::from_millis(300));
            let written = nodes.0.db().unwrap().existing_keyspace("numbers").unwrap().insert("x", "y");
            let refused = matches!(written, Err(Error::Refused { reason: Refusal::Unconfirmed, .. }));
            assert!(refused, "{why} (again: {again}) it may have forgotten a promotion: {written:?}");
            stop(nodes);
        }
    };
    let [data, old, own] = ["standby", "old", "own"].map(|name| folder.path().join(name));
    writes(false, 0..10);
    assert!(std::process::Command::new("cp").arg("-r").args([&data, &old]).status().unwrap().success());
    writes(false, 10..20);

    std::fs::rename(&data, &own).unwrap();
    refuses("emptied");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&own, &data).unwrap();
    writes(false, 20..30);

    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&old, &data).unwrap();
    refuses("set back");
    writes(true, 30..40);
    writes(false, 40..50);
}

#[test]
fn a_restored_copy_reads_only_until_it_is_promoted_and_then_the_old_primary_is_fenced() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Node::start(options(folder.path(), "primary")).unwrap();
    fill(&primary, 0, 20);
    wait("all is archived", || archived(&primary));
    primary.create_backup(&BackupOptions::default()).unwrap();
    fill(&primary, 20, 30);
    let target = primary.db().unwrap().visible();
    fill(&primary, 30, 40);
    wait("all is archived", || archived(&primary));

    let store = primary.archive("restore").unwrap();
    let copy = folder.path().join("copy");
    primary
        .runtime()
        .block_on(async {
            let plan = store.plan_restore(&RestoreTarget::Lsn(target), None).await?;
            store.restore(&plan, &copy, &RestoreOptions::default()).await
        })
        .unwrap();
    let restored = Node::start(NodeOptions { data_dir: copy, ..options(folder.path(), "restored") }).unwrap();
    assert_eq!(restored.state().0, State::ReadOnly);
    assert_eq!(numbers(&restored).len(), 30);
    assert!(restored.db().unwrap().existing_keyspace("numbers").unwrap().insert("x", "y").is_err());
    restored.promote(PromoteOptions::default()).unwrap();
    restored.db().unwrap().existing_keyspace("numbers").unwrap().insert(key(1000), "new").unwrap();
    assert_eq!(numbers(&restored).len(), 31);

    // The old primary is still running; the archive's fence ends it.
    primary.db().unwrap().existing_keyspace("numbers").unwrap().insert(key(2000), "lost").unwrap();
    wait("the old primary is fenced", || primary.state().0 == State::Fenced);
    assert!(primary.db().unwrap().existing_keyspace("numbers").unwrap().insert("x", "y").is_err());
    let no_backup = primary.create_backup(&BackupOptions::default()).unwrap_err().to_string();
    assert!(no_backup.contains("superseded"), "at once, and not when it has waited long enough: {no_backup}");
    wait("the new one archives", || archived(&restored));

    // Once more to the same moment, now that there is a newer timeline: that one is ended, and a third begins.
    let again = folder.path().join("again");
    let restoring = async {
        let plan = store.plan_restore(&RestoreTarget::Lsn(target), Some(TimelineId(1))).await?;
        store.restore(&plan, &again, &RestoreOptions::default()).await
    };
    primary.runtime().block_on(restoring).unwrap();
    let third = Node::start(NodeOptions { data_dir: again, ..options(folder.path(), "again") }).unwrap();
    let promoted = third.promote(PromoteOptions::default()).unwrap();
    assert_eq!((promoted.history.current().id, promoted.fenced), (TimelineId(3), true));
    restored.db().unwrap().existing_keyspace("numbers").unwrap().insert(key(3000), "lost").unwrap();
    wait("the second is fenced", || restored.state().0 == State::Fenced);
    assert_eq!(numbers(&third).len(), 30);
    third.stop(PATIENCE).unwrap();
    restored.stop(Duration::from_secs(1)).unwrap();
    primary.stop(Duration::from_secs(1)).unwrap();
}
