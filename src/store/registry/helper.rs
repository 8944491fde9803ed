//! Credential helpers: programs `docker-credential-<name>` that provide credentials.
//!
//! Protocol: `docker/docker-credential-helpers`, `get`: the server on stdin, JSON on stdout.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::redact;

/// Maximum time that a helper may take; some ask a cloud.
const LIMIT: Duration = Duration::from_secs(10);
/// Maximum size of an answer.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer {
    pub(super) username: String,
    pub(super) secret: String,
}

/// Asks the helper `name` for the credentials of `server`; `None` if it has none.
///
/// # Errors
/// As text, without what the helper wrote to stdout: invalid name, no such program, no answer in 10 s, failure.
pub(super) async fn get(
    folder: Option<&Path>,
    name: &str,
    server: &str,
) -> Result<Option<Answer>, String> {
    let right = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(right) {
        // The name comes from a file that others may write: no path, no option, no special characters for a shell.
        let shown: String = name.chars().take(64).collect();
        return Err(format!(
            "`{}` is not a valid name of a credential helper",
            redact::escaped(&shown)
        ));
    }
    let program = format!("docker-credential-{name}");
    let path = folder.map_or_else(|| program.clone().into(), |f| f.join(&program));
    match tokio::time::timeout(LIMIT, run(&path, server)).await {
        Ok(Ok(output)) => understand(&program, &output),
        Ok(Err(e)) => Err(format!("cannot run credential helper `{program}`: {e}")),
        Err(_) => Err(format!(
            "credential helper `{program}` did not answer within {} s",
            LIMIT.as_secs()
        )),
    }
}

struct Output {
    success: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

async fn run(program: &Path, server: &str) -> std::io::Result<Output> {
    // If dropped at the time limit, it is killed.
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without reading: a closed pipe is not an error.
        let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let stdout = child.stdout.take().map(|o| o.take(MAX_ANSWER_BYTES));
    let stderr = child.stderr.take().map(|o| o.take(MAX_ANSWER_BYTES));
    let read_out = async {
        if let Some(mut o) = stdout {
            o.read_to_end(&mut out).await?;
        }
        std::io::Result::Ok(())
    };
    let read_err = async {
        if let Some(mut e) = stderr {
            e.read_to_end(&mut err).await?;
        }
        std::io::Result::Ok(())
    };
    tokio::try_join!(read_out, read_err)?;
    let status = child.wait().await?;
    Ok(Output {
        success: status.success(),
        stdout: out,
        stderr: err,
    })
}

fn understand(program: &str, output: &Output) -> Result<Option<Answer>, String> {
    if output.success {
        return serde_json::from_slice(&output.stdout)
            .map(Some)
            .map_err(|e| {
                format!(
                    "credential helper `{program}` did not answer with JSON ({:?})",
                    e.classify()
                )
            });
    }
    let out = String::from_utf8_lossy(&output.stdout);
    if out.contains("credentials not found") {
        return Ok(None);
    }
    let err = String::from_utf8_lossy(&output.stderr);
    let line = [err.trim(), out.trim()]
        .into_iter()
        .find(|t| !t.is_empty())
        .unwrap_or("no message");
    let line: String = line
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect();
    Err(format!(
        "credential helper `{program}` failed: {}",
        redact::escaped(&line)
    ))
}
