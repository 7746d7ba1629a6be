//! What is documented exists. Every command, option, path of the API, metric, setting, unit and file that README,
//! ARCHITECTURE, `docs/`, the units, the help texts and the hints in error messages name is looked up in the thing itself.
//!
//! Names are looked for in code spans and code blocks; prose is free.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::Command;
use seawall::command::tree;
use seawall::config;
use seawall::http::{ROUTES, metrics::METRICS};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A piece of code in a text.
#[derive(Debug, PartialEq)]
enum Piece {
    /// Between backticks.
    Span(String),
    /// Lines to be typed.
    Shell(String),
    /// Settings.
    Toml(String),
    /// Rust and whatever else has a language of its own.
    Other,
}

fn pieces(markdown: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            let spans = line.split('`').skip(1).step_by(2);
            pieces.extend(spans.map(|span| Piece::Span(span.to_owned())));
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```")).collect();
        let block = block.join("\n");
        pieces.push(match language.trim() {
            "" | "sh" | "console" => Piece::Shell(block.replace("\\\n", " ")),
            "toml" => Piece::Toml(block),
            _ => Piece::Other,
        });
    }
    pieces
}

/// What is not true in a markdown text.
fn lies(markdown: &str) -> Vec<String> {
    let mut lies = Vec::new();
    for piece in pieces(markdown) {
        match piece {
            Piece::Span(span) => {
                lies.extend(command_lie(&span));
                lies.extend(word_lies(&span));
                if !span.contains(' ') {
                    lies.extend(file_lie(&span));
                }
            }
            Piece::Shell(block) => {
                for line in block.lines() {
                    lies.extend(command_lie(line));
                    lies.extend(word_lies(line));
                }
            }
            Piece::Toml(block) => lies.extend(toml_lies(&block)),
            Piece::Other => {}
        }
    }
    lies
}

/// The words of a command line after `seawall`, or after the `--` of `cargo run --`; up to a pipe or a remark.
fn command_words(line: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = |word: &str| word == "seawall" || word.ends_with("/bin/seawall");
    let start = match words.first() {
        Some(&"cargo") if words.get(1) == Some(&"run") && !words.contains(&"--example") => {
            words.iter().position(|word| *word == "--")? + 1
        }
        _ => {
            let user = |place: usize| place > 0 && words[place - 1] == "-u";
            let named = |place: &usize| name(words[*place].trim_start_matches("ExecStart=")) && !user(*place);
            (0..words.len()).find(named)? + 1
        }
    };
    // What stands before it runs it, or this is a sentence about seawall.
    let runs = |word: &&str| {
        matches!(*word, "$" | "#" | "sudo" | "-u" | "seawall" | "cargo" | "run" | "--release") || word.contains('=')
    };
    if !words[..start - 1].iter().all(runs) {
        return None;
    }
    let stop = |word: &&&str| !matches!(**word, "|" | ">" | "2>" | "&&" | ";" | "#" | "&" | "||");
    Some(words[start..].iter().take_while(stop).copied().collect())
}

fn command_lie(line: &str) -> Option<String> {
    if line.contains("--bin seawall-peers") {
        let mut options = line.split_whitespace().skip_while(|word| *word != "--").skip(1);
        let unknown = options.find(|word| word.starts_with("--") && !PEERS_OPTIONS.iter().any(|known| known == word));
        return unknown.map(|option| format!("`{line}`: there is no option {option}"));
    }
    let words = command_words(line)?;
    let whole = tree();
    let mut current = &whole;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let word = word.trim_end_matches([',', ';', '.', ':', ')']);
        if word.is_empty() || word.starts_with('…') || word.starts_with("...") {
            continue;
        }
        if word.starts_with('-') && word.len() > 1 {
            let (option, attached) = word.split_once('=').map_or((word, false), |(option, _)| (option, true));
            let Some(argument) = find_option(&whole, current, option) else {
                return Some(format!("`{line}`: there is no option {option}"));
            };
            if argument.get_action().takes_values() && !attached {
                words.next();
            }
        } else if current.has_subcommands() {
            // `backup create|list|verify` names three.
            let mut verbs = word.split('|').map(|verb| (verb, current.find_subcommand(verb)));
            match verbs.find(|(_, found)| found.is_none()) {
                Some((verb, _)) => return Some(format!("`{line}`: there is no command {verb}")),
                None => current = current.find_subcommand(word.split('|').next().unwrap_or_default())?,
            }
        } else if current.get_positionals().next().is_none() {
            return Some(format!("`{line}`: {} takes no {word}", current.get_name()));
        }
    }
    None
}

fn find_option<'a>(whole: &'a Command, current: &'a Command, option: &str) -> Option<&'a clap::Arg> {
    let is = |argument: &&clap::Arg| match option.strip_prefix("--") {
        Some(long) => argument.get_long() == Some(long),
        None => argument.get_short().is_some_and(|short| option.strip_prefix('-') == Some(&short.to_string())),
    };
    static HELP: LazyLock<[clap::Arg; 2]> = LazyLock::new(|| {
        ["help", "version"].map(|name| clap::Arg::new(name).long(name).action(clap::ArgAction::SetTrue))
    });
    let global = whole.get_arguments().filter(|argument| argument.is_global_set());
    current.get_arguments().chain(global).chain(&*HELP).find(is)
}

/// The options of the program that compares peers. It is a workspace of its own, so they are read from its sources.
static PEERS_OPTIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let sources = ["main.rs", "mixed.rs"].map(|name| read(&root().join("benches/peers/src").join(name))).concat();
    let mut lines = sources.lines().map(str::trim);
    let mut options = vec![String::from("--help")];
    while let Some(line) = lines.next() {
        if line.starts_with("#[arg(long") {
            let field = lines.next().and_then(|line| line.split(':').next()).unwrap_or_default();
            options.push(format!("--{}", field.replace('_', "-")));
        }
    }
    options
});

/// Options of other programs that our documents name.
const FOREIGN_OPTIONS: [&str; 24] = [
    "--release",
    "--workspace",
    "--all-targets",
    "--check",
    "--example",
    "--bench",
    "--test",
    "--lib",
    "--locked",
    "--features",
    "--no-default-features",
    "--no-deps",
    "--document-private-items",
    "--now",
    "--man",
    "--user",
    "--offline",
    "--threshold",
    "--fail",
    "--data-binary",
    "--request",
    "--header",
    "--system",
    "--ignored",
];

/// Settings, environment variables, paths of the API, metrics, units and options, wherever they stand in a piece of code.
fn word_lies(code: &str) -> Vec<String> {
    let separators =
        |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')' | '"' | '\'' | '<' | '>' | '[' | ']');
    let mut lies = Vec::new();
    for word in code.split(separators) {
        let word = word.trim_end_matches(['.', ':', '?']);
        lies.extend(
            setting_lie(word).or_else(|| path_lie(word)).or_else(|| metric_lie(word)).or_else(|| unit_lie(word)),
        );
        // An option that stands alone; those of a command line are checked with their command.
        if code.trim().starts_with("--") && word.starts_with("--") && word.len() > 2 {
            let option = word.split('=').next().unwrap_or_default();
            let peers = PEERS_OPTIONS.iter().any(|known| known == option);
            if !FOREIGN_OPTIONS.contains(&option) && !peers && !anywhere(&tree(), option) {
                lies.push(format!("`{code}`: no command has an option {option}"));
            }
        }
    }
    lies
}

fn anywhere(command: &Command, option: &str) -> bool {
    find_option(command, command, option).is_some() || command.get_subcommands().any(|inner| anywhere(inner, option))
}

fn setting_lie(word: &str) -> Option<String> {
    if let Some(variable) = word.strip_prefix("SEAWALL_").and_then(|rest| rest.split('=').next())
        && variable.contains("__")
        && !variable.contains('<')
    {
        let key = variable.to_lowercase().replace("__", ".");
        return (!config::knows(&key)).then(|| format!("{word}: there is no setting {key}"));
    }
    let key = word.split('=').next().unwrap_or_default();
    let (section, name) = key.split_once('.')?;
    let is_section = is_section(section);
    // That of a keyspace stands behind its name.
    let name = name.rsplit('.').next().filter(|_| section == "keyspace").unwrap_or(name);
    let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    // `log.rs` is a file, `backup.stop` is nothing of ours.
    let file = ["rs", "md", "toml", "sh", "service", "timer", "jsonl", "csv", "conf"].contains(&name);
    (is_section && named && !file && !config::knows(key)).then(|| format!("there is no setting {key}"))
}

fn is_section(name: &str) -> bool {
    name == "keyspace" || config::keys().iter().any(|key| key.split('.').next() == Some(name))
}

fn toml_lies(block: &str) -> Vec<String> {
    let table: toml::Table = match block.parse() {
        Ok(table) => table,
        Err(error) => return vec![format!("not TOML: {error}")],
    };
    let ours = table.keys().all(|section| is_section(section));
    let manifest = table.contains_key("dependencies") || table.contains_key("package");
    let mut lies = Vec::new();
    if !ours && !manifest {
        lies.push(format!("a section that is not ours: {}", table.keys().cloned().collect::<Vec<_>>().join(", ")));
    }
    for (section, values) in table.iter().filter(|_| !manifest) {
        let mut keys = Vec::new();
        for (name, value) in values.as_table().into_iter().flatten() {
            match value {
                toml::Value::Table(inner) => keys.extend(inner.keys().map(|inner| format!("{section}.{name}.{inner}"))),
                _ => keys.push(format!("{section}.{name}")),
            }
        }
        let unknown = keys.into_iter().filter(|key| !config::knows(key));
        lies.extend(unknown.map(|key| format!("there is no setting {key}")));
    }
    lies
}

fn path_lie(word: &str) -> Option<String> {
    // With or without a host before it.
    let path = match word.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => word,
    };
    let path = path.split(['?', '#']).next()?;
    let first = path.strip_prefix('/')?.split('/').next()?;
    let ours = path.starts_with("/v1/") || ["metrics", "healthz", "readyz", "livez"].contains(&first);
    if !ours || path.contains('…') {
        return None;
    }
    let fits = |pattern: &str| {
        let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
        loop {
            match (pattern.next(), path.next()) {
                (None, None) => break true,
                // A key may have slashes in it.
                (Some("{key}"), Some(_)) => break true,
                (Some(part), Some(_)) if part.starts_with('{') => {}
                (Some(part), Some(given)) if part == given => {}
                _ => break false,
            }
        }
    };
    (!ROUTES.iter().any(|(_, pattern, _)| fits(pattern))).then(|| format!("the API has no {path}"))
}

fn metric_lie(word: &str) -> Option<String> {
    let name = word.split(['{', '=', '!']).next()?;
    let crates = ["seawall_wal", "seawall_engine", "seawall_replication", "seawall_backup", "seawall_benches"];
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !name.starts_with("seawall_") || !plain || name == "seawall_" || crates.contains(&name) {
        return None;
    }
    (!METRICS.iter().any(|(metric, ..)| *metric == name)).then(|| format!("there is no metric {name}"))
}

fn unit_lie(word: &str) -> Option<String> {
    let (name, kind) = word.rsplit_once('.')?;
    if !name.starts_with("seawall") || !["service", "timer"].contains(&kind) || name.contains('/') {
        return None;
    }
    (!root().join("systemd").join(word).exists()).then(|| format!("there is no unit {word}"))
}

/// A file of this repository that a document names.
/// A file, or a function in it: `wal/tests/log.rs::a_name`.
fn file_lie(span: &str) -> Option<String> {
    let (path, function) = match span.split_once(".rs::") {
        Some((path, function)) => (format!("{path}.rs"), Some(function)),
        None => (span.trim_end_matches('/').to_owned(), None),
    };
    let folders =
        ["wal", "engine", "replication", "backup", "torture", "seawall", "systemd", "benches", "disks", "docs", ".ci"];
    let first = path.split('/').next()?;
    let plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
    if !path.contains('/') || !folders.contains(&first) || !plain {
        return None;
    }
    // A crate's own documents say `src/lib.rs` of themselves; those are not looked at here.
    let file = root().join(&path);
    if !file.exists() {
        return Some(format!("there is no file {path}"));
    }
    let function = function.filter(|function| !read(&file).contains(&format!("fn {function}(")))?;
    Some(format!("{path} has no function {function}"))
}

/// The help texts of a command and everything below it, under their names.
fn helps(command: &Command, name: &str) -> Vec<(String, String)> {
    let mut command = command.clone();
    let mut all = vec![(name.to_owned(), command.render_long_help().to_string())];
    for inner in command.get_subcommands() {
        all.extend(helps(inner, &format!("{name} {}", inner.get_name())));
    }
    all
}

#[test]
fn the_documents_tell_the_truth() {
    let root = root();
    let mut documents = vec![root.join("README.md"), root.join("benches/README.md")];
    documents.extend(files(&root.join("docs"), "md"));
    let architecture = root.join("ARCHITECTURE.md");
    documents.extend(architecture.exists().then_some(architecture));
    assert!(documents.len() >= 4, "documents have gone missing: {documents:?}");
    let lies: Vec<String> = documents
        .iter()
        .flat_map(|path| lies(&read(path)).into_iter().map(move |lie| format!("{}: {lie}", path.display())))
        .collect();
    assert!(lies.is_empty(), "\n{}", lies.join("\n"));
}

#[test]
fn the_help_texts_tell_the_truth() {
    let mut lies = Vec::new();
    for (name, help) in helps(&tree(), "seawall") {
        // All of a help text is code, but a command line in it stands between backticks.
        let words = help.lines().flat_map(word_lies);
        let spans = help.split('`').skip(1).step_by(2).filter_map(command_lie);
        lies.extend(words.chain(spans).map(|lie| format!("{name} --help: {lie}")));
    }
    assert!(lies.is_empty(), "\n{}", lies.join("\n"));
}

