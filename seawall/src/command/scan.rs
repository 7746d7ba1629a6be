//! `seawall scan`: a page of a keyspace in order.

use std::io::Write;

use clap::Args;

use super::Context;
use super::data::{Data, Place, Written};
use crate::entry::{Encoding, percent_encode};
use crate::failure::{Failure, Kind};
use crate::kv::{self, PAGE_ENTRIES_MAX, Page, Scan};
use crate::output::printable;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Keys that begin with this
    #[arg(long, value_name = "KEY")]
    prefix: Option<String>,
    /// This key and those after it
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// Keys after this one
    #[arg(long, value_name = "KEY")]
    after: Option<String>,
    /// Keys before this one
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
    /// Entries at most
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=PAGE_ENTRIES_MAX as i64))]
    limit: u32,
    /// From the last key to the first
    #[arg(long)]
    reverse: bool,
    /// Without values
    #[arg(long)]
    keys_only: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    written: Written,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let decode =
        |text: &Option<String>| text.as_deref().map(|text| arguments.written.decode("the key", text)).transpose();
    let scan = Scan {
        prefix: decode(&arguments.prefix)?.unwrap_or_default(),
        start: decode(&arguments.start)?,
        after: decode(&arguments.after)?,
        end: decode(&arguments.end)?,
        reverse: arguments.reverse,
        keys_only: arguments.keys_only,
        limit: arguments.limit as usize,
    };
    let page = match arguments.place.open(context)? {
        Data::Directory(db) => {
            let page = kv::scan(&db, &arguments.place.keyspace, &scan)?;
            db.close()?;
            page
        }
        Data::Node(node) => node.get(&format!("{}?{}", arguments.place.path(), query(&scan)))?,
    };
    let encoding = arguments.written.encoding;
    context.output.document(&page, |out| write(out, &page, encoding))?;
    if page.more {
        context.output.note("there are more; go on with --after the last key, or raise --limit");
    }
    Ok(())
}

/// A scan as the API takes it.
pub(super) fn query(scan: &Scan) -> String {
    let bytes = [
        ("prefix", Some(&scan.prefix)),
        ("start", scan.start.as_ref()),
        ("after", scan.after.as_ref()),
        ("end", scan.end.as_ref()),
    ];
    let mut pairs: Vec<String> = bytes
        .into_iter()
        .filter_map(|(name, value)| value.filter(|value| !value.is_empty()).map(|value| (name, value)))
        .map(|(name, value)| format!("{name}={}", percent_encode(value)))
        .collect();
    pairs.push(format!("limit={}&reverse={}&keys_only={}", scan.limit, scan.reverse, scan.keys_only));
    pairs.join("&")
}

fn write(out: &mut dyn Write, page: &Page, encoding: Encoding) -> std::io::Result<()> {
    let text = |bytes: Result<Vec<u8>, String>| {
        let bytes = bytes.unwrap_or_default();
        if encoding == Encoding::Text { printable(&bytes) } else { printable(&encoding.encode(&bytes)) }
    };
    for entry in &page.entries {
        write!(out, "{}", text(entry.key_bytes()))?;
        if entry.value.is_some() || entry.value_base64.is_some() {
            write!(out, "\t{}", text(entry.value_bytes()))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A page that must have been understood, for those who go through all pages.
pub(super) fn last_key(page: &Page) -> Result<Option<Vec<u8>>, Failure> {
    let last = page.entries.last().map(crate::entry::Entry::key_bytes).transpose();
    last.map_err(|why| Failure::new(Kind::Failed, format!("the node's answer makes no sense: {why}")))
}
