//! What somebody types: at a terminal with editing and history, from a pipe as plain lines. A thread of its own reads,
//! because a read from a terminal cannot be called off; one line is read for each that is asked for.

use super::screen::Raised;
use super::words::LINE_LEN_MAX;
use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor, ExternalPrinter};
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::sync::mpsc::{Receiver as Asked, SyncSender, sync_channel};
use tokio::sync::mpsc;

/// Lines that arrow-up brings back.
const HISTORY_LEN_MAX: usize = 500;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    Line(String),
    /// Ctrl-D, or the end of the pipe.
    End,
    /// Ctrl-C.
    Interrupt,
    /// The terminal or pipe broke; why.
    Broken(String),
}

/// One keyboard or pipe. Dropped, the terminal is as it was.
pub(crate) struct Keys {
    ask: SyncSender<String>,
    typed: mpsc::Receiver<Typed>,
    /// Somebody sits there; a pipe may be empty from the start.
    pub seated: bool,
    terminal: Option<Kept>,
}

impl Keys {
    /// None when nobody can type: this process is in the background of its terminal, where a read would stop it.
    pub(crate) fn open() -> Option<Self> {
        let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
        let seated = stdin.is_terminal();
        if seated && !tcgetpgrp(&stdin).is_ok_and(|front| front == getpgrp()) {
            return None;
        }
        let (ask, asked) = sync_channel(1);
        let (typed_to, typed) = mpsc::channel(1);
        let mut terminal = None;
        let edited = if seated && stdout.is_terminal() {
            tcgetattr(&stdin).ok().zip(editor().ok())
        } else {
            None
        };
        match edited {
            Some((settings, (editor, mut printer))) => {
                let (raised, lines) = Raised::new();
                terminal = Some(Kept {
                    settings,
                    waits: false,
                    _raised: raised,
                });
                std::thread::spawn(move || {
                    while let Ok(line) = lines.recv() {
                        // a terminal that is gone shows nothing any more
                        if printer.print(line).is_err() {
                            return;
                        }
                    }
                });
                std::thread::spawn(move || edit(editor, &asked, &typed_to));
            }
            None => {
                // a terminal without cursor keys (TERM=dumb) has a prompt too; a pipe needs none
                let shown = seated && stdout.is_terminal();
                std::thread::spawn(move || follow(shown, &asked, &typed_to));
            }
        }
        Some(Self {
            ask,
            typed,
            seated,
            terminal,
        })
    }

    /// The next line; the prompt is shown at a terminal only. Not to be called off but by dropping all of it.
    pub(crate) async fn next(&mut self, prompt: &str) -> Typed {
        if let Some(terminal) = &mut self.terminal {
            terminal.waits = true;
        }
        // the thread asks for one line after the other and ends after what is no line
        let asked = self.ask.try_send(prompt.to_owned());
        let typed = match asked {
            Ok(()) => self.typed.recv().await.unwrap_or(Typed::End),
            Err(_) => Typed::End,
        };
        if let Some(terminal) = &mut self.terminal {
            terminal.waits = false;
        }
        typed
    }
}

/// The terminal's settings before anybody edited a line.
struct Kept {
    settings: Termios,
    /// Somebody is at a prompt now.
    waits: bool,
    _raised: Raised,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // best effort: the terminal may be gone
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.settings);
        if self.waits {
            let _ = writeln!(std::io::stdout());
        }
    }
}

type LineEditor = Editor<(), MemHistory>;

fn editor() -> rustyline::Result<(LineEditor, impl ExternalPrinter + Send)> {
    let mut editor = LineEditor::with_history(Config::default(), MemHistory::new())?;
    editor.set_max_history_size(HISTORY_LEN_MAX)?;
    editor.set_auto_add_history(true);
    // pasted lines are commands one by one, and a process that ends in the middle leaves no mode behind
    editor.enable_bracketed_paste(false);
    let printer = editor.create_external_printer()?;
    Ok((editor, printer))
}

fn edit(mut editor: LineEditor, asked: &Asked<String>, typed_to: &mpsc::Sender<Typed>) {
    while let Ok(prompt) = asked.recv() {
        let typed = match editor.readline(&prompt) {
            Ok(line) => Typed::Line(line),
            Err(ReadlineError::Eof) => Typed::End,
            Err(ReadlineError::Interrupted) => Typed::Interrupt,
            Err(why) => Typed::Broken(why.to_string()),
        };
        let over = !matches!(typed, Typed::Line(_));
        if typed_to.blocking_send(typed).is_err() || over {
            return;
        }
    }
}

fn follow(shown: bool, asked: &Asked<String>, typed_to: &mpsc::Sender<Typed>) {
    let mut stdin = std::io::stdin().lock();
    while let Ok(prompt) = asked.recv() {
        if shown {
            let mut out = std::io::stdout().lock();
            // a terminal that is gone shows in the read
            let _ = write!(out, "{prompt}").and_then(|()| out.flush());
        }
        let typed = line(&mut stdin);
        let over = !matches!(typed, Typed::Line(_));
        if typed_to.blocking_send(typed).is_err() || over {
            return;
        }
    }
}

/// One line, of which no more is kept than a command may have and one byte, so that too much shows.
fn line(input: &mut impl BufRead) -> Typed {
    let mut line = Vec::new();
    let mut some = false;
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            Err(why) => return Typed::Broken(why.to_string()),
        };
        if chunk.is_empty() && !some {
            return Typed::End;
        }
        some = true;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or(chunk);
        let room = (LINE_LEN_MAX + 1).saturating_sub(line.len());
        line.extend(part.iter().take(room));
        let (used, over) = (
            end.map_or(chunk.len(), |end| end + 1),
            end.is_some() || chunk.is_empty(),
        );
        input.consume(used);
        if over {
            return Typed::Line(String::from_utf8_lossy(&line).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Cursor};

    fn all(text: &[u8]) -> Vec<Typed> {
        // a buffer smaller than any line: every line comes in pieces
        let mut input = BufReader::with_capacity(3, Cursor::new(text));
        let mut typed = Vec::new();
        while typed.last() != Some(&Typed::End) {
            typed.push(line(&mut input));
        }
        typed
    }

    #[test]
    fn a_pipe_yields_its_lines_also_the_last_without_an_end() {
        let one = |text: &str| Typed::Line(text.to_owned());
        assert_eq!(all(b""), [Typed::End]);
        assert_eq!(
            all(b"status\n\nsell 2 30"),
            [one("status"), one(""), one("sell 2 30"), Typed::End]
        );
        assert_eq!(all(b"help\r\n"), [one("help\r"), Typed::End]);
        assert_eq!(all(b"\xff\n"), [one("\u{fffd}"), Typed::End]);
    }

    #[test]
    fn an_endless_line_is_not_kept_and_the_next_one_is_read() {
        let mut text = vec![b'x'; 100 * LINE_LEN_MAX];
        text.extend_from_slice(b"\nhelp\n");
        let typed = all(&text);
        let [Typed::Line(long), Typed::Line(next), Typed::End] = &typed[..] else {
            panic!("{typed:?}");
        };
        assert_eq!(
            long.len(),
            LINE_LEN_MAX + 1,
            "refused as too long, not cut to a command"
        );
        assert_eq!(next, "help");
    }
}
