//! A node whose database takes no more writes until it is opened again says that it has failed: else readiness, health and
//! metrics would send it requests for ever, and nobody would start it anew.

use std::sync::Arc;
use std::time::Duration;

use seawall_engine::{Db, Error};

use super::database::Database;
use super::{Inner, State};

/// How often a running node asks whether its log has ended.
const LOOK: Duration = Duration::from_millis(500);

/// Looks as long as the node runs. A standby that is rebuilt gets another database, which is looked at then.
pub(super) async fn watch(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let database = inner.database.read().clone();
        let db = match database {
            Database::Open(db) => db,
            Database::Awaited(_) => continue,
            Database::Gone(_) => return,
        };
        if let Some(why) = db.poisoned() {
            tracing::error!(%why, "this node has failed; look after its disk and restart it");
            return inner.set_state(State::Failed, &words(&db, &why));
        }
    }
}

fn words(db: &Db, why: &Error) -> String {
    format!(
        "{why}; look after the disk of {}, then restart this node: it opens with what really is on the disk",
        db.path().display()
    )
}
