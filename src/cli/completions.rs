//! `cachectl completions`.

use super::{args, error::Result, output};

pub(crate) fn run(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "cachectl", &mut script);
    output::raw(&String::from_utf8_lossy(&script))
}
