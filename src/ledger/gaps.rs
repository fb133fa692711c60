//! What is missing, whom to ask for it, and what happens when nobody has it.
//!
//! One question per author is open at a time: to the author, then to the leader, then to any member whose clock
//! shows that it has delivered what is missing; the first one after a random delay. Upon a gap that stays
//! `gap_ttl_ms` the leader in office closes an incarnation in the log: that of a member that signed two messages with one
//! number; else the author's, when a frame of its own or the clocks of two members prove that it spoke; else that of the
//! single member that claims so, because one liar must not silence another member (review F14 d). Messages that are
//! here and wait themselves are no gap. Whoever still misses something three times as long afterwards takes as history
//! what the author itself has shown, and forgets the claims of others.

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
    proof: Proof,
    /// Whose messages wait for it.
    waiting: BTreeSet<Token>,
}

/// How we know that the messages exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// A frame of the author's own has a number at or beyond the first one.
    Shown,
    /// They are here, or their author's next one is, and wait for others themselves: nobody's fault so far.
    Here,
    /// Others say so.
    Claimed,
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
        causal.rumours = young(now, settings, accounts, causal);
        let gaps = find(accounts, causal);
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
            if gap.waiting.is_empty() && gap.proof != Proof::Shown || !rested {
                continue;
            }
            let closing = close(*token, gap, accounts, causal).filter(|_| facts.in_office);
            if let Some(effect) = closing.filter(|_| age >= settings.gap_ttl_ms) {
                question.acted_at = Some(now);
                looked.effects.push(effect);
            } else if age >= settings.gap_ttl_ms.saturating_mul(SKIP_AFTER) {
                question.acted_at = Some(now);
                looked.history.append(&mut skip(*token, gap, causal));
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

/// Rumours that are neither old nor met.
fn young(
    now: u64,
    settings: &Settings,
    accounts: &Accounts,
    causal: &Causal,
) -> BTreeMap<Token, Rumour> {
    let open = |rumour: &Rumour| {
        now.saturating_sub(rumour.heard_at) < settings.gap_ttl_ms
            && !causal.is_met(accounts, rumour.about, rumour.tick)
    };
    let rumours = causal.rumours.iter().filter(|(_, rumour)| open(rumour));
    rumours.map(|(by, rumour)| (*by, *rumour)).collect()
}

/// Every gap that keeps a message back, or may do so; at most one per author.
fn find(accounts: &Accounts, causal: &Causal) -> BTreeMap<Token, Gap> {
    let mut gaps: BTreeMap<Token, Gap> = BTreeMap::new();
    for (token, author) in &causal.authors {
        let incarnation = author.incarnation;
        let last = match author.held.first_key_value() {
            Some((held, _)) => held.saturating_sub(1),
            None => author.shown,
        };
        let first = causal.delivered(*token, incarnation) + 1;
        if last >= first && !ended(accounts, *token, incarnation) {
            let gap = Gap {
                incarnation,
                first,
                last,
                proof: Proof::Shown,
                waiting: BTreeSet::new(),
            };
            gaps.insert(*token, gap);
        }
    }
    for (token, claims) in claims(accounts, causal) {
        match gaps.get_mut(&token) {
            Some(gap) => gap.waiting.extend(claims.into_keys()),
            None => gaps.extend(claimed(token, &claims, causal).map(|gap| (token, gap))),
        }
    }
    // last: how far a rumour goes is nothing to act upon
    for Rumour { about, tick, .. } in causal.rumours.values() {
        gaps.entry(*about).or_insert_with(|| Gap {
            incarnation: tick.incarnation,
            first: causal.delivered(*about, tick.incarnation) + 1,
            last: tick.sequence,
            proof: Proof::Claimed,
            waiting: BTreeSet::new(),
        });
    }
    gaps
}

/// Who says by a waiting message that it has delivered what of whom.
type Claims = BTreeMap<Token, BTreeMap<Token, Tick>>;

fn claims(accounts: &Accounts, causal: &Causal) -> Claims {
    let mut claims = Claims::new();
    for (from, author) in &causal.authors {
        let next = causal.delivered(*from, author.incarnation) + 1;
        let closed = accounts.closed(*from, author.incarnation);
        // about to be dropped, and no claim any more
        if closed.is_some_and(|last| next > last) {
            continue;
        }
        for (token, tick) in causal.unmet(accounts, *from) {
            claims.entry(token).or_default().insert(*from, tick);
        }
    }
    claims
}

/// What is missing by the word of others alone. If all of it is here, it waits for something else; but perhaps for what
/// waits for it in turn, and then those who claim it can show another message of that number.
fn claimed(token: Token, claims: &BTreeMap<Token, Tick>, causal: &Causal) -> Option<Gap> {
    let incarnation = claims.values().map(|tick| tick.incarnation).max()?;
    let same = claims.iter().filter(|(_, t)| t.incarnation == incarnation);
    let delivered = causal.delivered(token, incarnation);
    let (here, shown) = (
        causal.here(token, incarnation),
        causal.shown(token, incarnation),
    );
    let beyond = |bound| {
        let claims = same.clone().filter(move |(_, t)| t.sequence > bound);
        claims.map(|(from, _)| *from).collect::<BTreeSet<Token>>()
    };
    // the next one is here: then what the author has shown needs no claim
    let bound = if here > delivered {
        here.max(shown)
    } else {
        here
    };
    let (proof, waiting) = match beyond(bound) {
        none if none.is_empty() => (Proof::Here, beyond(delivered)),
        some => (Proof::Claimed, some),
    };
    let last = same.clone().map(|(_, tick)| tick.sequence).max()?;
    let first = if last > here { here + 1 } else { delivered + 1 };
    Some(Gap {
        incarnation,
        first,
        last,
        proof,
        waiting,
    })
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
    let heard = causal.rumours.iter();
    let heard = heard.filter(|(_, rumour)| rumour.about == token);
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
        .chain(heard.map(|(by, _)| *by))
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

/// Whose incarnation ends with what has been delivered of it; none = whoever it could be is closed already, or nobody
/// is to blame.
fn close(token: Token, gap: &Gap, accounts: &Accounts, causal: &Causal) -> Option<Effect> {
    let author = (token, gap.incarnation);
    let incarnation = |claimant: &Token| causal.authors.get(claimant).map(|a| a.incarnation);
    let claimants = gap.waiting.iter();
    let claimants = claimants.filter_map(|claimant| Some((*claimant, incarnation(claimant)?)));
    let claimants: Vec<_> = claimants.collect();
    let liars = claimants
        .iter()
        .filter(|claimant| equivocated(claimant, causal));
    let own = Some(author).filter(|author| equivocated(author, causal));
    let mut ends: Vec<(Token, Incarnation)> = own.into_iter().collect();
    match (gap.proof, claimants.as_slice()) {
        (Proof::Shown, _) => ends.push(author),
        (Proof::Here, _) => ends.extend(liars),
        (Proof::Claimed, [claimant]) => ends.extend([*claimant, author]),
        (Proof::Claimed, _) => {
            ends.extend(liars);
            ends.push(author);
        }
    }
    let ends = ends.into_iter();
    let (token, incarnation) = { ends }.find(|(token, i)| accounts.closed(*token, *i).is_none())?;
    Some(Effect::Close {
        token,
        incarnation,
        last: causal.delivered(token, incarnation),
    })
}

fn equivocated((token, incarnation): &(Token, Incarnation), causal: &Causal) -> bool {
    let author = causal.authors.get(token);
    author.is_some_and(|author| author.equivocated && author.incarnation == *incarnation)
}

/// A gap that nobody closes either. What the author has shown itself is history; what others merely claim would poison
/// our clock, so their messages are forgotten instead.
fn skip(token: Token, gap: &Gap, causal: &mut Causal) -> Vec<Delivery> {
    let tick = Tick {
        incarnation: gap.incarnation,
        sequence: match gap.proof {
            Proof::Shown => gap.last,
            Proof::Here | Proof::Claimed => causal.here(token, gap.incarnation).min(gap.last),
        },
    };
    let two_faced = equivocated(&(token, gap.incarnation), causal);
    match gap.proof {
        Proof::Claimed => gap.waiting.iter().for_each(|from| causal.forget(*from)),
        Proof::Here if !two_faced => {}
        Proof::Shown | Proof::Here => {
            causal.stats.skipped += 1;
            return causal.forward(token, tick);
        }
    }
    Vec::new()
}
