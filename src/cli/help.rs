//! Clap's output: help without the flags common to all commands, and better tips than its own.

use clap::{
    Command, Error,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::args;

/// Shown below the help of each command in place of these flags.
const EVERYWHERE: &str =
    "Flags of every command, such as --store, --daemon, --json, --quiet, --budget: cachectl --help";

/// The command line. Flags that every command accepts are shown only by `cachectl --help`.
pub(crate) fn command() -> Command {
    let mut root = args::command();
    // Passes the global flags down to the commands.
    root.build();
    for command in root.get_subcommands_mut() {
        let with = |text: Option<&StyledStr>| match text {
            None => EVERYWHERE.to_owned(),
            Some(text) => format!("{text}\n\n{EVERYWHERE}"),
        };
        let short = with(command.get_after_help());
        let long = with(command.get_after_long_help().or(command.get_after_help()));
        *command = std::mem::take(command)
            .mut_args(|arg| {
                let hides = arg.is_global_set();
                arg.hide(hides)
            })
            .after_help(short)
            .after_long_help(long);
    }
    root
}

/// Names of these commands in other tools.
const OTHER_WORDS: [(&str, &[&str]); 5] = [
    ("export", &["save", "push", "upload", "store", "put"]),
    ("import", &["restore", "pull", "download", "load", "get"]),
    ("rm", &["delete", "remove"]),
    ("prune", &["gc", "clean", "clear"]),
    ("inspect", &["show", "info"]),
];

/// A usage error with a tip in place of clap's own: which command has this flag, the name of the command here, how to name a folder.
pub(crate) fn explained(mut e: Error) -> Error {
    let said = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let tip = match e.kind() {
        ErrorKind::UnknownArgument => said(ContextKind::InvalidArg).and_then(|f| owners(&f)),
        ErrorKind::InvalidSubcommand => said(ContextKind::InvalidSubcommand).and_then(|word| {
            let (ours, _) = OTHER_WORDS
                .iter()
                .find(|(_, others)| others.contains(&&*word))?;
            Some(format!("use `cachectl {ours}`"))
        }),
        ErrorKind::InvalidValue => said(ContextKind::InvalidArg)
            .filter(|arg| arg == "<SOURCE>")
            .map(|_| "a folder is named after `dir`: `dir PATH --name NAME`".to_owned()),
        _ => None,
    };
    let Some(tip) = tip else {
        return e;
    };
    for own in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand] {
        e.remove(own);
    }
    let tips = ContextValue::StyledStrs(vec![tip.into()]);
    e.insert(ContextKind::Suggested, tips);
    e
}

/// The commands that accept the flag.
fn owners(flag: &str) -> Option<String> {
    let long = flag.strip_prefix("--")?;
    let takes = |c: &&Command| c.get_arguments().any(|a| a.get_long() == Some(long));
    let root = args::command();
    let owners: Vec<String> = root
        .get_subcommands()
        .filter(takes)
        .map(|c| format!("`{}`", c.get_name()))
        .collect();
    (!owners.is_empty()).then(|| format!("{flag} is a flag of {} only", owners.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A paragraph is one line, wrapped at the terminal's width, or short lines that are never wrapped.
    fn is_broken_once(text: &str) -> bool {
        text.split("\n\n").all(|paragraph| {
            let lines: Vec<&str> = paragraph.lines().collect();
            let is_set = |line: &&str| line.starts_with("  ");
            let rest = lines.iter().skip(1);
            lines.len() == 1 && !is_set(&lines[0])
                || rest.clone().all(is_set) && lines.iter().all(|l| l.chars().count() <= 80)
        })
    }

    #[test]
    fn help_is_broken_into_lines_once_and_examples_can_be_pasted() {
        let root = command();
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            let texts = [
                command.get_about(),
                command.get_long_about(),
                command.get_after_help(),
                command.get_after_long_help(),
            ];
            for text in texts.into_iter().flatten() {
                assert!(is_broken_once(&text.to_string()), "{text}");
            }
        }
    }

    #[test]
    fn flags_of_every_command_are_shown_once() {
        let mut root = command();
        assert!(root.render_long_help().to_string().contains("--ca-bundle"));
        for command in root
            .get_subcommands_mut()
            .filter(|c| c.get_name() != "help")
        {
            let name = command.get_name().to_owned();
            for help in [command.render_help(), command.render_long_help()] {
                let help = help.to_string();
                assert!(!help.contains("--ca-bundle"), "{name}: {help}");
                assert!(help.contains("cachectl --help"), "{name}: {help}");
            }
        }
        // They are accepted anyway.
        assert!(
            command()
                .try_get_matches_from(["cachectl", "ls", "--budget", "1s"])
                .is_ok()
        );
    }

    #[test]
    fn a_flag_of_another_command_is_named_as_such() {
        let refused = |line: &str| {
            let e = command().try_get_matches_from(line.split(' ')).unwrap_err();
            explained(e).to_string()
        };
        let text = refused("cachectl export go --restore-key x");
        assert!(
            text.contains("--restore-key is a flag of `import`"),
            "{text}"
        );
        assert!(!text.contains("-- --restore-key"), "{text}");
        assert!(refused("cachectl ls --nonsense").contains("unexpected argument"));
    }

    #[test]
    fn words_of_other_tools_and_folders_without_dir_get_a_tip() {
        for (line, tip) in [
            ("cachectl save go", "use `cachectl export`"),
            ("cachectl restore", "use `cachectl import`"),
            (
                "cachectl import node_modules --name x",
                "`dir PATH --name NAME`",
            ),
        ] {
            let e = command().try_get_matches_from(line.split(' ')).unwrap_err();
            let text = explained(e).to_string();
            assert!(text.contains("tip: ") && text.contains(tip), "{text}");
        }
        let commands = args::command();
        for (ours, others) in OTHER_WORDS {
            assert!(commands.find_subcommand(ours).is_some(), "{ours}");
            for other in others {
                assert!(commands.find_subcommand(other).is_none(), "{other}");
            }
        }
    }
}