#[test]
fn hints_settings_and_units_tell_the_truth() {
    let root = root();
    let mut lies = Vec::new();
    let mut sources = files(&root.join("seawall/src"), "rs");
    sources.extend(["service", "timer"].iter().flat_map(|extension| files(&root.join("systemd"), extension)));
    sources.push(root.join("seawall/src/config/defaults.toml"));
    for path in sources {
        let text = read(&path);
        let spans = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).filter_map(command_lie);
        let starts = text.lines().filter(|line| line.starts_with("ExecStart=/usr/bin/seawall")).filter_map(command_lie);
        lies.extend(spans.chain(starts).map(|lie| format!("{}: {lie}", path.display())));
    }
    assert!(lies.is_empty(), "\n{}", lies.join("\n"));
}

#[test]
fn the_tests_that_run_are_the_ones_the_readme_names() {
    let readme = read(&root().join("README.md"));
    let script = read(&root().join(".ci/run"));
    for command in ["cargo run --release -- sandbox", "cargo test --workspace"] {
        assert!(readme.lines().any(|line| line.trim() == command), "the README does not say `{command}`");
    }
    assert!(
        script.lines().any(|line| line == "part cargo test --workspace"),
        ".ci/run does not run the README's tests"
    );
}

#[test]
fn every_bench_stands_in_the_table_of_their_readme() {
    let readme = read(&root().join("benches/README.md"));
    let benches = files(&root().join("benches/benches"), "rs");
    assert!(!benches.is_empty(), "benches have gone missing");
    for bench in benches {
        let row = format!("| `{}` |", bench.file_stem().unwrap().to_string_lossy());
        assert!(readme.lines().any(|line| line.starts_with(&row)), "benches/README.md has no row {row}");
    }
}

