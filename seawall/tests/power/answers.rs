//! Every kind of operation that the program asks of its disk meets every answer that a disk gives, at each moment of its
//! lives: making a database, writing to it, recovering it. What was visited is printed as a matrix, operation by answer; a
//! place that can be visited and was not is a failure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::io::Errno;
use seawall_disks::fuse::{Effect, Fault, Operation, SECTOR_LEN};

use super::machine::{End, Machine};
use super::{LIVES, LONG, SHORT, choice, is_long};

/// An answer that is not the one that was hoped for.
struct Answer {
    name: &'static str,
    effect: Effect,
    /// How a program that ends because of it says so. One that is not to end has none.
    words: &'static [&'static str],
}

const ANSWERS: [Answer; 6] = [
    failing("EIO", Errno::IO, &["Input/output error"]),
    failing("ENOSPC", Errno::NOSPC, &["No space left on device", "is full"]),
    failing("EROFS", Errno::ROFS, &["Read-only file system"]),
    failing("EMFILE", Errno::MFILE, &["Too many open files"]),
    failing("EINTR", Errno::INTR, &["Interrupted system call"]),
    Answer { name: "short", effect: Effect::Short(SECTOR_LEN), words: &[] },
];

const fn failing(name: &'static str, errno: Errno, words: &'static [&'static str]) -> Answer {
    Answer { name, effect: Effect::Fail(errno.raw_os_error()), words }
}

/// Those that change nothing. A file that is there is opened and read when a database is recovered.
const LOOKS: [Operation; 3] = [Operation::Open, Operation::Read, Operation::List];

impl Answer {
    /// Why an operation never gets it, if it never does.
    fn never(&self, operation: Operation) -> Option<&'static str> {
        use Operation::{Create, List, Open, Read, Write};
        match (operation, self.name) {
            (operation, "short") if !matches!(operation, Read | Write) => Some("it moves no bytes"),
            (Open | Read | List, "ENOSPC") => Some("it takes no room"),
            (Read | List, "EROFS") => Some("it changes nothing"),
            (operation, "EMFILE") if !matches!(operation, Open | Create) => Some("it gives no handle"),
            _ => None,
        }
    }

    /// Whether the program goes on whatever happens: it asks for the rest, or asks again.
    fn is_overcome(&self, operation: Operation) -> bool {
        use Operation::{Create, Open, Read, Sync, SyncFolder, Write};
        let asked_again = matches!(operation, Create | Open | Read | Sync | SyncFolder | Write);
        self.name == "short" || self.name == "EINTR" && asked_again
    }
}

/// How lives went that met an answer.
#[derive(Clone, Copy, Default)]
struct Lives {
    ended: u64,
    overcome: u64,
}

/// Has a life meet an answer; which operation did. `None` if it has no such moment.
fn meet(machine: &Machine, answer: &Answer, fault: &Fault, life: &[&str], end: &mut Lives) -> Option<Operation> {
    machine.disk.inject(fault.clone());
    let outcome = machine.run(life);
    let hit = machine.disk.hits().into_iter().next()?;
    match outcome {
        End::Failed { words: said, .. } => {
            assert!(!answer.is_overcome(hit.operation), "{} of {hit:?} is no reason to end: {said}", answer.name);
            assert!(answer.words.iter().any(|words| said.contains(words)), "{} of {hit:?}: {said}", answer.name);
            *end = Lives { ended: 1, overcome: 0 };
        }
        End::Well(_) => *end = Lives { ended: 0, overcome: 1 },
    }
    Some(hit.operation)
}

