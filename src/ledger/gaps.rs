//! What is missing, whom to ask for it, and what happens when nobody has it.
//!
//! One question per author is open at a time: to the author, then to the leader, then to any member whose clock
//! shows that it has delivered what is missing; the first one after a random delay. Upon a gap that stays
//! `gap_ttl_ms` the leader in office closes an incarnation in the log: the author's, when a frame of its own or the clocks
//! of two members prove that it spoke; else that of the single member that claims so, because one liar must not silence
//! another member (review F14 d). Whoever still misses something three times as long afterwards takes it as history.

use crate::causal::{Causal, Delivery, Rumour, ended};
use crate::{Accounts, Effect, Facts, Refusal, Settings};
use std::collections::{BTreeMap, BTreeSet};
use synod_wire::clock::SEQUENCE_MAX;
use synod_wire::message::CausalRange;
use synod_wire::{Incarnation, Tick, Token};

/// Messages that one question asks for, and one answer brings.
pub(crate) const ANSWER_FRAMES_MAX: usize = 64;
/// A gap that lasts for so many times `gap_ttl_ms` is history for a follower.
const SKIP_AFTER: u64 = 3;
/// One member is handed so many answers per `ask_again_ms`.
const ANSWERS_MAX: u32 = 32;

/// A run of messages that keeps others from being delivered.
struct Gap {
    incarnation: Incarnation,
    first: u64,
    last: u64,
    /// A frame of the author's own lies beyond it.
    proven: bool,
    /// Whose messages wait for it.
    waiting: BTreeSet<Token>,
}

struct Question {
    incarnation: Incarnation,
    first: u64,
    since: u64,
    due: u64,
    round: u32,
    acted_at: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Gaps {
    open: BTreeMap<Token, Question>,
    /// Answers per asker, since when.
    answered: BTreeMap<Token, (u64, u32)>,
}

/// What a look at the gaps brought.
#[derive(Default)]
pub(crate) struct Looked {
    pub(crate) effects: Vec<Effect>,
    /// Messages that are history now.
    pub(crate) history: Vec<Delivery>,
}

impl Gaps {
    /// When the next question is due.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.open.values().map(|question| question.due).min()
    }

    /// Upon anything that may have opened, filled or aged a gap.
    pub(crate) fn look(
        &mut self,
        now: u64,
        settings: &Settings,
        accounts: &Accounts,
        facts: &Facts,
        causal: &mut Causal,
        dice: &mut Dice,
    ) -> Looked {
        let mut looked = Looked::default();
        let gaps = find(now, settings, accounts, causal);
        self.open.retain(|token, _| gaps.contains_key(token));
        for (token, gap) in &gaps {
            let delay = dice.between(1, settings.ask_delay_ms.max(1));
            let fresh = |round| Question {
                incarnation: gap.incarnation,
                first: gap.first,
                since: now,
                due: now.saturating_add(delay),
                round,
                acted_at: None,
            };
            let question = match self.open.remove(token) {
                Some(q) if (q.incarnation, q.first) == (gap.incarnation, gap.first) => q,
                // progress: whoever brought it is asked for the rest
                Some(q) => fresh(q.round.saturating_sub(1)),
                None => fresh(0),
            };
            let question = self.open.entry(*token).or_insert(question);
            if question.due <= now {
                question.due = now + settings.ask_again_ms.max(1);
                let asked = ask(*token, gap, question, facts, causal);
                looked.effects.extend(asked);
            }
            let age = now.saturating_sub(question.since);
            let rested = question
                .acted_at
                .is_none_or(|at| now.saturating_sub(at) >= settings.ask_again_ms * 5);
            if gap.waiting.is_empty() && !gap.proven || !rested {
                continue;
            }
            let closing = close(*token, gap, accounts, causal).filter(|_| facts.in_office);
            if let Some(effect) = closing.filter(|_| age >= settings.gap_ttl_ms) {
                question.acted_at = Some(now);
                looked.effects.push(effect);
            } else if age >= settings.gap_ttl_ms.saturating_mul(SKIP_AFTER) {
                question.acted_at = Some(now);
                let tick = Tick {
                    incarnation: gap.incarnation,
                    sequence: gap.last,
                };
                causal.stats.skipped += 1;
                looked.history.append(&mut causal.forward(*token, tick));
            }
        }
        looked
    }

    /// A member misses messages: what we have of them goes to it alone.
    pub(crate) fn answer(
        &mut self,
        now: u64,
        settings: &Settings,
        causal: &mut Causal,
        to: Token,
        range: CausalRange,
    ) -> Result<Option<Effect>, Refusal> {
        let CausalRange {
            author,
            incarnation,
            first,
            last,
        } = range;
        let len = last.checked_sub(first);
        let sane = first > 0 && last <= SEQUENCE_MAX && author != to;
        let most = settings.kept_per_author_max.max(ANSWER_FRAMES_MAX) as u64;
        if !sane || len.is_none_or(|len| len >= most) {
            return Err(Refusal::Range {
                author,
                first,
                last,
            });
        }
        let (since, count) = self.answered.entry(to).or_insert((now, 0));
        if now.saturating_sub(*since) >= settings.ask_again_ms {
            (*since, *count) = (now, 0);
        }
        if *count >= ANSWERS_MAX {
            return Ok(None);
        }
        *count += 1;
        let frames = causal.frames(author, incarnation, first..=last, ANSWER_FRAMES_MAX);
        if frames.is_empty() {
            return Ok(None);
        }
        causal.stats.relayed += frames.len() as u64;
        Ok(Some(Effect::Relay { to, frames }))
    }
}

