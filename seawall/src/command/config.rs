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
        for (number, (section, name, values)) in sections(&table).enumerate() {
            writeln!(out, "{}[{section}]", if number > 0 { "\n" } else { "" })?;
            for (key, value) in values {
                let origin = origins.get(format!("{name}.{key}").as_str()).map_or("", String::as_str);
                writeln!(out, "{:<44} # {origin}", format!("{key} = {value}"))?;
            }
        }
        Ok(())
    })
}

/// The sections of settings, each as TOML writes it and as the origins have it, with its values; one for each keyspace.
fn sections(table: &toml::Table) -> impl Iterator<Item = (String, String, &toml::Table)> {
    let inner = |section: &str| table.get(section).and_then(toml::Value::as_table).into_iter().flatten();
    let nodes = inner_tables(table.iter()).filter(|(section, _)| *section != "keyspace");
    let nodes = nodes.map(|(section, values)| (section.to_owned(), section.to_owned(), values));
    let keyspaces = inner_tables(inner("keyspace")).map(|(name, values)| {
        let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let written = if bare { name.to_owned() } else { toml::Value::from(name).to_string() };
        (format!("keyspace.{written}"), format!("keyspace.{name}"), values)
    });
    nodes.chain(keyspaces)
}

fn inner_tables<'a>(
    values: impl Iterator<Item = (&'a String, &'a toml::Value)>,
) -> impl Iterator<Item = (&'a str, &'a toml::Table)> {
    values.filter_map(|(name, value)| Some((name.as_str(), value.as_table()?)))
}
