//! Plants every bug there is and shows that a test notices. `cargo run -p seawall-mutants [--] [WORD...] [--cargo OPTION...]`
//! takes only the bugs whose names contain a word, and builds the tests with these options of cargo, such as `--release`.
//! It ends with an error if a bug survives, or if anything is unclear.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seawall_mutants::binaries::{Binaries, build};
use seawall_mutants::table::{ALL_HAVE_ROWS, PACKAGES, ROWS, Row};
use seawall_mutants::trial::{Trial, run};
use seawall_mutants::verdict::{Ended, Verdict, judge};

fn main() -> Result<()> {
    let began = Instant::now();
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let options = match words.iter().position(|word| word == "--cargo") {
        Some(at) => words.split_off(at).split_off(1),
        None => Vec::new(),
    };
    let rows: Vec<&Row> =
        ROWS.iter().filter(|row| words.is_empty() || words.iter().any(|word| row.bug.contains(&**word))).collect();
    ensure!(!rows.is_empty(), "no bug is called like that");
    let binaries = build(PACKAGES, &options)?;
    check_table(&binaries)?;
    let built = began.elapsed();

    let without = run_all(&binaries, rows.iter().map(|row| ((row.target, row.test), None)).collect())?;
    let with = run_all(&binaries, rows.iter().map(|row| ((row.target, row.test), Some(row.bug))).collect())?;
    let mut counts = BTreeMap::new();
    for row in &rows {
        let test = (row.target, row.test);
        let (without, with) = (&without[&(test, None)], &with[&(test, Some(row.bug))]);
        let verdict = judge(without.ended, with.ended);
        println!("{verdict:<13} {:<44} {} {} {:.1} s", row.bug, row.target, row.test, with.took.as_secs_f64());
        if let Verdict::Unclear(_) = verdict {
            println!("{}", if without.ended == Ended::Passed { &with.said } else { &without.said });
        }
        *counts.entry(verdict.to_string()).or_insert(0) += 1;
    }
    let seconds = |time: Duration| time.as_secs_f64();
    let (all, build) = (seconds(began.elapsed()), seconds(built));
    let counts: Vec<String> = counts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    println!("{} planted bugs: {}; {all:.0} s, of which building {build:.0} s", rows.len(), counts.join(", "));
    ensure!(counts == [format!("{} {}", rows.len(), Verdict::Killed)], "not every planted bug was noticed");
    Ok(())
}

/// That the table has all bugs there are, as a test with the bugs in it can say.
fn check_table(binaries: &Binaries) -> Result<()> {
    let (target, test) = ALL_HAVE_ROWS;
    let Trial { ended, said, .. } = run(binaries.get(target).context("the table's own test is gone")?, test, None)?;
    ensure!(ended == Ended::Passed, "the table of planted bugs is wrong:\n{said}");
    Ok(())
}

type Case = ((&'static str, &'static str), Option<&'static str>);

/// Runs each of these once, as many at a time as there are processors.
fn run_all(binaries: &Binaries, cases: BTreeSet<Case>) -> Result<BTreeMap<Case, Trial>> {
    let cases: Vec<Case> = cases.into_iter().collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || -> Result<()> {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let ((target, test), bug) = *case;
            let binary = binaries.get(target).with_context(|| format!("there is no test target {target}"))?;
            let trial = run(binary, test, bug)?;
            done.lock().expect("no worker panics").insert(*case, trial);
        }
        Ok(())
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(done.into_inner().expect("no worker panics"))
}
