//! Locks, atomics, threads, channels and the clock that deadlines are measured by: what the order of events between
//! threads depends on. They are `parking_lot`'s and the standard library's. Built with `--cfg shuttle` they are the model
//! checker's, which decides who runs next, and when the time of a wait is over; `schedules/` runs the log and the
//! database that way. What other crates do inside, such as caches, is one step then.

mod futex;
#[cfg(shuttle)]
mod scheduled;
#[cfg(not(shuttle))]
mod system;

pub use futex::Futex;
#[cfg(shuttle)]
pub use scheduled::*;
#[cfg(not(shuttle))]
pub use system::*;
