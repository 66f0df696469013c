//! The program: reads its arguments and hands over to [`hearth::app`].

use std::process::ExitCode;

// Threads of a server allocate and free each other's memory all day; mimalloc costs half of what glibc's does there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A homeserver touches a little of much: in pages of 2 MiB it holds half as much again, and pays to have them zeroed.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    hearth::app::main()
}
