//! A node as a process and the commands that ask it: what goes in over HTTP comes out of the directory, the archive and
//! the standby, and what cannot be done is said with who could do it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A `seawall serve` that dies with this test.
struct Node {
    child: Child,
    /// Of its HTTP API.
    url: String,
    /// Where standbys connect.
    replication: String,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(arguments).args(["--config", "/dev/null"]).stdin(Stdio::null());
    command
}

impl Node {
    /// On free ports, with small segments; says where it is once it serves.
    fn start(data: &Path, archive: &Path, arguments: &[&str]) -> Self {
        let archive = format!("file://{}", archive.display());
        let mut serve = command(&["serve", "--archive", &archive, "--die-with-parent"]);
        serve.env("SEAWALL_HTTP__LISTEN", "127.0.0.1:0");
        serve.args(arguments).arg("--data-dir").arg(data);
        serve.args(["--set", "log.segment_size=1MiB", "--set", "logging.format=json", "--set", "logging.level=info"]);
        serve.args(["--set", "archive.interval=100ms", "--set", "backpressure.max_replication_lag_bytes=64MiB"]);
        let mut child = serve.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Whatever it says is read to the end, so that it never waits for a reader; and nobody waits for it for ever.
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(said.send(line))));
        let mut before = Vec::new();
        let serving = loop {
            let Ok(line) = heard.recv_timeout(Duration::from_secs(60)) else {
                let _ = child.kill();
                panic!("the node did not start:\n{}", before.join("\n"));
            };
            let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let fields = if json["fields"].is_object() { json["fields"].clone() } else { json };
            if fields["message"] == "serving" {
                break fields;
            }
            before.push(line);
        };
        let text = |name: &str| serving[name].as_str().unwrap_or_default().to_owned();
        let replication = text("replication").trim_start_matches("Some(").trim_end_matches(')').to_owned();
        Self { child, url: format!("http://{}", text("http")), replication }
    }

    /// SIGTERM; the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < Duration::from_secs(60), "the node does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ok(arguments: &[&str]) -> String {
    let output = command(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&ok(&[arguments, &["--json"]].concat())).unwrap()
}

