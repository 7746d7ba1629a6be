//! `seawall torture`: tries to make the database lose or damage what it acknowledged.

mod plug;
mod storm;

use clap::{Args, Subcommand};

use super::Context;
use crate::failure::Failure;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    on: Option<On>,
    #[command(flatten)]
    storm: storm::Arguments,
}

#[derive(Debug, Subcommand)]
enum On {
    /// Write on a disk until its plug is pulled; run again, look whether everything acknowledged is there, and go on
    Plug(plug::Arguments),
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    match &arguments.on {
        Some(On::Plug(arguments)) => plug::run(arguments, context),
        None => storm::run(&arguments.storm, context),
    }
}
