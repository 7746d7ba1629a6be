//! Explores schedules of the log and the database: `run` tries every promise in many orders of events, `prove` plants
//! bugs and fails unless each is noticed, `again` runs one schedule that failed. The script `run` beside it builds it.

mod bugs;
mod database;
mod explore;
mod log;
mod promises;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let kept = match words[..] {
        ["run", ref options @ ..] => promises::keep(options),
        ["prove", ref options @ ..] => bugs::are_noticed(options),
        ["again", promise, file] => promises::again(promise, file),
        _ => {
            eprintln!("usage: run [--schedules N] [--seed N] [WORD…] | prove [WORD…] | again PROMISE FILE");
            return ExitCode::from(2);
        }
    };
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
