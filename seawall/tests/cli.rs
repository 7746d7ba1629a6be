//! The command as people use it: what it prints, where, and with which code it ends.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use seawall::Db;

struct Cli {
    dir: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Cli {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// With a database made.
    fn made() -> Self {
        let cli = Self::new();
        cli.ok(&["init", "--set", "log.segment_size=1MiB"]);
        cli
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command.args(arguments).arg("--data-dir").arg(self.path("data")).arg("--config").arg("/dev/null");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SEAWALL_") {
                command.env_remove(name);
            }
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        ran.out
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let out = self.ok(&[arguments, &["--json"]].concat());
        let json: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
        assert_eq!(json["format_version"], 1);
        json
    }

    /// Fails with this code; gives the error as JSON.
    fn fails(&self, code: i32, arguments: &[&str]) -> serde_json::Value {
        let ran = self.run(&[arguments, &["--json"]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{arguments:?}: {}", ran.err);
        let line = ran.err.lines().last().unwrap_or_default();
        let error: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {}", ran.err));
        assert_eq!((&error["type"], &error["code"]), (&"error".into(), &code.into()));
        error
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

#[test]
fn a_value_goes_in_and_comes_out_byte_for_byte() {
    let cli = Cli::made();
    let bytes: Vec<u8> = (0..=255).collect();
    std::fs::write(cli.path("value"), &bytes).unwrap();
    cli.ok(&["put", "k", "--file", cli.path("value").to_str().unwrap()]);
    let output = cli.command(&["get", "k"]).output().unwrap();
    assert_eq!(output.stdout, bytes);
    assert_eq!(cli.json(&["get", "k"])["value_base64"].as_str().unwrap().len(), 344);
    assert_eq!(cli.ok(&["put", "00ff", "c3a9", "--encoding", "hex"]).trim().len(), 10);
    assert_eq!(cli.ok(&["get", "AP8=", "--encoding", "base64"]), "w6k=");
    let mut child = cli.command(&["put", "stdin", "--file", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from a pipe").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(cli.ok(&["get", "stdin"]), "from a pipe");
    cli.ok(&["delete", "stdin"]);
    assert_eq!(cli.fails(10, &["get", "stdin"])["kind"], "not_found");
}

#[test]
fn a_scan_is_bounded_ordered_and_says_when_there_is_more() {
    let cli = Cli::made();
    for key in ["a/1", "a/2", "b/1", "tab\tkey"] {
        cli.ok(&["put", key, "v"]);
    }
    assert_eq!(cli.ok(&["scan", "--prefix", "a/"]), "a/1\tv\na/2\tv\n");
    assert_eq!(cli.ok(&["scan", "--reverse", "--limit", "1", "--keys-only"]), "tab\\tkey\n");
    let page = cli.json(&["scan", "--after", "a/1", "--end", "b/2", "--limit", "1"]);
    assert_eq!(page["entries"], serde_json::json!([{"key": "a/2", "value": "v"}]));
    assert_eq!(page["more"], true);
}

#[test]
fn what_is_exported_can_be_imported_and_is_equal() {
    let cli = Cli::made();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let imported = cli.json(&["import", root.to_str().unwrap(), "--keyspace", "files"]);
    let files = imported["records"].as_u64().unwrap();
    assert!(files > 20);
    for (format, name) in [("jsonl", "all.jsonl"), ("csv", "all.csv"), ("dir", "all")] {
        let path = cli.path(name);
        let path = path.to_str().unwrap();
        let exported = cli.json(&["export", path, "--keyspace", "files", "--format", format]);
        assert_eq!((&exported["records"], &exported["skipped"]), (&files.into(), &0.into()), "{format}");
        let again = cli.json(&["import", path, "--keyspace", name]);
        assert_eq!(again["records"], files, "{format}");
    }
    let digest = cli.json(&["digest"]);
    let keyspaces = digest["keyspaces"].as_array().unwrap();
    assert_eq!(keyspaces.len(), 4);
    for keyspace in keyspaces {
        assert_eq!(keyspace["digest"], keyspaces[0]["digest"], "{keyspace}");
    }
    let error = cli.fails(1, &["export", cli.path("all.csv").to_str().unwrap(), "--keyspace", "files"]);
    assert!(error["message"].as_str().unwrap().contains("exists"), "{error}");
}

#[test]
fn an_export_that_breaks_off_leaves_no_file_that_looks_whole() {
    let cli = Cli::made();
    cli.ok(&["put", "a", "text"]);
    cli.ok(&["put", "62", "ff", "--encoding", "hex"]);
    let path = cli.path("out");
    let export = |format| ["export", path.to_str().unwrap(), "--format", format];
    let error = cli.fails(1, &export("csv"));
    assert!(error["message"].as_str().unwrap().contains("is not UTF-8"), "{error}");
    assert!(!path.exists());
    assert_eq!(cli.json(&export("jsonl"))["records"], 2);
}

#[test]
fn an_import_that_breaks_off_says_how_far_it_came() {
    let cli = Cli::made();
    let path = cli.path("bad.jsonl");
    std::fs::write(&path, "{\"key\":\"a\",\"value\":\"1\"}\nnot json\n").unwrap();
    let error = cli.fails(3, &["import", path.to_str().unwrap()]);
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("1 records were imported, up to 0/") && message.contains("bad.jsonl:2: "), "{message}");
    assert_eq!(cli.ok(&["get", "a"]), "1");
    let error = cli.fails(2, &["import", cli.path("data").join("control").to_str().unwrap()]);
    assert!(error["message"].as_str().unwrap().contains("say which it is with --format"), "{error}");
}

#[test]
fn keys_that_are_no_names_of_files_are_left_out_of_a_directory_and_said() {
    let cli = Cli::made();
    for key in ["good", "../escape", "/absolute"] {
        cli.ok(&["put", key, "v"]);
    }
    let out = cli.path("out");
    let error = cli.fails(3, &["export", out.to_str().unwrap(), "--format", "dir"]);
    assert!(error["message"].as_str().unwrap().contains("1 records were written, 2 were not"), "{error}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    assert!(!cli.path("escape").exists());
}

#[test]
fn what_is_wrong_is_said_with_kind_code_and_hint() {
    let cli = Cli::new();
    let error = cli.fails(10, &["get", "a"]);
    assert!(error["message"].as_str().unwrap().ends_with("holds no database"), "{error}");
    assert!(error["hint"].as_str().unwrap().starts_with("`seawall init --data-dir "), "{error}");
    cli.ok(&["init"]);
    let error = cli.fails(1, &["init"]);
    assert!(error["message"].as_str().unwrap().contains("is not empty"), "{error}");
    let error = cli.fails(10, &["get", "a", "--keyspace", "nope"]);
    assert!(error["message"].as_str().unwrap().contains("no keyspace `nope`"), "{error}");
    assert_eq!(cli.fails(2, &["get"])["kind"], "usage");
    assert_eq!(cli.fails(2, &["put", "a", "1", "--level", "best"])["kind"], "usage");
    assert_eq!(cli.fails(2, &["put", "a", "1", "--level", "archived"])["kind"], "usage");
    let error = cli.fails(2, &["put", "zz", "1", "--encoding", "hex"]);
    assert!(error["message"].as_str().unwrap().contains("`zz` is not hex"), "{error}");
    let error = cli.fails(1, &["status", "--url", "http://127.0.0.1:1"]);
    assert!(error["message"].as_str().unwrap().starts_with("no node answers at http://127.0.0.1:1"), "{error}");
    let error = cli.fails(78, &["config", "check", "--set", "http.lisen=x"]);
    assert!(error["message"].as_str().unwrap().contains("did you mean `http.listen`?"), "{error}");
    let plain = cli.run(&["get", "nothing"]);
    assert_eq!((plain.code, plain.err.starts_with("error: ")), (10, true), "{}", plain.err);
}

#[test]
fn a_key_or_value_that_is_too_large_is_refused_and_nothing_is_written() {
    let cli = Cli::made();
    let large = cli.path("large");
    std::fs::write(&large, vec![b'x'; 2 << 20]).unwrap();
    let error = cli.fails(1, &["put", "k", "--file", large.to_str().unwrap()]);
    assert_eq!(error["kind"], "too_large", "{error}");
    let key = "k".repeat(70_000);
    assert_eq!(cli.fails(1, &["put", &key, "v"])["kind"], "too_large");
    assert_eq!(cli.fails(2, &["put", "", "v"])["kind"], "usage");
    assert!(cli.json(&["digest"])["keyspaces"].as_array().unwrap().iter().all(|keyspace| keyspace["entries"] == 0));
}

#[test]
fn a_directory_that_a_process_has_open_is_locked_for_every_other() {
    let cli = Cli::made();
    let db = Db::open(cli.path("data")).unwrap();
    db.keyspace("default").unwrap().insert("a", "1").unwrap();
    for arguments in [&["get", "a"][..], &["put", "a", "2"], &["inspect"], &["digest"]] {
        let error = cli.fails(11, arguments);
        assert_eq!(error["kind"], "locked", "{error}");
    }
    drop(db);
    assert_eq!(cli.ok(&["get", "a"]), "1");
}

#[test]
fn inspect_leaves_nothing_in_a_directory_that_holds_no_database() {
    let cli = Cli::new();
    let folder = cli.path("data");
    std::fs::create_dir_all(&folder).unwrap();
    assert_eq!(cli.fails(10, &["inspect"])["kind"], "not_found");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn inspect_tells_damage_from_the_end_of_the_log() {
    let cli = Cli::made();
    cli.ok(&["put", "a", "1"]);
    cli.ok(&["put", "b", "2"]);
    let inspected = cli.json(&["inspect", "--records", "10"]);
    assert_eq!(inspected["records"].as_array().unwrap().len(), 3, "a keyspace and two commits");
    assert_eq!(inspected["segments"][0]["then"], "end of the log");
    assert_eq!(inspected["control"]["clean_shutdown"], true);
    let first = inspected["segments"][0]["file"].as_str().unwrap();
    let segment = cli.path("data").join("wal").join(first);
    let whole = std::fs::read(&segment).unwrap();
    // In the segment's header, and in the header of a record that was flushed.
    for (place, what) in [(100, "the header does not match"), (512 + 8, "the log was flushed to")] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        let ran = cli.run(&["inspect", "--json"]);
        assert_eq!(ran.code, 12, "{}", ran.err);
        assert!(ran.err.contains("the log is damaged in") && ran.err.contains(what), "{}", ran.err);
        let inspected: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        assert!(inspected["segments"][0]["then"].as_str().unwrap().starts_with("damage: "), "{inspected}");
    }
    let error = cli.run(&["get", "a"]);
    assert_ne!(error.code, 0, "damage was served: {}", error.out);
}

#[test]
fn inspect_finds_damage_that_only_later_records_tell_of() {
    let cli = Cli::made();
    let data = cli.path("data");
    let db = Db::open(&data).unwrap();
    let keyspace = db.keyspace("k").unwrap();
    for number in 0..5 {
        keyspace.insert(number.to_string(), "v").unwrap();
    }
    // As it is where power is lost now: the control file has not heard of these records.
    let crashed = cli.path("crashed");
    std::fs::create_dir_all(crashed.join("wal")).unwrap();
    for folder in ["", "wal"] {
        for entry in std::fs::read_dir(data.join(folder)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), crashed.join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    drop((keyspace, db));
    let inspect = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        let output = command.args(["inspect", "--json", "--config", "/dev/null", "--data-dir"]).arg(&crashed).output();
        let ran = Ran::from(output.unwrap());
        let inspected: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let then = inspected["segments"][0]["then"].as_str().unwrap().to_owned();
        (ran.code, then, inspected)
    };
    let (code, then, inspected) = inspect();
    assert_eq!((code, then.as_str()), (0, "end of the log"));
    let end = inspected["segments"][0]["end"].as_str().unwrap();
    let last: u64 = u64::from_str_radix(end.trim_start_matches("0/"), 16).unwrap();
    let watermark = inspected["control"]["watermark"].as_str().unwrap();
    assert!(u64::from_str_radix(watermark.trim_start_matches("0/"), 16).unwrap() <= 512, "{watermark}");
    let segment = crashed.join("wal").join(inspected["segments"][0]["file"].as_str().unwrap());
    let whole = std::fs::read(&segment).unwrap();
    let flipped = |place: u64| {
        let mut bytes = whole.clone();
        bytes[place as usize] ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        inspect()
    };
    let (code, then, _) = flipped(512 + 8);
    assert_eq!(code, 12, "{then}");
    assert!(then.starts_with("damage: the log was flushed to"), "{then}");
    // The last record may as well not have been flushed: nothing behind it says so.
    let (code, then, _) = flipped(last - 1);
    assert_eq!(code, 0, "{then}");
}

#[test]
fn settings_are_shown_with_their_origin_and_defaults_are_a_settings_file() {
    let cli = Cli::new();
    let defaults = cli.path("defaults.toml");
    std::fs::write(&defaults, cli.ok(&["config", "defaults"])).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_seawall"));
    let output = check.args(["config", "check", "--config"]).arg(&defaults).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = cli.command(&["config", "show"]).env("SEAWALL_HTTP__CONNECTIONS_MAX", "7").output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        shown
            .lines()
            .any(|line| line.starts_with("connections_max = 7 ") && line.ends_with("# SEAWALL_HTTP__CONNECTIONS_MAX")),
        "{shown}"
    );
    assert!(shown.lines().any(|line| line.starts_with("data_dir = ") && line.ends_with("# --data-dir")), "{shown}");
    let shown = cli.json(&["config", "show"]);
    assert_eq!(shown["config"]["http"]["listen"], "127.0.0.1:7700");
    assert_eq!(shown["origins"]["http.listen"], "default");
}

#[test]
fn what_keyspaces_are_tuned_for_is_shown_as_it_may_be_written() {
    let cli = Cli::new();
    let set = ["--set", "keyspace.users.tuning=read_heavy", "--set", "keyspace.a \"b\".c.tuning=large_values"];
    let shown = cli.ok(&[&["config", "show"][..], &set].concat());
    assert!(shown.contains("\n[keyspace.users]\ntuning = \"read_heavy\""), "{shown}");
    let file = cli.path("shown.toml");
    std::fs::write(&file, &shown).unwrap();
    let mut again = Command::new(env!("CARGO_BIN_EXE_seawall"));
    let again = again.args(["config", "show", "--json", "--config"]).arg(&file).output().unwrap();
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["config"]["keyspace"]["users"]["tuning"], "read_heavy");
    assert_eq!(again["config"]["keyspace"]["a \"b\".c"]["tuning"], "large_values");
    let ran = cli.run(&["config", "check", "--set", "keyspace.users.tuning=fast"]);
    assert_eq!(ran.code, 78, "{}", ran.err);
    assert!(ran.err.contains("expected one of `balanced`, `write_heavy`, `read_heavy`, `large_values`"), "{}", ran.err);
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let cli = Cli::made();
    cli.ok(&[
        "import",
        "--number",
        "--format",
        "jsonl",
        Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").to_str().unwrap(),
    ]);
    let mut child = cli.command(&["config", "defaults"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn completions_and_manual_pages_know_every_verb() {
    let cli = Cli::new();
    let script = cli.ok(&["completions", "bash"]);
    cli.ok(&["man", cli.path("man").to_str().unwrap()]);
    for verb in ["serve", "restore", "backup-create", "bench-disk", "bench-commit", "sandbox"] {
        assert!(verb.split('-').all(|word| script.contains(word)), "{verb}");
        assert!(cli.path("man").join(format!("seawall-{verb}.1")).exists(), "{verb}");
    }
}

#[test]
fn bench_commit_says_where_the_time_goes() {
    let cli = Cli::new();
    let figures = cli.json(&["bench", "commit", "--seconds", "1", "--dir", cli.dir.path().to_str().unwrap()]);
    for (figure, threads) in figures["commits"].as_array().unwrap().iter().zip([1, 8, 64]) {
        assert_eq!(figure["threads"], threads);
        assert!(figure["per_second"].as_f64().unwrap() > 0.0);
        for part in ["encode", "append_and_apply", "write_and_sync", "gather_and_wake"] {
            assert!(figure["parts"][part].is_number(), "{part}");
        }
    }
}

#[test]
fn bench_disk_prints_every_figure() {
    let cli = Cli::new();
    let dir = cli.dir.path().to_str().unwrap();
    let figures = cli.json(&["bench", "disk", "--seconds", "1", "--dir", dir]);
    for name in ["dir", "device", "filesystem", "kernel", "io_path"] {
        assert!(!figures[name].as_str().unwrap().is_empty(), "{name}");
    }
    assert_eq!(figures["writes"].as_array().unwrap().len(), 6);
    assert_eq!(figures["commits"].as_array().unwrap().len(), 4);
    assert!(figures["commits"][0]["ratio_to_f"].as_f64().unwrap() > 0.0);
}

#[test]
fn who_pulls_the_plug_hears_what_was_found_and_what_is_wrong_with_the_file_of_what_was_acknowledged() {
    let cli = Cli::new();
    let path = |name: &str| cli.dir.path().join(name).to_str().unwrap().to_owned();
    let command = |dir: &str, file: &str, more: &[&str]| {
        let arguments = [&["torture", "plug", dir, "--acknowledged", file, "--commits", "5"], more].concat();
        arguments.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let run = |dir: &str, file: &str| {
        let arguments = command(dir, file, &["--writers", "2"]);
        let ran = cli.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.err
    };
    let refused = |dir: &str, file: &str, more: &[&str]| {
        let arguments = command(dir, file, more);
        let error = cli.fails(2, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(error["kind"], "usage");
        (error["message"].as_str().unwrap().to_owned(), error["hint"].as_str().unwrap().to_owned())
    };
    let (dir, file) = (&*path("data"), &*path("acknowledged"));
    assert_eq!(run(dir, file), "checked: 0 commits were acknowledged before, 0 are there, none is lost\n");
    std::fs::OpenOptions::new().append(true).open(file).unwrap().write_all(b"1 ").unwrap();
    let said = run(dir, file);
    assert!(said.contains("is torn, and its 2 bytes are cut off"), "{said}");
    assert!(said.contains("checked: 10 commits were acknowledged before, 10 are there, none is lost"), "{said}");

    let (message, hint) = refused(dir, file, &["--seed", "7"]);
    assert!(message.ends_with("acknowledged: it was begun with seed 1 and 2 writers"), "{message}");
    assert!(hint.starts_with("give --seed 1 --writers 2, "), "{hint}");
    let begin_anew = "begin anew with an empty directory and a new file";
    let (message, hint) = refused(dir, &path("lost"), &["--writers", "2"]);
    assert!(message.contains("there is nothing in it") && hint.ends_with(begin_anew), "{message}: {hint}");
    std::fs::write(path("foreign"), "a list\nof things").unwrap();
    let (message, hint) = refused(dir, &path("foreign"), &["--writers", "2"]);
    assert!(message.contains("its line 1 is none that this command writes"), "{message}");
    assert!(hint.ends_with(begin_anew), "{hint}");
    run(&path("other"), &path("of other"));
    let (message, hint) = refused(dir, &path("of other"), &["--writers", "2"]);
    assert!(message.contains("it is about the database ") && hint.ends_with(begin_anew), "{message}: {hint}");
    let unknown = cli.fails(2, &["torture", "plug", dir, "--acknowledged", file, "--write-by", "hope"]);
    assert_eq!(unknown["kind"], "usage");
}

#[test]
fn a_storm_of_one_seed_counts_the_same_twice() {
    let cli = Cli::new();
    let storm = |threads: &str| cli.json(&["torture", "--seed", "3", "--rounds", "2", "--threads", threads]);
    let figures = storm("1");
    assert_eq!(figures, storm("2"));
    assert_eq!(
        (&figures["rounds"], &figures["acknowledged_lost"], &figures["false_damage"]),
        (&2.into(), &0.into(), &0.into())
    );
    assert!(figures["states"].as_u64().unwrap() > 1_000 && figures["torn_tails"].as_u64().unwrap() > 0, "{figures}");
    let words = cli.ok(&["torture", "--for", "1ms", "--threads", "1"]);
    assert!(
        words.ends_with("no acknowledged commit was lost, and no healthy database was called damaged\n"),
        "{words}"
    );
    assert_eq!(cli.fails(2, &["torture", "--rounds", "0"])["kind"], "usage");
}
