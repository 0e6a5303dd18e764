//! The `gitstead` binary: everything is in `gitstead::cli`.

fn main() -> std::process::ExitCode {
    gitstead::cli::run()
}
