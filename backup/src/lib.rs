//! Seawall's archive, base backups and point-in-time restore.

pub mod repository;
