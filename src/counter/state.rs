//! What is true: a function of the log alone, evaluated when entries are applied, on every node alike
//! (attack F4). An entry that does not fit changes nothing and raises an alarm. No clock, no view of the chain.

mod records;
#[cfg(test)]
mod tests;

pub use records::{Alarm, AlarmKind, Decided, MembersRecord, Operation, Outcome, TermRecord};

use crate::entry::{Body, Entry, MemberKey};
use std::collections::{BTreeMap, VecDeque};
use synod_ledger::{Accounts, Judgement, Session, Settlement};
use synod_wire::{Address, BlockRef, ClusterId, Hash, Incarnation, Token, Wh};

/// The newest alarms are kept, older ones are dropped.
const ALARMS_LEN_MAX: usize = 256;

/// All that the log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Hash of Genesis.
    pub log_id: Option<Hash>,
    /// The cluster that Genesis names.
    pub cluster: Option<ClusterId>,
    /// The counter.
    pub value: u64,
    /// Every increment.
    pub operations: Vec<Operation>,
    /// The term in force.
    pub term: Option<TermRecord>,
    /// Earlier terms, oldest first, without the one in force.
    pub terms: Vec<TermRecord>,
    /// The roster in force.
    pub members: Option<MembersRecord>,
    /// The highest registration of each token that any roster has listed.
    pub incarnations: BTreeMap<Token, Incarnation>,
    /// The newest alarms.
    pub alarms: VecDeque<Alarm>,
    /// Last index applied, the engine's own entries included; 0 = none.
    pub applied_index: u64,
    /// Highest time of any entry.
    pub log_time_ms: u64,
    /// Terms whose leader was elected with muted voters.
    pub cold_starts: u64,
    /// Credits, and the trades that moved them.
    pub accounts: Accounts,
}

impl State {
    /// The engine's own entry stands at `index`.
    pub fn skip(&mut self, index: u64) {
        self.applied_index = index;
    }

