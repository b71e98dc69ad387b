//! The program; everything is in the library.

use std::process::ExitCode;

// Steadier memory and less CPU per event than the system's (docs/PERFORMANCE.md).
#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    outboxd::cli::main()
}
