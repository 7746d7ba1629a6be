//! `seawall man`: a manual page for each verb, for those who make packages.

use std::path::PathBuf;

use clap::Args;

use super::tree;
use crate::failure::{Failure, Kind};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where to write them
    dir: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let dir = &arguments.dir;
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(tree(), dir))
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot write manual pages to {}: {error}", dir.display())))
}
