//! What an embedder relies on: the example does what it says, and a local store brings neither tokio nor the AWS SDK.

use std::path::Path;
use std::process::Command;

use seawall::Db;

/// The example, which cargo builds along with all tests, but not for a single one.
fn example(name: &str) -> std::path::PathBuf {
    let tests = std::env::current_exe().unwrap();
    let built = tests.parent().and_then(Path::parent).unwrap();
    let example = built.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(example.exists(), "there is no {}: `cargo build -p seawall --example {name}` first", example.display());
    example
}

#[test]
fn the_embedding_example_does_what_it_says_twice() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for round in ["made", "reopened"] {
        let output = Command::new(example("embed")).arg(&data).output().unwrap();
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{round}: {errors}");
        assert!(text.contains("ann is Some(\"Ann\")"), "{round}: {text}");
        assert!(text.contains("bob is None now, and was Some(\"Bob\")"), "{round}: {text}");
        assert!(text.contains("ann/0001: 3 apples\nann/0002: 1 pear\n"), "{round}: {text}");
        assert!(text.contains("ann's last order is Some(\"ann/0002\")"), "{round}: {text}");
        assert!(text.contains("ann has 1 orders left"), "{round}: {text}");
        assert!(text.contains("the database has 2 keyspaces"), "{round}: {text}");
        let flushes = text.lines().find_map(|line| line.strip_prefix("1000 commits took ")).unwrap();
        let flushes: u64 = flushes.split(' ').next().unwrap().parse().unwrap();
        assert!(flushes < 1000, "tickets did not share flushes: {flushes}");
    }
    let db = Db::open(&data).unwrap();
    assert_eq!(db.keyspace("orders").unwrap().prefix("carl/").count(), 1000);
    let users = db.keyspace("users").unwrap();
    assert_eq!(users.get("visits").unwrap().as_deref(), Some(&b"17"[..]));
    assert_eq!(users.get("ann/visits").unwrap().as_deref(), Some(&2_i64.to_le_bytes()[..]), "once a round");
    assert_eq!(users.get("ann/session").unwrap().as_deref(), Some(&b"token"[..]));
}

#[test]
fn what_a_database_takes_and_hands_out_has_a_name_here() {
    let dir = tempfile::tempdir().unwrap();
    let builder = Db::builder(dir.path().join("data")).background(seawall::Background::Inline);
    let db = builder.log_retention(seawall::LogRetention::Engine).open_as(seawall::OpenAs::Recorded).open().unwrap();
    let id: seawall::KeyspaceId = db.keyspace("users").unwrap().id();
    let seawall::Stats { cache, waits, io_path, log, .. } = db.stats();
    let _: (seawall::CacheStats, seawall::WaitCounts, seawall::IoPath, seawall::LogStats) =
        (cache, waits, io_path, log);
    let redo: seawall::Position = db.redo();
    let _: (&seawall::Recovery, seawall::Role) = (db.recovery(), db.role());
    let pinned: seawall::PinnedCheckpoint = db.pin_checkpoint(true).unwrap();
    let files: Vec<seawall::StateFile> = pinned.files();
    assert!(files.is_empty() && pinned.redo().lsn >= redo.lsn);
    let digest: seawall::StateDigest = db.snapshot().unwrap().digest().unwrap();
    let keyspaces: Vec<seawall::KeyspaceDigest> = digest.keyspaces;
    assert_eq!(keyspaces.iter().map(|keyspace| keyspace.id).collect::<Vec<_>>(), [id]);
}

#[cfg(feature = "node")]
#[test]
fn the_replicated_example_does_what_it_says() {
    let output = Command::new(example("replicated")).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("on the standby's disk\nann has 100 on the standby\n"), "{text}");
    assert!(text.contains("writing there: this node is read-only"), "{text}");
    assert!(text.contains("held back: not admitted: standby lag in bytes (standby)"), "{text}");
    assert!(text.contains("stopped; standby standby lacks"), "{text}");
}

#[test]
fn a_local_store_compiles_neither_tokio_nor_the_aws_sdk() {
    let tree = |arguments: &[&str]| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--manifest-path"])
            .arg(manifest)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let heavy = ["tokio v", "aws-sdk-s3 v", "hyper v", "clap v", "seawall-replication v", "seawall-backup v"];
    let local = tree(&["--no-default-features"]);
    assert!(local.contains("seawall-engine v"), "{local}");
    for name in heavy {
        assert!(!local.lines().any(|line| line.starts_with(name)), "a local store depends on {name}");
    }
    // The check can fail: the whole of Seawall has them all.
    let whole = tree(&[]);
    for name in heavy {
        assert!(whole.lines().any(|line| line.starts_with(name)), "{name} is looked for under a wrong name");
    }
}
