//! `seawall export`: a keyspace as JSON lines, CSV or a directory. From a directory it is one moment; from a running node
//! each page is, and the remark says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Context;
use super::data::{Data, Place};
use super::scan::{last_key, query};
use crate::entry::Entry;
use crate::failure::{Failure, Kind};
use crate::kv::{self, PAGE_ENTRIES_MAX, Page, Scan};
use crate::output::{Progress, human_bytes, printable};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Where to write: a new file, an empty or new directory, or `-` for standard output
    destination: PathBuf,
    /// How
    #[arg(long, value_enum, default_value = "jsonl")]
    format: OutputFormat,
    /// Only keys that begin with this
    #[arg(long, value_name = "KEY")]
    prefix: Option<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Jsonl,
    Csv,
    Dir,
}

#[derive(Debug, Default, Serialize)]
struct Exported {
    records: u64,
    bytes: u64,
    /// As of when; the last page's, where there were several moments.
    lsn: String,
    /// Keys that could not be written as files.
    skipped: u64,
    first_skipped: Option<String>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let data = arguments.place.open(context)?;
    let mut sink = Sink::new(&arguments.destination, arguments.format)?;
    let mut done = Exported::default();
    let mut progress = Progress::new(context.output, "export");
    let mut each = |done: &mut Exported, key: &[u8], value: &[u8]| -> Result<(), Failure> {
        match sink.write(key, value) {
            Ok(()) => {
                done.records += 1;
                done.bytes += (key.len() + value.len()) as u64;
                progress.report(done.records, done.bytes, None);
                Ok(())
            }
            Err(WriteError::Skip) => {
                done.skipped += 1;
                done.first_skipped.get_or_insert_with(|| printable(key));
                Ok(())
            }
            Err(WriteError::Failed(failure)) => Err(failure),
        }
    };
    let scan = Scan {
        prefix: arguments.prefix.clone().unwrap_or_default().into_bytes(),
        limit: PAGE_ENTRIES_MAX,
        ..Scan::default()
    };
    match &data {
        Data::Directory(db) => {
            let keyspace = kv::existing(db, &arguments.place.keyspace)?;
            let snapshot = db.snapshot()?;
            done.lsn = snapshot.lsn().to_string();
            for pair in kv::pairs(&snapshot, &keyspace, &scan) {
                let (key, value): (Bytes, Bytes) = pair?;
                each(&mut done, &key, &value)?;
            }
        }
        Data::Node(node) => {
            let mut scan = scan;
            let mut moments = std::collections::HashSet::new();
            loop {
                let page: Page = node.get(&format!("{}?{}", arguments.place.path(), query(&scan)))?;
                let wrong = |why| Failure::new(Kind::Failed, format!("the node's answer makes no sense: {why}"));
                for entry in &page.entries {
                    let (key, value) = (entry.key_bytes().map_err(wrong)?, entry.value_bytes().map_err(wrong)?);
                    each(&mut done, &key, &value)?;
                }
                done.lsn.clone_from(&page.lsn);
                moments.insert(page.lsn.clone());
                let last = last_key(&page)?;
                if !page.more || last.is_none() {
                    break;
                }
                scan.after = last;
            }
            if moments.len() > 1 {
                context.output.note("written while it was exported: pages are of different moments, each of one");
            }
        }
    }
    progress.done();
    sink.finish()?;
    if let Data::Directory(db) = data {
        db.close()?;
    }
    report(&done, arguments, context)
}

fn report(done: &Exported, arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    if done.skipped > 0 {
        let first = done.first_skipped.as_deref().unwrap_or_default();
        let message = format!(
            "{} records were written, {} were not: their keys, the first is `{first}`, are not names of files here",
            done.records, done.skipped
        );
        return Err(Failure::new(Kind::Partial, message).hint("--format jsonl takes any key"));
    }
    let line = format!("exported {} records, {}, as of {}", done.records, human_bytes(done.bytes), done.lsn);
    if arguments.destination == Path::new("-") {
        context.output.note(line);
        return Ok(());
    }
    context.output.document(done, |out| writeln!(out, "{line}"))
}

enum Sink {
    Lines(BufWriter<Box<dyn Write>>, Option<NewFile>),
    Csv(Box<csv::Writer<Box<dyn Write>>>, Option<NewFile>),
    Files(PathBuf),
}

/// A file that is removed again unless all of it was written: half an export looks like a whole one.
struct NewFile {
    file: File,
    path: PathBuf,
    whole: bool,
}