    /// Upon a committed entry, do what it says or raise an alarm.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Outcome {
        self.applied_index = index;
        self.log_time_ms = self.log_time_ms.max(entry.time_ms);
        let done = match &entry.body {
            Body::Genesis {
                cluster,
                initial_credit,
                ..
            } => self.genesis(*cluster, *initial_credit, entry),
            _ if self.log_id.is_none() => Err(AlarmKind::BeforeGenesis),
            Body::TermStart { .. } => self.term_start(index, &entry.body),
            Body::Members {
                block,
                roster_hash,
                members,
            } => self.roster(index, *block, *roster_hash, members),
            Body::Increment { leader } => self.increment(index, *leader),
            Body::Settle(settlement) => self.settle(index, settlement),
            Body::Close {
                token,
                incarnation,
                last,
            } => self.close(*token, *incarnation, *last),
        };
        match done {
            Ok(outcome) => outcome,
            Err(kind) => {
                let alarm = self.alarm(index, entry.body.name(), kind);
                // a second leader of a term is reported twice: as a no-op to its author, as an alarm to all
                if kind == AlarmKind::SecondLeader {
                    Outcome::TermStarted(false)
                } else {
                    Outcome::Refused(alarm)
                }
            }
        }
    }

    fn alarm(&mut self, index: u64, entry: &str, kind: AlarmKind) -> Alarm {
        let alarm = Alarm {
            index,
            entry: entry.to_owned(),
            kind,
        };
        if self.alarms.len() == ALARMS_LEN_MAX {
            self.alarms.pop_front();
        }
        self.alarms.push_back(alarm.clone());
        alarm
    }

    fn genesis(
        &mut self,
        cluster: ClusterId,
        initial_credit: Wh,
        entry: &Entry,
    ) -> Result<Outcome, AlarmKind> {
        if self.log_id.is_some() {
            return Err(AlarmKind::SecondGenesis);
        }
        self.log_id = Some(entry.hash());
        self.cluster = Some(cluster);
        self.accounts.genesis(cluster, initial_credit);
        Ok(Outcome::Genesis)
    }

    fn term_start(&mut self, index: u64, body: &Body) -> Result<Outcome, AlarmKind> {
        let Body::TermStart {
            term,
            leader,
            incarnation,
            tx,
            block,
            voted_muted,
        } = body
        else {
            unreachable!("apply matched TermStart");
        };
        if let Some(known) = &self.term {
            if *term < known.term {
                return Err(AlarmKind::TermWentBack);
            }
            if *term == known.term {
                let same = known.leader == *leader && known.incarnation == *incarnation;
                return if same {
                    Ok(Outcome::TermStarted(false))
                } else {
                    Err(AlarmKind::SecondLeader)
                };
            }
        }
        if !voted_muted.is_empty() {
            self.cold_starts += 1;
        }
        let record = TermRecord {
            term: *term,
            leader: *leader,
            incarnation: *incarnation,
            tx: *tx,
            block: *block,
            index,
            voted_muted: voted_muted.clone(),
            author: None,
        };
        self.terms.extend(self.term.replace(record));
        Ok(Outcome::TermStarted(true))
    }

    fn roster(
        &mut self,
        index: u64,
        block: BlockRef,
        roster_hash: Hash,
        members: &[MemberKey],
    ) -> Result<Outcome, AlarmKind> {
        let ascending = members
            .iter()
            .zip(members.iter().skip(1))
            .all(|(a, b)| a.token < b.token);
        // the gate compared the hash with its own view of the chain: the list must be the one that was hashed
        let honest = MemberKey::roster_hash(members) == roster_hash;
        if members.is_empty() || !ascending || !honest {
            return Err(AlarmKind::BadRoster);
        }
        if self
            .members
            .as_ref()
            .is_some_and(|known| block.number < known.block.number)
        {
            return Err(AlarmKind::RosterWentBack);
        }
        // a session that was replaced signs nothing ever again, whatever block the roster claims to be of
        let replaced = |m: &MemberKey| {
            let highest = self.incarnations.get(&m.token);
            highest.is_some_and(|highest| m.incarnation < *highest)
        };
        if members.iter().any(replaced) {
            return Err(AlarmKind::RosterWentBack);
        }
        for m in members {
            self.incarnations.insert(m.token, m.incarnation);
        }
        self.members = Some(MembersRecord {
            block,
            roster_hash,
            members: members.to_vec(),
            index,
        });
        let listed = members.iter().map(|m| {
            let (incarnation, key) = (m.incarnation, m.session);
            (m.token, Session { incarnation, key })
        });
        if !self.accounts.members(listed) {
            self.alarm(index, "Members", AlarmKind::CreditFull);
        }
        Ok(Outcome::Members)
    }

    /// A trade is decided by the first entry that names it; a later one repeats the decision and is no fault.
    fn settle(&mut self, index: u64, settlement: &Settlement) -> Result<Outcome, AlarmKind> {
        match self.accounts.settle(index, self.log_time_ms, settlement) {
            Judgement::Decided(decision) => Ok(Outcome::Settled(decision.into())),
            Judgement::Void => Ok(Outcome::Void),
            Judgement::Wrong(why) => Err(AlarmKind::WrongTrade(why)),
        }
    }

    fn close(
        &mut self,
        token: Token,
        incarnation: Incarnation,
        last: u64,
    ) -> Result<Outcome, AlarmKind> {
        let session = self.accounts.session(token);
        if session.is_none_or(|known| incarnation > known.incarnation) {
            return Err(AlarmKind::ForeignClose);
        }
        self.accounts.close(token, incarnation, last);
        Ok(Outcome::Closed)
    }

    fn increment(&mut self, index: u64, leader: Address) -> Result<Outcome, AlarmKind> {
        let term = self.term.as_mut().ok_or(AlarmKind::NoTerm)?;
        if *term.author.get_or_insert(leader) != leader {
            return Err(AlarmKind::ForeignAuthor);
        }
        self.value = self.value.checked_add(1).ok_or(AlarmKind::CounterFull)?;
        let (timestamp_ms, new_value) = (self.log_time_ms, self.value);
        self.operations.push(Operation {
            timestamp_ms,
            new_value,
            leader,
            index,
        });
        let operation_id = u64::try_from(self.operations.len()).unwrap_or(u64::MAX);
        Ok(Outcome::Incremented {
            new_value,
            operation_id,
        })
    }
}
