//! The real program, a node that serves, which is refused something: io_uring by its kernel, tables or log by its disk. It says so
//! where an operator looks, does what can be done without, and has lost nothing.

#![cfg(target_os = "linux")]

mod io_uring;
mod log;
mod node;
mod tables;

use std::time::Duration;

/// Nothing takes as long on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(60);
