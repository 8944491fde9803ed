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
    #[arg(long)]
    allow_path: bool,
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
    let url = args.store.parse()?;
    let doors = build::build(&url, &options, &args.state, args.allow_path).await?;
    let (_tx, stop) = tokio::sync::watch::channel(false);
    let places = Arc::new(tokio::sync::Semaphore::new(1024));
    let mut listeners = Vec::new();
    for addr in args.listen {
        listeners.push(Listener::tcp(addr).await?);
    }
    if let Some(path) = &args.socket {
        listeners.push(Listener::unix(path, 0o660).await?);
    }
    doors
        .control
        .announce(listeners.iter().map(Listener::name).collect());
    let mut all = Vec::new();
    for l in listeners {
        eprintln!("listening on {}", l.name());
        let handler = doors.handler.clone();
        all.push(listen::serve(l, handler, places.clone(), stop.clone()));
    }
    futures_util::future::join_all(all).await;
    Ok(())
}
