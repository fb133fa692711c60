//! What is true: a function of the log alone, evaluated when entries are applied, on every node alike
//! (attack F4). An entry that does not fit changes nothing and raises an alarm. No clock, no view of the chain.

use crate::entry::{Body, Entry, MemberKey};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use synod_wire::{Address, BlockRef, ClusterId, Hash, Incarnation, Term, Token};

/// The newest alarms are kept, older ones are dropped.
const ALARMS_LEN_MAX: usize = 256;

/// One increment that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Log time, unix milliseconds.
    pub timestamp_ms: u64,
    /// The counter after it.
    pub new_value: u64,
    /// Wallet of the leader that took it.
    pub leader: Address,
    /// Where it stands in the log.
    pub index: u64,
}

/// A term as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermRecord {
    /// The contract's term.
    pub term: Term,
    /// Its leader, for ever.
    pub leader: Token,
    /// Which registration.
    pub incarnation: Incarnation,
    /// The `elect` transaction.
    pub tx: Hash,
    /// Its block.
    pub block: u64,
    /// Where the TermStart stands.
    pub index: u64,
    /// Who voted while muted.
    pub voted_muted: Vec<Token>,
    /// The wallet that its first increment named; the term knows no other.
    pub author: Option<Address>,
}

/// The newest `Members` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersRecord {
    /// Where it was read.
    pub block: BlockRef,
    /// What it hashes to.
    pub roster_hash: Hash,
    /// Ascending by token.
    pub members: Vec<MemberKey>,
    /// Where it stands.
    pub index: u64,
}

/// Why an entry was a no-op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlarmKind {
    /// Something stands before Genesis.
    BeforeGenesis,
    /// A log is born once.
    SecondGenesis,
    /// A TermStart of a term below the log's.
    TermWentBack,
    /// A TermStart names another leader than the first of its term.
    SecondLeader,
    /// An increment before any TermStart.
    NoTerm,
    /// An increment by another wallet than the term's.
    ForeignAuthor,
    /// A roster of an older block than the one in force.
    RosterWentBack,
    /// A roster that is empty, not ascending, or not the one that its hash names.
    BadRoster,
    /// The counter is at its highest value.
    CounterFull,
}

/// An entry that was refused, with its place as the proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Where it stands.
    pub index: u64,
    /// What it wanted to be.
    pub entry: String,
    /// Why it is a no-op.
    pub kind: AlarmKind,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "entry {} ({}) is a no-op: {:?}",
            self.index, self.entry, self.kind
        )
    }
}

