//! `seawall backup`: base backups. `create` asks the running node; `list` and `verify` read the archive themselves.

use clap::{Args, Subcommand};

use super::Context;
use super::status::node;
use crate::failure::{Failure, Kind};
use crate::http::api::{BackupRequest, BackupSummary};
use crate::kv::rfc3339;
use crate::node::{Error, backup_summary};
use crate::output::{Progress, Table, human_bytes};
use seawall_backup::verify::{VerifyDepth, VerifyOptions};
use serde::Serialize;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a base backup of the running node into its archive
    Create(Create),
    /// List the base backups in the archive, and what can be restored
    List,
    /// Check that what the archive holds can be restored
    Verify(Verify),
}

#[derive(Args, Debug)]
pub(super) struct Create {
    /// The node, http://host:port [default: http.listen]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A remark, kept with the backup
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Record the state's digest, so that a restore can be proved equal
    #[arg(long)]
    digest: bool,
}

#[derive(Args, Debug)]
pub(super) struct Verify {
    /// Only this backup and what follows it
    #[arg(long, value_name = "ID")]
    pub(super) backup: Option<String>,
    /// Read every object and check its digest, not only that it is there
    #[arg(long)]
    pub(super) content: bool,
}

pub(super) fn run(verb: &Verb, context: &Context) -> Result<(), Failure> {
    match verb {
        Verb::Create(arguments) => create(arguments, context),
        Verb::List => list(context),
        Verb::Verify(arguments) => verify(arguments, context),
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let config = context.settings()?.config;
    let runtime = super::runtime()?;
    let archive = runtime.block_on(super::open_archive(&config))?;
    let found = runtime.block_on(archive.backups()).map_err(Error::from)?;
    let mut backups = Vec::new();
    let mut unreadable = Vec::new();
    for (id, manifest) in found {
        match manifest {
            Ok(manifest) => backups.push(backup_summary(&manifest)),
            Err(error) => unreadable.push(Problem { subject: id.to_string(), message: error.to_string() }),
        }
    }
    let broken = !unreadable.is_empty();
    let listed = Listed { archive: archive.location().to_owned(), backups, unreadable };
    context.output.document(&listed, |out| {
        let mut table = Table::new(&["ID", "LABEL", "BEGUN", "TIMELINE", "RESTORABLE FROM", "SIZE"]);
        for backup in &listed.backups {
            table.row([
                backup.id.clone(),
                backup.label.clone().unwrap_or_default(),
                backup.start_time.clone(),
                backup.timeline.to_string(),
                backup.stop.to_string(),
                human_bytes(backup.size_bytes),
            ]);
        }
        table.write(out)?;
        listed.unreadable.iter().try_for_each(|problem| writeln!(out, "{}: {}", problem.subject, problem.message))
    })?;
    match broken {
        true => Err(Failure::new(Kind::VerificationFailed, "some base backups cannot be read")),
        false => Ok(()),
    }
}

fn verify(arguments: &Verify, context: &Context) -> Result<(), Failure> {
    let config = context.settings()?.config;
    let runtime = super::runtime()?;
    let archive = runtime.block_on(super::open_archive(&config))?;
    let depth = if arguments.content { VerifyDepth::Content } else { VerifyDepth::Structure };
    let report = runtime.block_on(archive.verify(&VerifyOptions::new(depth))).map_err(Error::from)?;
    let wanted = |id: &str| arguments.backup.as_ref().is_none_or(|backup| backup == id);
    let backups: Vec<VerifiedBackup> = report
        .backups
        .iter()
        .filter(|backup| wanted(&backup.id.to_string()))
        .map(|backup| VerifiedBackup {
            id: backup.id.to_string(),
            restorable_to: backup.restorable_to.map(|(lsn, _)| lsn.to_string()),
            restorable_until: backup.restorable_to.map(|(_, time)| rfc3339(time)),
            problems: backup.problems.iter().map(ToString::to_string).collect(),
        })
        .collect();
    if let Some(backup) = &arguments.backup
        && backups.is_empty()
    {
        return Err(Failure::new(
            Kind::NotFound,
            format!("there is no base backup {backup} in {}", archive.location()),
        ));
    }
    let sound = match &arguments.backup {
        Some(_) => backups.iter().all(|backup| backup.problems.is_empty() && backup.restorable_to.is_some()),
        None => report.is_sound() && report.newest_is_restorable(),
    };
    let verified = Verified {
        archive: archive.location().to_owned(),
        sound,
        backups,
        problems: report.problems.iter().map(ToString::to_string).collect(),
        chunks: report.chunks,
        files: report.files,
        bytes_read: report.bytes_read,
        seconds: report.took.as_secs_f64(),
    };
    context.output.document(&verified, |out| {
        for backup in &verified.backups {
            let restorable = match (&backup.restorable_to, &backup.restorable_until) {
                (Some(lsn), Some(time)) => format!("restorable to {lsn} ({time})"),
                _ => "NOT restorable".to_owned(),
            };
            writeln!(out, "{}: {restorable}", backup.id)?;
            backup.problems.iter().try_for_each(|problem| writeln!(out, "  {problem}"))?;
        }
        verified.problems.iter().try_for_each(|problem| writeln!(out, "{problem}"))?;
        let Verified { chunks, files, seconds, .. } = &verified;
        let read = human_bytes(verified.bytes_read);
        writeln!(out, "{chunks} chunks of log and {files} files looked at, {read} read, in {seconds:.1} s")
    })?;
    match sound {
        true => Ok(()),
        false => Err(Failure::new(Kind::VerificationFailed, "the archive does not verify")
            .hint("make a new base backup, and look at what is named above")),
    }
}

#[derive(Serialize)]
struct Listed {
    archive: String,
    backups: Vec<BackupSummary>,
    unreadable: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    subject: String,
    message: String,
}

#[derive(Serialize)]
struct Verified {
    archive: String,
    sound: bool,
    backups: Vec<VerifiedBackup>,
    problems: Vec<String>,
    chunks: usize,
    files: usize,
    bytes_read: u64,
    seconds: f64,
}

#[derive(Serialize)]
struct VerifiedBackup {
    id: String,
    restorable_to: Option<String>,
    restorable_until: Option<String>,
    problems: Vec<String>,
}

fn create(arguments: &Create, context: &Context) -> Result<(), Failure> {
    let node = node(arguments.url.as_deref(), context)?;
    let request = BackupRequest { label: arguments.label.clone(), digest: arguments.digest };
    let mut progress = Progress::new(context.output, "backup");
    let made = node.backup(&request, |_, done, total| progress.report(0, done, (total > 0).then_some(total)));
    progress.done();
    let made = made?;
    context.output.document(&made, |out| {
        let (size, new) = (human_bytes(made.size_bytes), human_bytes(made.uploaded_bytes));
        writeln!(out, "{}: {size}, of which {new} were new; restorable from {} on", made.id, made.stop)
    })
}
