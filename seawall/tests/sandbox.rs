//! The sandbox's story on a small input holds from end to end, and its report is one JSON object whose checks all held.

use std::path::Path;
use std::process::Command;

#[test]
fn the_sandbox_tells_its_story_and_every_check_holds() {
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wal");
    let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
        .args(["--json", "sandbox", "--limit", "8MiB", "--input"])
        .arg(input)
        .output()
        .unwrap();
    let (printed, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{printed}");
    let report: serde_json::Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    let checks = report["checks"].as_array().unwrap();
    let held: Vec<&str> =
        checks.iter().filter(|check| check["ok"] == true).filter_map(|check| check["name"].as_str()).collect();
    for name in [
        "digests_after_ingest",
        "missed_log_recycled",
        "rejoined_through_archive",
        "nothing_admitted_past_ceiling",
        "ingestion_paused",
        "ingestion_resumed",
        "restored_equals_before_accident",
        "lag_within_ceiling",
        "promoted_and_fenced",
        "old_primary_refuses_writes",
        "digests_at_the_end",
        "nothing_acknowledged_is_missing",
    ] {
        assert!(held.contains(&name), "{name} among {held:?}");
    }
    assert!(report["figures"]["restore_seconds"].as_f64().unwrap() > 0.0);
}
