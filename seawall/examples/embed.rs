//! Seawall as a library: open, keyspaces, batches, snapshots, ranges, transactions, and commits that are waited for later.
//!
//! `cargo run --example embed -- /tmp/shop`

use std::time::Duration;

use seawall::{CommitLevel, Db, MergeOperator, Result};

fn main() -> Result<()> {
    let dir = std::env::args_os().nth(1).unwrap_or_else(|| "embed-data".into());
    // Opens the database, or makes one; recovers it if it was not closed. `Db` is a handle: clone it, share it.
    let db = Db::open(&dir)?;

    // A keyspace is an ordered map. It is made when it is first asked for.
    let users = db.keyspace("users")?;
    let orders = db.keyspace("orders")?;
    users.insert("ann", "Ann")?;
    users.insert("bob", "Bob")?;
    println!("ann is {:?}", text(users.get("ann")?));

    // A batch takes effect as a whole, over any keyspaces. When `commit` returns it survives power loss.
    let mut batch = db.batch();
    batch.put(&orders, "ann/0001", "3 apples");
    batch.put(&orders, "ann/0002", "1 pear");
    batch.put(&orders, "bob/0001", "9 plums");
    batch.put(&users, "ann", "Ann, who ordered");
    let commit = batch.commit()?;
    println!("committed at {}", commit.lsn);

    // A snapshot stays as it is, whatever happens meanwhile.
    let before = db.snapshot()?;
    users.remove("bob")?;
    println!("bob is {:?} now, and was {:?}", text(users.get("bob")?), text(before.get(&users, "bob")?));

    // Ranges walk from both ends, in the order of bytes.
    for pair in orders.prefix("ann/") {
        let (key, value) = pair?;
        println!("{}: {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
    }
    let last = orders.range("ann/".."ann0").next_back().transpose()?;
    println!("ann's last order is {:?}", last.map(|(key, _)| String::from_utf8_lossy(&key).into_owned()));

    // A transaction reads and writes as if nobody else did meanwhile. If somebody did, it is run again.
    let orders_of_ann = db.transact(|transaction| {
        let mut count = 0;
        for pair in transaction.prefix(&orders, "ann/") {
            pair?;
            count += 1;
        }
        transaction.put(&users, "ann/orders", format!("{count}"))?;
        Ok(count)
    })?;
    let values = users.multi_get(&["ann/orders", "bob"])?;
    println!("ann has {orders_of_ann} orders, stored as {:?}", text(values[0].clone()));

    // A value may end by itself: an hour of commit times later no node shows it any more.
    users.insert_with_ttl("ann/session", "token", Duration::from_secs(3600))?;

    // A counter need not be read to be raised, and a range is removed as one operation, however many keys it has.
    users.merge("ann/visits", MergeOperator::Add, 1_i64.to_le_bytes())?;
    orders.remove_range("ann/0002".."ann0")?;
    println!("ann has {} orders left", orders.prefix("ann/").count());

    // Many commits may be on their way at once: they share flushes. A ticket can be waited for, or awaited.
    let tickets: Vec<_> = (0..1000)
        .map(|number| {
            let mut batch = db.batch();
            batch.put(&orders, format!("carl/{number:04}"), "1 cherry");
            batch.commit_ticket()
        })
        .collect::<Result<_>>()?;
    let flushes = db.stats().log.flushes;
    for ticket in tickets {
        ticket.wait()?;
    }
    println!("1000 commits took {} flushes", db.stats().log.flushes - flushes);

    // How safe a commit must be is said commit by commit: this one need not survive a crash.
    let mut batch = db.batch();
    batch.put(&users, "visits", "17");
    batch.commit_with(CommitLevel::Buffered)?;

    println!("the database has {} keyspaces at {}", db.keyspaces().len(), db.sync()?);
    db.close()
}

fn text(value: Option<seawall::Bytes>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(&value).into_owned())
}
