//! What tries to make Seawall lose or damage what it acknowledged, and says whether it did. A [`Story`] is what a writer
//! commits: it can be checked after any crash, however long it is. [`plug`] tells it on a real disk until the plug is pulled;
//! [`storm`] tells it on a disk in memory, at every operation of which power is lost in many ways ([`crash`]); [`rot`] flips
//! bits at rest. `torture/README.md` says what is tried and how often.

pub mod crash;
mod figures;
mod oracle;
pub mod plug;
pub mod rot;
mod run;
mod setup;
pub mod storm;
mod story;

pub use figures::Figures;
pub use oracle::{Broken, Oracle};
pub use run::Run;
pub use setup::{Part, Setup, SingleFault};
pub use story::{Story, Wrong};