/// What applying one entry did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The engine's own entry; the state did not look at it.
    Engine,
    /// The log is born.
    Genesis,
    /// `true`: this is the first of its term and fixes the leader; `false`: a no-op.
    TermStarted(bool),
    /// A roster is in force.
    Members,
    /// The counter went up.
    Incremented {
        /// The counter now.
        new_value: u64,
        /// Number of operations so far.
        operation_id: u64,
    },
    /// A no-op with an alarm.
    Refused(Alarm),
}

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
    /// The newest alarms.
    pub alarms: VecDeque<Alarm>,
    /// Last index applied, the engine's own entries included; 0 = none.
    pub applied_index: u64,
    /// Highest time of any entry.
    pub log_time_ms: u64,
    /// Terms whose leader was elected with muted voters.
    pub cold_starts: u64,
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
            Body::Genesis { cluster, .. } => self.genesis(*cluster, entry),
            _ if self.log_id.is_none() => Err(AlarmKind::BeforeGenesis),
            Body::TermStart { .. } => self.term_start(index, &entry.body),
            Body::Members {
                block,
                roster_hash,
                members,
            } => self.roster(index, *block, *roster_hash, members),
            Body::Increment { leader } => self.increment(index, *leader),
        };
        match done {
            Ok(outcome) => outcome,
            Err(kind) => {
                let alarm = self.alarm(index, entry, kind);
                // a second leader of a term is reported twice: as a no-op to its author, as an alarm to all
                if kind == AlarmKind::SecondLeader {
                    Outcome::TermStarted(false)
                } else {
                    Outcome::Refused(alarm)
                }
            }
        }
    }

    fn alarm(&mut self, index: u64, entry: &Entry, kind: AlarmKind) -> Alarm {
        let alarm = Alarm {
            index,
            entry: entry.body.name().to_owned(),
            kind,
        };
        if self.alarms.len() == ALARMS_LEN_MAX {
            self.alarms.pop_front();
        }
        self.alarms.push_back(alarm.clone());
        alarm
    }

    fn genesis(&mut self, cluster: ClusterId, entry: &Entry) -> Result<Outcome, AlarmKind> {
        if self.log_id.is_some() {
            return Err(AlarmKind::SecondGenesis);
        }
        self.log_id = Some(entry.hash());
        self.cluster = Some(cluster);
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
        self.members = Some(MembersRecord {
            block,
            roster_hash,
            members: members.to_vec(),
            index,
        });
        Ok(Outcome::Members)
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

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::SessionPublic;

    fn genesis() -> Body {
        let block = BlockRef {
            number: 1,
            ..BlockRef::default()
        };
        Body::Genesis {
            cluster: ClusterId(Hash([9; 32])),
            block,
            members: vec![Token(1)],
        }
    }

    fn start(term: u64, leader: u64, muted: &[u64]) -> Body {
        Body::TermStart {
            term: Term(term),
            leader: Token(leader),
            incarnation: Incarnation(1),
            tx: Hash([7; 32]),
            block: term,
            voted_muted: muted.iter().map(|t| Token(*t)).collect(),
        }
    }

    fn members(number: u64, tokens: &[u64]) -> Body {
        let key = |t: &u64| MemberKey {
            token: Token(*t),
            incarnation: Incarnation(1),
            seated: true,
            session: SessionPublic([2; 33]),
        };
        let members: Vec<MemberKey> = tokens.iter().map(key).collect();
        Body::Members {
            block: BlockRef {
                number,
                ..BlockRef::default()
            },
            roster_hash: MemberKey::roster_hash(&members),
            members,
        }
    }

    fn up(author: u8) -> Body {
        Body::Increment {
            leader: Address([author; 20]),
        }
    }

    fn refused(outcome: Outcome) -> AlarmKind {
        match outcome {
            Outcome::Refused(alarm) => alarm.kind,
            other => panic!("expected a refusal, found {other:?}"),
        }
    }

    /// Applies all but the last, answers what the last did.
    fn last(bodies: Vec<Body>) -> (Outcome, State) {
        let mut state = State::default();
        let mut outcome = Outcome::Engine;
        for (index, body) in (1..).zip(bodies) {
            outcome = state.apply(
                index,
                &Entry {
                    time_ms: index,
                    body,
                },
            );
        }
        (outcome, state)
    }

    #[test]
    fn entries_that_do_not_fit_are_no_ops_with_an_alarm() {
        let table: Vec<(Vec<Body>, AlarmKind)> = vec![
            (vec![up(1)], AlarmKind::BeforeGenesis),
            (vec![start(1, 1, &[])], AlarmKind::BeforeGenesis),
            (vec![members(1, &[1])], AlarmKind::BeforeGenesis),
            (vec![genesis(), genesis()], AlarmKind::SecondGenesis),
            (vec![genesis(), up(1)], AlarmKind::NoTerm),
            (
                vec![genesis(), start(2, 1, &[]), start(1, 1, &[])],
                AlarmKind::TermWentBack,
            ),
            (
                vec![genesis(), start(1, 1, &[]), up(1), up(2)],
                AlarmKind::ForeignAuthor,
            ),
            (
                vec![genesis(), members(5, &[1]), members(4, &[1])],
                AlarmKind::RosterWentBack,
            ),
            (vec![genesis(), members(5, &[])], AlarmKind::BadRoster),
            (vec![genesis(), members(5, &[2, 1])], AlarmKind::BadRoster),
            (vec![genesis(), members(5, &[1, 1])], AlarmKind::BadRoster),
        ];
        for (bodies, kind) in table {
            let steps = u64::try_from(bodies.len()).unwrap();
            let (outcome, state) = last(bodies);
            assert_eq!(refused(outcome), kind);
            assert_eq!(
                state.alarms.back().map(|a| (a.index, a.kind)),
                Some((steps, kind))
            );
            assert_eq!(state.applied_index, steps, "a no-op is applied too");
        }
    }

    #[test]
    fn the_first_term_start_of_a_term_fixes_its_leader_for_ever() {
        let (outcome, state) = last(vec![genesis(), start(5, 3, &[]), start(5, 2, &[])]);
        assert_eq!(outcome, Outcome::TermStarted(false));
        assert_eq!(state.term.as_ref().map(|t| t.leader), Some(Token(3)));
        assert_eq!(
            state.alarms.back().map(|a| a.kind),
            Some(AlarmKind::SecondLeader)
        );

        let (outcome, state) = last(vec![
            genesis(),
            start(5, 3, &[]),
            start(5, 3, &[]),
            start(6, 2, &[1]),
        ]);
        assert_eq!(outcome, Outcome::TermStarted(true));
        assert_eq!(
            state.terms.iter().map(|t| t.term).collect::<Vec<_>>(),
            [Term(5)]
        );
        assert_eq!(state.term.as_ref().map(|t| t.leader), Some(Token(2)));
        assert_eq!(state.cold_starts, 1);
        assert!(
            state.alarms.is_empty(),
            "the leader itself may repeat its TermStart"
        );
    }

    #[test]
    fn increments_count_and_log_time_never_goes_back() {
        let mut state = State::default();
        for (index, time_ms, body) in [
            (1, 100, genesis()),
            (2, 90, start(1, 1, &[])),
            (3, 120, up(1)),
            (4, 80, up(1)),
        ] {
            state.apply(index, &Entry { time_ms, body });
        }
        assert_eq!(state.value, 2);
        assert_eq!(
            state
                .operations
                .iter()
                .map(|o| o.timestamp_ms)
                .collect::<Vec<_>>(),
            [120, 120]
        );
        assert_eq!(
            state.log_id,
            Some(
                Entry {
                    time_ms: 100,
                    body: genesis()
                }
                .hash()
            )
        );
        state.value = u64::MAX;
        let outcome = state.apply(
            5,
            &Entry {
                time_ms: 1,
                body: up(1),
            },
        );
        assert_eq!(refused(outcome), AlarmKind::CounterFull);
    }

    #[test]
    fn alarms_are_bounded() {
        let mut state = State::default();
        for index in 1..=1_000 {
            state.apply(
                index,
                &Entry {
                    time_ms: 0,
                    body: up(1),
                },
            );
        }
        assert_eq!(state.alarms.len(), ALARMS_LEN_MAX);
        assert_eq!(state.alarms.back().map(|a| a.index), Some(1_000));
    }
}