/// A port that nobody has now: a primary tells standbys the address it was given.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Exit code and error of a command that must fail.
fn fails(arguments: &[&str]) -> (i32, serde_json::Value) {
    let output = command(&[arguments, &["--json"]].concat()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let error = errors.lines().last().and_then(|line| serde_json::from_str(line).ok());
    (output.status.code().unwrap_or(-1), error.unwrap_or_else(|| panic!("{arguments:?}: {errors}")))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_goes_in_over_http_comes_out_of_directory_archive_and_restore() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let node = Node::start(&path("data"), &path("archive"), &["--name", "alone"]);
    let url = node.url.as_str();

    assert!(ok(&["put", "greeting", "hello", "--url", url]).contains('/'));
    assert_eq!(ok(&["get", "greeting", "--url", url]), "hello");
    ok(&["put", "gone", "soon", "--url", url]);
    ok(&["delete", "gone", "--url", url, "--level", "archived"]);
    assert_eq!(fails(&["get", "gone", "--url", url]).0, 10);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let imported = json(&["import", text(&sources), "--keyspace", "src", "--url", url]);
    let exported = json(&["export", text(&path("src")), "--format", "dir", "--keyspace", "src", "--url", url]);
    assert_eq!((&imported["records"], &imported["bytes"]), (&exported["records"], &exported["bytes"]));
    let page = json(&["scan", "--keyspace", "src", "--prefix", "http/", "--keys-only", "--limit", "2", "--url", url]);
    assert_eq!((page["entries"].as_array().unwrap().len(), &page["more"]), (2, &true.into()));
    // The longest key, which fits no address, goes in and out all the same.
    let long = "k".repeat(65_535);
    ok(&["put", &long, "v", "--keyspace", "long", "--url", url]);
    let (code, error) = fails(&["get", &long, "--keyspace", "long", "--url", url]);
    assert_eq!((code, &error["kind"]), (1, &"too_large".into()));
    assert!(error.to_string().len() < 400, "{error}");
    let page = json(&["scan", "--keyspace", "long", "--url", url]);
    assert_eq!(page["entries"][0]["key"].as_str().unwrap().len(), long.len());
    ok(&["delete", &long, "--keyspace", "long", "--url", url]);
    assert_eq!(json(&["scan", "--keyspace", "long", "--url", url])["entries"], serde_json::json!([]));
    let status = json(&["status", "--url", url]);
    assert_eq!((&status["status"]["name"], &status["status"]["state"]), (&"alone".into(), &"running".into()));

    let backup = json(&["backup", "create", "--digest", "--label", "by hand", "--url", url]);
    let digest = json(&["digest", "--url", url]);
    assert_eq!(backup["digest"], digest["digest"]);
    // The directory belongs to the node while it runs, and is as the node said once it does not.
    assert_eq!(fails(&["digest", "--data-dir", text(&path("data"))]).0, 11);
    assert_eq!(node.stop(), Some(0));
    assert_eq!(json(&["digest", "--data-dir", text(&path("data"))])["digest"], digest["digest"]);

    let archive = format!("archive.url=file://{}", path("archive").display());
    let listed = json(&["backup", "list", "--set", &archive]);
    assert_eq!(listed["backups"][0]["label"], "by hand");
    assert_eq!(json(&["backup", "verify", "--content", "--set", &archive])["sound"], true);
    let plan = ok(&["restore", "--dry-run", text(&path("restored")), "--set", &archive]);
    assert!(plan.starts_with("plan: restore latest from file://") && !path("restored").exists(), "{plan}");
    std::fs::create_dir_all(path("begun/tables")).unwrap();
    std::fs::write(path("begun/tables/1.tmp"), "of a restore that was killed").unwrap();
    for (taken, why) in [("data", "is not empty"), ("begun", "is not empty"), ("data/control", "Not a directory")] {
        let (_, error) = fails(&["restore", "--dry-run", text(&path(taken)), "--set", &archive]);
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    let restored = json(&["restore", "--to", "newest-backup", text(&path("restored")), "--set", &archive]);
    assert_eq!((&restored["digest"], &restored["equals_backup"]), (&digest["digest"], &true.into()));
    let (code, error) = fails(&["put", "a", "1", "--data-dir", text(&path("restored"))]);
    assert_eq!((code, &error["kind"]), (14, &"read_only".into()));
    let (code, error) = fails(&["restore", text(&path("restored")), "--set", &archive]);
    assert!(code != 0 && error["message"].as_str().unwrap().contains("is not empty"), "{error}");
    let (code, _) = fails(&["restore", "--to", "20200101T000000Z-00000000", text(&path("x")), "--set", &archive]);
    assert_eq!(code, 10);
}

#[test]
fn a_standby_shows_what_was_written_and_names_the_primary_to_who_would_write() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let http = free_address();
    let arguments = ["--name", "p", "--listen", "127.0.0.1:0", "--set", &format!("http.listen={http}")];
    let primary = Node::start(&dir.path().join("p"), &archive, &arguments);
    let upstream = primary.replication.clone();
    let standby = Node::start(&dir.path().join("s"), &archive, &["--name", "s", "--upstream", &upstream]);
    let started = Instant::now();
    ok(&["put", "k", "v", "--url", &primary.url]);
    while command(&["get", "k", "--url", &standby.url]).output().unwrap().stdout != b"v" {
        assert!(started.elapsed() < Duration::from_secs(30), "the standby does not show what was written");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (code, error) = fails(&["put", "k", "2", "--url", &standby.url]);
    let message = error["message"].as_str().unwrap();
    assert_eq!(code, 14);
    assert!(message.contains(&primary.url), "{message} does not name {}", primary.url);
    let replicas = json(&["status", "--url", &primary.url]);
    assert_eq!(replicas["replicas"][0]["name"], "s");
    let equal = |lsn: &str| json(&["digest", "--at", lsn, "--url", &standby.url])["digest"].clone();
    let digest = json(&["digest", "--url", &primary.url]);
    assert_eq!(equal(digest["lsn"].as_str().unwrap()), digest["digest"]);
    assert_eq!(standby.stop(), Some(0));
    assert_eq!(primary.stop(), Some(0));
}

#[test]
fn what_is_put_for_a_time_is_gone_on_the_standby_at_the_same_position() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let primary = Node::start(&dir.path().join("p"), &archive, &["--name", "p", "--listen", "127.0.0.1:0"]);
    let upstream = primary.replication.clone();
    let standby = Node::start(&dir.path().join("s"), &archive, &["--name", "s", "--upstream", &upstream]);
    ok(&["put", "stays", "v", "--url", &primary.url]);
    let put = ok(&["put", "ends", "v", "--ttl", "2s", "--url", &primary.url]);
    let put = put.trim();
    // As of that position both have it, however late it is when they are asked.
    let digest = |node: &Node, lsn: &str| {
        let started = Instant::now();
        loop {
            let output = command(&["digest", "--at", lsn, "--url", &node.url, "--json"]).output().unwrap();
            match serde_json::from_slice::<serde_json::Value>(&output.stdout) {
                Ok(digest) => break (digest["digest"].clone(), digest["keyspaces"][0]["entries"].clone()),
                Err(_) => assert!(started.elapsed() < Duration::from_secs(30), "{lsn}: {output:?}"),
            }
        }
    };
    let there = digest(&primary, put);
    assert_eq!((&there, &there.1), (&digest(&standby, put), &2.into()));
    for node in [&primary, &standby] {
        let started = Instant::now();
        while command(&["get", "ends", "--url", &node.url]).output().unwrap().status.success() {
            assert!(started.elapsed() < Duration::from_secs(30), "the value does not end");
        }
        assert_eq!(ok(&["get", "stays", "--url", &node.url]), "v");
    }
    let now = json(&["digest", "--url", &primary.url]);
    let gone = digest(&primary, now["lsn"].as_str().unwrap());
    assert_eq!((&gone, &gone.1), (&digest(&standby, now["lsn"].as_str().unwrap()), &1.into()));
    let (code, error) = fails(&["put", "ends", "v", "--ttl", "0s", "--url", &primary.url]);
    assert_eq!(code, 2, "{error}");
    assert_eq!(standby.stop(), Some(0));
    assert_eq!(primary.stop(), Some(0));
}

#[test]
fn a_page_that_grows_sixfold_in_json_is_exported_over_http() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data"), &dir.path().join("archive"), &["--listen", "127.0.0.1:0"]);
    let (zeros, copies) = (dir.path().join("zeros"), dir.path().join("copies"));
    std::fs::create_dir(&zeros).unwrap();
    // 16 MB, which is one page, and 96 MB of JSON.
    for number in 0..64 {
        std::fs::write(zeros.join(number.to_string()), vec![0; 250_000]).unwrap();
    }
    ok(&["import", text(&zeros), "--url", &node.url]);
    ok(&["export", text(&copies), "--format", "dir", "--url", &node.url]);
    for number in 0..64 {
        assert_eq!(std::fs::read(copies.join(number.to_string())).unwrap(), vec![0; 250_000]);
    }
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn a_node_that_cannot_start_says_why_and_with_which_code() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let serve = |arguments: &[&str]| fails(&[&["serve", "--data-dir", text(&data)], arguments].concat());
    let (code, error) = serve(&["--http", "0.0.0.0:0"]);
    assert!(code == 78 && error["message"].as_str().unwrap().contains("insecure_plaintext"), "{error}");
    let (code, error) = serve(&["--role", "standby"]);
    assert!(code == 78 && error["message"].as_str().unwrap().contains("replication.upstream"), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, error) = serve(&["--http", &taken.local_addr().unwrap().to_string()]);
    assert!(code == 1 && error["message"].as_str().unwrap().contains("cannot listen on"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--http"), "{error}");
    let (code, error) = serve(&["--http", "127.0.0.1:0", "--listen", &taken.local_addr().unwrap().to_string()]);
    assert!(code == 1 && error["message"].as_str().unwrap().contains("cannot listen on"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("replication.listen"), "{error}");
    let _held = seawall::Db::open(&data).unwrap();
    let (code, error) = serve(&["--http", "127.0.0.1:0"]);
    assert_eq!((code, &error["kind"]), (11, &"locked".into()), "{error}");
}
