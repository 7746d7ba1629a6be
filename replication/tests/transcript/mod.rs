//! The runner: blocks of commands, `----`, what followed, an empty line. What commands mean is each world's business.

mod plan;
mod promotion;
mod stream;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;

pub(crate) use plan::PlanWorld;
pub(crate) use promotion::PromotionWorld;
pub(crate) use stream::StreamWorld;

/// Something commands happen to.
pub(crate) trait World {
    /// Carries out one command and tells what followed, a line each.
    fn run(&mut self, command: &Command) -> Vec<String>;
}

/// One line of a story: a verb, words and `key=value` pairs.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) verb: String,
    pub(crate) words: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Command {
    fn parse(line: &str) -> Self {
        let mut parts = line.split_whitespace().map(str::to_owned);
        let verb = parts.next().expect("a command has a verb");
        let (mut words, mut values) = (Vec::new(), BTreeMap::new());
        for part in parts {
            match part.split_once('=') {
                Some((key, value)) => drop(values.insert(key.to_owned(), value.to_owned())),
                None => words.push(part),
            }
        }
        Self { verb, words, values }
    }

    pub(crate) fn word(&self, index: usize) -> &str {
        self.words.get(index).unwrap_or_else(|| panic!("`{}` needs a word more: {self:?}", self.verb))
    }

    pub(crate) fn get<T: FromStr<Err: Debug>>(&self, key: &str) -> Option<T> {
        self.values.get(key).map(|value| value.parse().unwrap_or_else(|error| panic!("{key}={value}: {error:?}")))
    }

    pub(crate) fn need<T: FromStr<Err: Debug>>(&self, key: &str) -> T {
        self.get(key).unwrap_or_else(|| panic!("`{}` needs {key}=", self.verb))
    }
}

/// Runs every story in a folder and compares.
pub(crate) fn check<W: World>(folder: &Path, world: impl Fn() -> W) {
    let mut stories: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    stories.sort();
    assert!(!stories.is_empty(), "no stories in {}", folder.display());
    for story in stories {
        let told = std::fs::read_to_string(&story).unwrap();
        let happened = retell(&told, world());
        if std::env::var_os("SEAWALL_REWRITE").is_some() {
            std::fs::write(&story, happened).unwrap();
        } else {
            assert!(told == happened, "{} tells:\n{told}\nwhat happened is:\n{happened}", story.display());
        }
    }
}

fn retell(told: &str, mut world: impl World) -> String {
    let mut happened = String::new();
    let mut lines = told.lines();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            happened += line;
            happened += "\n";
            continue;
        }
        let mut commands = vec![line];
        commands.extend(lines.by_ref().take_while(|line| *line != "----"));
        lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
        let mut followed = Vec::new();
        for command in commands {
            happened += command;
            happened += "\n";
            followed.extend(world.run(&Command::parse(command)));
        }
        happened += "----\n";
        for line in followed {
            happened += &line;
            happened += "\n";
        }
        happened += "\n";
    }
    happened.trim_end().to_owned() + "\n"
}
