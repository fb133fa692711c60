// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {ISynodMembership} from "../src/ISynodMembership.sol";
import {Cluster} from "./Cluster.sol";

/// The way through: mint, adopt, register, elect, reboot, second term, seats for late comers.
contract LifeTest is Cluster {
    function test_three_members_register_and_elect_a_leader() public {
        Machine[] memory m = three();
        assertEq(synod.totalActiveNodes(), 3);
        assertEq(synod.requiredVotes(), 2);

        elect(m, 1, 3);

        ISynodMembership.Office memory office = synod.office();
        assertEq(office.term, 1);
        assertEq(office.leader, 3);
        assertEq(office.leaderIncarnation, 1);
        assertEq(office.electedBlock, block.number);
        assertEq(office.seatedCount, 3);
        assertEq(synod.currentLeader(), m[2].wallet.addr);
        assertEq(synod.currentTerm(), 1);
    }

    function test_two_of_three_ballots_suffice_and_anyone_may_send_them() public {
        Machine[] memory m = three();
        ISynodMembership.BallotSignature[] memory signed = ballots(pair(m[0], m[1]), 1, 3);
        vm.prank(stranger);
        synod.elect(1, 3, NO_ANCHOR, deadline(), signed);
        assertEq(synod.office().leader, 3);
    }

    function test_a_leaders_reboot_vacates_the_office_and_the_second_term_is_won() public {
        Machine[] memory m = three();
        elect(m, 1, 3);

        m[2].session = newSession();
        assertEq(register(m[2]), 2);
        ISynodMembership.Office memory office = synod.office();
        assertEq(office.term, 2);
        assertEq(office.leader, 0);
        assertEq(office.seatedCount, 3, "a reboot keeps the seat");

        elect(m, 3, 3);
        assertEq(synod.office().leaderIncarnation, 2);
    }

    function test_a_followers_reboot_leaves_the_office_alone() public {
        Machine[] memory m = three();
        elect(m, 1, 3);
        m[0].session = newSession();
        register(m[0]);
        assertEq(synod.office().term, 1);
        assertEq(synod.office().leader, 3);
    }

    function test_a_majority_replaces_a_sitting_leader() public {
        Machine[] memory m = three();
        elect(m, 1, 3);
        elect(pair(m[0], m[1]), 2, 2);
        assertEq(synod.office().leader, 2);
        assertEq(synod.office().term, 2);
    }

    function test_after_the_first_election_a_newcomer_counts_once_the_leader_seats_it() public {
        Machine[] memory m = three();
        elect(m, 1, 3);
        Machine memory late = registered("node4");
        assertEq(synod.office().seatedCount, 3);
        assertFalse(synod.memberOf(late.tokenId).seated);

        vm.startPrank(m[2].wallet.addr);
        synod.seat(just(late.tokenId));
        synod.seat(just(late.tokenId)); // a retry counts nothing twice
        assertEq(synod.office().seatedCount, 4);
        assertEq(synod.requiredVotes(), 3);
    }

    function test_only_the_leaders_wallet_seats() public {
        Machine[] memory m = three();
        Machine memory late = mintMachine("node4");
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NotLeader.selector, 0, address(0), stranger));
        vm.prank(stranger);
        synod.seat(just(1));

        elect(m, 1, 3);
        address[3] memory others = [m[0].wallet.addr, m[2].holder.addr, governance];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NotLeader.selector, 3, m[2].wallet.addr, others[i]));
            vm.prank(others[i]);
            synod.seat(just(1));
        }
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NotActive.selector, late.tokenId));
        vm.prank(m[2].wallet.addr);
        synod.seat(just(late.tokenId));
    }

    function test_an_anchor_is_stored_when_it_is_higher() public {
        Machine[] memory m = three();
        anchored(m, 1, ISynodMembership.Anchor(7, bytes32(uint256(77))));
        assertEq(synod.office().anchor.index, 7);
        anchored(m, 2, ISynodMembership.Anchor(6, bytes32(uint256(66))));
        anchored(m, 3, ISynodMembership.Anchor(7, bytes32(uint256(78))));
        assertEq(synod.office().anchor.index, 7);
        assertEq(synod.office().anchor.root, bytes32(uint256(77)));
    }

    function anchored(Machine[] memory m, uint64 term, ISynodMembership.Anchor memory anchor) private {
        bytes32 digest = synod.ballotDigest(term, 1, anchor, deadline());
        ISynodMembership.BallotSignature[] memory signed = new ISynodMembership.BallotSignature[](3);
        for (uint256 i = 0; i < 3; ++i) {
            signed[i] = ballot(m[i], digest);
        }
        synod.elect(term, 1, anchor, deadline(), signed);
    }

    function test_views_show_members_in_pages() public {
        Machine[] memory m = three();
        mintMachine("node4");
        ISynodMembership.Member[] memory page = synod.members(2, 2);
        assertEq(page.length, 2);
        assertEq(page[0].tokenId, 2);
        assertEq(page[1].tokenId, 3);
        assertEq(page[1].name, "node3");
        assertEq(page[1].endpoint, "127.0.0.1:9001");
        assertEq(page[1].owner, m[2].holder.addr);
        assertEq(page[1].wallet, m[2].wallet.addr);
        assertEq(page[1].sessionAddress, m[2].session.addr);
        assertEq(uint256(page[1].sessionX), m[2].session.publicKeyX);
        assertEq(page[1].sessionYOdd, m[2].session.publicKeyY % 2 == 1);

        assertEq(synod.members(0, 100).length, 4);
        assertEq(synod.members(0, 1).length, 0);
        assertEq(synod.members(0, 0).length, 0);
        assertEq(synod.members(4, 100).length, 1);
        assertEq(synod.members(5, 100).length, 0);
        assertEq(synod.members(type(uint256).max, 100).length, 0);
        assertEq(synod.getActiveInstances(1, 100).length, 3);
        assertEq(synod.getActiveInstances(2, 1)[0], m[1].instanceId);
        assertEq(synod.getPeerEndpoints(1, 100).length, 3);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.PageTooLong.selector, 100, 101));
        synod.members(1, 101);

        (uint256 tokenId, bool active, address holder) = synod.getInstanceInfo(m[0].instanceId);
        assertEq(tokenId, 1);
        assertTrue(active);
        assertEq(holder, m[0].holder.addr);
        (tokenId, active, holder) = synod.getInstanceInfo(address(0));
        assertEq(tokenId, 0);
        assertFalse(active);
    }
}
