//! Which test notices which planted bug, and the program that makes sure of it: `cargo run -p seawall-mutants`.
//!
//! A test that has never failed proves little. So each bug that can be planted has a row in [`table`] that names the test
//! of a promise it breaks. From one build of the tests ([`binaries`]) each named test is run without a bug, when it must
//! pass, and with each of its bugs, when it must fail ([`trial`]); what counts as having noticed is decided in [`verdict`].

pub mod binaries;
pub mod table;
pub mod trial;
pub mod verdict;
