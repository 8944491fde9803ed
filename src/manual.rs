//! Manual pages of commands.

use std::io::{self, Write};

use clap::{Arg, ArgAction, Command};

/// Writes the manual page of a command. Its synopsis includes the values of options, which `clap_mangen`'s own omits.
///
/// # Errors
/// Errors of `to`.
pub fn page(mut command: Command, to: &mut dyn Write) -> io::Result<()> {
    command.build();
    let usage = usage(&command);
    clap_mangen::Man::new(command.override_usage(usage)).render(to)
}

/// The command with all its arguments, options first.
fn usage(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut words = vec![name.to_owned()];
    let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set());
    words.extend(shown().filter(|arg| !arg.is_positional()).map(option));
    words.extend(
        shown()
            .filter(|arg| arg.is_positional())
            .map(Arg::to_string),
    );
    if command.has_subcommands() {
        words.push("COMMAND".to_owned());
    }
    words.join(" ")
}

fn option(arg: &Arg) -> String {
    let short = arg.get_short().map(|c| format!("-{c}"));
    let long = arg.get_long().map(|word| format!("--{word}"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let names = names.join("|");
    let values = arg.get_value_names().unwrap_or_default().join(" ");
    let takes_values = arg.get_action().takes_values() && !values.is_empty();
    let text = match arg.get_num_args() {
        _ if !takes_values => names,
        Some(count) if count.min_values() == 0 => format!("{names}[={values}]"),
        _ => format!("{names} {values}"),
    };
    let text = if arg.is_required_set() {
        text
    } else {
        format!("[{text}]")
    };
    match arg.get_action() {
        ArgAction::Append => format!("{text}..."),
        _ => text,
    }
}
