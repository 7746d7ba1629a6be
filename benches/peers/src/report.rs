//! What is handed out: a header that says where and when, and the rows, as text and as JSON.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::bars::{Bar, Check, rate};
use crate::device::Device;
use crate::rounds::{Measured, Plan};
use crate::statistics::Spread;

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) row: String,
    /// What is asked, in words; empty if nothing is.
    bar: String,
    moonshot: String,
    measured: String,
    /// None if nothing is asked, or something that is asked was not measured and nothing failed.
    met: Option<bool>,
    moonshot_met: Option<bool>,
    notes: Vec<String>,
    checks: Vec<Check>,
    pub(crate) cells: Vec<Measured>,
}

impl Row {
    /// Cells held against bars.
    pub(crate) fn new(row: impl Into<String>, bars: &[Bar], cells: Vec<Measured>) -> Self {
        Self::with(row, bars, cells, |_, _| None)
    }

    /// The same, where some figures are for the row to work out.
    pub(crate) fn with(
        row: impl Into<String>,
        bars: &[Bar],
        cells: Vec<Measured>,
        special: impl Fn(&Bar, &[Measured]) -> Option<Spread>,
    ) -> Self {
        let checks: Vec<Check> = bars.iter().map(|bar| bar.check(&cells, |bar| special(bar, &cells))).collect();
        let joined = |said: fn(&Check) -> &Option<String>| {
            let said = checks.iter().filter_map(|check| Some(format!("{} {}", check.what, said(check).as_ref()?)));
            said.collect::<Vec<_>>().join("; ")
        };
        let figure = |check: &Check| format!("{} {}", check.what, check.figure.as_deref().unwrap_or("not measured"));
        let met = |held: fn(&Check) -> (&Option<String>, Option<bool>)| {
            let asked: Vec<_> =
                checks.iter().map(held).filter(|(said, _)| said.is_some()).map(|(_, met)| met).collect();
            if asked.contains(&Some(false)) {
                return Some(false);
            }
            (!asked.is_empty() && asked.iter().all(Option::is_some)).then_some(true)
        };
        Self {
            row: row.into(),
            bar: joined(|check| &check.bar),
            moonshot: joined(|check| &check.moonshot),
            measured: checks.iter().map(figure).collect::<Vec<_>>().join("; "),
            met: met(|check| (&check.bar, check.met)),
            moonshot_met: met(|check| (&check.moonshot, check.moonshot_met)),
            notes: Vec::new(),
            checks,
            cells,
        }
    }

    /// A row for which nothing could be measured, and why.
    pub(crate) fn failed(row: impl Into<String>, why: &anyhow::Error) -> Self {
        Self::new(row, &[], Vec::new()).note(format!("not measured: {why:#}"))
    }

    /// With something the reader must know.
    #[must_use]
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let verdict = match self.met {
            Some(true) => "met",
            Some(false) => "NOT met",
            None => "",
        };
        writeln!(out, "\n{}", format!("{}  {verdict}", self.row).trim_end())?;
        for check in &self.checks {
            let measured = check.figure.as_deref().unwrap_or("not measured");
            let met = match (check.met, check.moonshot_met) {
                (_, Some(true)) => "moonshot",
                (Some(true), _) => "met",
                (Some(false), _) => "NOT met",
                (None, _) => "",
            };
            let said = |name: &str, limit: &Option<String>| limit.as_ref().map(|limit| format!("{name} {limit}"));
            let (bar, moonshot) = (said("bar", &check.bar), said("moonshot", &check.moonshot));
            let (bar, moonshot) = (bar.unwrap_or_default(), moonshot.unwrap_or_default());
            let range = check.range.as_ref().map(|(least, most)| format!("({least} - {most})")).unwrap_or_default();
            let close = if check.close == Some(true) { ", rounds differ" } else { "" };
            let line = format!("  {:<50} {measured:>13} {range:<25} {bar:<15} {moonshot:<20} {met}{close}", check.what);
            writeln!(out, "{}", line.trim_end())?;
        }
        for note in &self.notes {
            writeln!(out, "  ({note})")?;
        }
        let names = self.cells.iter().map(|cell| cell.name.chars().count()).max().unwrap_or(0);
        for cell in &self.cells {
            cell_line(out, cell, names)?;
        }
        Ok(())
    }
}

