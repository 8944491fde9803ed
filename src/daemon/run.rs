//! From the command line to an exit code: settings, logging, the runtime, and error messages.

use std::{
    io::{self, Write as _},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    args::Args,
    check,
    drain::Left,
    error::{Error, Kind, Result},
    reload::Origins,
    service::{self, End, Start},
};
use crate::{
    config::{Env, daemon::LogFormat},
    task,
    telemetry::{
        commands,
        logs::{Format, Logs},
        otlp::{self, Exporter},
        stderr,
    },
};

/// Added to a signal's number for the exit code, as shells do.
const BY_SIGNAL: u8 = 128;
/// Maximum wait for the last log lines to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs the daemon as this process.
pub fn main() -> ExitCode {
    let began = Instant::now();
    panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map_or_else(String::new, |l| format!(" at {}:{}", l.file(), l.line()));
        let what = info.payload_as_str().unwrap_or("panic");
        let error = Error::new(Kind::Bug, format!("{what}{place}"))
            .hint("please report it with this line and what happened before");
        // To the log, and before it exists to standard error. A request that panicked gets no answer; the others continue.
        tracing::error!(error = error.message, "Bug");
        stderr::write(error.render().as_bytes());
    }));
    let code =
        panic::catch_unwind(AssertUnwindSafe(|| run(began))).unwrap_or_else(|_| Kind::Bug.code());
    stderr::flush(LAST_LINES);
    ExitCode::from(code)
}

fn run(began: Instant) -> u8 {
    let env = Env::capture();
    commands::guard(|name| env.get(name).is_some());
    let args = match Args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(e) => {
            // Help and version are written to standard output; it is no error if a reader closes it early.
            let _ = e.print();
            return u8::try_from(e.exit_code()).unwrap_or(Kind::Usage.code());
        }
    };
    execute(args, began).unwrap_or_else(|e| {
        stderr::write(e.render().as_bytes());
        e.kind.code()
    })
}

fn execute(args: Args, began: Instant) -> Result<u8> {
    if let Some(manual) = args.manual {
        data(&manual.text()?)?;
        return Ok(0);
    }
    let origins = Origins {
        env: Env::capture(),
        file: args.config,
        flags: args.layer,
    };
    let loaded = origins.load()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(task::workers())
        .enable_all()
        .thread_name("cachectld")
        .build()
        .map_err(|e| Error::failed(format!("cannot start threads: {e}")))?;
    if args.check {
        // Shows the warnings of a start.
        Logs::start("warn", Format::Text, None).map_err(Error::usage)?;
        check::warn_of_variables(&loaded);
        runtime.block_on(check::check(&loaded.config))?;
        let verdict = runtime.block_on(check::verdict(&loaded.config));
        data(&format!("{}{verdict}", check::table(&loaded)))?;
        return Ok(0);
    }
    let format = match loaded.config.log_format {
        Some(LogFormat::Text) => Format::Text,
        Some(LogFormat::Json) => Format::Json,
        None => Format::for_stderr(),
    };
    let exporter = match &loaded.config.otlp.endpoint {
        Some(endpoint) => {
            let _within = runtime.enter();
            let opened = Exporter::open(&otlp::Config::new(endpoint));
            Some(opened.map_err(|why| Error::usage(format!("`otlp.endpoint`: {why}")))?)
        }
        None => None,
    };
    let logs = Logs::start(&loaded.config.log, format, exporter.as_ref()).map_err(Error::usage)?;
    let start = Start {
        origins,
        loaded,
        logs: Arc::new(logs),
        verbose: args.verbose,
        exporter,
        began,
    };
    let end = runtime.block_on(async {
        task::outlive_file_limit();
        Box::pin(service::run(start)).await
    });
    // Abandoned blocking work must not delay the end; it left nothing under a final name.
    runtime.shutdown_background();
    match end {
        Ok(End::Drained(left)) if left == Left::default() => Ok(0),
        Ok(End::Drained(_)) => Ok(Kind::Failed.code()),
        Ok(End::Cut(number)) => Ok(BY_SIGNAL + number),
        // Readers of the log get it as a regular line.
        Err(Error {
            kind,
            message,
            hint,
        }) if format == Format::Json => {
            tracing::error!(
                error = message,
                hint = hint.unwrap_or_default(),
                "Startup failed"
            );
            Ok(kind.code())
        }
        Err(e) => Err(e),
    }
}

/// Writes to standard output; it is no error if its reader has closed it.
fn data(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::failed(format!(
            "cannot write to standard output: {e}"
        ))),
        _ => Ok(()),
    }
}
