//! alloy's types to ours and back. What the chain says is checked for shape here, once.

use crate::abi;
use alloy::primitives as theirs;
use alloy::sol_types::SolInterface as _;
use synod_wire::{
    Address, Anchor, BlockRef, ChainView, Hash, Incarnation, Member, SessionPublic, Term, Token,
};

/// What an endpoint answered cannot be a state of our contract.
pub type Misshapen = String;

pub fn address(address: theirs::Address) -> Address {
    Address(address.into_array())
}

pub fn to_address(address: Address) -> theirs::Address {
    theirs::Address::from(address.0)
}

pub fn hash(hash: theirs::B256) -> Hash {
    Hash(hash.0)
}

pub fn token(id: theirs::U256) -> Result<Token, Misshapen> {
    u64::try_from(id)
        .map(Token)
        .map_err(|_| format!("token id {id} is longer than 64 bits"))
}

pub fn to_id(token: Token) -> theirs::U256 {
    theirs::U256::from(token.0)
}

/// Wei; more than 2^128 of it does not exist.
pub fn wei(amount: theirs::U256) -> u128 {
    amount.saturating_to()
}

fn member(member: abi::Member) -> Result<Member, Misshapen> {
    let token = token(member.tokenId)?;
    let session = SessionPublic::from_x(member.sessionX.0, member.sessionYOdd)
        .map_err(|_| format!("the session key of token {token} is no point of the curve"))?;
    if session.address().ok() != Some(address(member.sessionAddress)) {
        return Err(format!(
            "the session key of token {token} does not belong to its address {}",
            member.sessionAddress
        ));
    }
    Ok(Member {
        token,
        incarnation: Incarnation(member.incarnation),
        active: member.active,
        seated: member.seated,
        owner: address(member.owner),
        wallet: address(member.wallet),
        instance_id: address(member.instanceId),
        session,
        expires_at: member.expiresAt,
        registered_block: member.registeredBlock,
        evidence_hash: hash(member.evidenceHash),
        name: member.name,
        endpoint: member.endpoint,
    })
}

/// Office and members, both read at `block`; tokens without a registration are left out.
pub fn view(
    block: BlockRef,
    office: &abi::Office,
    members: Vec<abi::Member>,
) -> Result<ChainView, Misshapen> {
    let active = members.into_iter().filter(|member| member.active);
    let members = active.map(member).collect::<Result<Vec<_>, _>>()?;
    if !members.is_sorted_by(|a, b| a.token < b.token) {
        return Err("members are not ascending by token".to_owned());
    }
    let seated = members.iter().filter(|member| member.seated).count() as u64;
    if seated != office.seatedCount {
        return Err(format!(
            "{seated} members are seated, the office counts {}",
            office.seatedCount
        ));
    }
    let leader = token(office.leader)?;
    Ok(ChainView {
        block,
        term: Term(office.term),
        leader: (leader.0 != 0).then_some(leader),
        leader_incarnation: Incarnation(office.leaderIncarnation),
        elected_block: office.electedBlock,
        seated_count: office.seatedCount,
        founders: office.founders,
        anchor: Anchor {
            index: office.anchor.index,
            root: hash(office.anchor.root),
        },
        members,
    })
}

/// The contract's error in words: `TermWrong { expected: 2, found: 1 }`.
pub fn reason(returned: &[u8]) -> String {
    if returned.is_empty() {
        return "no reason given (out of gas, or not a function of this contract)".to_owned();
    }
    if let Ok(error) = abi::ContractErrors::abi_decode(returned) {
        let shown = format!("{error:?}");
        // `Name(Name { facts })`: once is enough
        let inner = shown
            .split_once('(')
            .and_then(|(_, rest)| rest.strip_suffix(')'));
        return inner.unwrap_or(&shown).to_owned();
    }
    match alloy::sol_types::decode_revert_reason(returned) {
        Some(reason) => crate::rpc::words(&reason),
        None => format!(
            "an unknown error, {} bytes: {}",
            returned.len(),
            theirs::hex::encode(returned.get(..4).unwrap_or(returned))
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::sol_types::SolError as _;

    #[test]
    fn an_error_of_the_contract_is_shown_with_its_facts_once() {
        let error = abi::TermWrong {
            expected: 2,
            found: 1,
        };
        assert_eq!(
            reason(&error.abi_encode()),
            "TermWrong { expected: 2, found: 1 }"
        );
        assert!(reason(&[]).starts_with("no reason given"));
        assert_eq!(
            reason(&[0xde, 0xad, 0xbe, 0xef, 1]),
            "an unknown error, 5 bytes: deadbeef"
        );
    }
}