#[test]
fn every_answer_of_the_disk_ends_the_program_with_a_word_or_is_overcome_and_loses_nothing() {
    let Some(machine) = Machine::start() else { return };
    let mut random = SmallRng::seed_from_u64(3);
    let mut met: BTreeMap<(Operation, &str), Lives> = BTreeMap::new();
    // Whether it was met.
    let mut visit = |answer: &Answer, fault: Fault, life: &[&str]| {
        machine.begin_anew();
        if LOOKS.iter().any(|look| fault.operations.contains(look)) {
            machine.run_to_its_end(&SHORT);
            machine.disk.lose_power(choice(random.random_range(0..4), random.random()));
        }
        let mut end = Lives::default();
        let Some(operation) = meet(&machine, answer, &fault, life, &mut end) else { return false };
        let lives = met.entry((operation, answer.name)).or_default();
        (lives.ended, lives.overcome) = (lives.ended + end.ended, lives.overcome + end.overcome);
        machine.disk.lose_power(choice(random.random_range(0..4), random.random()));
        machine.run_to_its_end(&SHORT);
        true
    };
    for answer in &ANSWERS {
        let possible = |operation: &Operation| answer.never(*operation).is_none();
        let changes: Vec<_> = Operation::CHANGES.into_iter().filter(possible).collect();
        for (path, life) in LIVES {
            let at = |nth| Fault { path: path.into(), ..Fault::at(&changes, nth, answer.effect) };
            let _ = moments(&life).take_while(|nth| visit(answer, at(*nth), &life)).count();
        }
        // Some kinds are rare.
        for operation in Operation::CHANGES.into_iter().filter(possible) {
            let _ =
                (1..=2).take_while(|nth| visit(answer, Fault::at(&[operation], *nth, answer.effect), &LONG)).count();
        }
        for operation in LOOKS.into_iter().filter(possible) {
            for path in paths(operation) {
                let at = |nth| Fault { path: (*path).into(), ..Fault::at(&[operation], nth, answer.effect) };
                let _ = (1..)
                    .step_by(if is_long() { 1 } else { 5 })
                    .take_while(|nth| visit(answer, at(*nth), &SHORT))
                    .count();
            }
        }
    }
    println!("{}", matrix(&met));
    for answer in &ANSWERS {
        let lives = met.iter().filter(|((_, name), _)| *name == answer.name).map(|(_, lives)| lives);
        let (ended, overcome) = lives.fold((0, 0), |sum, lives| (sum.0 + lives.ended, sum.1 + lives.overcome));
        println!(
            "{:>8}: {} lives, {ended} ended with a word, {overcome} went on, 0 commits lost",
            answer.name,
            ended + overcome
        );
    }
    // What a life asks for at all.
    machine.begin_anew();
    machine.run_to_its_end(&LONG);
    machine.run_to_its_end(&LONG);
    for operation in Operation::ALL.into_iter().filter(|operation| machine.disk.count(&[*operation]) > 0) {
        for answer in ANSWERS.iter().filter(|answer| answer.never(operation).is_none()) {
            assert!(met.contains_key(&(operation, answer.name)), "{operation:?} never met {}", answer.name);
        }
    }
}

/// The paths on which an operation that changes nothing meets an answer. Tables are mapped: what cannot be read of a map ends
/// a program without a word, and what is read of one is never short.
fn paths(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::Read => &["wal", "control", "manifest"],
        _ => &[""],
    }
}

/// At which operations something happens: at each, but at some only of a long life where nobody has minutes.
fn moments(life: &[&str]) -> impl Iterator<Item = u64> {
    let step = if life == LONG && !is_long() { 11 } else { 1 };
    (1..).step_by(step)
}

/// Lives that ended and that went on, operation by answer; what cannot be visited with the reason, below.
fn matrix(met: &BTreeMap<(Operation, &str), Lives>) -> String {
    let mut text = format!("{:<14}", "ended/went on");
    ANSWERS.iter().for_each(|answer| write!(text, "{:>10}", answer.name).unwrap());
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for operation in Operation::ALL {
        write!(text, "\n{:<14}", format!("{operation:?}")).unwrap();
        for answer in &ANSWERS {
            let place = match (met.get(&(operation, answer.name)), answer.never(operation)) {
                (Some(lives), _) => format!("{}/{}", lives.ended, lives.overcome),
                (None, None) => String::from("0"),
                (None, Some(reason)) => {
                    reasons.entry(reason).or_default().push(format!("{operation:?}/{}", answer.name));
                    String::from("-")
                }
            };
            write!(text, "{place:>10}").unwrap();
        }
    }
    reasons.iter().for_each(|(reason, places)| write!(text, "\n- {reason}: {}", places.join(", ")).unwrap());
    text
}
