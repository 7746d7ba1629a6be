//! What tries to make Seawall lose or damage what it acknowledged, and says whether it did. A [`Story`] is what a writer
//! commits: it can be checked after any crash, however long it is. [`plug`] tells it on a real disk until the plug is pulled.

pub mod plug;
mod story;

pub use story::{Story, Wrong};
