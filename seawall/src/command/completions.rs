//! `seawall completions`: what a shell needs to complete this command.

use clap::Args;
use clap_complete::Shell;

use super::tree;
use crate::failure::Failure;
use crate::output::Output;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// For which shell
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut tree(), "seawall", &mut script);
    Output::Text.bytes(&script)
}
