//! How settings are laid over each other: the defaults, a file, the environment, the command line. Remembers of every
//! value where it came from, and refuses keys that do not exist, naming the nearest that does. What values mean is not
//! decided here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::ConfigError;

/// What may be set for a keyspace, as `keyspace.<name>.<key>`.
const OF_KEYSPACES: [&str; 1] = ["tuning"];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The defaults.
    Default,
    /// A settings file.
    File(PathBuf),
    /// An environment variable, by name.
    Environment(String),
    /// The command line, by option.
    Argument(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Environment(name) => f.write_str(name),
            Self::Argument(option) => f.write_str(option),
        }
    }
}

/// Values by `section.key` or `keyspace.<name>.<key>`, each with its origin.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    values: BTreeMap<String, (Value, Origin)>,
}

impl Layers {
    /// The bottom layer; whatever it does not name is unknown, but for what is set for a keyspace.
    pub(super) fn new(defaults: Table) -> Self {
        let flat = flatten(defaults).into_iter();
        Self { values: flat.map(|(key, value)| (key, (value, Origin::Default))).collect() }
    }

    /// Every key there is.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    pub(super) fn origin(&self, key: &str) -> &Origin {
        &self.values[key].1
    }

    pub(super) fn value(&self, key: &str) -> &Value {
        &self.values[key].0
    }

    pub(super) fn origins(&self) -> BTreeMap<String, Origin> {
        self.values.iter().map(|(key, (_, origin))| (key.clone(), origin.clone())).collect()
    }

    /// Lays a file's text over what is there.
    pub(super) fn file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            origin: Origin::File(path.to_owned()),
            message: error.to_string().trim_end().to_owned(),
        })?;
        flatten(table).into_iter().try_for_each(|(key, value)| self.set(&key, value, Origin::File(path.to_owned())))
    }

    /// Lays the variables named `SEAWALL_<SECTION>__<KEY>` and `SEAWALL_KEYSPACE__<NAME>__<KEY>` over what is there.
    pub(super) fn environment(&mut self, variables: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix("SEAWALL_").filter(|rest| rest.contains("__")) else { continue };
            let key = rest.to_lowercase().replace("__", ".");
            let value = self.parse_like(&key, &text);
            self.set(&key, value, Origin::Environment(name))?;
        }
        Ok(())
    }

    /// Lays one `section.key=value` over what is there.
    pub(super) fn assignment(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let Some((key, text)) = assignment.split_once('=') else {
            return Err(ConfigError::Syntax {
                origin: Origin::Argument(format!("--set {assignment}")),
                message: String::from("expected section.key=value"),
            });
        };
        let value = self.parse_like(key.trim(), text.trim());
        self.set(key.trim(), value, Origin::Argument(String::from("--set")))
    }

    pub(super) fn set(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), ConfigError> {
        if !self.knows(key) {
            let of_keyspaces = OF_KEYSPACES.map(|name| format!("keyspace.<name>.{name}"));
            let known = self.keys().chain(of_keyspaces.iter().map(String::as_str));
            let nearest = nearest(key, known).map(str::to_owned);
            return Err(ConfigError::UnknownKey { origin, key: key.to_owned(), nearest });
        }
        self.values.insert(key.to_owned(), (value, origin));
        Ok(())
    }

    pub(super) fn knows(&self, key: &str) -> bool {
        self.values.contains_key(key) || of_keyspace(key).is_some()
    }

    /// Text as the type its default has: outside TOML a string needs no quotes, and a list may be `a,b`.
    fn parse_like(&self, key: &str, text: &str) -> Value {
        let string = || Value::String(text.to_owned());
        let parsed = || format!("x = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
        match self.values.get(key).map(|(value, _)| value) {
            Some(Value::Array(_)) => match parsed() {
                Some(list @ Value::Array(_)) => list,
                _ => Value::Array(
                    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| part.into()).collect(),
                ),
            },
            Some(Value::String(_)) => match parsed() {
                Some(quoted @ Value::String(_)) => quoted,
                _ => string(),
            },
            // What is set for a keyspace has no default here.
            _ => parsed().unwrap_or_else(string),
        }
    }

    /// The values as a TOML table of sections.
    pub(super) fn table(&self) -> Table {
        let mut sections = Table::new();
        for (key, (value, _)) in &self.values {
            insert(&mut sections, key, value.clone());
        }
        sections
    }
}

/// Puts a value into the table of its section.
pub(super) fn insert(sections: &mut Table, key: &str, value: Value) {
    let (path, name) = match of_keyspace(key) {
        Some((keyspace, name)) => (vec!["keyspace", keyspace], name),
        None => key.split_once('.').map_or((Vec::new(), key), |(section, name)| (vec![section], name)),
    };
    let mut table = sections;
    for section in path {
        let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = inner else { return };
        table = inner;
    }
    table.insert(name.to_owned(), value);
}

/// The keyspace and the key of `keyspace.<name>.<key>`; a name may have dots.
fn of_keyspace(key: &str) -> Option<(&str, &str)> {
    let (keyspace, name) = key.strip_prefix("keyspace.")?.rsplit_once('.')?;
    OF_KEYSPACES.contains(&name).then_some((keyspace, name))
}

/// `[section] key = value` as `section.key`, deeper tables likewise; a key outside any section stays as it is.
fn flatten(table: Table) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    let mut rest: Vec<(String, Table)> = vec![(String::new(), table)];
    while let Some((prefix, table)) = rest.pop() {
        for (name, value) in table {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(table) if table.is_empty() && prefix.is_empty() => {}
                Value::Table(table) => rest.push((key, table)),
                value => flat.push((key, value)),
            }
        }
    }
    flat
}

/// The known key most like `key`, if one is like it at all: few letters differ, or the part after the dot is the same.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = |key: &'_ str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let cost = |candidate: &str| {
        let whole = edit_distance(key, candidate);
        let part = edit_distance(&name(key), &name(candidate));
        (whole.min(part + 1), whole)
    };
    let (best, (distance, _)) = known.map(|candidate| (candidate, cost(candidate))).min_by_key(|(_, cost)| *cost)?;
    (distance <= (name(key).len() / 2).clamp(1, 3)).then_some(best)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
