//! The command line.

use std::process::ExitCode;

/// 25 to 35 % less CPU for each small S3 request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything builds a client; an error would mean that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    cachectl::cli::main()
}