impl NewFile {
    fn finish(mut self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| failed("sync", &self.path, &error))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.whole {
            let _ = fs::remove_file(&self.path);
        }
    }
}

enum WriteError {
    Failed(Failure),
    /// This key cannot be written this way; others can.
    Skip,
}

impl Sink {
    fn new(destination: &Path, format: OutputFormat) -> Result<Self, Failure> {
        if format == OutputFormat::Dir {
            fs::create_dir_all(destination).map_err(|error| failed("make", destination, &error))?;
            let mut inside = fs::read_dir(destination).map_err(|error| failed("list", destination, &error))?;
            if inside.next().is_some() {
                let message = format!("{} is not empty", destination.display());
                return Err(Failure::new(Kind::Failed, message).hint("choose an empty or new directory"));
            }
            return Ok(Self::Files(destination.to_owned()));
        }
        let (writer, file): (Box<dyn Write>, _) = if destination == Path::new("-") {
            (Box::new(io::stdout()), None)
        } else {
            let file = OpenOptions::new().write(true).create_new(true).open(destination);
            let file = file.map_err(|error| failed("make", destination, &error))?;
            let new = NewFile { file, path: destination.to_owned(), whole: false };
            let second = new.file.try_clone().map_err(|error| failed("open", destination, &error))?;
            (Box::new(second), Some(new))
        };
        Ok(match format {
            OutputFormat::Csv => {
                let mut csv = csv::Writer::from_writer(writer);
                csv.write_record(["key", "value"]).map_err(|error| failed("write", destination, &error))?;
                Self::Csv(Box::new(csv), file)
            }
            _ => Self::Lines(BufWriter::new(writer), file),
        })
    }

    fn write(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        let output =
            |error: &dyn std::fmt::Display| WriteError::Failed(failed("write", Path::new("the output"), error));
        match self {
            Self::Lines(out, _) => serde_json::to_writer(&mut *out, &Entry::new(key, value))
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out))
                .map_err(|error| output(&error)),
            Self::Csv(csv, _) => match (std::str::from_utf8(key), std::str::from_utf8(value)) {
                (Ok(key), Ok(value)) => csv.write_record([key, value]).map_err(|error| output(&error)),
                _ => Err(WriteError::Failed(
                    Failure::new(
                        Kind::Failed,
                        format!("`{}` or its value is not UTF-8, which CSV needs", printable(key)),
                    )
                    .hint("--format jsonl takes any bytes"),
                )),
            },
            Self::Files(root) => write_file(root, key, value),
        }
    }

    /// Makes sure that what was written stays.
    fn finish(self) -> Result<(), Failure> {
        let file = match self {
            Self::Lines(mut out, file) => {
                out.flush().map_err(|error| failed("write", Path::new("the output"), &error))?;
                file
            }
            Self::Csv(mut csv, file) => {
                csv.flush().map_err(|error| failed("write", Path::new("the output"), &error))?;
                file
            }
            Self::Files(_) => None,
        };
        file.map_or(Ok(()), NewFile::finish)
    }
}

/// A key is a path only if it stays inside and is written the one way paths are written.
fn path_of(root: &Path, key: &[u8]) -> Option<PathBuf> {
    let key = std::str::from_utf8(key).ok().filter(|key| !key.is_empty() && !key.contains('\0'))?;
    let relative = Path::new(key);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    let same = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
    (plain && same == key).then(|| root.join(relative))
}

fn write_file(root: &Path, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
    let path = path_of(root, key).ok_or(WriteError::Skip)?;
    let parent = path.parent().ok_or(WriteError::Skip)?;
    let made = fs::create_dir_all(parent).and_then(|()| OpenOptions::new().write(true).create_new(true).open(&path));
    let mut file = match made {
        Ok(file) => file,
        // One key is a folder of another, or too long for a name.
        Err(error) => match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => {
                return Err(WriteError::Skip);
            }
            io::ErrorKind::InvalidFilename => return Err(WriteError::Skip),
            _ => return Err(WriteError::Failed(failed("make", &path, &error))),
        },
    };
    file.write_all(value).map_err(|error| WriteError::Failed(failed("write", &path, &error)))
}

fn failed(operation: &str, path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Kind::Failed, format!("cannot {operation} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_stay_inside_become_files() {
        let root = Path::new("/out");
        assert_eq!(path_of(root, b"src/main.rs"), Some(PathBuf::from("/out/src/main.rs")));
        for key in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a/.", "a\0b"] {
            assert_eq!(path_of(root, key.as_bytes()), None, "{key}");
        }
        assert_eq!(path_of(root, b"\xff"), None);
    }
}
