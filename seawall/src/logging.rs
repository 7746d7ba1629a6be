//! What a node says: lines on standard error, text for people and journald, JSON for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LoggingSection};
use crate::failure::{Failure, Kind};

/// Starts it for this process.
pub(crate) fn start(settings: &LoggingSection) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.level)
        .map_err(|error| Failure::new(Kind::Config, format!("logging.level `{}`: {error}", settings.level)))?;
    let terminal = std::io::stderr().is_terminal();
    let journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal && !journald,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    // Somebody may have started it already: a program that runs commands of ours in its own process.
    let _ = match (json, journald) {
        (true, _) => lines.json().try_init(),
        // The journal has its own clock.
        (false, true) => lines.without_time().try_init(),
        (false, false) => lines.try_init(),
    };
    Ok(())
}
