//! The `seawall` command.

fn main() -> std::process::ExitCode {
    seawall::command::main()
}
