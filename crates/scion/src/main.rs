use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: scion_kernels::CacheLines = scion_kernels::CacheLines;

fn main() -> ExitCode {
    scion::cli::main()
}
