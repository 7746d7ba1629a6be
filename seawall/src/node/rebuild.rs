//! A standby that no log reaches is rebuilt from a base backup: restored beside its data directory, then the two are exchanged.
//! Until it is whole the old data are open and read. The exchange itself either ends with the new data open, or ends the node:
//! there is no third state, and a restart finds the old data or the new.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall_backup::Archive;
use seawall_backup::restore::{RestoreOptions, RestoreTarget};
use seawall_engine::{Create, Db, OpenAs};
use seawall_replication::feed::BackupOffer;

use super::database::Database;
use super::error::{Error, Result};
use super::primary::Feeding;
use super::{Inner, Part, State, builder, has_control};

/// Restores the backup beside the data directory, then exchanges the two. A crash before the exchange leaves the old data,
/// one after it the new.
pub(super) async fn rebuild(inner: &Arc<Inner>, archive: &Archive, offer: &BackupOffer) -> Result<Db> {
    let _rebuilding = inner.begin_rebuild(&offer.id).await?;
    let before = make_room(inner)?;
    let data = &inner.options.data_dir;
    let [fresh, old] = siblings(data);
    tracing::warn!(backup = offer.id, "this standby is rebuilt from a base backup");
    let target: RestoreTarget = RestoreTarget::Backup(offer.id.parse().map_err(|_| Error::WrongState {
        operation: "install a base backup",
        actual: format!("offered {}, which is no backup's id", offer.id),
    })?);
    let options = RestoreOptions { check: false, node: Some(before.node()), ..RestoreOptions::default() };
    let restore = async {
        let plan = archive.plan_restore(&target, None).await?;
        archive.restore(&plan, &fresh, &options).await
    };
    tokio::select! {
        restored = restore => drop(restored?),
        // It may take hours. What is there of it is removed by the next start, which begins again.
        () = inner.stopped() => {
            return Err(Error::WrongState { operation: "install a base backup", actual: String::from("stopping") });
        }
    }
    // A log that has ended can be read, and cannot be closed in order: that node is to be restarted, not exchanged.
    if let Some(ended) = before.poisoned() {
        return Err(ended.into());
    }
    drop(before);
    put_in_place(inner, &offer.id, fresh, old).await
}

/// The database that is to be exchanged, when there is nothing where the new data go, and then the old ones.
fn make_room(inner: &Inner) -> Result<Db> {
    // A node that lost its database in an exchange has its data under the names that are removed here.
    let before = inner.db()?;
    check_own_folder(&inner.options.data_dir)?;
    remove_leftovers(&inner.options.data_dir)?;
    Ok(before)
}

/// Either the new data are open afterwards, or the node has failed.
async fn put_in_place(inner: &Arc<Inner>, backup: &str, fresh: PathBuf, old: PathBuf) -> Result<Db> {
    exchange(inner, backup, fresh, old).await.inspect_err(|error| {
        inner.lose_database(&format!(
            "{} was to be exchanged for base backup {backup}, which ended with: {error}; restart this node: it opens with the \
             old data or the new ones, both are whole",
            inner.options.data_dir.display()
        ));
    })
}

/// Who asks for the database meanwhile is told that it is being exchanged.
async fn exchange(inner: &Arc<Inner>, backup: &str, fresh: PathBuf, old: PathBuf) -> Result<Db> {
    let awaited = Database::Awaited(format!("it is being rebuilt from base backup {backup}; try again in a moment"));
    let before = std::mem::replace(&mut *inner.database.write(), awaited);
    inner.stop_feeding().await;
    let (data, replaced, options) = (inner.options.data_dir.clone(), old.clone(), inner.options.clone());
    let work = move || -> Result<Db> {
        before.open()?.close()?;
        let io = |error| seawall_wal::Error::io("exchange", &data, error);
        std::fs::rename(&data, &replaced).map_err(io)?;
        std::fs::rename(&fresh, &data).map_err(io)?;
        // Until here it keeps other processes out.
        drop(before);
        sync_names(&data).map_err(io)?;
        Ok(builder(&options).create(Create::Never).open_as(OpenAs::Standby).open()?)
    };
    let stopped = |_| Error::WrongState { operation: "install a base backup", actual: String::from("stopping") };
    let db = tokio::task::spawn_blocking(work).await.map_err(stopped)??;
    inner.adopt_database(Database::Open(db.clone()));
    inner.restart_feeding().await?;
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || remove(&old)).await {
        tracing::warn!(%error, "the data that were replaced are still there; the next start removes them");
    }
    Ok(db)
}

