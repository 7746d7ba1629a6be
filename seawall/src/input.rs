//! Records to be imported, read one at a time from a directory of files, JSON lines or CSV. Knows nothing of databases;
//! memory is bounded by the largest record allowed.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::entry::Entry;

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// Where the keys of JSON lines and CSV rows come from. A directory's keys are its files' paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// From `key` and `value` (or `key_base64`, `value_base64`).
    Entries,
    /// The named field is the key; the whole line or row, as JSON, is the value.
    Field(String),
    /// The line's number, in twelve digits, is the key; the whole line or row is the value.
    Numbers,
}

/// What kind of input it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// With a head line.
    Csv,
    /// A directory: path to content.
    Directory,
}

/// Why input cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// A line or row is not what it should be.
    #[error("{}:{line}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// A record is larger than allowed.
    #[error("{}{}: {size} bytes or more, where a record may have {max}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Counted from 1; none if the file is the record.
        line: Option<u64>,
        /// Bytes met.
        size: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// Nothing says what kind of input it is.
    #[error("{} is neither a directory nor named .jsonl, .ndjson or .csv; say which it is with --format", path.display())]
    UnknownFormat {
        /// The path.
        path: PathBuf,
    },
}

/// An iterator over the records of an input.
pub struct Input {
    records: Box<dyn Iterator<Item = Result<Record, InputError>> + Send>,
    /// Bytes in all, if that is known beforehand.
    pub bytes_total: Option<u64>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("bytes_total", &self.bytes_total).finish_non_exhaustive()
    }
}

impl Iterator for Input {
    type Item = Result<Record, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records.next()
    }
}

impl Format {
    /// Judged by what is there, and by its name.
    pub fn of(path: &Path) -> Result<Self, InputError> {
        if path.is_dir() {
            return Ok(Self::Directory);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson") => Ok(Self::JsonLines),
            Some("csv") => Ok(Self::Csv),
            _ => Err(InputError::UnknownFormat { path: path.to_owned() }),
        }
    }
}

impl Input {
    /// Opens `path`; `-` is standard input. No record may have more than `record_max` bytes of key and value.
    pub fn open(path: &Path, format: Format, keys: Keys, record_max: u64) -> Result<Self, InputError> {
        if format == Format::Directory {
            let records = Files { root: path.to_owned(), todo: vec![path.to_owned()], ready: Vec::new(), record_max };
            return Ok(Self { records: Box::new(records), bytes_total: None });
        }
        let at = |operation, source| InputError::Io { operation, path: path.to_owned(), source };
        let (reader, bytes_total): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
            (Box::new(io::stdin()), None)
        } else {
            let file = fs::File::open(path).map_err(|error| at("open", error))?;
            let len = file.metadata().ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len());
            (Box::new(file), len)
        };
        let records: Box<dyn Iterator<Item = _> + Send> = match format {
            Format::Csv => Box::new(Rows::open(path, reader, keys, record_max)?),
            _ => Box::new(Lines { path: path.to_owned(), reader: BufReader::new(reader), keys, record_max, line: 0 }),
        };
        Ok(Self { records, bytes_total })
    }
}

/// Regular files below a directory, each folder in the order of names. Links are not followed.
struct Files {
    root: PathBuf,
    todo: Vec<PathBuf>,
    ready: Vec<PathBuf>,
    record_max: u64,
}

impl Files {
    fn read(&self, path: &Path) -> Result<Record, InputError> {
        let at = |operation| move |source| InputError::Io { operation, path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(at("open"))?;
        let mut value = Vec::new();
        file.take(self.record_max + 1).read_to_end(&mut value).map_err(at("read"))?;
        let key = path.strip_prefix(&self.root).unwrap_or(path).as_os_str().as_encoded_bytes().to_vec();
        let size = (key.len() + value.len()) as u64;
        if size > self.record_max {
            return Err(InputError::TooLarge { path: path.to_owned(), line: None, size, max: self.record_max });
        }
        Ok(Record { key, value })
    }

    fn enter(&mut self, folder: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
        names.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.file_name()));
        for entry in names {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.todo.push(entry.path());
            } else if kind.is_file() {
                self.ready.push(entry.path());
            }
        }
        Ok(())
    }
}

impl Iterator for Files {
    type Item = Result<Record, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(path) = self.ready.pop() {
                return Some(self.read(&path));
            }
            let folder = self.todo.pop()?;
            if let Err(source) = self.enter(&folder) {
                return Some(Err(InputError::Io { operation: "list", path: folder, source }));
            }
        }
    }
}

struct Lines<R> {
    path: PathBuf,
    reader: BufReader<R>,
    keys: Keys,
    record_max: u64,
    line: u64,
}

