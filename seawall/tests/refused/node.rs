//! A node in a process of its own, and the commands that ask it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use seawall_disks::refusal::{Call, refuse};

use crate::PATIENCE;

/// A node of its own process, killed when nobody needs it any more.
pub(crate) struct Node {
    child: Child,
    pub(crate) url: String,
    /// Where standbys connect.
    pub(crate) replication: String,
    /// What it said before it served.
    pub(crate) said: String,
}

impl Node {
    pub(crate) fn start(data: &Path, refused: Option<(Call, Errno)>, arguments: &[&str]) -> Self {
        let mut serve = seawall(&["serve", "--die-with-parent", "--data-dir", data.to_str().unwrap()]);
        serve.args(["--set", "log.segment_size=1MiB", "--set", "logging.format=json", "--set", "logging.level=info"]);
        serve.args(arguments).env("SEAWALL_HTTP__LISTEN", "127.0.0.1:0");
        if let Some((call, errno)) = refused {
            refuse(&mut serve, call, errno.raw_os_error());
        }
        let mut child = serve.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Whatever it says is read to the end, so that it never waits for a reader; and nobody waits for it for ever.
        let (says, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(says.send(line))));
        let mut said = String::new();
        let serving = loop {
            let Ok(line) = heard.recv_timeout(PATIENCE) else {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the node did not start, {refused:?} being refused:\n{said}");
            };
            let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let fields = if json["fields"].is_object() { json["fields"].clone() } else { json };
            if fields["message"] == "serving" {
                break fields;
            }
            said += &line;
        };
        let text = |name: &str| serving[name].as_str().unwrap_or_default().to_owned();
        let replication = text("replication").trim_start_matches("Some(").trim_end_matches(')').to_owned();
        Self { child, url: format!("http://{}", text("http")), replication, said }
    }

    pub(crate) fn io_path(&self) -> String {
        let status = json(&["status", "--url", &self.url]);
        status["status"]["io_path"].as_str().expect("status has it").to_owned()
    }

    /// The status and the body of what it answers to who reads a path.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("an answer has a status"), body.to_owned())
    }

    pub(crate) fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "the node does not stop");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn seawall(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.args(arguments).args(["--config", "/dev/null"]).stdin(Stdio::null());
    command
}

pub(crate) fn ok(arguments: &[&str]) -> String {
    let output = seawall(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&ok(&[arguments, &["--json"]].concat())).unwrap()
}