/// After a crash in the middle of an exchange the old data may be under the other name. Whatever a node starts as: one that
/// was a standby may be started as a primary, which would make an empty database where none is.
pub(super) fn finish_exchange(data: &Path) -> Result<()> {
    let [_, old] = siblings(data);
    let io = |error: std::io::Error| seawall_wal::Error::io("finish the exchange of", data, error);
    if has_control(&old) && !has_control(data) {
        // Somebody may have made the folder again. It is removed only if it is empty.
        if data.exists() {
            std::fs::remove_dir(data).map_err(io)?;
        }
        std::fs::rename(&old, data).map_err(io)?;
    }
    Ok(())
}

/// Removes what a rebuild that was not finished left beside the data. Only for whoever has them open, since another process
/// may be rebuilding them, and found them where they are: beside a database that was just made may lie what it should have been.
pub(super) fn remove_leftovers(data: &Path) -> Result<()> {
    let left = siblings(data);
    if left.iter().any(|left| left.exists()) {
        // The exchange may not be durable yet.
        sync_names(data).map_err(|error| seawall_wal::Error::io("sync the folder of", data, error))?;
    }
    left.iter().try_for_each(|left| remove(left))
}

/// Makes the names beside the data, and their own, survive power loss.
fn sync_names(data: &Path) -> std::io::Result<()> {
    std::fs::File::open(parent(data))?.sync_all()
}

/// What is mounted cannot be renamed, of a link only the link can, and the folder above may lie on another disk.
fn check_own_folder(data: &Path) -> Result<()> {
    let io = |error| seawall_wal::Error::io("look at", data, error);
    let above = std::fs::metadata(parent(data)).map_err(io)?;
    // With its own name, which `.` is not, and behind which no slash leads through a link.
    if let Some(name) = data.file_name() {
        let own = std::fs::symlink_metadata(parent(data).join(name)).map_err(io)?;
        if own.is_dir() && own.dev() == above.dev() {
            return Ok(());
        }
    }
    let actual = format!(
        "keeping its data in {}, which is mounted, a link or a path that ends without a name, and they are exchanged by renaming; \
         move them into a folder below it, and set node.data_dir to that",
        data.display()
    );
    Err(Error::WrongState { operation: "install a base backup", actual })
}

/// Of a name without a folder the path has none.
fn parent(data: &Path) -> &Path {
    data.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where the new data are made, and where the old ones go.
fn siblings(data: &Path) -> [PathBuf; 2] {
    [".rebuild", ".replaced"].map(|ending| {
        let mut name = data.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        data.with_file_name(name)
    })
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(seawall_wal::Error::io("remove", path, error).into())
        }
        _ => Ok(()),
    }
}

/// How often a rebuild asks whether its node is stopping.
const LOOK: Duration = Duration::from_millis(100);

/// While there is one, its node is being rebuilt and cannot be promoted.
struct Rebuilding<'a>(&'a Inner);

impl Drop for Rebuilding<'_> {
    fn drop(&mut self) {
        *self.0.rebuilding.lock() = None;
    }
}

