//! One node of the sandbox: a `seawall serve` process of its own, with its settings, its data and its log in a folder.
//! It can be killed, frozen, thawed and started again; it dies with this process, whatever happens to it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A node's process.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its name among the nodes.
    pub name: String,
    /// Settings, data and output.
    pub folder: PathBuf,
    /// Where its HTTP API is.
    pub http: SocketAddr,
    /// Where standbys connect.
    pub replication: SocketAddr,
    binary: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    /// A node that is not running yet, with addresses of its own on loopback.
    pub fn new(binary: &Path, folder: &Path, name: &str) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let [http, replication] = free_addresses()?;
        let (binary, folder, name) = (binary.to_owned(), folder.to_owned(), name.to_owned());
        Ok(Self { name, folder, http, replication, binary, child: None })
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What it wrote to its output.
    pub fn output(&self) -> PathBuf {
        self.folder.join("output.log")
    }

    /// Its settings file.
    pub fn settings(&self) -> PathBuf {
        self.folder.join("seawall.toml")
    }

    /// Writes its settings: addresses and data directory are added to `more`, the text of further sections.
    pub fn configure(&self, role: &str, replication: &str, more: &str) -> io::Result<()> {
        let Self { name, http, replication: listen, .. } = self;
        let data = toml_string(&self.data().display().to_string());
        let text = format!(
            "[node]\nname = \"{name}\"\ndata_dir = {data}\nrole = \"{role}\"\n\n[http]\nlisten = \"{http}\"\n\n\
             [replication]\nlisten = \"{listen}\"\n{replication}\n{more}"
        );
        std::fs::write(self.settings(), text)
    }

    /// Starts it. Its output is added to [`output`](Self::output).
    pub fn start(&mut self, environment: &[(&str, &str)]) -> io::Result<()> {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let output = File::options().create(true).append(true).open(self.output())?;
        let child = Command::new(&self.binary)
            .arg("serve")
            .arg("--config")
            .arg(self.settings())
            .arg("--die-with-parent")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it runs; `Err` with how it ended if it ended by itself.
    pub fn is_running(&mut self) -> Result<bool, ExitStatus> {
        let Some(child) = &mut self.child else { return Ok(false) };
        match child.try_wait() {
            Ok(None) => Ok(true),
            Ok(Some(status)) => {
                self.child = None;
                Err(status)
            }
            Err(_) => Ok(true),
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// `kill -9` without waiting for its end; [`kill`](Self::kill) does that.
    pub fn kill_by_pid(&self) -> io::Result<()> {
        self.child.as_ref().map_or(Ok(()), |child| signal(child, Signal::KILL))
    }

    /// Asks it to stop and waits; `None` if it does not within `deadline` and was killed.
    pub fn stop(&mut self, deadline: Duration) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else { return Ok(Some(ExitStatus::from_raw(0))) };
        signal(&child, Signal::TERM)?;
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= until {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it where it stands, as a machine that hangs does.
    pub fn freeze(&self) -> io::Result<()> {
        self.child.as_ref().map_or(Ok(()), |child| signal(child, Signal::STOP))
    }

    /// Lets it go on.
    pub fn thaw(&self) -> io::Result<()> {
        self.child.as_ref().map_or(Ok(()), |child| signal(child, Signal::CONT))
    }

    /// The last lines of its output, for an error message.
    pub fn last_words(&self) -> String {
        let output = std::fs::read_to_string(self.output()).unwrap_or_default();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(name = self.name, %error, "a node could not be ended");
        }
    }
}

fn signal(child: &Child, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).map_err(io::Error::from)
}

/// Two addresses that were free a moment ago.
fn free_addresses() -> io::Result<[SocketAddr; 2]> {
    let [one, other] = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    Ok([one.local_addr()?, other.local_addr()?])
}

/// A string as TOML writes it.
fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
