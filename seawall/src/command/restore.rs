//! `seawall restore`: a database as it was, from the archive, into an empty directory.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use parking_lot::Mutex;
use seawall_backup::Archive;
use seawall_backup::restore::{RestoreOptions, RestorePlan, RestoreProgress, RestoreTarget, check_empty};
use seawall_engine::{Create, Db};
use seawall_wal::ClusterId;
use serde::Serialize;

use super::Context;
use crate::failure::{Failure, Kind};
use crate::kv::rfc3339;
use crate::node::Error;
use crate::output::{Output, Progress, human_bytes};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// An empty or new directory
    target: PathBuf,
    /// The moment: latest, an LSN, a time (2026-11-21T08:15:00Z), a backup's id, or newest-backup
    #[arg(long, value_name = "TARGET", default_value = "latest")]
    to: String,
    /// Print the plan and do nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Make it a cluster of its own, which can be written to at once and never meets the old one again
    #[arg(long)]
    clone: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    check_empty(&arguments.target).map_err(Error::from)?;
    let config = context.settings()?.config;
    let runtime = super::runtime()?;
    let archive = runtime.block_on(super::open_archive(&config))?;
    let target: RestoreTarget = match arguments.to.as_str() {
        "newest-backup" => runtime.block_on(newest_backup(&archive))?,
        asked => asked.parse().map_err(Error::from)?,
    };
    let plan = runtime.block_on(archive.plan_restore(&target, None)).map_err(Error::from)?;
    let summary = Plan::of(&plan, &archive, arguments);
    if arguments.dry_run {
        return context.output.document(&summary, |out| summary.write(out));
    }
    if context.output == Output::Text {
        let mut lines = Vec::new();
        summary.write(&mut lines).map_err(|error| Failure::new(Kind::Failed, error))?;
        eprint!("{}", String::from_utf8_lossy(&lines));
    }
    let progress = Arc::new(Mutex::new(Some(Progress::new(context.output, "restore"))));
    let told = progress.clone();
    let options = RestoreOptions {
        digest: true,
        progress: Some(Arc::new(move |at: &RestoreProgress| {
            told.lock().iter_mut().for_each(|progress| progress.report(0, at.bytes_done, Some(at.bytes)))
        })),
        ..RestoreOptions::default()
    };
    let restored = runtime.block_on(archive.restore(&plan, &arguments.target, &options));
    if let Some(progress) = progress.lock().take() {
        progress.done();
    }
    let report = restored.map_err(Error::from)?;
    let cluster = match arguments.clone {
        true => {
            let cluster = ClusterId::random();
            Db::builder(&arguments.target).create(Create::Never).open_detached(cluster)?.close()?;
            cluster
        }
        false => archive.cluster().cluster,
    };
    let done = Restored {
        target: arguments.target.display().to_string(),
        lsn: plan.target.to_string(),
        time: rfc3339(plan.target_time),
        digest: report.digest.clone(),
        equals_backup: (plan.target == plan.backup.stop)
            .then(|| plan.backup.digest.as_ref().map(|digest| report.digest.as_ref() == Some(digest)))
            .flatten(),
        seconds: report.took.as_secs_f64(),
        cluster: cluster.to_string(),
    };
    context.output.document(&done, |out| {
        writeln!(out, "restored to {} ({}) in {:.1} s: {}", done.lsn, done.time, done.seconds, done.target)?;
        let proof = if done.equals_backup == Some(true) { ", as recorded with the backup" } else { "" };
        writeln!(out, "digest {}{proof}", done.digest.as_deref().unwrap_or("not computed"))?;
        match arguments.clone {
            true => writeln!(out, "it is a cluster of its own, {}", done.cluster),
            false => writeln!(out, "it is read-only until it is promoted"),
        }
    })
}

/// The newest backup's own moment. For drills: it is restored without the log that follows it, and its digest, if one was
/// recorded when it was made, is compared.
async fn newest_backup(archive: &Archive) -> Result<RestoreTarget, Failure> {
    let mut backups = archive.backups().await.map_err(Error::from)?;
    let (id, _) = backups.pop().ok_or_else(|| {
        Failure::new(Kind::NotFound, format!("there is no base backup in {}", archive.location()))
            .hint("`seawall backup create` makes one")
    })?;
    Ok(id.to_string().parse().map_err(Error::from)?)
}

/// The plan as it is printed.
#[derive(Serialize)]
struct Plan {
    archive: String,
    asked: String,
    lsn: String,
    time: String,
    timeline: u32,
    backup: String,
    table_bytes: u64,
    log_bytes: u64,
    log_from: String,
    objects: u64,
    target: String,
    clone: bool,
}

impl Plan {
    fn of(plan: &RestorePlan, archive: &Archive, arguments: &Arguments) -> Self {
        Self {
            archive: archive.location().to_owned(),
            asked: arguments.to.clone(),
            lsn: plan.target.to_string(),
            time: rfc3339(plan.target_time),
            timeline: plan.history.current().id.0,
            backup: plan.backup.id.to_string(),
            table_bytes: plan.table_bytes,
            log_bytes: plan.log_bytes,
            log_from: plan.backup.log_start.lsn.to_string(),
            objects: plan.objects(),
            target: arguments.target.display().to_string(),
            clone: arguments.clone,
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "plan: restore {} from {}", self.asked, self.archive)?;
        writeln!(out, "  to        {} ({}), timeline {}", self.lsn, self.time, self.timeline)?;
        writeln!(out, "  backup    {}, {} of tables", self.backup, human_bytes(self.table_bytes))?;
        writeln!(out, "  log       {} to {}, {}", self.log_from, self.lsn, human_bytes(self.log_bytes))?;
        writeln!(out, "  objects   {}", self.objects)?;
        writeln!(out, "  into      {}{}", self.target, if self.clone { ", as a new cluster" } else { "" })
    }
}

/// What was done, as it is printed.
#[derive(Serialize)]
struct Restored {
    target: String,
    lsn: String,
    time: String,
    digest: Option<String>,
    /// Whether the digest is the one recorded with the backup; null if none was, or this is not the backup's moment.
    equals_backup: Option<bool>,
    seconds: f64,
    cluster: String,
}
