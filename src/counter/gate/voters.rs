//! Changes of the engine's voter set, as the gate judges them (attack F5): a leader whose RPC endpoint lies, or a
//! broken one, can neither add strangers nor shrink a quorum, because a majority compares each set with what it
//! sees itself. What is committed, or held already, was judged by whoever made it so.
//!
//! The log's own roster counts beside the view: the engine follows the roster of the log, the chain may have moved on
//! since, and an entry that all followers refuse for ever would block the log behind it.

use super::{Refusal, Standing};
use std::collections::BTreeSet;
use synod_wire::Token;

/// Changes of the voter set in one append that are not committed yet; an honest leader has one or two.
pub const VOTER_SETS_MAX: usize = 8;

/// What stands in our log before a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// Ourselves, and all that the voter set before it names.
    pub known: BTreeSet<Token>,
    /// Who voted; none = there was no voter set.
    pub voted: Option<BTreeSet<Token>>,
    /// Block of the log's newest roster, and whom it lists.
    pub listed: Option<(u64, BTreeSet<Token>)>,
}

impl Before {
    fn lists(&self, token: &Token) -> Option<bool> {
        self.listed
            .as_ref()
            .map(|(_, tokens)| tokens.contains(token))
    }

    /// Would leaving this member out shrink the quorum that we know?
    fn counts(&self, token: &Token) -> bool {
        self.voted
            .as_ref()
            .is_none_or(|voted| voted.contains(token))
            && self.lists(token) != Some(false)
    }
}

/// One change that is neither committed nor held here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VoterSets {
    /// Where it stands in the log; outside's index.
    pub index: u64,
    /// Its voters; two sets = on the way from the first to the second.
    pub sets: Vec<BTreeSet<Token>>,
    /// All that it names, learners too.
    pub named: BTreeSet<Token>,
    /// What it changes.
    pub before: Before,
}

impl VoterSets {
    pub(super) fn judge(&self, standing: &Standing) -> Result<(), Refusal> {
        let active = |token: &Token| standing.incarnations.contains_key(token);
        let refused = |token: &Token, named| {
            Err(Refusal::UnconfirmedVoters {
                index: self.index,
                token: *token,
                named,
            })
        };
        let may_stand = |token: &Token| {
            active(token)
                || self.before.known.contains(token)
                || self.before.lists(token) == Some(true)
        };
        if let Some(stranger) = self.named.iter().find(|token| !may_stand(token)) {
            return refused(stranger, true);
        }
        let expected = standing
            .seated
            .iter()
            .filter(|token| active(token) && self.before.counts(token));
        for token in expected {
            if self.sets.iter().any(|set| !set.contains(token)) {
                return refused(token, false);
            }
        }
        Ok(())
    }
}