impl Inner {
    /// Who is promoted or stopped is not rebuilt, and who is rebuilt is not promoted: its data would be exchanged under it.
    async fn begin_rebuild(&self, backup: &str) -> Result<Rebuilding<'_>> {
        let part = self.part.lock().await;
        if !matches!(*part, Part::Standby { .. } | Part::Starting) {
            let actual = String::from("being promoted or stopped");
            return Err(Error::WrongState { operation: "install a base backup", actual });
        }
        *self.rebuilding.lock() = Some(backup.to_owned());
        Ok(Rebuilding(self))
    }

    /// Returns once the node is being stopped.
    async fn stopped(&self) {
        while !matches!(*self.part.lock().await, Part::Stopped) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// There is no database before the node is started again.
    pub(super) fn lose_database(&self, why: &str) {
        tracing::error!(why, "this node has no database any more");
        self.adopt_database(Database::Gone(why.to_owned()));
        self.set_state(State::Failed, why);
    }

    /// Nobody is fed from a database that is about to be closed.
    async fn stop_feeding(&self) {
        self.seen.lock().registry = None;
        if let Part::Standby { feeding, .. } = &mut *self.part.lock().await {
            drop(feeding.take());
        }
    }

    /// After the database was exchanged: a new table and a new port over it. A node that is being promoted or stopped sees to
    /// that itself.
    pub(super) async fn restart_feeding(self: &Arc<Self>) -> Result<()> {
        if !matches!(*self.part.lock().await, Part::Standby { .. }) {
            return Ok(());
        }
        let feeding = Feeding::start(self, &self.db()?, false, true).await?;
        if let Part::Standby { feeding: slot, .. } = &mut *self.part.lock().await {
            self.adopt_feeding(&feeding, false);
            *slot = Some(feeding);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::node::{Node, NodeOptions, Role};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A primary with a key, and a standby that shows it.
    fn pair(folder: &Path) -> (Node, Node) {
        let listen = Some("127.0.0.1:0".parse().unwrap());
        let options = |name: &str| NodeOptions {
            segment_size: seawall_wal::SegmentSize::MIN,
            replication_listen: listen,
            ..NodeOptions::new(name.parse().unwrap(), folder.join(name))
        };
        let primary = Node::start(options("primary")).unwrap();
        primary.db().unwrap().keyspace("k").unwrap().insert("a", "1").unwrap();
        let upstreams = vec![primary.replication_address().unwrap().to_string()];
        let standby = Node::start(NodeOptions { role: Role::Standby { upstreams }, ..options("standby") }).unwrap();
        wait("the standby has it", || has_it(&standby));
        (primary, standby)
    }

    fn has_it(node: &Node) -> bool {
        node.db().is_ok_and(|db| db.existing_keyspace("k").is_ok_and(|k| k.get("a").unwrap().is_some()))
    }

    fn wait(what: &str, mut reached: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !reached() {
            assert!(Instant::now() < until, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Exchanges the data for those in a folder, as after a download.
    fn exchange_for(inner: Arc<Inner>) -> impl Future<Output = Result<Db>> + use<> {
        let data = inner.options.data_dir.clone();
        let [fresh, old] = siblings(&data);
        async move { put_in_place(&inner, "b1", fresh, old).await }
    }

    #[test]
    fn a_standby_whose_new_data_do_not_open_has_failed_with_words_and_a_restart_finds_the_old_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (primary, standby) = pair(folder.path());
        // What was downloaded is gone again.
        let error = standby.runtime().block_on(exchange_for(standby.inner.clone())).unwrap_err();
        let (state, words) = standby.state();
        assert_eq!(state, State::Failed);
        for part in ["base backup b1", &error.to_string(), "restart this node"] {
            assert!(words.contains(part), "{part}: {words}");
        }
        let refused = standby.db().unwrap_err();
        assert!(matches!(&refused, Error::NoDatabase { why } if *why == words), "{refused}");
        make_room(&standby.inner).expect_err("the only data there are would be removed");
        let options = standby.options().clone();
        assert!(standby.stop(PATIENCE).unwrap().is_nothing());
        assert!(!options.data_dir.exists(), "the exchange ended in the middle");

        // Whoever makes the folder again is not in their way.
        std::fs::create_dir(&options.data_dir).unwrap();
        let as_primary = Node::start(NodeOptions { role: Role::Primary, ..options.clone() }).unwrap_err();
        assert!(matches!(as_primary, Error::WrongData { .. }), "no empty database takes their place: {as_primary}");
        let standby = Node::start(options).unwrap();
        wait("the old data are shown", || has_it(&standby));
        assert_eq!(standby.state().0, State::Running);
        standby.stop(PATIENCE).unwrap();
        primary.stop(PATIENCE).unwrap();
    }

    #[test]
    fn what_somebody_put_where_the_data_were_keeps_the_data_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let [_, old] = siblings(&data);
        let control = |folder: &Path| folder.join(seawall_engine::control::CONTROL_NAME);
        for made in [&data, &old] {
            std::fs::create_dir(made).unwrap();
        }
        std::fs::write(control(&old), "control").unwrap();
        std::fs::write(data.join("note"), "somebody's").unwrap();
        finish_exchange(&data).expect_err("it is neither data nor empty");
        assert!(control(&old).exists() && data.join("note").exists());
        std::fs::remove_file(data.join("note")).unwrap();
        finish_exchange(&data).unwrap();
        assert_eq!((control(&data).exists(), old.exists()), (true, false));
    }

    #[test]
    fn what_a_rebuild_left_is_removed_by_who_has_the_data_and_not_by_who_tries_to() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let left = siblings(&data);
        let options = NodeOptions::new("n1".parse().unwrap(), data);
        let node = Node::start(options.clone()).unwrap();
        left.iter().for_each(|left| std::fs::create_dir(left).unwrap());
        Node::start(options.clone()).expect_err("the data are in use");
        let inside = NodeOptions { data_dir: options.data_dir.join("data"), ..options.clone() };
        let refused = Node::start(inside).unwrap_err().to_string();
        assert!(refused.contains("holds a database") && refused.contains("node.data_dir"), "{refused}");
        assert!(left.iter().all(|left| left.exists()), "they may be those of a rebuild that goes on");
        node.stop(PATIENCE).unwrap();
        let node = Node::start(options.clone()).unwrap();
        assert!(!left.iter().any(|left| left.exists()));
        node.stop(PATIENCE).unwrap();
        std::fs::remove_dir_all(&options.data_dir).unwrap();
        left.iter().for_each(|left| std::fs::create_dir(left).unwrap());
        Node::start(options).unwrap().stop(PATIENCE).unwrap();
        assert!(left.iter().all(|left| left.exists()), "beside a database that was just made");
    }

    #[test]
    fn data_that_cannot_be_renamed_are_not_exchanged_and_words_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        check_own_folder(folder.path()).unwrap();
        assert_eq!(parent(Path::new("data")), Path::new("."));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(".", &link).unwrap();
        for path in [Path::new("/proc"), &link, &folder.path().join("link/"), Path::new("."), &folder.path().join("..")]
        {
            let refused = check_own_folder(path).unwrap_err().to_string();
            assert!(refused.contains(path.to_str().unwrap()) && refused.contains("set node.data_dir"), "{refused}");
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn whoever_asks_while_data_are_exchanged_is_told_so_at_once() {
        use crate::failure::{Failure, Kind};
        use crate::http::HttpNode;
        use crate::http::api::{NodeRole, NodeState};

        let folder = tempfile::tempdir().unwrap();
        let (primary, standby) = pair(folder.path());
        let standing_still = standby.inner.part.blocking_lock();
        let exchanging = standby.runtime().spawn(exchange_for(standby.inner.clone()));
        wait("the exchange has begun", || standby.db().is_err());
        let words = "it is being rebuilt from base backup b1; try again in a moment";
        assert_eq!(standby.state(), (State::Starting, words.to_owned()));
        let failure: Failure = standby.db().unwrap_err().into();
        assert_eq!((failure.kind, failure.kind.http_status()), (Kind::Unavailable, 503));
        assert!(failure.message.contains(words), "{}", failure.message);
        let status = standby.status();
        assert_eq!((status.role, status.state, status.timeline), (NodeRole::Standby, NodeState::Starting, 0));
        assert_eq!(status.state_detail.as_deref(), Some(words));
        drop(standing_still);
        standby.runtime().block_on(exchanging).unwrap().unwrap_err();
        assert_eq!(standby.status().state, NodeState::Failed);
        standby.stop(PATIENCE).unwrap();
        primary.stop(PATIENCE).unwrap();
    }
}