impl<R: Read> Lines<R> {
    /// The next line that is not blank, without its end.
    fn line(&mut self) -> Result<Option<Vec<u8>>, InputError> {
        loop {
            let mut line = Vec::new();
            // A line in base64 with escapes is larger than what it stands for, by less than six times.
            let max = self.record_max.saturating_mul(6) + 1024;
            let mut bounded = (&mut self.reader).take(max);
            let count = bounded.read_until(b'\n', &mut line);
            let count =
                count.map_err(|source| InputError::Io { operation: "read", path: self.path.clone(), source })?;
            if count == 0 {
                return Ok(None);
            }
            self.line += 1;
            if count as u64 == max {
                let (path, line) = (self.path.clone(), Some(self.line));
                return Err(InputError::TooLarge { path, line, size: max, max: self.record_max });
            }
            let end = line.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(0, |last| last + 1);
            line.truncate(end);
            if !line.is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn record(&self, line: Vec<u8>) -> Result<Record, InputError> {
        let wrong = |message: String| InputError::Malformed { path: self.path.clone(), line: self.line, message };
        let record = match &self.keys {
            Keys::Entries => {
                let entry: Entry = serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
                Record { key: entry.key_bytes().map_err(wrong)?, value: entry.value_bytes().map_err(wrong)? }
            }
            Keys::Field(name) => {
                let json: serde_json::Value = serde_json::from_slice(&line).map_err(|e| wrong(e.to_string()))?;
                let key = match json.get(name) {
                    Some(serde_json::Value::String(text)) => text.clone(),
                    Some(serde_json::Value::Number(number)) => number.to_string(),
                    _ => return Err(wrong(format!("there is no text or number under `{name}`"))),
                };
                Record { key: key.into_bytes(), value: line }
            }
            Keys::Numbers => Record { key: format!("{:012}", self.line).into_bytes(), value: line },
        };
        bounded(record, &self.path, self.line, self.record_max)
    }
}

fn bounded(record: Record, path: &Path, line: u64, max: u64) -> Result<Record, InputError> {
    let size = (record.key.len() + record.value.len()) as u64;
    if size > max {
        return Err(InputError::TooLarge { path: path.to_owned(), line: Some(line), size, max });
    }
    Ok(record)
}

impl<R: Read> Iterator for Lines<R> {
    type Item = Result<Record, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.line() {
            Ok(Some(line)) => Some(self.record(line)),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Rows of CSV. The reader underneath never hands out more than one largest record without a row's end.
struct Rows {
    path: PathBuf,
    rows: csv::StringRecordsIntoIter<Metered<Box<dyn Read + Send>>>,
    meter: Arc<AtomicU64>,
    head: Vec<String>,
    keys: Keys,
    key_column: usize,
    record_max: u64,
    failed: bool,
}

/// Fails once more than the allowance was read since it was last renewed.
struct Metered<R> {
    reader: R,
    left: Arc<AtomicU64>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.reader.read(buffer)?;
        let left = self.left.load(Ordering::Relaxed).saturating_sub(count as u64);
        self.left.store(left, Ordering::Relaxed);
        Ok(count)
    }
}

impl Rows {
    fn open(path: &Path, reader: Box<dyn Read + Send>, keys: Keys, record_max: u64) -> Result<Self, InputError> {
        let meter = Arc::new(AtomicU64::new(Self::allowance(record_max)));
        let mut csv = csv::ReaderBuilder::new().from_reader(Metered { reader, left: meter.clone() });
        let head = csv.headers().map_err(|error| csv_error(path, &error, record_max))?.clone();
        let head: Vec<String> = head.iter().map(str::to_owned).collect();
        let column = |name: &str| {
            head.iter().position(|column| column == name).ok_or_else(|| InputError::Malformed {
                path: path.to_owned(),
                line: 1,
                message: format!("there is no column `{name}` among: {}", head.join(", ")),
            })
        };
        let key_column = match &keys {
            Keys::Entries => column("value").and_then(|_| column("key"))?,
            Keys::Field(name) => column(name)?,
            Keys::Numbers => 0,
        };
        let path = path.to_owned();
        Ok(Self { path, rows: csv.into_records(), meter, head, keys, key_column, record_max, failed: false })
    }

    fn allowance(record_max: u64) -> u64 {
        2 * record_max + (64 << 10)
    }

    fn record(&self, row: &csv::StringRecord) -> Result<Record, InputError> {
        let line = row.position().map_or(0, csv::Position::line);
        let field = |column: usize| row.get(column).unwrap_or_default();
        let object = || {
            let fields = self.head.iter().zip(row.iter());
            let object: serde_json::Map<_, _> = fields.map(|(name, value)| (name.clone(), value.into())).collect();
            serde_json::Value::Object(object).to_string().into_bytes()
        };
        let key = match &self.keys {
            Keys::Entries | Keys::Field(_) => field(self.key_column).as_bytes().to_vec(),
            Keys::Numbers => format!("{line:012}").into_bytes(),
        };
        let value = match &self.keys {
            Keys::Entries => {
                let column = self.head.iter().position(|name| name == "value").unwrap_or(self.key_column);
                field(column).as_bytes().to_vec()
            }
            _ => object(),
        };
        bounded(Record { key, value }, &self.path, line, self.record_max)
    }
}

impl Iterator for Rows {
    type Item = Result<Record, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        self.meter.store(Self::allowance(self.record_max), Ordering::Relaxed);
        match self.rows.next()? {
            Ok(row) => Some(self.record(&row)),
            Err(error) => {
                self.failed = true;
                Some(Err(csv_error(&self.path, &error, self.record_max)))
            }
        }
    }
}

fn csv_error(path: &Path, error: &csv::Error, max: u64) -> InputError {
    let line = error.position().map_or(1, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::Io(source) if source.kind() == io::ErrorKind::FileTooLarge => {
            InputError::TooLarge { path: path.to_owned(), line: Some(line), size: max, max }
        }
        csv::ErrorKind::Io(source) => InputError::Io {
            operation: "read",
            path: path.to_owned(),
            source: io::Error::new(source.kind(), source.to_string()),
        },
        _ => InputError::Malformed { path: path.to_owned(), line, message: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str, keys: Keys) -> Vec<Result<(String, String), String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let format = Format::of(&path).unwrap();
        let input = match Input::open(&path, format, keys, 1000) {
            Ok(input) => input,
            Err(error) => return vec![Err(error.to_string())],
        };
        let text = |bytes| String::from_utf8(bytes).unwrap();
        input
            .map(|record| {
                record
                    .map(|r| (text(r.key), text(r.value)))
                    .map_err(|error| error.to_string().replace(&dir.path().display().to_string(), ""))
            })
            .collect()
    }

    fn pair(key: &str, value: &str) -> Result<(String, String), String> {
        Ok((key.to_owned(), value.to_owned()))
    }

    #[test]
    fn json_lines_carry_entries_fields_or_anything() {
        let lines = "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key_base64\":\"Yg==\",\"value\":\"2\"}\n";
        assert_eq!(read("x.jsonl", lines, Keys::Entries), [pair("a", "1"), pair("b", "2")]);
        let records = "{\"id\":7,\"name\":\"x\"}\n{\"id\":\"8\"}";
        let expected = [pair("7", "{\"id\":7,\"name\":\"x\"}"), pair("8", "{\"id\":\"8\"}")];
        assert_eq!(read("x.jsonl", records, Keys::Field("id".into())), expected);
        assert_eq!(read("x.ndjson", "[1]\n", Keys::Numbers), [pair("000000000001", "[1]")]);
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number() {
        let results = read("x.jsonl", "{\"key\":\"a\",\"value\":\"1\"}\nnonsense\n", Keys::Entries);
        assert!(results[1].as_ref().unwrap_err().starts_with("/x.jsonl:2: expected"), "{results:?}");
        let results = read("x.jsonl", "{\"value\":\"1\"}\n", Keys::Entries);
        assert!(results[0].as_ref().unwrap_err().contains("there is no `key`"), "{results:?}");
        let results = read("x.jsonl", "{}\n", Keys::Field("id".into()));
        assert!(results[0].as_ref().unwrap_err().contains("under `id`"), "{results:?}");
    }

    #[test]
    fn csv_has_a_head_and_quotes() {
        let rows = "key,value\na,1\n\"b,c\",\"2\n3\"\n";
        assert_eq!(read("x.csv", rows, Keys::Entries), [pair("a", "1"), pair("b,c", "2\n3")]);
        let expected = [pair("u1", "{\"id\":\"u1\",\"name\":\"Ann\"}")];
        assert_eq!(read("x.csv", "id,name\nu1,Ann\n", Keys::Field("id".into())), expected);
        let results = read("x.csv", "id,name\nu1,Ann\n", Keys::Entries);
        assert!(results[0].as_ref().unwrap_err().contains("no column `value` among: id, name"), "{results:?}");
    }

    #[test]
    fn a_directory_is_read_in_order_with_paths_for_keys() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["b", "sub/c", "a"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let input = Input::open(dir.path(), Format::Directory, Keys::Entries, 1000).unwrap();
        let keys: Vec<_> = input.map(|record| String::from_utf8(record.unwrap().key).unwrap()).collect();
        assert_eq!(keys, ["a", "b", "sub/c"]);
    }

    #[test]
    fn a_record_beyond_the_limit_is_refused_before_it_is_held() {
        let long = "x".repeat(20_000);
        for (name, content, keys) in [
            ("x.jsonl", long.clone(), Keys::Numbers),
            ("x.csv", format!("key,value\na,{long}\n"), Keys::Entries),
            ("x.csv", format!("key,value\na,\"{}", long.repeat(20)), Keys::Entries),
        ] {
            let results = read(name, &content, keys);
            let message = results.last().unwrap().as_ref().unwrap_err();
            assert!(message.contains("a record may have 1000"), "{message}");
        }
    }
}
