//! Foreign text in the log of a CI job: some systems execute lines that look like their commands.
//!
//! Azure Pipelines acts on `##vso[…]` anywhere in a line, GitHub's runner on `##[…]` anywhere and on `::…::` at the start of one
//! (`actions/runner:src/Runner.Common/ActionCommand.cs`), TeamCity on `##teamcity[…]`. An entry's name or a server's response
//! must not set a variable of a pipeline.

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use super::stderr;

/// Variables that are set in a job of a CI system; nearly all set the first.
const MARKS: [&str; 5] = [
    "CI",
    "GITHUB_ACTIONS",
    "TF_BUILD",
    "TEAMCITY_VERSION",
    "JENKINS_URL",
];

static IN_A_JOB: AtomicBool = AtomicBool::new(false);

/// Enables defusing of commands if the environment shows that this is a CI job.
pub fn guard(is_set: impl Fn(&str) -> bool) {
    IN_A_JOB.store(MARKS.iter().any(|name| is_set(name)), Ordering::Relaxed);
}

fn in_a_job() -> bool {
    IN_A_JOB.load(Ordering::Relaxed)
}

/// The text in a form that is safe in a job's log.
pub fn defused(text: &str) -> Cow<'_, str> {
    if in_a_job() {
        broken(text)
    } else {
        text.into()
    }
}

/// The same for JSON, whose meaning does not change.
pub fn defused_json(json: &str) -> Cow<'_, str> {
    if in_a_job() {
        escaped(json)
    } else {
        json.into()
    }
}

/// `##` becomes `# #` everywhere, `::` becomes `: :` at the start of a line.
fn broken(text: &str) -> Cow<'_, str> {
    let begins = |line: &str| line.trim_start().starts_with("::");
    if !text.contains("##") && !text.split(['\n', '\r']).any(begins) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for line in text.split_inclusive(['\n', '\r']) {
        let mut rest = line;
        if begins(line) {
            let at = line.len() - line.trim_start().len();
            out.push_str(&line[..at]);
            out.push_str(": ");
            rest = &line[at + 1..];
        }
        let mut last = None;
        for c in rest.chars() {
            if c == '#' && last == Some('#') {
                out.push(' ');
            }
            out.push(c);
            last = Some(c);
        }
    }
    out.into()
}

/// In JSON `#` occurs in strings only, and no line begins with a `:`.
fn escaped(json: &str) -> Cow<'_, str> {
    if json.contains("##") {
        json.replace("##", "\\u0023\\u0023").into()
    } else {
        json.into()
    }
}

/// Standard error for lines of text.
pub fn stderr() -> impl Write {
    Defusing(defused)
}

/// Standard error for lines of JSON.
pub fn stderr_json() -> impl Write {
    Defusing(defused_json)
}

/// Expects each log line in one write.
struct Defusing(fn(&str) -> Cow<'_, str>);

impl Write for Defusing {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        stderr::write((self.0)(&text).as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_ci_system_obeys() {
        for (text, shown) in [
            (
                "warning: ##vso[task.setvariable]x",
                "warning: # #vso[task.setvariable]x",
            ),
            ("###[error]", "# # #[error]"),
            ("::error::x\n", ": :error::x\n"),
            (
                "a\n  ::set-output name=x::y\n",
                "a\n  : :set-output name=x::y\n",
            ),
            ("##teamcity[x]", "# #teamcity[x]"),
        ] {
            assert_eq!(broken(text), shown);
        }
        for same in ["a::b [::1]:5000 # x\n", "", "\n\n", "# a\n# b"] {
            assert!(matches!(broken(same), Cow::Borrowed(_)), "{same}");
        }
    }

    #[test]
    fn json_means_the_same() {
        for text in ["##vso[x]", "###", "a#b", "\"##\\##"] {
            let json = serde_json::to_string(text).unwrap();
            let shown = escaped(&json);
            assert!(!shown.contains("##"), "{shown}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
