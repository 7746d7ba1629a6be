//! `seawall config`: what the settings are, where each comes from, and what is wrong with them.

use clap::Subcommand;
use serde::Serialize;

use super::Context;
use crate::config::DEFAULTS;
use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Say whether the settings can be used
    Check,
    /// Print the settings in force, and where each comes from
    Show,
    /// Print every setting with its default and what it does
    Defaults,
}

#[derive(Serialize)]
struct Checked {
    ok: bool,
    file: String,
}

#[derive(Serialize)]
struct Defaults {
    toml: &'static str,
}

pub(super) fn run(verb: &Verb, context: &Context) -> Result<(), Failure> {
    match verb {
        Verb::Check => {
            context.settings()?;
            let file = context.settings_path();
            let place = if file.exists() { file.display().to_string() } else { String::from("the defaults") };
            let checked = Checked { ok: true, file: place };
            context.output.document(&checked, |out| writeln!(out, "{}: ok", checked.file))
        }
        Verb::Show => show(context),
        Verb::Defaults => match context.output {
            Output::Text => context.output.bytes(DEFAULTS.as_bytes()),
            Output::Json => context.output.document(&Defaults { toml: DEFAULTS }, |_| Ok(())),
        },
    }
}

fn show(context: &Context) -> Result<(), Failure> {
    let loaded = context.settings()?;
    let origins: std::collections::BTreeMap<&str, String> =
        loaded.origins.iter().map(|(key, origin)| (key.as_str(), origin.to_string())).collect();
    #[derive(Serialize)]
    struct Shown<'a> {
        config: &'a crate::config::Config,
        origins: &'a std::collections::BTreeMap<&'a str, String>,
    }
    let table = toml::Table::try_from(&loaded.config).unwrap_or_default();
    context.output.document(&Shown { config: &loaded.config, origins: &origins }, |out| {
        for (number, (section, values)) in table.iter().enumerate() {
            writeln!(out, "{}[{section}]", if number > 0 { "\n" } else { "" })?;
            for (key, value) in values.as_table().into_iter().flatten() {
                let origin = origins.get(format!("{section}.{key}").as_str()).map_or("", String::as_str);
                writeln!(out, "{:<44} # {origin}", format!("{key} = {value}"))?;
            }
        }
        Ok(())
    })
}
