//! Clocks that cannot be: refused before anything of them is stored (seed defect D16, review F14 d). A baseline is
//! bounded by what the log knows, for nothing else speaks against a leader that invents one.

use crate::causal::{Causal, Rumour};
use crate::{Accounts, Refusal};
use synod_wire::{Clock, Incarnation, Token};

/// The highest number that an honest leader's clock may name of this incarnation when we join; none = no entry at all.
/// Every message offers or answers one trade. The log has decided it, or it is one of the `open_max` that each
/// incarnation of each member may leave undecided.
pub(crate) fn baseline_bound(
    accounts: &Accounts,
    open_max: usize,
    about: Token,
    incarnation: Incarnation,
) -> Option<u64> {
    accounts.balance(about)?;
    let listed = accounts.session(about)?.incarnation;
    if incarnation > listed {
        return None;
    }
    let trades = accounts.trades().iter();
    let decided = trades
        .filter(|record| record.offer.id.proposer == about || record.offer.with == about)
        .count() as u64;
    let incarnations = accounts.sessions().map(|(_, s)| s.incarnation.0);
    let incarnations = incarnations.fold(1, u64::saturating_add);
    let undecided = incarnations.saturating_mul(open_max as u64);
    // a closing is no bound: whoever leads now may have delivered more before it
    Some(decided.saturating_add(undecided))
}

impl Causal {
    /// No entry may name what its owner cannot have said: one that never was a member, more than we said ourselves, an
    /// incarnation that neither the log nor a frame of its own has shown, or a number farther ahead than may wait here.
    /// The last one is worth a question all the same: perhaps it is we who lag. One rumour per sender, and it stands
    /// until it is met or old: inventing many must cost us nothing. An author's own number is its own affair.
    pub(crate) fn check_plausible(
        &mut self,
        now: u64,
        accounts: &Accounts,
        from: Token,
        clock: &Clock,
    ) -> Result<(), Refusal> {
        for (about, found) in clock.iter().filter(|(token, _)| *token != from) {
            if self.is_met(accounts, about, found) {
                continue;
            }
            let known = self.clock().tick(about);
            let refusal = Refusal::Implausible {
                about,
                known,
                found,
            };
            let author = self.authors.get(&about);
            let shown = author.map_or(Incarnation(0), |author| author.incarnation);
            let listed = accounts.session(about).map_or(shown, |s| s.incarnation);
            let member = accounts.balance(about).is_some();
            if !member
                || about == self.me()
                || found.incarnation > known.incarnation.max(shown).max(listed)
            {
                return Err(refusal);
            }
            let delivered = self.delivered(about, found.incarnation);
            let reach = author
                .filter(|author| author.incarnation == found.incarnation)
                .map_or(delivered, |author| author.shown.max(delivered));
            let bound = reach.saturating_add(self.held_max as u64);
            if found.sequence > bound {
                self.rumours.entry(from).or_insert(Rumour {
                    about,
                    tick: found,
                    heard_at: now,
                });
                return Err(refusal);
            }
        }
        Ok(())
    }
}
