//! How people see what a node says.

use synod_cluster::{CallRefusal, Notice};
use synod_wire::Token;

pub fn list(tokens: &[Token]) -> String {
    tokens
        .iter()
        .map(Token::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

pub fn said(notice: &Notice) -> String {
    match notice {
        Notice::Suspected(token) => format!("suspects {token}"),
        Notice::Failed(token) => format!("{token} failed"),
        Notice::Alive(token) => format!("hears {token}"),
        Notice::Left(token) => format!("{token} left"),
        Notice::LeaderGone(term) => format!("the leader is gone, term {term} shall begin"),
        Notice::Candidate(term) => format!("candidate for term {term}"),
        Notice::Leading(term) => format!("coordinator, term {term}"),
        Notice::Unmuted(term) => format!("unmuted in term {term}"),
        Notice::Synchronized { leader, members } => {
            format!(
                "synchronized, coordinator {leader}, knows {}",
                list(members)
            )
        }
        Notice::ElectionCalled(term) => format!("an election is called, term {term}"),
        Notice::CallRefused(reason) => format!("no election: {}", why(*reason)),
        Notice::HandsOver { term, to } => format!("term {term} is handed over to {to}"),
        Notice::ColdStart(term) => format!("cold start: votes by its disk from term {term}"),
        Notice::NoLog(term) => format!("elected for term {term}, but has no log"),
    }
}

fn why(reason: CallRefusal) -> &'static str {
    match reason {
        CallRefusal::Muted => "muted",
        CallRefusal::NotAVoter => "not a voter",
        CallRefusal::TooSoon => "too soon",
        CallRefusal::ChainSilent => "the chain is silent",
        CallRefusal::NoAnswer => "the leader did not answer",
    }
}
