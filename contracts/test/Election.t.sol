// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {ISynodMembership} from "../src/ISynodMembership.sol";
import {Cluster} from "./Cluster.sol";

/// What is no election: each test changes one thing in three good ballots.
contract ElectionTest is Cluster {
    Machine[] internal m;

    function setUp() public override {
        super.setUp();
        Machine[] memory machines = three();
        for (uint256 i = 0; i < 3; ++i) {
            m.push(machines[i]);
        }
    }

    function test_one_token_alone_elects_nobody_H14() public {
        ISynodMembership.BallotSignature[] memory one = new ISynodMembership.BallotSignature[](1);
        one[0] = ballot(m[2], 1, 3);
        refuseElection(one, 1, 3, abi.encodeWithSelector(ISynodMembership.BallotsTooFew.selector, 2, 1));
        refuseElection(
            new ISynodMembership.BallotSignature[](0),
            1,
            3,
            abi.encodeWithSelector(ISynodMembership.BallotsTooFew.selector, 2, 0)
        );
    }

    function test_half_of_the_seated_is_no_majority() public {
        registered("node4");
        refuseElection(
            ballots(pair(m[0], m[1]), 1, 1), 1, 1, abi.encodeWithSelector(ISynodMembership.BallotsTooFew.selector, 3, 2)
        );
    }

    function test_a_ballot_counts_once_H13() public {
        refuseElection(
            ballots(pair(m[1], m[1]), 1, 3),
            1,
            3,
            abi.encodeWithSelector(ISynodMembership.BallotsNotAscending.selector, 2, 2)
        );
    }

    function test_ballots_out_of_order_are_refused() public {
        refuseElection(
            ballots(pair(m[1], m[0]), 1, 3),
            1,
            3,
            abi.encodeWithSelector(ISynodMembership.BallotsNotAscending.selector, 2, 1)
        );
        ISynodMembership.BallotSignature[] memory zero = ballots(pair(m[0], m[1]), 1, 3);
        zero[0].tokenId = 0;
        refuseElection(zero, 1, 3, abi.encodeWithSelector(ISynodMembership.BallotsNotAscending.selector, 0, 0));
    }

    function test_a_ballot_signed_by_another_key_is_refused() public {
        ISynodMembership.BallotSignature[] memory signed = ballots(pair(m[0], m[1]), 1, 3);
        signed[1] = ballot(m[2], 1, 3);
        signed[1].tokenId = 2;
        refuseElection(
            signed,
            1,
            3,
            abi.encodeWithSelector(ISynodMembership.BallotSignerWrong.selector, 2, m[1].session.addr, m[2].session.addr)
        );
    }

    function test_the_wallets_key_signs_no_ballots() public {
        ISynodMembership.BallotSignature[] memory signed = ballots(pair(m[0], m[1]), 1, 3);
        Machine memory wallet = m[1];
        wallet.session = wallet.wallet;
        signed[1] = ballot(wallet, 1, 3);
        refuseElection(
            signed,
            1,
            3,
            abi.encodeWithSelector(ISynodMembership.BallotSignerWrong.selector, 2, m[1].session.addr, m[1].wallet.addr)
        );
    }

    /// s = half the order + 1: the smallest high s, and the only kind that the compact form can hold.
    function test_a_ballot_with_high_s_or_zeros_is_refused_H21() public {
        ISynodMembership.BallotSignature[] memory signed = ballots(pair(m[0], m[1]), 1, 3);
        signed[1].vs = bytes32(0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A1);
        bytes memory why =
            abi.encodeWithSelector(ISynodMembership.BallotSignerWrong.selector, 2, m[1].session.addr, address(0));
        refuseElection(signed, 1, 3, why);
        signed[1].r = 0;
        signed[1].vs = 0;
        refuseElection(signed, 1, 3, why);
    }

    function test_a_ballot_of_an_older_incarnation_is_refused() public {
        ISynodMembership.BallotSignature[] memory signed = ballots(pair(m[0], m[1]), 1, 3);
        m[1].session = newSession();
        register(m[1]);
        vm.expectPartialRevert(ISynodMembership.BallotSignerWrong.selector);
        synod.elect(1, 3, NO_ANCHOR, deadline(), signed);
    }

    function test_a_ballot_names_term_candidate_anchor_and_deadline() public {
        ISynodMembership.BallotSignature[] memory signed = ballots(pair(m[0], m[1]), 1, 3);
        bytes4 why = ISynodMembership.BallotSignerWrong.selector;
        vm.expectPartialRevert(why);
        synod.elect(1, 2, NO_ANCHOR, deadline(), signed);
        vm.expectPartialRevert(why);
        synod.elect(1, 3, NO_ANCHOR, deadline() - 1, signed);
        vm.expectPartialRevert(why);
        synod.elect(1, 3, ISynodMembership.Anchor(1, 0), deadline(), signed);
        vm.expectPartialRevert(why);
        synod.elect(1, 3, ISynodMembership.Anchor(0, bytes32(uint256(1))), deadline(), signed);

        synod.elect(1, 3, NO_ANCHOR, deadline(), signed);
        vm.expectPartialRevert(why);
        synod.elect(2, 3, NO_ANCHOR, deadline(), signed);
    }

    function test_a_ballot_for_a_foreign_contract_or_chain_is_refused() public {
        ISynodMembership.BallotSignature[] memory signed = ballots(pair(m[0], m[1]), 1, 3);
        bytes32 elsewhere = deploy(3).ballotDigest(1, 3, NO_ANCHOR, deadline());
        signed[1] = ballot(m[1], elsewhere);
        vm.expectPartialRevert(ISynodMembership.BallotSignerWrong.selector);
        synod.elect(1, 3, NO_ANCHOR, deadline(), signed);

        signed = ballots(pair(m[0], m[1]), 1, 3);
        vm.chainId(block.chainid + 1);
        vm.expectPartialRevert(ISynodMembership.BallotSignerWrong.selector);
        synod.elect(1, 3, NO_ANCHOR, deadline(), signed);
    }

    function test_only_the_next_term_is_elected_and_a_certificate_serves_once_H10() public {
        ISynodMembership.BallotSignature[] memory signed = ballots(m, 1, 3);
        synod.elect(1, 3, NO_ANCHOR, deadline(), signed);
        uint64[4] memory terms = [0, 1, 3, type(uint64).max];
        for (uint256 i = 0; i < terms.length; ++i) {
            refuseElection(
                signed, terms[i], 3, abi.encodeWithSelector(ISynodMembership.TermWrong.selector, 2, terms[i])
            );
        }
    }

    function test_ballots_for_a_term_die_when_the_office_ends_meanwhile_H11() public {
        elect(m, 1, 3);
        ISynodMembership.BallotSignature[] memory signed = ballots(m, 2, 2);
        vm.prank(m[2].wallet.addr);
        synod.deactivate(3);
        refuseElection(signed, 2, 2, abi.encodeWithSelector(ISynodMembership.TermWrong.selector, 3, 2));
    }

    function test_a_deadline_in_the_past_or_more_than_60_seconds_ahead_is_refused() public {
        uint64 time = uint64(block.timestamp);
        uint64[4] memory deadlines = [0, time - 1, time + 61, type(uint64).max];
        for (uint256 i = 0; i < deadlines.length; ++i) {
            ISynodMembership.BallotSignature[] memory signed = signedUntil(deadlines[i]);
            vm.expectRevert(
                abi.encodeWithSelector(ISynodMembership.DeadlineOutOfRange.selector, time, time + 60, deadlines[i])
            );
            synod.elect(1, 3, NO_ANCHOR, deadlines[i], signed);
        }
        synod.elect(1, 3, NO_ANCHOR, time, signedUntil(time));
    }

    function signedUntil(uint64 until) private returns (ISynodMembership.BallotSignature[] memory signed) {
        bytes32 digest = synod.ballotDigest(1, 3, NO_ANCHOR, until);
        signed = new ISynodMembership.BallotSignature[](3);
        for (uint256 i = 0; i < 3; ++i) {
            signed[i] = ballot(m[i], digest);
        }
    }

    function test_the_first_election_waits_for_the_founders() public {
        synod = deploy(3);
        Machine[] memory two = pair(registered("first"), registered("second"));
        refuseElection(ballots(two, 1, 2), 1, 2, abi.encodeWithSelector(ISynodMembership.FoundersTooFew.selector, 3, 2));
        registered("third");
        elect(two, 1, 2);
        vm.prank(two[0].wallet.addr);
        synod.deactivate(1);
        assertEq(synod.office().seatedCount, 2);
        Machine[] memory rest = new Machine[](1);
        rest[0] = two[1];
        refuseElection(ballots(rest, 2, 2), 2, 2, abi.encodeWithSelector(ISynodMembership.BallotsTooFew.selector, 2, 1));
    }

    function test_a_candidate_is_active_seated_and_not_expired() public {
        elect(m, 1, 3);
        Machine memory late = registered("node4");
        refuseElection(
            ballots(m, 2, 4), 2, 4, abi.encodeWithSelector(ISynodMembership.NotSeated.selector, late.tokenId)
        );
        uint256[3] memory nobody = [uint256(0), 99, uint256(type(uint64).max) + 4];
        for (uint256 i = 0; i < nobody.length; ++i) {
            refuseElection(
                ballots(m, 2, nobody[i]),
                2,
                nobody[i],
                abi.encodeWithSelector(ISynodMembership.NotActive.selector, nobody[i])
            );
        }
        vm.prank(m[0].wallet.addr);
        synod.deactivate(1);
        refuseElection(
            ballots(pair(m[1], m[2]), 2, 1), 2, 1, abi.encodeWithSelector(ISynodMembership.NotActive.selector, 1)
        );
    }

    function test_a_voter_is_seated_H12() public {
        elect(m, 1, 3);
        Machine memory late = registered("node4");
        refuseElection(
            ballots(pair(m[1], late), 2, 2),
            2,
            2,
            abi.encodeWithSelector(ISynodMembership.NotSeated.selector, late.tokenId)
        );
    }

    function test_after_its_expiry_a_member_neither_votes_nor_stands() public {
        uint64 end = uint64(block.timestamp) + LIFETIME;
        vm.warp(end);
        elect(m, 1, 3); // the last second counts
        vm.warp(end + 1);
        bytes memory why = abi.encodeWithSelector(ISynodMembership.Expired.selector, 1, end);
        refuseElection(ballots(m, 2, 1), 2, 1, why);
        m[1].session = newSession();
        register(m[1]);
        m[2].session = newSession();
        register(m[2]); // the leader: term 2, vacant
        refuseElection(ballots(pair(m[0], m[1]), 3, 2), 3, 2, why);
        elect(pair(m[1], m[2]), 3, 2);
        assertEq(synod.office().leader, 2);
    }

    function test_an_expired_leader_seats_nobody() public {
        elect(m, 1, 3);
        vm.warp(block.timestamp + LIFETIME + 1);
        Machine memory late = registered("node4");
        vm.expectPartialRevert(ISynodMembership.Expired.selector);
        vm.prank(m[2].wallet.addr);
        synod.seat(just(late.tokenId));
    }
}