/// Chance from the shell's seed (xorshift64*).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn stir(&mut self, seed: u64) {
        self.0 = (self.0 ^ seed) | 1;
    }

    /// From `low` to `high`, both included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let roll = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        low + roll % (high - low + 1)
    }
}

/// Every gap that keeps a message back, or may do so; at most one per author.
fn find(
    now: u64,
    settings: &Settings,
    accounts: &Accounts,
    causal: &Causal,
) -> BTreeMap<Token, Gap> {
    let mut gaps: BTreeMap<Token, Gap> = BTreeMap::new();
    let gap = |token, tick: Tick, proven| Gap {
        incarnation: tick.incarnation,
        first: causal.delivered(token, tick.incarnation) + 1,
        last: tick.sequence,
        proven,
        waiting: BTreeSet::new(),
    };
    for (token, author) in &causal.authors {
        let sequence = match author.held.first_key_value() {
            Some((held, _)) => held.saturating_sub(1),
            None => author.shown,
        };
        let incarnation = author.incarnation;
        let missing = sequence > causal.delivered(*token, incarnation);
        if missing && !ended(accounts, *token, incarnation) {
            let tick = Tick {
                incarnation,
                sequence,
            };
            gaps.insert(*token, gap(*token, tick, true));
        }
    }
    for from in causal.authors.keys() {
        for (token, tick) in causal.unmet(accounts, *from) {
            let found = gaps.entry(token).or_insert_with(|| gap(token, tick, false));
            found.waiting.insert(*from);
            if !found.proven && found.incarnation == tick.incarnation {
                found.last = found.last.max(tick.sequence);
            }
        }
    }
    // last: how far a rumour goes is nothing to act upon
    for (token, author) in &causal.authors {
        let young = |heard_at| now.saturating_sub(heard_at) < settings.gap_ttl_ms;
        let rumour = author.rumour.filter(|r| young(r.heard_at));
        let unmet = rumour.filter(|r| !causal.is_met(accounts, *token, r.tick));
        if let Some(Rumour { tick, .. }) = unmet {
            let entry = gaps.entry(*token);
            entry.or_insert_with(|| gap(*token, tick, false));
        }
    }
    gaps
}

fn ask(
    token: Token,
    gap: &Gap,
    question: &mut Question,
    facts: &Facts,
    causal: &mut Causal,
) -> Option<Effect> {
    let wanted = Tick {
        incarnation: gap.incarnation,
        sequence: gap.first,
    };
    let rumour = causal.authors.get(&token).and_then(|a| a.rumour);
    let showed = causal
        .authors
        .iter()
        .filter(|(_, author)| author.clock.tick(token) >= wanted)
        .map(|(token, _)| *token);
    let mut whom: Vec<Token> = vec![token];
    let others = facts
        .leader
        .into_iter()
        .chain(gap.waiting.iter().copied())
        .chain(rumour.map(|rumour| rumour.by))
        .chain(showed);
    for other in others {
        if other != causal.me() && !whom.contains(&other) {
            whom.push(other);
        }
    }
    let to = *whom.get(question.round as usize % whom.len())?;
    question.round = question.round.wrapping_add(1);
    causal.stats.asked += 1;
    // no more than may wait here, should they come in another order
    let most = causal.held_max.clamp(1, ANSWER_FRAMES_MAX) as u64;
    let range = CausalRange {
        author: token,
        incarnation: gap.incarnation,
        first: gap.first,
        last: gap.last.min(gap.first.saturating_add(most - 1)),
    };
    Some(Effect::Ask { to, range })
}

/// Whose incarnation ends with what has been delivered of it; none = whoever it could be is closed already.
fn close(token: Token, gap: &Gap, accounts: &Accounts, causal: &Causal) -> Option<Effect> {
    let claimant = gap.waiting.first().filter(|_| gap.waiting.len() == 1);
    let claimant = claimant.filter(|_| !gap.proven).and_then(|claimant| {
        let author = causal.authors.get(claimant)?;
        Some((*claimant, author.incarnation))
    });
    let mut ends = claimant.into_iter().chain([(token, gap.incarnation)]);
    let (token, incarnation) = ends.find(|(token, i)| accounts.closed(*token, *i).is_none())?;
    Some(Effect::Close {
        token,
        incarnation,
        last: causal.delivered(token, incarnation),
    })
}
