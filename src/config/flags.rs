//! The flags of settings, generated from their table, and reading them from a command line.

use clap::{Arg, ArgAction, ArgMatches, ValueHint};

use super::{
    table::{Flag, Key, Shape, Table},
    value::{Layer, Origin, Raw},
};

/// Defaults that only mean that the setting is not set.
const UNSET: [&str; 4] = ["none", "false", "no limit", "all"];

/// The flags selected by `which`, in the table's order. Their ids are the names of their keys.
pub fn args(table: &Table, which: impl Fn(&Flag) -> bool) -> impl Iterator<Item = Arg> {
    picked(table, which).map(|(key, flag)| arg(key, flag))
}

/// The values in `matches` of the flags selected by `which`.
pub fn layer(table: &Table, matches: &ArgMatches, which: impl Fn(&Flag) -> bool) -> Layer {
    let mut layer = Layer::default();
    for (key, flag) in picked(table, which) {
        let Some(values) = matches.get_many::<String>(key.name) else {
            continue;
        };
        let mut values: Vec<String> = values.cloned().collect();
        let raw = match key.shape {
            Shape::List | Shape::Rules => Raw::Many(values),
            _ => Raw::One(values.pop().unwrap_or_default()),
        };
        layer.set(key, raw, Origin::Flag(format!("--{}", flag.long)));
    }
    layer
}

fn picked(
    table: &Table,
    which: impl Fn(&Flag) -> bool,
) -> impl Iterator<Item = (&'static Key, Flag)> {
    let flags = table.keys().iter().filter_map(|key| Some((key, key.flag?)));
    flags.filter(move |(_, flag)| which(flag))
}

fn arg(key: &'static Key, flag: Flag) -> Arg {
    let arg = Arg::new(key.name)
        .long(flag.long)
        .short(flag.short)
        .hide_short_help(flag.is_advanced)
        .help(help(key));
    let (arg, value) = match key.shape {
        Shape::Flag => {
            let arg = arg.num_args(0..=1).default_missing_value("true");
            (arg.require_equals(true), "BOOL")
        }
        Shape::List | Shape::Rules => (arg.action(ArgAction::Append), "TEXT"),
        Shape::Path => (arg.value_hint(ValueHint::AnyPath), "PATH"),
        Shape::Url => (arg, "URL"),
        Shape::Count => (arg, "N"),
        Shape::Size => (arg, "SIZE"),
        Shape::Rate => (arg, "RATE"),
        Shape::Time => (arg, "TIME"),
        Shape::Days => (arg, "DAYS"),
        Shape::Text | Shape::Secret => (arg, "TEXT"),
    };
    arg.value_name(flag.value.unwrap_or(value))
}

/// What the setting does, and its default.
fn help(key: &Key) -> String {
    let mut help = key.about.to_owned();
    if let Some(first) = help.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if matches!(key.shape, Shape::List | Shape::Rules) {
        help.push_str(" (may be repeated)");
    }
    if !UNSET.contains(&key.default) {
        help.extend([" [default: ", key.default, "]"]);
    }
    help
}
