//! The membership contract, as far as elections go: it counts ballots, checks every signature, ends an office
//! when its holder registers anew. One block per transaction and one per idle second.

use std::collections::BTreeMap;
use synod_wire::ballot::Domain;
use synod_wire::{
    Address, Anchor, BlockRef, Certificate, ChainView, Hash, Incarnation, Member, SessionPublic,
    Term, Token,
};

const UNIX: u64 = 1_700_000_000;
const BALLOT_LIFETIME_MAX_S: u64 = 60;

pub const DOMAIN: Domain = Domain {
    chain_id: 31_337,
    contract: Address([0x5f; 20]),
};

pub struct Contract {
    pub view: ChainView,
    /// Every election there ever was.
    pub elections: BTreeMap<Term, Token>,
}

impl Contract {
    pub fn new(founders: u64) -> Self {
        Self {
            view: ChainView {
                block: BlockRef {
                    time: UNIX,
                    ..BlockRef::default()
                },
                term: Term(0),
                leader: None,
                leader_incarnation: Incarnation(0),
                elected_block: 0,
                seated_count: 0,
                founders,
                anchor: Anchor::default(),
                members: Vec::new(),
            },
            elections: BTreeMap::new(),
        }
    }

    pub fn read(&mut self, now: u64) -> ChainView {
        if UNIX + now / 1_000 > self.view.block.time {
            self.mine(now);
        }
        self.view.clone()
    }

    fn mine(&mut self, now: u64) {
        self.view.block.number += 1;
        self.view.block.time = UNIX + now / 1_000;
        self.view.block.hash.0[..8].copy_from_slice(&self.view.block.number.to_be_bytes());
    }

    /// Answers the incarnation, and whether an office ended by it.
    pub fn register(
        &mut self,
        now: u64,
        token: Token,
        session: SessionPublic,
    ) -> (Incarnation, bool) {
        self.mine(now);
        let view = &mut self.view;
        let before = view.members.iter().position(|m| m.token == token);
        let incarnation = Incarnation(before.map_or(1, |at| view.members[at].incarnation.0 + 1));
        let member = Member {
            token,
            incarnation,
            active: true,
            seated: before.map_or(view.elected_block == 0, |at| view.members[at].seated),
            owner: Address::ZERO,
            wallet: Address::ZERO,
            instance_id: Address::ZERO,
            session,
            expires_at: u64::MAX,
            registered_block: view.block.number,
            evidence_hash: Hash::ZERO,
            name: String::new(),
            endpoint: String::new(),
        };
        match before {
            Some(at) => view.members[at] = member,
            None => view.members.push(member),
        }
        view.members.sort_by_key(|m| m.token);
        view.seated_count = view.members.iter().filter(|m| m.seated).count() as u64;
        let vacated = view.leader == Some(token);
        if vacated {
            view.leader = None;
            view.term.0 += 1;
        }
        (incarnation, vacated)
    }

    /// Only the leader seats; answers whether this was one.
    pub fn seat(&mut self, now: u64, from: Token, incarnation: Incarnation, token: Token) -> bool {
        let view = &mut self.view;
        let leads = view.leader == Some(from) && view.leader_incarnation == incarnation;
        let Some(member) = view.members.iter_mut().find(|m| m.token == token) else {
            return false;
        };
        if !leads || member.seated {
            return false;
        }
        member.seated = true;
        view.seated_count += 1;
        self.mine(now);
        true
    }

    pub fn is_seated(&self, token: Token) -> bool {
        self.view.member(token).is_some_and(|m| m.seated)
    }

    pub fn elect(&mut self, now: u64, certificate: &Certificate) -> Result<(), &'static str> {
        let time = UNIX + now / 1_000;
        let ballot = &certificate.ballot;
        let need = |holds: bool, why: &'static str| if holds { Ok(()) } else { Err(why) };
        let view = &self.view;
        need(ballot.term.0 == view.term.0 + 1, "another term")?;
        need(
            (time..=time + BALLOT_LIFETIME_MAX_S).contains(&ballot.deadline),
            "deadline out of range",
        )?;
        need(
            view.elected_block != 0 || view.seated_count >= view.founders,
            "too few founders",
        )?;
        need(
            certificate.signatures.len() as u64 >= view.quorum(),
            "too few ballots",
        )?;
        need(
            certificate
                .signatures
                .is_sorted_by(|a, b| a.token < b.token),
            "not ascending",
        )?;
        for signed in &certificate.signatures {
            let member = view.member(signed.token).ok_or("no member")?;
            need(member.seated, "a signer without a seat")?;
            need(
                DOMAIN.verify(&member.session, ballot, signed),
                "wrong signer",
            )?;
        }
        let candidate = view.member(ballot.candidate).ok_or("no candidate")?;
        need(candidate.seated, "a candidate without a seat")?;
        let incarnation = candidate.incarnation;
        self.mine(now);
        self.view.term = ballot.term;
        self.view.leader = Some(ballot.candidate);
        self.view.leader_incarnation = incarnation;
        self.view.elected_block = self.view.block.number;
        self.elections.insert(ballot.term, ballot.candidate);
        Ok(())
    }
}
