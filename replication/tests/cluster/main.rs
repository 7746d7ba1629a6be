//! Whole nodes over real sockets: databases, servers and clients as a cluster has them, faults included.

mod backpressure;
mod failover;
mod feeds;
mod fetching;
mod hostile;
mod node;
mod streaming;
