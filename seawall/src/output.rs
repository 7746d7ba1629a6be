//! What commands print. Standard output carries data and nothing else: text for people, or one JSON document with a
//! `format_version`. Progress, notes and errors go to standard error.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use crate::failure::{Failure, Kind};

/// Of every JSON document a command prints. Fields may be added under one version, never changed or removed.
pub const FORMAT_VERSION: u32 = 1;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Serialize)]
struct Document<'a, T> {
    format_version: u32,
    #[serde(flatten)]
    document: &'a T,
}

impl Output {
    /// Prints a result: `document` as JSON, or what `text` writes.
    pub fn document<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let written = match self {
            Self::Text => text(&mut out),
            Self::Json => serde_json::to_writer(&mut out, &Document { format_version: FORMAT_VERSION, document })
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out)),
        };
        delivered(written.and_then(|()| out.flush()))
    }

    /// Prints bytes as they are; a line break follows on a terminal only.
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let terminal = out.is_terminal();
        delivered(out.write_all(bytes).and_then(|()| if terminal { writeln!(out) } else { Ok(()) }))
    }

    /// A remark on standard error.
    pub fn note(self, text: impl std::fmt::Display) {
        let line = match self {
            Self::Text => text.to_string(),
            Self::Json => serde_json::json!({"type": "note", "message": text.to_string()}).to_string(),
        };
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// Says why a command failed, and with which code it ends.
    pub fn failure(self, failure: &Failure) -> ExitCode {
        let mut err = io::stderr().lock();
        let _ = match self {
            Self::Json => writeln!(err, "{}", failure.json()),
            Self::Text => writeln!(err, "error: {failure}").and_then(|()| match &failure.hint {
                Some(hint) => writeln!(err, " hint: {hint}"),
                None => Ok(()),
            }),
        };
        ExitCode::from(failure.kind.exit_code())
    }
}

/// A reader that went away has what it wanted.
fn delivered(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::new(Kind::Failed, format!("cannot write the output: {error}"))),
    }
}

/// Rows under a head, each column as wide as it must be.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With a head.
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints it.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// `1.4 GiB`, for people.
pub fn human_bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >= 1 << shift) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / f64::from(1u32 << shift)),
        None => format!("{bytes} B"),
    }
}

/// `1.4 s`, `230 ms`, `2 min 5 s`, for people.
pub fn human_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} us", s * 1e6),
        s if s < 0.01 => format!("{:.2} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s => humantime::format_duration(Duration::from_secs(s as u64)).to_string(),
    }
}

/// `12.3 k`, for counts per second.
pub fn human_count(count: f64) -> String {
    match count {
        c if c >= 1e6 => format!("{:.2} M", c / 1e6),
        c if c >= 1e4 => format!("{:.1} k", c / 1e3),
        c => format!("{c:.0}"),
    }
}

/// Bytes as text; what cannot be printed is written `\xNN`.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\t' => text.push_str("\\t"),
                '\n' => text.push_str("\\n"),
                character if character.is_control() => {
                    character.to_string().bytes().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
                }
                character => text.push(character),
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// Says how far a long command is, on standard error: in place on a terminal, else a line now and then.
#[derive(Debug)]
pub struct Progress {
    output: Output,
    terminal: bool,
    what: &'static str,
    started: std::time::Instant,
    last: Option<std::time::Instant>,
}

impl Progress {
    /// Of `what` is done, as a verb: `import`.
    pub fn new(output: Output, what: &'static str) -> Self {
        let terminal = io::stderr().is_terminal() && output == Output::Text;
        Self { output, terminal, what, started: std::time::Instant::now(), last: None }
    }

    /// So much is done, of so much if that is known. Printed at most five times a second on a terminal, every two
    /// seconds elsewhere.
    pub fn report(&mut self, items: u64, bytes: u64, bytes_total: Option<u64>) {
        let pause = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(2) };
        if self.last.unwrap_or(self.started).elapsed() < pause {
            return;
        }
        self.last = Some(std::time::Instant::now());
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = bytes as f64 / seconds;
        let eta = bytes_total.filter(|_| rate > 0.0).map(|total| total.saturating_sub(bytes) as f64 / rate);
        let mut err = io::stderr().lock();
        let _ = match self.output {
            Output::Json => writeln!(
                err,
                "{}",
                serde_json::json!({"type": "progress", "what": self.what, "items_done": items, "bytes_done": bytes,
                    "bytes_total": bytes_total, "elapsed_seconds": seconds, "eta_seconds": eta})
            ),
            Output::Text => {
                let total = bytes_total.map(|total| format!(" of {}", human_bytes(total))).unwrap_or_default();
                let eta = eta.map(|eta| format!(", {} to go", human_seconds(eta))).unwrap_or_default();
                let line = format!(
                    "{}: {items} records, {}{total}, {}/s{eta}",
                    self.what,
                    human_bytes(bytes),
                    human_bytes(rate as u64)
                );
                if self.terminal { write!(err, "\r\x1b[K{line}") } else { writeln!(err, "{line}") }
            }
        };
        let _ = err.flush();
    }

    /// Ends the line that was written in place.
    pub fn done(self) {
        if self.terminal && self.last.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_cannot_be_printed_are_escaped_and_nothing_is_lost() {
        assert_eq!(printable(b"a\tb\\\xff\x00\xc3\xa9"), "a\\tb\\\\\\xff\\x00\u{e9}");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(["wide".to_owned(), "x".to_owned()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A     LONG\nwide  x\n");
    }
}
