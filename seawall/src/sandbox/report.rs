//! What the sandbox found: checks, each of which can fail, and figures. Printed for people, or as one JSON object.

use std::collections::BTreeMap;

use serde::Serialize;

/// One thing that had to hold.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Short and stable, for programs.
    pub name: &'static str,
    /// Whether it held.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

/// The outcome of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Of this object.
    pub format_version: u32,
    /// Whether all checks held.
    pub ok: bool,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// Numbers and words, by name; units are in the names.
    pub figures: BTreeMap<&'static str, serde_json::Value>,
}

impl Report {
    /// Before anything was checked.
    pub fn new() -> Self {
        Self { format_version: 1, ok: true, ..Self::default() }
    }

    /// Adds a check.
    pub fn check(&mut self, name: &'static str, ok: bool, detail: impl Into<String>) {
        let detail = detail.into();
        eprintln!("  {} {name}: {detail}", if ok { "ok  " } else { "FAIL" });
        self.ok &= ok;
        self.checks.push(Check { name, ok, detail });
    }

    /// Adds a figure.
    pub fn figure(&mut self, name: &'static str, value: impl Into<serde_json::Value>) {
        self.figures.insert(name, value.into());
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::from("\nfigures\n");
        for (name, value) in &self.figures {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text.push_str(&format!("  {name:<36} {value}\n"));
        }
        text.push_str("\nchecks\n");
        for Check { name, ok, detail } in &self.checks {
            text.push_str(&format!("  {} {name}: {detail}\n", if *ok { "ok  " } else { "FAIL" }));
        }
        text
    }
}

/// Samples of which percentiles are wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub(super) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The smallest value that `part` of all samples do not exceed; `None` without samples.
    pub(super) fn percentile(&self, part: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let index = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(index).copied()
    }

    /// The largest.
    pub(super) fn max(&self) -> Option<f64> {
        self.percentile(1.0)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
