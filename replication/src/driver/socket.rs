//! TCP connections as replication wants them: names resolved anew each time, no delay, dead peers noticed by the kernel too.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::error::{Error, Result};

/// Connects to `upstream`, `host:port`, trying each address its name has now.
pub(super) async fn connect(upstream: &str, within: Duration) -> Result<TcpStream> {
    let network = |operation, source| Error::Network { operation, peer: upstream.to_owned(), source: Arc::new(source) };
    let late = |what| Error::TimedOut { peer: upstream.to_owned(), what, after: within };
    let addresses = timeout(within, lookup_host(upstream)).await.map_err(|_| late("resolve"))?;
    let addresses = addresses.map_err(|error| network("resolve", error))?;
    let mut last = network("resolve", io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in addresses {
        match timeout(within, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = network("connect to", error),
            Err(_) => last = late("accept the connection"),
        }
    }
    Err(last)
}

/// Sets what both sides want.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}
