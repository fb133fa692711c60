//! Whoever writes lines for people writes them here: this process has one standard output. While somebody types at a
//! prompt, lines appear above it; without a prompt they are written as they come.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lines that wait for the terminal; what comes on top of them is counted and lost.
const WAITING_MAX: usize = 1_024;

/// The way to a prompt's printer, while there is one.
static ABOVE: Mutex<Option<Above>> = Mutex::new(None);

struct Above {
    lines: SyncSender<String>,
    lost: u64,
}

/// A line for people. Never waits: neither a closed pipe nor a terminal that was stopped must hold up the cluster.
pub(crate) fn say(line: &str) {
    match &mut *above() {
        Some(above) => above.say(line),
        None => answer(line),
    }
}

/// What was asked for at the prompt: written at once, because nobody types before it is there.
pub(crate) fn answer(text: &str) {
    let mut out = std::io::stdout().lock();
    // a closed pipe must not end the cluster
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

impl Above {
    fn say(&mut self, line: &str) {
        if self.lost > 0 {
            let told = format!(
                "({} lines are lost: the terminal was too slow)\n",
                self.lost
            );
            if self.lines.try_send(told).is_ok() {
                self.lost = 0;
            }
        }
        if self.lines.try_send(format!("{line}\n")).is_err() {
            self.lost += 1;
        }
    }
}

fn above() -> MutexGuard<'static, Option<Above>> {
    ABOVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lines go to a prompt's printer as long as this value lives.
pub(crate) struct Raised(());

impl Raised {
    /// The lines, for whoever prints them. One prompt at a time: the newest has them.
    pub(crate) fn new() -> (Self, Receiver<String>) {
        let (lines, printed) = sync_channel(WAITING_MAX);
        *above() = Some(Above { lines, lost: 0 });
        (Self(()), printed)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        *above() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_is_too_slow_loses_lines_and_is_told_how_many() {
        let (lines, printed) = sync_channel(2);
        let mut above = Above { lines, lost: 0 };
        for line in ["one", "two", "three", "four"] {
            above.say(line);
        }
        let read = || printed.try_iter().collect::<Vec<_>>();
        assert_eq!(read(), ["one\n", "two\n"]);
        above.say("five");
        assert_eq!(
            read(),
            ["(2 lines are lost: the terminal was too slow)\n", "five\n"]
        );
        above.say("six");
        assert_eq!(read(), ["six\n"], "told once");
    }
}
