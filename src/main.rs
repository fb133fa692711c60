//! The `synod` binary: everything is in `src/cli` (the command line) and `src/node` (one node).

fn main() -> std::process::ExitCode {
    synod_cli::main()
}
