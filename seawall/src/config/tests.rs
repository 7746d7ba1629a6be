//! Settings, from text to refusal: what a user reads when something is wrong.

use super::*;

fn with(assignments: &[&str]) -> Result<Loaded, ConfigError> {
    let mut assignments: Vec<String> = assignments.iter().map(|&text| text.to_owned()).collect();
    assignments.insert(0, String::from("node.name=test"));
    Config::load(&Sources { file: Some("/dev/null".into()), assignments, ..Sources::default() })
}

fn refused(assignments: &[&str]) -> String {
    with(assignments).expect_err("these settings are wrong").to_string()
}

fn file(text: &str) -> (tempfile::TempDir, Result<Loaded, ConfigError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seawall.toml");
    std::fs::write(&path, text).unwrap();
    (dir, Config::load(&Sources { file: Some(path), ..Sources::default() }))
}

#[test]
fn the_defaults_are_valid_and_name_every_setting() {
    let loaded = with(&[]).unwrap();
    let printed = toml::Table::try_from(&loaded.config).unwrap();
    let keys: Vec<String> = Layers::new(printed).keys().map(str::to_owned).collect();
    assert_eq!(keys, super::keys(), "a setting is missing from the defaults, or the defaults name one that is not");
    assert!(loaded.origins.iter().all(|(key, origin)| key == "node.name" || *origin == Origin::Default));
}

#[test]
fn every_default_has_a_comment_above_it() {
    let lines: Vec<&str> = DEFAULTS.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            let name = line.split(' ').next().unwrap_or_default();
            let explained =
                lines[..number].iter().rev().take_while(|above| !above.is_empty() && !above.starts_with('['));
            assert!(explained.into_iter().any(|above| above.starts_with('#')), "`{name}` is not explained");
        }
    }
}

#[test]
fn the_command_line_beats_the_environment_beats_the_file_beats_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seawall.toml");
    std::fs::write(&path, "[http]\nlisten = \"127.0.0.1:1\"\nconnections_max = 1\nheader_timeout = \"1s\"\n").unwrap();
    let sources = Sources {
        file: Some(path.clone()),
        environment: vec![
            ("SEAWALL_HTTP__CONNECTIONS_MAX".into(), "2".into()),
            ("SEAWALL_HTTP__HEADER_TIMEOUT".into(), "2s".into()),
            ("SEAWALL_REPLICATION__REQUIRED".into(), "a, b".into()),
            ("SEAWALL_CONFIG".into(), "is not a key".into()),
            ("PATH".into(), "neither".into()),
        ],
        assignments: vec!["http.header_timeout=3s".into()],
        options: vec![("--data-dir".into(), "node.data_dir", "/data".into())],
    };
    let Loaded { config, origins } = Config::load(&sources).unwrap();
    assert_eq!(config.http.listen, Some("127.0.0.1:1".parse().unwrap()));
    assert_eq!(config.http.connections_max, 2);
    assert_eq!(config.http.header_timeout, Span(Duration::from_secs(3)));
    assert_eq!(config.replication.required, ["a", "b"]);
    assert_eq!(config.node.data_dir, Path::new("/data"));
    let origin = |key: &str| origins[key].to_string();
    assert_eq!(origin("http.listen"), path.display().to_string());
    assert_eq!(origin("http.connections_max"), "SEAWALL_HTTP__CONNECTIONS_MAX");
    assert_eq!(origin("http.header_timeout"), "--set");
    assert_eq!(origin("node.data_dir"), "--data-dir");
    assert_eq!(origin("log.segment_size"), "default");
}

#[test]
fn an_unknown_key_is_refused_with_the_file_and_the_nearest_key() {
    let (dir, result) = file("[http]\nlissen = \"127.0.0.1:1\"\n");
    let path = dir.path().join("seawall.toml");
    assert_eq!(
        result.unwrap_err().to_string(),
        format!("{}: unknown key `http.lissen`; did you mean `http.listen`?", path.display())
    );
    assert!(refused(&["replication.lisen=x"]).contains("did you mean `replication.listen`?"));
    assert!(refused(&["htp.listen=x"]).contains("did you mean `http.listen`?"));
    assert!(refused(&["backpressure.wait=1s"]).contains("unknown key `backpressure.wait`"));
    let strange = refused(&["zebra.stripes=7"]);
    assert!(strange.contains("`seawall config defaults` prints every key"), "{strange}");
    let (_dir, result) = file("listen = 1\n");
    assert!(result.unwrap_err().to_string().contains("unknown key `listen`"));
}

#[test]
fn text_that_is_not_toml_is_refused_with_line_and_column() {
    let (_dir, result) = file("[http]\nlisten = \n");
    let message = result.unwrap_err().to_string();
    assert!(message.contains("line 2"), "{message}");
}

#[test]
fn a_file_that_was_named_must_exist() {
    let sources = Sources { file: Some("/nonexistent/seawall.toml".into()), ..Sources::default() };
    let message = Config::load(&sources).unwrap_err().to_string();
    assert!(message.starts_with("cannot read /nonexistent/seawall.toml"), "{message}");
}