fn cell_line(out: &mut String, cell: &Measured, names: usize) -> std::fmt::Result {
    write!(out, "    {:<names$}", cell.name)?;
    match (&cell.per_second, &cell.failed) {
        (Some(spread), _) => {
            let range = format!("({} - {})", rate(spread.min), rate(spread.max));
            write!(out, "  {:>11}  {range:<27}", rate(spread.median))?;
        }
        (None, Some(why)) => return writeln!(out, "  failed: {why}"),
        (None, None) => return writeln!(out, "  not measured"),
    }
    let latency = |figure: fn(crate::statistics::Quantiles) -> f64| cell.median(|round| round.latency.map(figure));
    if let (Some(p50), Some(p99), Some(p999)) =
        (latency(|all| all.p50_us), latency(|all| all.p99_us), latency(|all| all.p999_us))
    {
        write!(out, "  p50 {p50:.0} p99 {p99:.0} p99.9 {p999:.0} us")?;
    }
    if let Some(flushes) = cell.median(|round| round.flushes_per_second) {
        let each = cell.median(|round| round.flushes_per_operation).unwrap_or(0.0);
        write!(out, "  flushes {flushes:.0}/s {each:.3}/op")?;
    }
    if let Some(commits) = cell.median(|round| round.journal_commits_per_operation) {
        write!(out, "  journal {commits:.3}/op")?;
    }
    if cell.durable == Some(false) {
        write!(out, "  NOT DURABLE")?;
    }
    if cell.dirty_rounds() > 0 {
        write!(out, "  dirty {}/{}", cell.dirty_rounds(), cell.rounds.len())?;
    }
    writeln!(out)
}

/// Where and when.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Header {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) leg: String,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) device: Device,
    /// Which way Seawall's bulk reads and writes go.
    pub(crate) io_path: String,
    /// Of our own loop: the one that rows are compared with is measured again in each of them.
    pub(crate) f_per_second: Option<f64>,
    /// What fio says, if there is one.
    pub(crate) f_fio_per_second: Option<f64>,
    pub(crate) rounds_kept: usize,
    pub(crate) slice_ms: u64,
}

impl Header {
    /// Of this machine, this source and this moment.
    pub(crate) fn new(leg: String, device: Device, plan: &Plan) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            date: jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S %Z").to_string(),
            commit: commit(),
            leg,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: model.map_or_else(String::new, |(_, model)| model.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            device,
            io_path: {
                use seawall_wal::storage::{Disk, Storage};
                Disk::new().io_path().to_string()
            },
            f_per_second: None,
            f_fio_per_second: None,
            rounds_kept: plan.rounds.saturating_sub(1).max(1),
            slice_ms: plan.slice.as_millis() as u64,
        }
    }
}

/// The source this was built from, with a `+` if it was changed since.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("git").arg("-C").arg(source).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| String::from("unknown"));
    if changed { commit + "+" } else { commit }
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) header: Header,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// As text.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let header = &self.header;
        writeln!(out, "{}, commit {}, leg {}", header.date, header.commit, header.leg)?;
        writeln!(out, "Linux {}, {} x {}", header.kernel, header.cpus, header.cpu)?;
        let device = &header.device;
        let journal = if device.journal { "with a journal" } else { "without a journal of its own count" };
        let Device { name, write_cache, filesystem, mount_options, .. } = device;
        writeln!(
            out,
            "{filesystem} {journal} ({mount_options}) on {name}, {write_cache}; Seawall by {}",
            header.io_path
        )?;
        let said = |figure: Option<f64>| figure.map_or_else(|| String::from("not measured"), rate);
        writeln!(out, "F {} by our own loop, {} by fio", said(header.f_per_second), said(header.f_fio_per_second))?;
        let (rounds, slice) = (header.rounds_kept, header.slice_ms);
        writeln!(out, "medians (least - greatest) of {rounds} rounds of {slice} ms, after one that is dropped")?;
        self.rows.iter().try_for_each(|row| row.write(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bars::RECOVERY;

    #[test]
    fn a_row_without_figures_says_so_and_is_neither_met_nor_failed() {
        let row = Row::new("crash recovery", RECOVERY, Vec::new());
        assert_eq!((row.met, row.moonshot_met), (None, None));
        assert!(row.measured.contains("not measured"), "{}", row.measured);
        let text = Report { header: Header::new("here".into(), Device::default(), &PLAN), rows: vec![row] }.text();
        assert!(text.contains("Seawall / RocksDB") && text.contains("≥ 8.00x"), "{text}");
    }

    #[test]
    fn a_report_is_json_with_the_names_readers_look_for() {
        let rows = vec![Row::failed("a row", &anyhow::anyhow!("no room"))];
        let report = Report { header: Header::new("here".into(), Device::default(), &PLAN), rows };
        let json = serde_json::to_value(&report).unwrap();
        for name in ["date", "kernel", "device", "cpu", "commit", "f_per_second", "io_path"] {
            assert!(json["header"].get(name).is_some(), "{name}");
        }
        for name in ["row", "bar", "moonshot", "measured", "met", "cells"] {
            assert!(json["rows"][0].get(name).is_some(), "{name}");
        }
        assert_eq!(json["rows"][0]["notes"][0], "not measured: no room");
    }

    const PLAN: Plan = Plan { rounds: 6, slice: std::time::Duration::from_millis(250), tries: 3, others_max: 0.2 };
}
