//! From argv to an exit code: settings, logging, the runtime, signals, and failure messages.

use std::{
    ffi::OsString,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::FromArgMatches as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    args::{self, Cli, Command},
    buildx, completions, copy, du, env,
    error::{CommandError, Kind, MAY_BE_PARTLY, Result},
    export, flush, help, import, inspect, json, ls, man, output, panics,
    progress::{Look, Reporter},
    prune, rm,
    session::Session,
    status, verify,
};
use crate::{
    config::{self, Env, Layer},
    fs,
    progress::Phase,
    task,
    telemetry::{self, Verbosity},
};

/// How long work that was aborted, by a signal or its budget, may take to clean up.
const CLEARING: Duration = Duration::from_secs(5);
/// Limit of open files that a command requests.
const OPEN_FILES: u64 = 4096;
/// Added to a signal's number for the exit code, as in shells.
const BY_SIGNAL: u8 = 128;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    panics::install();
    let code = panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Kind::Bug.code());
    ExitCode::from(code)
}

fn run() -> u8 {
    let parsed = help::command()
        .try_get_matches()
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, args::layer(&matches))));
    let (cli, flags) = match parsed.map_err(help::explained) {
        Ok(parsed) => parsed,
        Err(e) => {
            // Help and version go to standard output; a reader that stops early is not an error.
            let _ = e.print();
            if e.use_stderr() && asks_for_json(std::env::args_os()) {
                let _ = output::object(&json::error(&unparsed(&e)));
            }
            return u8::try_from(e.exit_code()).unwrap_or(Kind::Usage.code());
        }
    };
    match execute(cli, flags) {
        Ok(code) => code,
        Err((json, e)) => {
            if json {
                // The message below is for people; this is for the script that asked.
                let _ = output::object(&json::error(&e));
            }
            output::note(&e.render());
            e.kind.code()
        }
    }
}

/// Returns true if `--json` is in a command line that clap rejected.
fn asks_for_json(args: impl Iterator<Item = OsString>) -> bool {
    args.skip(1)
        .take_while(|a| a != "--")
        .any(|a| a == "--json" || a == "--json=true")
}

/// A clap error in cachectl's form: the first line is the message, usage and tips are hints.
fn unparsed(e: &clap::Error) -> CommandError {
    let text = e.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.next().unwrap_or_default();
    let error = CommandError::usage(first.strip_prefix("error: ").unwrap_or(first));
    lines.fold(error, CommandError::hint)
}

/// A failure, and whether the object of `--json` must still be printed.
type Failure = (bool, CommandError);

fn execute(cli: Cli, flags: Layer) -> std::result::Result<u8, Failure> {
    // A higher limit is useless here, and child processes inherit it.
    fs::raise_open_files(OPEN_FILES);
    let json = cli.global.json;
    let fail = |e: CommandError| (json, e);
    // These must work regardless of the settings: packagers run them.
    match &cli.command {
        Command::Version => {
            let text = concat!("cachectl ", env!("CARGO_PKG_VERSION"), "\n");
            return output::raw(text).map(|()| 0).map_err(fail);
        }
        Command::Completions { shell } => {
            return completions::run(*shell).map(|()| 0).map_err(fail);
        }
        Command::Man { command } => {
            return man::run(command.as_deref()).map(|()| 0).map_err(fail);
        }
        _ => {}
    }
    let session = prepare(&cli, flags).map_err(fail)?;
    let reporter = Arc::clone(&session.reporter);
    // Says what an interruption leaves behind.
    let left = match &cli.command {
        Command::Export(_) | Command::Copy(_) => "; nothing half-done was published",
        Command::Flush(_) => "; the daemon continues to upload",
        _ => "",
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(task::workers())
        .enable_all()
        .build()
        .map_err(|e| fail(CommandError::failed(format!("cannot start threads: {e}"))))?;
    let end = runtime.block_on(async {
        task::outlive_file_limit();
        // Biased: a received signal takes precedence over a simultaneous result.
        tokio::select! {
            biased;
            number = interrupted() => {
                reporter.clear();
                let placing = reporter.last_phase() == Some(Phase::Place);
                let state = if placing { MAY_BE_PARTLY } else { left };
                output::note(&format!("cachectl: interrupted{state}\n"));
                Ok(BY_SIGNAL + number)
            }
            end = dispatch(&session, cli.command) => end,
        }
    });
    reporter.clear();
    // Aborted work notices and removes its staging folder; if it does not, the next import does.
    runtime.shutdown_timeout(CLEARING);
    end
}

fn prepare(cli: &Cli, flags: Layer) -> Result<Session> {
    let env = Env::capture();
    // First, since errors about a settings file quote its content.
    telemetry::commands::guard(|name| env.get(name).is_some());
    // A removed working directory is unknown, and not needed if all paths are absolute.
    let folder = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let loaded = config::load(&env, &folder, cli.global.config.as_deref(), flags)?;
    let filter = loaded.config.log.as_deref();
    telemetry::init(Verbosity(cli.global.verbose), filter)
        .map_err(|why| CommandError::usage(format!("invalid `log` filter: {why}")))?;
    let look = Look::choose(
        cli.global.json,
        cli.global.quiet,
        cli.global.verbose > 0 || filter.is_some(),
    );
    Ok(Session::new(
        env,
        loaded,
        folder,
        cli.global.json,
        cli.global.quiet,
        Arc::new(Reporter::new(look)),
    ))
}

async fn dispatch(session: &Session, command: Command) -> std::result::Result<u8, Failure> {
    session.warn_of_environment();
    session.warn_of_unread(matches!(command, Command::Env(_)));
    match &command {
        // `env` shows the ignored settings beside the effective ones.
        Command::Env(_) => {}
        Command::Copy(_) => session.warn_of_ignored(false),
        Command::BuildxSetup(args) => session.warn_of_ignored(args.address.is_none()),
        _ => session.warn_of_ignored(true),
    }
    let plain = match command {
        // These two print their object even if they fail.
        Command::Export(args) => return Box::pin(export::run(session, &args)).await,
        Command::Import(args) => return Box::pin(import::run(session, &args)).await,
        Command::Ls(args) => ls::run(session, &args).await,
        Command::Inspect(args) => Box::pin(inspect::run(session, &args)).await,
        Command::Verify(args) => Box::pin(verify::run(session, &args)).await,
        Command::Copy(args) => Box::pin(copy::run(session, &args)).await,
        Command::Rm(args) => rm::run(session, &args).await,
        Command::Prune(args) => prune::run(session, &args).await,
        Command::Du(args) => du::run(session, &args).await,
        Command::Status(_) => status::run(session).await,
        Command::Flush(args) => flush::run(session, &args).await,
        Command::BuildxSetup(args) => buildx::run(session, &args).await,
        Command::Env(args) => env::run(session, &args).await,
        // Handled before the session was created.
        Command::Completions { .. } | Command::Man { .. } | Command::Version => Ok(0),
    };
    plain.map_err(|e| (session.json && !e.in_the_object, e))
}

/// Waits for SIGINT or SIGTERM; its number.
async fn interrupted() -> u8 {
    let listen = |kind| signal(kind).expect("these two signals can always be listened to");
    let mut int = listen(SignalKind::interrupt());
    let mut term = listen(SignalKind::terminate());
    tokio::select! {
        _ = int.recv() => 2,
        _ = term.recv() => 15,
    }
}
