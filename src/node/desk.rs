//! Between people and the driver: wishes go in by tickets, answers and the prototype's lines come out. The API and
//! the prompt share it; it decides nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use synod_ledger::{Declined, News, TradeRecord, Wish};
use synod_wire::Offer;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Wishes that wait for the driver.
pub const ASKS_MAX: usize = 256;
/// Lines that a slow reader may be behind.
const LINES_MAX: usize = 512;
/// Lines of this process that a late reader may still have.
const KEPT_MAX: usize = 128;
/// Tickets that somebody waits for.
const TICKETS_MAX: usize = 4_096;
/// News of one ticket: offered, decided.
const NEWS_MAX: usize = 4;

/// What people want of the driver.
pub enum Ask {
    /// To trade; the ticket is in the answer.
    Trade {
        /// From [`Desk::trade`].
        ticket: u64,
        /// What.
        wish: Wish,
    },
    /// An election, now.
    CallElection {
        /// What became of it, in words.
        reply: oneshot::Sender<Result<String, String>>,
    },
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is on its way.
    Offered(Offer),
    /// It was refused before it left.
    Declined(Declined),
    /// The log has decided.
    Decided(TradeRecord),
}

/// See the head of this file.
pub struct Desk {
    asks: mpsc::Sender<Ask>,
    lines: broadcast::Sender<String>,
    kept: Mutex<VecDeque<String>>,
    quit: watch::Sender<bool>,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, mpsc::Sender<Progress>>>,
}

impl Desk {
    /// The desk, and the driver's end of it.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, driver) = mpsc::channel(ASKS_MAX);
        let desk = Self {
            asks,
            lines: broadcast::channel(LINES_MAX).0,
            kept: Mutex::default(),
            quit: watch::channel(false).0,
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
        };
        (desk, driver)
    }

    /// Hands a wish to the driver; its progress comes through the receiver. None = the driver is busy or gone.
    pub fn trade(&self, wish: Wish) -> Option<mpsc::Receiver<Progress>> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, progress) = mpsc::channel(NEWS_MAX);
        {
            let mut waiting = self.waiting();
            if waiting.len() >= TICKETS_MAX {
                waiting.retain(|_, sender| !sender.is_closed());
            }
            if waiting.len() >= TICKETS_MAX {
                return None;
            }
            waiting.insert(ticket, sender);
        }
        if self.asks.try_send(Ask::Trade { ticket, wish }).is_err() {
            self.waiting().remove(&ticket);
            return None;
        }
        Some(progress)
    }

    /// Asks the driver for an election and says what became of it.
    pub async fn call_election(&self) -> Result<String, String> {
        let gone = |_| "this node is stopping, or too busy".to_owned();
        let (reply, answer) = oneshot::channel();
        self.asks
            .try_send(Ask::CallElection { reply })
            .map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }

    /// The driver tells what became of wishes.
    pub fn tell(&self, news: &News) {
        let (ticket, progress, last) = match news {
            News::Offered {
                ticket: Some(ticket),
                offer,
            } => (*ticket, Progress::Offered(*offer), false),
            News::Declined { ticket, why } => (*ticket, Progress::Declined(*why), true),
            News::Decided {
                ticket: Some(ticket),
                record,
            } => (*ticket, Progress::Decided(*record), true),
            _ => return,
        };
        let mut waiting = self.waiting();
        if let Some(sender) = waiting.get(&ticket) {
            // nobody waits any more, or reads too slowly: the log says it all
            let _ = sender.try_send(progress);
        }
        if last {
            waiting.remove(&ticket);
        }
    }

    /// A line for people, already prefixed.
    pub fn say(&self, line: String) {
        // held while the line is sent: who subscribes has each line once, among the kept or from the channel
        let mut kept = self.kept();
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(line.clone());
        // nobody listens: the log has it too
        let _ = self.lines.send(line);
    }

    /// The last lines of this process so far, and those from now on.
    pub fn lines(&self) -> (Vec<String>, broadcast::Receiver<String>) {
        let kept = self.kept();
        (kept.iter().cloned().collect(), self.lines.subscribe())
    }

    /// A person wants this node to stop.
    pub fn quit(&self) {
        self.quit.send_replace(true);
    }

    /// Turns true when a person wants this node to stop.
    pub fn quitting(&self) -> watch::Receiver<bool> {
        self.quit.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, mpsc::Sender<Progress>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