#[test]
fn a_wrong_value_is_refused_with_its_origin_key_and_what_was_expected() {
    for (assignment, expected) in [
        ("http.header_timeout=soon", "`soon` is not a duration such as"),
        ("log.buffer_max=much", "`much` is not a size such as"),
        ("node.role=king", "expected one of `primary`, `standby`, `standalone`"),
        ("replication.synchronous=all", "`all`"),
        ("replication.commit_level=remote_flush(0)", "not a commit level"),
        ("http.connections_max=many", "expected"),
        ("archive.on_failure=gap", "`block`"),
    ] {
        let message = refused(&[assignment]);
        let key = assignment.split('=').next().unwrap();
        assert!(message.starts_with(&format!("--set: `{key}` = ")), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn an_address_that_is_not_loopback_is_refused_until_plaintext_is_spelled_out() {
    for section in ["http", "replication"] {
        let listen = format!("{section}.listen=0.0.0.0:7000");
        let message = refused(&["node.role=primary", &listen]);
        assert!(message.contains(&format!("set {section}.insecure_plaintext = true")), "{message}");
        let allow = format!("{section}.insecure_plaintext=true");
        with(&["node.role=primary", &listen, &allow]).unwrap();
    }
    let standby = ["node.role=standby", "replication.upstream=db1:7701"];
    assert!(refused(&standby).contains("another machine"));
    with(&[standby[0], standby[1], "replication.insecure_plaintext=true"]).unwrap();
    let repairing = ["node.role=primary", "replication.repair_from=localhost:7702, db2:7701"];
    let message = refused(&repairing);
    assert!(message.contains("`replication.repair_from` is db2:7701, another machine"), "{message}");
    with(&[repairing[0], repairing[1], "replication.insecure_plaintext=true"]).unwrap();
    for near in ["127.0.0.1:7701", "localhost:7701", "[::1]:7701"] {
        with(&["node.role=standby", &format!("replication.upstream={near}")]).unwrap();
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (assignments, expected) in [
        (&["node.role=standby"][..], "`replication.upstream` must be set"),
        (&["replication.upstream=localhost:1"], "which follows nobody"),
        (&["replication.listen=127.0.0.1:1"], "set node.role = \"primary\""),
        (&["node.role=standby", "replication.upstream=nowhere"], "expected host:port"),
        (&["replication.repair_from=localhost:1"], "no other node has its log"),
        (
            &["node.role=primary", "replication.repair_from=localhost:1,nowhere"],
            "`replication.repair_from` is `nowhere`",
        ),
        (&["log.segment_size=3MiB"], "a power of two"),
        (&["log.segment_size=32KiB"], "from 64KiB to 1GiB"),
        (&["archive.url=ftp://x"], "the scheme `ftp` is not known"),
        (&["archive.endpoint=http://x"], "but archive.url is not"),
        (&["archive.url=s3://bucket", "archive.endpoint=x:9000"], "starts with http://"),
        (&["archive.access_key_file=/x"], "`archive.secret_key_file` must be set too"),
        (&["archive.secret_key_file=/x"], "`archive.access_key_file` must be set too"),
        (&["backpressure.target_ratio=1.0"], "between 0.05 and 0.95"),
        (&["backpressure.max_replication_lag_bytes=1MiB"], "`backpressure.max_replication_lag_bytes` cannot work"),
        (&["http.request_timeout=0s"], "longer than 0s"),
        (&["http.connections_max=0"], "greater than 0"),
        (&["logging.level=a=b=c"], "`logging.level` is"),
        (&["node.name=no spaces"], "gives the name `no spaces`"),
    ] {
        let message = refused(assignments);
        assert!(message.contains(expected), "{assignments:?}: {message}");
    }
}

#[test]
fn a_keyspace_is_tuned_by_a_section_of_its_name_whatever_the_name() {
    let (dir, loaded) = file(
        "[node]\nname = \"a\"\n[keyspace.users]\ntuning = \"read_heavy\"\n\
         [keyspace.\"v1.2 [x]\"]\ntuning = \"large_values\"\n[keyspace.events]\n",
    );
    let Loaded { config, origins } = loaded.unwrap();
    let path = dir.path().join("seawall.toml").display().to_string();
    assert_eq!(origins["keyspace.users.tuning"].to_string(), path);
    use seawall_engine::Tuning as Engine;
    let expected = [("users", Engine::ReadHeavy), ("v1.2 [x]", Engine::LargeValues)];
    assert_eq!(config.tunings().collect::<Vec<_>>(), expected.map(|(name, tuning)| (name.to_owned(), tuning)));
    assert_eq!(with(&[]).unwrap().config.tunings().count(), 0);

    let sources = Sources {
        file: Some(dir.path().join("seawall.toml")),
        environment: vec![
            ("SEAWALL_KEYSPACE__USERS__TUNING".into(), "write_heavy".into()),
            ("SEAWALL_KEYSPACE__EVENTS__TUNING".into(), "write_heavy".into()),
        ],
        assignments: vec!["keyspace.events.tuning=balanced".into()],
        ..Sources::default()
    };
    let Loaded { config, origins } = Config::load(&sources).unwrap();
    assert_eq!(config.keyspace["users"].tuning, Tuning::WriteHeavy);
    assert_eq!(config.keyspace["events"].tuning, Tuning::Balanced);
    let origin = |name: &str| origins[&format!("keyspace.{name}.tuning")].to_string();
    assert_eq!(origin("users"), "SEAWALL_KEYSPACE__USERS__TUNING");
    assert_eq!((origin("events").as_str(), origin("v1.2 [x]")), ("--set", path));
}

#[test]
fn the_section_of_a_keyspace_that_the_defaults_describe_can_be_used() {
    let example = DEFAULTS.lines().skip_while(|line| *line != "# [keyspace.users]").take_while(|line| !line.is_empty());
    let example: String = example.map(|line| format!("{}\n", line.trim_start_matches("# "))).collect();
    let settings = example.lines().filter(|line| line.starts_with('[') || line.starts_with("tuning = "));
    let text = settings.collect::<Vec<_>>().join("\n");
    let (_dir, loaded) = file(&format!("[node]\nname = \"a\"\n{text}\n"));
    assert_eq!(loaded.unwrap().config.keyspace["users"].tuning, Tuning::Balanced);
    for tuning in ["balanced", "write_heavy", "read_heavy", "large_values"] {
        assert!(example.contains(&format!("\"{tuning}\"")), "{tuning} is not explained");
        with(&[&format!("keyspace.users.tuning={tuning}")]).unwrap();
    }
}

#[test]
fn a_wrong_tuning_is_refused_with_its_file_key_and_what_there_is() {
    let message = |text: &str| {
        let (dir, result) = file(&format!("[node]\nname = \"a\"\n{text}"));
        let path = dir.path().join("seawall.toml").display().to_string();
        result.unwrap_err().to_string().replace(&path, "FILE")
    };
    assert_eq!(
        message("[keyspace.users]\ntuning = \"fast\"\n"),
        "FILE: `keyspace.users.tuning` = \"fast\": unknown variant `fast`, expected one of `balanced`, `write_heavy`, \
         `read_heavy`, `large_values`"
    );
    assert!(message("[keyspace.users]\ntuning = 7\n").starts_with("FILE: `keyspace.users.tuning` = 7: "));
    for (text, unknown) in [
        ("[keyspace.users]\ntunning = \"balanced\"\n", "keyspace.users.tunning"),
        ("[keyspace]\ntuning = \"balanced\"\n", "keyspace.tuning"),
    ] {
        let nearest = format!("FILE: unknown key `{unknown}`; did you mean `keyspace.<name>.tuning`?");
        assert_eq!(message(text), nearest);
    }
    let long = "k".repeat(256);
    for (name, len) in [("\"\"", 0), (long.as_str(), 256)] {
        let message = message(&format!("[keyspace.{name}]\ntuning = \"balanced\"\n"));
        assert!(message.starts_with("FILE: `keyspace."), "{message}");
        assert!(
            message.ends_with(&format!("is for no keyspace: a name has 1 to 255 bytes, this one has {len}")),
            "{message}"
        );
    }
}

#[test]
fn ceilings_become_the_throttles_limits() {
    let loaded = with(&["backpressure.max_replication_lag_seconds=0", "backpressure.target_ratio=0.25"]).unwrap();
    let limits = loaded.config.backpressure.limits();
    assert_eq!(limits.standby_time, None);
    assert_eq!(limits.standby_bytes, Some(Bound { target: 256 << 20, ceiling: 1 << 30 }));
    assert_eq!(limits.archive_time, Some(Bound { target: Duration::from_secs(75), ceiling: Duration::from_secs(300) }));
    assert_eq!(limits.disk_free, Some(Bound { target: 2 << 30, ceiling: 1 << 30 }));
}

#[test]
fn the_archives_settings_describe_a_repository_with_credentials_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let (access, secret) = (dir.path().join("access"), dir.path().join("secret"));
    std::fs::write(&access, "AK\n").unwrap();
    let settings = [
        "archive.url=s3://bucket/prefix".to_owned(),
        "archive.endpoint=http://127.0.0.1:9000".to_owned(),
        format!("archive.access_key_file={}", access.display()),
        format!("archive.secret_key_file={}", secret.display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let archive = with(&settings).unwrap().config.archive;
    let missing = archive.repository().unwrap_err().to_string();
    assert!(missing.starts_with("cannot read archive.secret_key_file"), "{missing}");
    std::fs::write(&secret, "very-secret\n").unwrap();
    let mut repository = archive.repository().unwrap().unwrap();
    assert_eq!(repository.to_string(), "s3://bucket/prefix");
    assert!(!format!("{repository:?}").contains("very-secret"));
    assert!(repository.s3_options_mut().unwrap().path_style);
    assert!(with(&[]).unwrap().config.archive.repository().unwrap().is_none());
}
