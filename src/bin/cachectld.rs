//! The daemon.

use std::process::ExitCode;

/// Less CPU and memory for many small allocations on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything builds a client; an error would mean that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    cachectl::daemon::main()
}
