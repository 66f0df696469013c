//! The program: reads its arguments and hands over to [`hearth::app`].

use std::process::ExitCode;

// Threads of a server allocate and free each other's memory all day; mimalloc costs half of what glibc's does there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hearth::app::main()
}
