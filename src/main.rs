//! The `seckill` binary.

fn main() -> std::process::ExitCode {
    seckill::cli::main()
}