#[test]
fn a_planted_false_name_is_caught_and_a_true_one_is_not() {
    let false_names = [
        ("`seawall frobnicate`", "no command frobnicate"),
        ("`seawall backup create|destroy`", "no command destroy"),
        ("`cargo run --release -- sandbocks`", "no command sandbocks"),
        ("```sh\n$ seawall get --shiny key\n```", "no option --shiny"),
        ("```\nseawall restore /tmp/x \\\n  --until now\n```", "no option --until"),
        ("`seawall status now`", "takes no now"),
        ("`--frob`", "no command has an option --frob"),
        ("`GET /v1/nothing`", "the API has no /v1/nothing"),
        ("`curl http://localhost:7700/livez`", "the API has no /livez"),
        ("`seawall_made_up_total`", "no metric seawall_made_up_total"),
        ("`rate(seawall_nothing_total[5m])`", "no metric seawall_nothing_total"),
        ("`http.lissen`", "no setting http.lissen"),
        ("`SEAWALL_HTTP__LISSEN=x`", "no setting http.lissen"),
        ("`seawall serve --set http.lissen=x`", "no setting http.lissen"),
        ("```toml\n[http]\nlissen = \"x\"\n```", "no setting http.lissen"),
        ("`keyspace.users.tunning`", "no setting keyspace.users.tunning"),
        ("`SEAWALL_KEYSPACE__USERS__TUNNING=x`", "no setting keyspace.users.tunning"),
        ("```toml\n[keyspace.users]\ntunning = \"x\"\n```", "no setting keyspace.users.tunning"),
        ("```toml\n[keyspace]\ntuning = \"x\"\n```", "no setting keyspace.tuning"),
        ("```toml\n[htp]\nlisten = \"x\"\n```", "a section that is not ours"),
        ("`systemctl start seawall-frob.timer`", "no unit seawall-frob.timer"),
        ("`wal/src/nothing.rs`", "no file wal/src/nothing.rs"),
        ("`seawall/tests/truth.rs::no_such_test`", "has no function no_such_test"),
        ("`cargo run --release --bin seawall-peers -- --quick --frob`", "no option --frob"),
    ];
    for (text, expected) in false_names {
        let lies = lies(text);
        assert!(lies.iter().any(|lie| lie.contains(expected)), "{text} was believed: {lies:?}");
    }
    let true_names = [
        "`seawall backup create|list|verify`",
        "`seawall --json scan --prefix a/ --limit 10 | head`",
        "`sudo -u seawall seawall put k v --level local # a remark`",
        "`GET /v1/kv/{keyspace}/{key}`, `/v1/kv/files/src/main.rs`, `/readyz?max_lag=1s`, `/v1/…`",
        "`seawall_replica_lag_seconds{stage=\"replay\"}`, `seawall_wal`, `seawall::Db`, `seawall`",
        "`http.listen = \"\"`, `SEAWALL_HTTP__LISTEN`, `SEAWALL_<SECTION>__<KEY>`, `log.rs`, `--data-dir`",
        "`keyspace.users.tuning=balanced`, `SEAWALL_KEYSPACE__USERS__TUNING`, `keyspace.<name>.tuning`",
        "```toml\n[keyspace.users]\ntuning = \"balanced\"\n```",
        "```toml\n[archive]\nurl = \"s3://bucket/prefix\"\n```",
        "```toml\n[dependencies]\nseawall = { path = \"../seawall\" }\n```",
        "`systemctl enable --now seawall-backup.timer`, `wal/src/lib.rs`, `docs/`, `seawall/tests/truth.rs::file_lie`",
        "prose about seawall frobnicate and http.lissen is free",
    ];
    for text in true_names {
        assert_eq!(lies(text), Vec::<String>::new(), "{text}");
    }
}
