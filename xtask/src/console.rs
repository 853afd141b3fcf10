//! What the terminal is told while a task runs: one line per step, with the time that it took. Must never
//! decide anything.

use std::{
    fmt::Display,
    io::{self, Write},
    time::{Duration, Instant},
};

/// Measures how long a task takes, for people and for bounded waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "tasks are timed for the reader; nothing is measured"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// One `[what] ...` line that is finished by `ok`, or by a list of what is missing.
#[derive(Debug)]
pub(crate) struct Step {
    what: String,
    clock: Stopwatch,
    continued: bool,
}

impl Step {
    pub(crate) fn begin(what: impl Display) -> Self {
        print!("[{what}] ... ");
        flush();
        Self { what: what.to_string(), clock: Stopwatch::start(), continued: false }
    }

    /// Says what is being done, before something that takes a while.
    pub(crate) fn doing(&mut self, action: impl Display) {
        if self.continued {
            println!("[{}] ... {action}", self.what);
        } else {
            println!("{action}");
        }
        self.continued = true;
    }

    pub(crate) fn present(self, detail: impl Display) {
        self.finish(format_args!("ok (present): {detail}"));
    }

    pub(crate) fn installed(self) {
        let elapsed = seconds(self.clock.elapsed());
        self.finish(format_args!("ok (installed in {elapsed})"));
    }

    pub(crate) fn failed(self, why: impl Display) {
        self.finish(format_args!("MISSING: {why}"));
    }

    fn finish(&self, outcome: impl Display) {
        if self.continued {
            println!("[{}] ... {outcome}", self.what);
        } else {
            println!("{outcome}");
        }
        flush();
    }
}

/// `1.4 s`, or `3 min 20 s` from a minute on.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// A line that begins a part of the output.
pub(crate) fn heading(text: impl Display) {
    println!("\n==> {text}");
    flush();
}

fn flush() {
    // A closed standard output is no reason to stop a build.
    let _ = io::stdout().flush();
}

/// Prints a line, if the terminal is still there: what is to be ended must be ended without it too.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_naturally() {
        assert_eq!(seconds(Duration::from_millis(1_440)), "1.4 s");
        assert_eq!(seconds(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(seconds(Duration::from_secs(60)), "1 min 00 s");
    }
}
