//! Which test notices which bug: a row for each bug that can be planted. The test is the promise that the bug breaks, not
//! one that plants it itself.

/// A bug and the test that fails with it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The bug, as the environment names it.
    pub bug: &'static str,
    /// Where the test is: the package's folder, and a test target or `lib`.
    pub target: &'static str,
    /// The test.
    pub test: &'static str,
}

/// What has the tests of the table.
pub const PACKAGES: &[&str] =
    &["seawall-wal", "seawall-engine", "seawall-replication", "seawall-backup", "seawall-mutants"];

/// The test, by target and name, that the bugs of the table are those of the crates.
pub const ALL_HAVE_ROWS: (&str, &str) = ("mutants/table", "every_bug_has_one_row_and_every_row_a_bug");

const PRIMARY_CRASHES: &str = "no_crash_of_a_primary_loses_an_acknowledged_record_or_raises_a_false_alarm";
const STANDBY_CRASHES: &str = "no_crash_of_a_standby_loses_what_it_flushed_or_raises_a_false_alarm";
const RING_AND_CALLS: &str =
    "storage::uring::tests::a_ring_answers_and_leaves_the_bytes_as_posix_calls_do_whatever_the_kernel_says";
const POWER_LOST: &str = "power_lost_at_any_operation_loses_nothing_acknowledged";
const EVERY_ANSWER: &str = "every_operation_meets_every_answer_and_nothing_acknowledged_is_lost";
const MODEL: &str = "it_is_a_map_whatever_happens_in_one_order";
const PICKS: &str =
    "compaction::pick::tests::whatever_is_picked_versions_stay_in_their_order_and_deletes_until_they_hide_nothing";

