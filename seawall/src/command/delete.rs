//! `seawall delete`: removes a key. To remove one that is not there is no error.

use clap::Args;

use super::Context;
use super::data::{Place, WriteLevel, Written};
use super::put;
use crate::failure::Failure;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The key
    key: String,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    written: Written,
    #[command(flatten)]
    level: WriteLevel,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let key = arguments.written.decode("the key", &arguments.key)?;
    put::write(&arguments.place, &arguments.level, None, put::removal(key), context)
}
