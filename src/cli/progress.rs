//! Progress output of a run: bars on a terminal, one line per step with `-v`, warnings always.

use std::{
    collections::HashMap,
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use super::{
    error::one_line,
    output::{self, bytes, seconds},
};
use crate::progress::{Phase, Watch};

/// Most warnings shown; further ones are only counted.
const MAX_WARNINGS: usize = 50;

/// How often an unchanged state is repeated where the line cannot be overwritten.
const REMIND: Duration = Duration::from_secs(10);

/// How steps are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Not at all: `-q`, or `--json` without a terminal.
    Silent,
    /// Not at all, except for the state that the command waits for: the log of a CI job.
    Results,
    /// With `-v`: a line on standard error when a step has ended.
    Lines,
    /// Bars on standard error.
    Bars,
}

impl Look {
    /// The style that fits the terminal and the flags.
    pub(crate) fn choose(json: bool, quiet: bool, verbose: bool) -> Self {
        if quiet {
            Self::Silent
        } else if std::io::stderr().is_terminal() && !verbose {
            // Log lines would tear bars apart.
            Self::Bars
        } else if json {
            Self::Silent
        } else if verbose {
            Self::Lines
        } else {
            Self::Results
        }
    }
}

struct Step {
    bytes: u64,
    began: Instant,
    bar: Option<ProgressBar>,
}

#[derive(Default)]
struct State {
    /// The current cache, such as `gobuild`.
    label: String,
    running: HashMap<Phase, Step>,
    /// A status line, on a terminal.
    note: Option<ProgressBar>,
    /// When such a line was last written without a terminal, and its gist.
    noted: Option<(Instant, String)>,
    /// The phase that began last, for the message of an interrupted operation.
    last: Option<Phase>,
    warnings: Vec<String>,
    dropped: u64,
}

/// The watcher of one run.
pub(crate) struct Reporter {
    look: Look,
    bars: MultiProgress,
    state: Mutex<State>,
}

impl Reporter {
    pub(crate) fn new(look: Look) -> Self {
        Self {
            look,
            bars: MultiProgress::new(),
            state: Mutex::default(),
        }
    }

    /// Sets the current cache.
    pub(crate) fn label(&self, label: &str) {
        label.clone_into(&mut self.state.lock().label);
    }

    /// Returns true if steps are shown, so that a summary may show them too.
    pub(crate) fn shows_steps(&self) -> bool {
        matches!(self.look, Look::Lines | Look::Bars)
    }

    /// The name used before any phase has begun.
    pub(crate) const AT_THE_START: &'static str = "startup";

    /// The phase that began last.
    pub(crate) fn last_phase(&self) -> Option<Phase> {
        self.state.lock().last
    }

    /// Shows the state that the command waits for: overwritten on a terminal; elsewhere a line on standard error when `gist`, the relevant
    /// part, changes, and every [`REMIND`].
    pub(crate) fn note(&self, text: &str, gist: &str) {
        if self.look == Look::Silent {
            return;
        }
        let mut state = self.state.lock();
        if self.look != Look::Bars {
            let said = state.noted.as_ref();
            if said.is_none_or(|(at, was)| was != gist || at.elapsed() >= REMIND) {
                state.noted = Some((Instant::now(), gist.to_owned()));
                output::note(&format!("cachectl: {}\n", one_line(text)));
            }
            return;
        }
        let bar = state.note.get_or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        bar.set_message(one_line(text));
    }

    /// Removes the bars, for a result or the end.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        let bars: Vec<_> = state
            .running
            .drain()
            .filter_map(|(_, step)| step.bar)
            .collect();
        for bar in bars.into_iter().chain(state.note.take()) {
            bar.finish_and_clear();
        }
        drop(state);
        let _ = self.bars.clear();
    }

    /// The warnings so far, in order.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let state = self.state.lock();
        let mut all = state.warnings.clone();
        if state.dropped > 0 {
            all.push(format!("{} more warnings", state.dropped));
        }
        all
    }
}

impl Watch for Reporter {
    fn begin(&self, phase: Phase, total_bytes: Option<u64>) {
        let mut state = self.state.lock();
        state.last = Some(phase);
        let bar = (self.look == Look::Bars).then(|| {
            let bar = self.bars.add(match total_bytes {
                Some(total) => ProgressBar::new(total).with_style(style(
                    "{prefix:>16} {bar:30} {decimal_bytes:>10} of {decimal_total_bytes} {decimal_bytes_per_sec}",
                )),
                None => ProgressBar::new_spinner()
                    .with_style(style("{prefix:>16} {spinner} {decimal_bytes}")),
            });
            bar.set_prefix(format!("{} {}", state.label, phase.name()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let step = Step {
            bytes: 0,
            began: Instant::now(),
            bar,
        };
        if let Some(bar) = state.running.insert(phase, step).and_then(|old| old.bar) {
            bar.finish_and_clear();
        }
    }

    fn advance(&self, phase: Phase, bytes: u64) {
        if let Some(step) = self.state.lock().running.get_mut(&phase) {
            step.bytes += bytes;
            if let Some(bar) = &step.bar {
                bar.inc(bytes);
            }
        }
    }

    fn end(&self, phase: Phase) {
        let (label, step) = {
            let mut state = self.state.lock();
            (state.label.clone(), state.running.remove(&phase))
        };
        let Some(step) = step else { return };
        if let Some(bar) = step.bar {
            bar.finish_and_clear();
        }
        if self.look == Look::Lines {
            let moved = match step.bytes {
                0 => String::new(),
                n => format!(" {}", bytes(n)),
            };
            let took = seconds(step.began.elapsed());
            output::note(&format!(
                "cachectl: {label}: {}{moved} in {took}\n",
                phase.name()
            ));
        }
    }

    fn warn(&self, message: &str) {
        let message = one_line(message);
        {
            let mut state = self.state.lock();
            if state.warnings.contains(&message) {
                return;
            }
            if state.warnings.len() >= MAX_WARNINGS {
                state.dropped += 1;
                return;
            }
            state.warnings.push(message.clone());
        }
        self.bars
            .suspend(|| output::note(&format!("cachectl: warning: {message}\n")));
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates above are well formed, a test sees to it")
        .progress_chars("━╸ ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_live_through_repeated_and_unknown_phases() {
        let reporter = Reporter::new(Look::Bars);
        reporter.label("gobuild");
        reporter.begin(Phase::Pack, Some(10));
        reporter.begin(Phase::Pack, None);
        reporter.advance(Phase::Pack, 20);
        reporter.advance(Phase::Upload, 1);
        reporter.end(Phase::Upload);
        assert_eq!(reporter.last_phase(), Some(Phase::Pack));
        reporter.clear();
        reporter.end(Phase::Pack);
    }

    #[test]
    fn warnings_are_said_once_and_not_without_end() {
        let reporter = Reporter::new(Look::Silent);
        for n in 0..60 {
            reporter.warn(&format!("w{n}"));
            reporter.warn("w0");
        }
        let all = reporter.warnings();
        assert_eq!((all.len(), all[50].as_str()), (51, "10 more warnings"));
    }
}
