//! The command line: arguments in, a verb of `ops`, words or one JSON object out, an exit code.
//!
//! - Holds: arguments and help, exit codes and messages, progress, JSON, detection of CI systems; one file per subcommand.
//! - Enters: argv, the captured environment, settings; reports of the verbs.
//! - Leaves: data on standard output, warnings and errors on standard error.
//! - Deliberately absent: how a verb works, protocols, formats.

mod args;
mod buildx;
mod ci;
mod completions;
mod control;
mod copy;
mod du;
mod env;
mod error;
mod export;
mod flush;
mod github;
mod help;
mod hints;
mod import;
mod inspect;
mod json;
mod ls;
mod man;
mod output;
mod panics;
mod part;
mod progress;
mod prune;
mod rm;
mod run;
mod session;
mod sources;
mod status;
mod stores;
mod summary;
mod supplied;
mod upkeep;
mod verify;

pub use run::main;
