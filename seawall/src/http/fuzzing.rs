//! A door for fuzzers: the bytes of a connection in, the bytes of its answers out, with no socket between.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::HttpNode;
use super::server::{Settings, Shared, serve};

/// Bytes on their way in one direction.
const PIPE_BYTES: usize = 64 << 10;

/// A server whose only connection is the one at hand.
pub struct Door {
    runtime: Runtime,
    shared: Arc<Shared>,
    /// Never told to stop.
    _stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
}

impl Door {
    /// Serves `node` as on a loopback address.
    ///
    /// # Errors
    /// If the system has no means for a runtime.
    pub fn new(node: Arc<dyn HttpNode>, settings: Settings) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(2).build()?;
        let shared = Arc::new(Shared::new(node, IpAddr::V4(Ipv4Addr::LOCALHOST), settings));
        let (stop, stopped) = watch::channel(false);
        Ok(Self { runtime, shared, _stop: stop, stopped })
    }

    /// Sends `request` whole, and nothing after it, and gives what is answered until the server closes.
    pub fn talk(&self, request: &[u8]) -> Vec<u8> {
        let (server, client) = tokio::io::duplex(PIPE_BYTES);
        let (mut answers, mut requests) = tokio::io::split(client);
        let serving = serve(server, &self.shared, self.stopped.clone());
        let sending = async {
            // A server that has heard enough closes.
            let _ = requests.write_all(request).await;
            let _ = requests.shutdown().await;
        };
        let mut answered = Vec::new();
        let reading = async {
            let _ = answers.read_to_end(&mut answered).await;
        };
        self.runtime.block_on(async { tokio::join!(serving, sending, reading) });
        answered
    }
}
