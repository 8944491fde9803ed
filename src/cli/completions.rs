//! `cachectl completions`.

use clap::CommandFactory as _;

use super::{args::Cli, error::Result, output};

pub(crate) fn run(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cachectl", &mut script);
    output::raw(&String::from_utf8_lossy(&script))
}