/// All of them.
pub const ROWS: &[Row] = &[
    // Writing the log.
    row("wal:no-sync", "wal/crash", PRIMARY_CRASHES),
    row("wal:sync-before-write", "wal/crash", PRIMARY_CRASHES),
    row("wal:acknowledge-before-sync", "wal/crash", PRIMARY_CRASHES),
    row("wal:retry-failed-sync", "wal/log", "a_failed_sync_ends_the_log_for_good_and_nothing_acknowledged_is_lost"),
    row("wal:folder-not-synced", "wal/crash", PRIMARY_CRASHES),
    row(
        "wal:recycled-not-wiped",
        "wal/crash",
        "no_crash_of_a_log_whose_segments_serve_again_loses_an_acknowledged_record_or_raises_a_false_alarm",
    ),
    row(
        "wal:wiped-taken-for-prepared",
        "wal/headers",
        "a_damaged_header_of_a_segment_that_opening_does_not_need_is_noted_and_repaired_while_the_log_is_open",
    ),
    row(
        "wal:gap-unnoticed",
        "wal/headers",
        "a_segment_that_is_missing_between_others_is_noted_and_repaired_and_the_oldest_may_have_been_let_go",
    ),
    row(
        "wal:newest-let-go-first",
        "wal/headers",
        "segments_are_let_go_of_in_their_order_and_the_first_that_stays_keeps_those_behind_it",
    ),
    row(
        "wal:name-let-go-of-twice",
        "wal/lib",
        "segment::tests::what_could_not_be_let_go_of_stays_once_its_name_is_needed_again",
    ),
    row(
        "wal:recycled-name-not-synced",
        "wal/lib",
        "segment::tests::a_recycled_segment_has_lost_its_name_for_good_before_it_gets_another_one",
    ),
    row("wal:stamp-ahead-of-flush", "wal/crash", PRIMARY_CRASHES),
    row("wal:replaced-by-unsynced", "engine/crash", POWER_LOST),
    row("wal:replaced-name-not-synced", "engine/crash", POWER_LOST),
    row("wal:short-write-believed", "engine/every_operation_fails", EVERY_ANSWER),
    row("wal:interrupted-is-failed", "engine/every_operation_fails", EVERY_ANSWER),
    row("wal:linked-sync-failure-forgotten", "wal/lib", RING_AND_CALLS),
    row("wal:short-link-believed", "wal/lib", RING_AND_CALLS),
    row("wal:split-link-believed", "wal/lib", RING_AND_CALLS),
    row("wal:standby-acknowledges-unsynced", "wal/crash", STANDBY_CRASHES),
    row("wal:standby-switches-unsynced", "wal/crash", STANDBY_CRASHES),
    row(
        "wal:stale-failure-believed",
        "wal/log",
        "a_full_disk_stops_writes_and_the_next_one_after_there_is_room_goes_on",
    ),
    row("wal:retention-ignores-holders", "wal/lib", "retention::tests::the_slowest_holder_decides_and_is_named"),
    // Reading the log again.
    row("wal:no-salt", "wal/crash", PRIMARY_CRASHES),
    row("wal:ignore-stamp", "wal/crash", "every_flipped_bit_is_harmless_or_refused_or_in_the_last_group_and_reported"),
    row(
        "wal:truncate-at-any-bad-crc",
        "wal/crash",
        "every_flipped_bit_is_harmless_or_refused_or_in_the_last_group_and_reported",
    ),
    row(
        "wal:watermark-ignored",
        "wal/crash",
        "below_the_watermark_no_flipped_bit_is_cut_by_a_primary_nor_by_a_standby",
    ),
    row("wal:unbounded-length", "wal/lib", "format::tests::a_record_that_says_it_is_longer_than_its_segment_is_none"),
    row("wal:version-not-checked", "wal/lib", "format::tests::a_segment_header_reads_back_and_tells_its_states_apart"),
    row("wal:chain-ignored", "wal/log", "what_a_copied_primary_wrote_does_not_continue_what_the_primary_wrote"),
    row("wal:foreign-accepted", "wal/log", "a_log_of_another_cluster_or_version_is_refused_unchanged"),
    row("wal:cut-left-there", "wal/crash", PRIMARY_CRASHES),
    row("wal:recovered-not-synced", "wal/crash", "what_an_opening_found_is_there_when_power_is_lost_behind_it"),
    row(
        "wal:repair-not-synced",
        "wal/repair",
        "power_lost_during_a_repair_leaves_a_log_that_is_whole_or_can_be_repaired_again",
    ),
    row("wal:repairs-together", "wal/repair", "two_repairs_of_one_log_do_not_share_the_file_that_they_make"),
    row(
        "wal:repair-before-flush",
        "wal/repair",
        "a_segment_whose_last_records_are_not_flushed_is_not_repaired_before_they_are",
    ),
    row(
        "wal:damage-taken-for-another-log",
        "wal/damage",
        "whether_a_record_ends_behind_damage_is_not_known_and_the_damage_is_noted",
    ),
    row(
        "wal:unreadable-sector-not-noted",
        "wal/damage",
        "a_sector_of_a_sealed_segment_that_the_device_cannot_read_is_noted_as_damage_and_other_errors_are_not",
    ),
    row(
        "wal:unsealed-given",
        "wal/sealed",
        "what_is_given_of_sealed_segments_is_what_the_open_log_gives_and_of_the_last_one_nothing",
    ),
    row("wal:repair-unproven", "wal/repair", "a_copy_that_is_damaged_or_of_another_history_is_refused"),
    // What is written down beside the log.
    row("engine:tables-not-synced", "engine/crash", POWER_LOST),
    row("engine:tables-folder-not-synced", "engine/crash", POWER_LOST),
    row("engine:blobs-not-synced", "engine/crash", POWER_LOST),
    row(
        "engine:copied-names-not-synced",
        "engine/crash",
        "power_lost_while_a_checkpoint_is_made_leaves_a_whole_copy_or_none",
    ),
    row("engine:redo-beyond-tables", "engine/model", "it_is_a_map_whatever_happens_with_its_threads"),
    row("engine:old-manifest-removed-first", "engine/crash", POWER_LOST),
    row("engine:manifest-not-checked", "engine/lib", "manifest::tests::a_manifest_reads_back_by_number_and_digest"),
    row("engine:control-not-synced", "engine/crash", POWER_LOST),
    row(
        "engine:control-updated-once",
        "engine/crash",
        "either_copy_of_the_control_file_is_enough_after_any_crash_and_during_the_next_opening",
    ),
    row("engine:control-not-checked", "engine/lib", "control::tests::every_flipped_bit_is_detected_or_harmless"),
    row("engine:watermark-not-noted", "engine/pressure", "the_watermark_follows_the_log_while_it_runs"),
    row(
        "engine:recovery-tables-ahead-of-log",
        "engine/crash",
        "tables_written_by_recovery_are_not_ahead_of_a_log_that_was_never_synced",
    ),
    row("engine:second-opener-let-in", "engine/usage", "a_second_opener_is_told_who_has_it"),
    row(
        "engine:one-copy-asked",
        "engine/repair",
        "a_copy_that_does_not_help_is_passed_over_and_when_none_does_each_is_named",
    ),
    row("engine:repairs-unproven", "engine/repair", "a_copy_that_is_damaged_too_is_not_put_in_place"),
    // What readers see.
    row(
        "engine:visible-before-durable",
        "engine/transactions",
        "versions_that_are_not_flushed_conflict_although_nobody_can_read_them",
    ),
    row("engine:snapshots-read-newest", "engine/model", MODEL),
    row("engine:merge-forgets-snapshots", "engine/model", MODEL),
    row("engine:many-answered-in-key-order", "engine/model", MODEL),
    row("engine:blocks-not-checked", "engine/lib", "table::tests::every_flipped_bit_is_detected_or_harmless"),
    row(
        "engine:blob-values-not-checked",
        "engine/lib",
        "blob::tests::every_flipped_bit_is_detected_in_the_value_it_hits_and_in_no_other",
    ),
    // Transactions.
    row("engine:unchecked-transactions", "engine/model", MODEL),
    row("engine:unchecked-ranges", "engine/model", MODEL),
    row("engine:unchecked-unflushed", "engine/model", MODEL),
    row(
        "engine:unchecked-pending",
        "engine/lib",
        "transaction::tests::what_is_in_the_log_and_waits_to_be_applied_conflicts",
    ),
    row("engine:unchecked-range-deletes", "engine/model", MODEL),
    row("engine:unchecked-expiry", "engine/model", MODEL),
    row("engine:own-writes-unseen-backward", "engine/model", MODEL),
    row("engine:own-range-deletes-unseen", "engine/model", MODEL),
    // Deletes, operands and the ends of values.
    row("engine:deletes-not-applied", "engine/model", MODEL),
    row("engine:deletes-not-written-out", "engine/model", MODEL),
    row("engine:range-deletes-spare-their-commit", "engine/model", MODEL),
    row("engine:range-deletes-in-tables-unseen", "engine/model", MODEL),
    row("engine:range-deletes-not-written-out", "engine/model", MODEL),
    row("engine:range-deletes-cut-to-keys", "engine/model", MODEL),
    row("engine:range-deletes-dropped-above-the-bottom", "engine/model", MODEL),
    row("engine:operands-folded-across-the-floor", "engine/model", MODEL),
    row("engine:operands-replace-each-other", "engine/model", MODEL),
    row(
        "engine:operands-without-their-base",
        "engine/lib",
        "compaction::survival::tests::operands_without_a_base_are_a_value_at_the_bottom_only",
    ),
    row(
        "engine:ends-forgotten-below-operands",
        "engine/lib",
        "compaction::survival::tests::of_what_has_ended_the_end_is_left_for_operands_that_came_before_it",
    ),
    row("engine:expiry-by-wall-clock", "engine/model", MODEL),
    row("engine:expiry-at-the-floor-for-operands", "engine/model", MODEL),
    // Merges, and what keeps their pace.
    row("engine:pick-ignores-the-next-level", "engine/lib", PICKS),
    row("engine:pick-takes-the-newest-first", "engine/lib", PICKS),
    row("engine:pick-sees-the-bottom-everywhere", "engine/lib", PICKS),
    row("engine:pick-moves-onto-others", "engine/lib", PICKS),
    row("engine:blobs-not-renumbered", "engine/model", MODEL),
    row("engine:kept-blobs-forgotten", "engine/model", MODEL),
    row(
        "engine:pace-never-comes-back",
        "engine/lib",
        "compaction::pace::tests::the_budget_shrinks_while_flushes_take_twice_as_long_as_on_a_quiet_disk_and_comes_back",
    ),
    row("engine:pace-never-hurries", "engine/lib", "compaction::pace::tests::writing_is_as_fast_as_the_debt_demands"),
    row(
        "engine:gate-slows-nobody",
        "engine/lib",
        "gate::tests::a_writer_waits_longer_the_more_waits_to_be_written_and_never_long_at_once",
    ),
    row("engine:gate-stops-nobody", "engine/pressure", "memory_stays_bounded_while_tables_cannot_be_written"),
    row(
        "engine:failure-not-told",
        "engine/pressure",
        "writers_hear_what_no_table_can_be_written_for_and_go_on_by_themselves_when_one_can",
    ),
    // Standbys.
    row("replication:written-reported-as-flushed", "replication/scenarios", "streams_go_as_their_transcripts_tell"),
    row(
        "replication:one-confirmation-is-enough",
        "replication/lib",
        "quorum::tests::any_counts_whoever_confirmed_most_even_if_gone_since",
    ),
    row("replication:strangers-confirm", "replication/lib", "quorum::tests::standbys_outside_the_policy_do_not_count"),
    row(
        "replication:fed-by-an-older-timeline",
        "replication/lib",
        "standing::tests::nobody_is_fed_by_an_older_timeline_than_he_knows",
    ),
    row("replication:strangers-fetch", "replication/scenarios", "streams_go_as_their_transcripts_tell"),
    row(
        "replication:fetched-from-anywhere",
        "replication/cluster",
        "fetching::nobody_makes_a_node_believe_that_its_log_is_damaged",
    ),
    // The archive.
    row(
        "backup:digests-not-compared",
        "backup/lib",
        "format::envelope::tests::every_flipped_bit_is_found_or_changes_nothing_and_every_cut_is_found",
    ),
    row("backup:own-write-taken-for-a-fence", "backup/archiver", "a_lost_answer_is_recognised_as_our_own_write"),
    row(
        "backup:chunks-put-over-others",
        "backup/archiver",
        "of_two_archivers_with_different_logs_one_is_fenced_and_told_where",
    ),
    row(
        "backup:unreadable-log-ends-archiving",
        "backup/archiver",
        "damage_of_the_log_here_is_waited_out_and_once_repaired_everything_is_archived",
    ),
];

const fn row(bug: &'static str, target: &'static str, test: &'static str) -> Row {
    Row { bug, target, test }
}
