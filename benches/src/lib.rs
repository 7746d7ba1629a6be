//! Criterion benches of Seawall.
