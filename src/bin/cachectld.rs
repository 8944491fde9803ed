//! The daemon: parse, run, exit code.
#![allow(clippy::print_stderr)]
use cachectl::{
    daemon::{
        build,
        listen::{self, Listener},
    },
    store::open::Options,
};
use clap::Parser;
use std::{path::PathBuf, sync::Arc};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "disk:/tmp/cachectld-store")]
    store: String,
    #[arg(long, default_value = "127.0.0.1:5000")]
    listen: Vec<std::net::SocketAddr>,
    #[arg(long)]
    socket: Option<PathBuf>,
    #[arg(long, default_value = "/tmp/cachectld-state")]
    state: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = Options {
        concurrency: 512,
        verified: false,
        ..Options::default()
    };
    let handler = build::build(&args.store.parse()?, &options, &args.state).await?;
    let (_tx, stop) = tokio::sync::watch::channel(false);
    let places = Arc::new(tokio::sync::Semaphore::new(1024));
    let mut all = Vec::new();
    for addr in args.listen {
        let l = Listener::tcp(addr).await?;
        eprintln!("listening on {}", l.name());
        all.push(listen::serve(
            l,
            handler.clone(),
            places.clone(),
            stop.clone(),
        ));
    }
    futures_util::future::join_all(all).await;
    Ok(())
}
