//! `cachectl man`.

use super::{
    args,
    error::{CommandError, Result},
    output,
};

pub(crate) fn run(command: Option<&str>) -> Result<()> {
    let mut root = args::command();
    root.build();
    let page = match command {
        None => root,
        Some(name) => {
            let known: Vec<String> = root
                .get_subcommands()
                .map(|c| c.get_name().to_owned())
                .collect();
            root.find_subcommand(name)
                .cloned()
                .ok_or_else(|| {
                    CommandError::usage(format!("unknown command `{name}`"))
                        .hint(format!("one of: {}", known.join(", ")))
                })?
                .display_name(format!("cachectl-{name}"))
        }
    };
    let mut text = Vec::new();
    crate::manual::page(page, &mut text)
        .map_err(|e| CommandError::failed(format!("cannot write the page: {e}")))?;
    output::raw(&String::from_utf8_lossy(&text))
}
