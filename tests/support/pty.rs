//! A program on a terminal, as a person sees it: type, wait for words, press Ctrl-C. The transcript has neither
//! escape sequences nor carriage returns; each wait goes on where the one before ended. Blocking: every wait has
//! its deadline.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Rows and columns of the window.
pub const WINDOW: (u16, u16) = (40, 160);
/// A program that says more than this has lost its mind; what follows is not kept and the next wait says so.
const TRANSCRIPT_LEN_MAX: usize = 4 << 20;

/// A child on a pseudo terminal of its own, leader of its own session. Dropped, the session is killed.
pub struct Pty {
    child: Child,
    keys: File,
    screen: Arc<Screen>,
    /// Where the next wait begins to look.
    seen: usize,
}

impl Pty {
    /// Start it. Arguments, directory and the variables that the command *sets* are kept; `env_clear` is not (std
    /// does not show it): start `env -i …` for that.
    pub fn spawn(command: Command) -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).context("openpt")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let (ws_row, ws_col) = WINDOW;
        tcsetwinsize(
            &slave,
            Winsize {
                ws_row,
                ws_col,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )?;
        // setsid(1), because pre_exec is unsafe; our child leads no group yet, so it executes without a fork. env(1),
        // because a suite in the background of a shell ignores SIGINT, and its children would too.
        let mut wrapped = Command::new("setsid");
        wrapped
            .args(["--ctty", "env", "--default-signal"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm-256color");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        let child = wrapped
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave))
            .spawn()
            .context("setsid --ctty env --default-signal (util-linux, coreutils)")?;
        drop(wrapped); // our copies of the slave; the end of the last one is the end of the output
        let keys = File::from(master);
        let screen = Arc::new(Screen::default());
        let (shown, output) = (Arc::clone(&screen), keys.try_clone()?);
        std::thread::spawn(move || shown.follow(output));
        Ok(Self {
            child,
            keys,
            screen,
            seen: 0,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The text and Enter.
    pub fn type_line(&mut self, text: &str) -> Result<()> {
        self.press(format!("{text}\r").as_bytes())
    }

    /// Keys as a terminal sends them.
    pub fn press(&mut self, keys: &[u8]) -> Result<()> {
        self.keys.write_all(keys).context("typing")
    }

    pub fn send_ctrl_c(&mut self) -> Result<()> {
        self.press(b"\x03")
    }

    /// Ctrl-D; wait for the prompt first, since a line editor that does not read yet loses it.
    pub fn send_eof(&mut self) -> Result<()> {
        self.press(b"\x04")
    }

    /// Wait until the text appears after the last one that was waited for; returns what stood before it. What is
    /// typed is echoed: wait for words that the program says, not for those that were typed.
    pub fn expect(&mut self, text: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        let mut shown = self.screen.lock();
        let why = loop {
            if let Some(at) = find(&shown.text[self.seen..], text.as_bytes()) {
                let before = shown.text[self.seen..self.seen + at].to_vec();
                self.seen += at + text.len();
                return Ok(String::from_utf8_lossy(&before).into_owned());
            }
            if shown.over {
                break "the program's output has ended".to_owned();
            }
            if shown.text.len() >= TRANSCRIPT_LEN_MAX {
                break format!("more than {TRANSCRIPT_LEN_MAX} bytes of output");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break format!("not within {within:?}");
            }
            shown = self
                .screen
                .changed
                .wait_timeout(shown, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        };
        let (old, new) = shown.text.split_at(self.seen);
        bail!(
            "expected {text:?}, found none: {why}\n--- before the last match\n{}\n--- after it\n{}\n---",
            String::from_utf8_lossy(old),
            String::from_utf8_lossy(new)
        )
    }

    /// Wait for the program's own end.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "the program still runs after {within:?}\n--- transcript\n{}",
                self.transcript()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything so far.
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().text).into_owned()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // An unreaped leader keeps the session's number, so its members are ours; once it is reaped, the number may
        // become anybody's, and the terminal's end has told the others.
        if matches!(self.child.try_wait(), Ok(None)) {
            for member in session(self.child.id()) {
                // best effort: it may be ending just now
                let _ = pidfd_send_signal(member, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// Everybody in the leader's session, itself too: an interactive shell gives each job a group of its own.
fn session(leader: u32) -> Vec<OwnedFd> {
    let of = |pid: Pid| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // after the name, which may hold anything: state, parent, group, session
        stat.rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(3)?
            .parse()
            .ok()
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| Pid::from_raw(process.file_name().to_str()?.parse().ok()?))
        .filter_map(|pid| {
            // held before it is looked at, so that the number cannot become another's in between
            let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            (of(pid) == Some(leader)).then_some(held)
        })
        .collect()
}

#[derive(Default)]
struct Screen {
    shown: Mutex<Shown>,
    changed: Condvar,
}

#[derive(Default)]
struct Shown {
    text: Vec<u8>,
    over: bool,
}

impl Screen {
    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, mut output: File) {
        let mut plain = Plain::default();
        let mut chunk = [0; 4096];
        loop {
            // EIO is the end of a terminal whose last user has gone
            let len = output.read(&mut chunk).unwrap_or(0);
            let mut shown = self.lock();
            for byte in &chunk[..len] {
                if shown.text.len() < TRANSCRIPT_LEN_MAX {
                    plain.take(*byte, &mut shown.text);
                }
            }
            shown.over = len == 0;
            self.changed.notify_all();
            if shown.over {
                return;
            }
        }
    }
}

/// Leaves out escape sequences; one line end is one `\n`.
#[derive(Default)]
struct Plain {
    within: Within,
    carriage: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Within {
    #[default]
    Text,
    /// After ESC, and intermediates such as in `ESC ( B`.
    Escape,
    /// `ESC [` … up to a letter.
    Control,
    /// `ESC ]` … up to BEL or `ESC \`.
    System,
    SystemEscape,
}

impl Plain {
    fn take(&mut self, byte: u8, text: &mut Vec<u8>) {
        use Within::{Control, Escape, System, SystemEscape, Text};
        self.within = match (self.within, byte) {
            (Text, 0x1b) => Escape,
            (Text, _) => return self.text(byte, text),
            (Escape, b'[') => Control,
            (Escape, b']' | b'P' | b'_' | b'^') => System,
            (Escape, 0x20..=0x2f) => Escape,
            (Control, 0x40..=0x7e) | (System, 0x07) | (SystemEscape, b'\\') => Text,
            (Control, _) => Control,
            (System, 0x1b) => SystemEscape,
            (System | SystemEscape, _) => System,
            (Escape, _) => Text,
        };
    }

    /// `\r\n`, also with more `\r`, is a line end; so is a `\r` after which the line is written anew.
    fn text(&mut self, byte: u8, text: &mut Vec<u8>) {
        match byte {
            0x07 => {}
            b'\r' => self.carriage = true,
            _ => {
                if std::mem::take(&mut self.carriage) && byte != b'\n' {
                    text.push(b'\n');
                }
                text.push(byte);
            }
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    if what.is_empty() {
        return Some(0);
    }
    text.windows(what.len()).position(|here| here == what)
}
