//! What the log says, in the words of the API.

use super::{Late, text_keys};
use crate::facts::{Missing, PeerFact};
use crate::http::types;
use synod_cluster::Health;
use synod_counter::{Operation, TermRecord};

impl Late {
    pub(super) fn describe(&self, status: &mut types::Status) {
        let view = self.engine.view();
        status.unasked_elections = self.engine.unasked_elections();
        status.gate_refusals = text_keys(self.gate.refusals());
        status.log.position = types::Position {
            raft_term: view.position.raft_term,
            index: view.position.index,
        };
        status.log.committed = view.committed;
        status.log.applied = view.applied;
        status.log.role = format!("{:?}", view.role).to_lowercase();
        self.engine.with_state(|state| {
            status.counter_value = state.value;
            status.log.log_id = state.log_id.map(|id| id.to_string());
            status.log_term = state.term.as_ref().map(log_term);
            status.log_terms = state
                .terms
                .iter()
                .chain(state.term.as_ref())
                .map(log_term)
                .collect();
            status.cold_starts = state.cold_starts;
            status.alarms = state.alarms.iter().map(ToString::to_string).collect();
        });
    }
}

pub(super) fn missing(missing: &Missing) -> types::Missing {
    types::Missing {
        what: missing.what.to_owned(),
        expected: missing.expected.clone(),
        found: missing.found.clone(),
        remedy: missing.remedy.clone(),
    }
}

pub(super) fn operation(operation: &Operation) -> types::Operation {
    types::Operation {
        timestamp: operation.timestamp_ms as f64 / 1_000.0,
        operation: "increment".to_owned(),
        new_value: operation.new_value,
        leader: operation.leader.to_string(),
        index: operation.index,
    }
}

pub(super) fn state(own: bool, peer: Option<&PeerFact>) -> &'static str {
    match peer {
        _ if own => "SELF",
        None => "UNKNOWN",
        Some(peer) if peer.age_ms.is_none() => "UNKNOWN",
        Some(peer) => match peer.health {
            Health::Alive => "ALIVE",
            Health::Suspected => "SUSPECTED",
            Health::Failed => "FAILED",
        },
    }
}

fn log_term(record: &TermRecord) -> types::LogTerm {
    types::LogTerm {
        term: record.term.0,
        leader: record.leader.0,
        incarnation: record.incarnation.0,
        tx: record.tx.to_string(),
        block: record.block,
        voted_muted: record.voted_muted.iter().map(|token| token.0).collect(),
    }
}
