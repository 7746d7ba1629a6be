//! `seawall torture`: tries to make the database lose or damage what it acknowledged.

mod plug;

use clap::{Args, Subcommand};

use super::Context;
use crate::failure::Failure;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    on: On,
}

#[derive(Debug, Subcommand)]
enum On {
    /// Write on a disk until its plug is pulled; run again, look whether everything acknowledged is there, and go on
    Plug(plug::Arguments),
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    match &arguments.on {
        On::Plug(arguments) => plug::run(arguments, context),
    }
}
