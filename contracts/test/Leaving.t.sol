// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {DstackMembershipNFT} from "../src/DstackMembershipNFT.sol";
import {ISynodMembership} from "../src/ISynodMembership.sol";
import {Cluster} from "./Cluster.sol";

/// Every way out ends registration, seat and office in the same block; and who may do what at all.
contract LeavingTest is Cluster {
    Machine[] internal m;

    function setUp() public override {
        super.setUp();
        Machine[] memory machines = three();
        for (uint256 i = 0; i < 3; ++i) {
            m.push(machines[i]);
        }
        elect(machines, 1, 3);
    }

    function test_a_sold_token_loses_every_right_in_the_same_block_H6_H15_C7() public {
        ISynodMembership.BallotSignature[] memory signed = ballots(pair(m[1], m[2]), 3, 2);
        vm.expectEmit(address(synod));
        emit ISynodMembership.Deactivated(3, 1);
        vm.expectEmit(address(synod));
        emit ISynodMembership.Unseated(3, 2);
        vm.expectEmit(address(synod));
        emit ISynodMembership.OfficeVacated(2, 3);
        vm.prank(m[2].holder.addr);
        synod.transferFrom(m[2].holder.addr, stranger, 3);

        assertGone(3, 2);
        refuseElection(signed, 3, 2, abi.encodeWithSelector(ISynodMembership.NotActive.selector, 3));
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NotLeader.selector, 0, address(0), m[2].wallet.addr));
        vm.prank(m[2].wallet.addr);
        synod.seat(just(1));
        m[2].session = newSession();
        vm.expectPartialRevert(ISynodMembership.NotAdopted.selector);
        this.reenter(m[2]);
    }

    function reenter(Machine memory machine) external {
        register(machine);
    }

    function test_the_buyer_starts_anew_without_a_seat() public {
        address seller = m[2].holder.addr;
        m[2].holder = vm.createWallet("buyer");
        vm.prank(seller);
        synod.transferFrom(seller, m[2].holder.addr, 3);
        m[2].session = newSession();
        adopt(m[2]);
        assertEq(register(m[2]), 2);
        assertFalse(synod.memberOf(3).seated);
    }

    function test_even_a_transfer_to_oneself_ends_the_registration() public {
        vm.prank(m[2].holder.addr);
        synod.transferFrom(m[2].holder.addr, m[2].holder.addr, 3);
        assertGone(3, 2);
    }

    function test_a_second_token_in_a_wallet_comes_and_goes_without_touching_the_first_C4_C5_H7() public {
        address holder = m[2].holder.addr;
        vm.prank(m[0].holder.addr);
        synod.transferFrom(m[0].holder.addr, holder, 1); // a gift
        assertTrue(synod.memberOf(3).seated);
        assertEq(synod.office().leader, 3);
        vm.prank(holder);
        synod.transferFrom(holder, stranger, 1);
        assertTrue(synod.memberOf(3).seated);
        vm.prank(holder);
        synod.deactivate(3);
        assertFalse(synod.memberOf(3).active);
    }

    function test_owner_governance_and_node_deactivate_at_once_H16() public {
        uint256 start = vm.snapshotState();
        address[3] memory entitled = [m[2].holder.addr, governance, m[2].wallet.addr];
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectEmit(address(synod));
            emit ISynodMembership.Deactivated(3, i < 2 ? 1 : 0);
            vm.expectEmit(address(synod));
            emit ISynodMembership.OfficeVacated(2, 3); // H20
            vm.prank(entitled[i]);
            synod.deactivate(3);
            assertGone(3, 2);
            vm.revertToState(start);
        }
    }

    function test_nobody_else_deactivates() public {
        address[3] memory others = [stranger, m[0].wallet.addr, m[0].holder.addr];
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NotEntitled.selector, 3, others[i]));
            vm.prank(others[i]);
            synod.deactivate(3);
        }
        vm.startPrank(m[2].wallet.addr);
        synod.deactivate(3);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NotActive.selector, 3));
        synod.deactivate(3);
    }

    function test_a_replaced_wallet_deactivates_nobody() public {
        address old = m[0].wallet.addr;
        m[0].wallet = vm.createWallet("new volume");
        m[0].session = newSession();
        adopt(m[0]);
        register(m[0]);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NotEntitled.selector, 1, old));
        vm.prank(old);
        synod.deactivate(1);
        assertEq(synod.totalActiveNodes(), 3);
    }

    function test_anyone_expires_a_member_but_not_a_second_early() public {
        uint64 end = synod.memberOf(3).expiresAt;
        vm.warp(end);
        vm.startPrank(stranger);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NotExpired.selector, 3, end));
        synod.expire(3);
        vm.warp(end + 1);
        synod.expire(3);
        assertGone(3, 2);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NotActive.selector, 3));
        synod.expire(3);
    }

    function test_an_expired_member_registers_again_with_its_adoption_but_without_its_seat() public {
        vm.warp(block.timestamp + LIFETIME + 1);
        synod.expire(1);
        m[0].session = newSession();
        assertEq(register(m[0]), 2);
        assertFalse(synod.memberOf(1).seated);
    }

    function test_a_follower_that_leaves_does_not_end_the_office() public {
        vm.prank(m[0].wallet.addr);
        synod.deactivate(1);
        ISynodMembership.Office memory office = synod.office();
        assertEq(office.term, 1);
        assertEq(office.leader, 3);
        assertEq(office.seatedCount, 2);
    }

    function test_only_governance_mints_with_a_name_of_1_to_64_bytes_up_to_the_limit() public {
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, stranger));
        vm.prank(stranger);
        synod.mintNodeAccess(stranger, "x");
        vm.startPrank(governance);
        uint256[2] memory wrong = [uint256(0), 65];
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NameLengthWrong.selector, 64, wrong[i]));
            synod.mintNodeAccess(stranger, string(new bytes(wrong[i])));
        }
        for (uint256 id = 4; id <= 100; ++id) {
            assertEq(synod.mintNodeAccess(stranger, string(new bytes(64))), id);
        }
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.NodesExhausted.selector, 100));
        synod.mintNodeAccess(stranger, "x");
    }

    function test_a_contract_without_root_apps_founders_room_or_lifetime_is_not_deployed_C13() public {
        address[] memory apps = new address[](1);
        apps[0] = APP_ID;
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.IdZero.selector, "kmsRoot"));
        new DstackMembershipNFT(governance, address(0), apps, 3, 100, LIFETIME);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.SettingRefused.selector, "founders", 0));
        new DstackMembershipNFT(governance, kms.addr, apps, 0, 100, LIFETIME);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.SettingRefused.selector, "maxNodes", 2));
        new DstackMembershipNFT(governance, kms.addr, apps, 3, 2, LIFETIME);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.SettingRefused.selector, "maxNodes", 1 << 64));
        new DstackMembershipNFT(governance, kms.addr, apps, 3, 1 << 64, LIFETIME);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.SettingRefused.selector, "maxLifetime", 0));
        new DstackMembershipNFT(governance, kms.addr, apps, 3, 100, 0);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.SettingRefused.selector, "allowedApps", 0));
        new DstackMembershipNFT(governance, kms.addr, new address[](0), 3, 100, LIFETIME);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.IdZero.selector, "appId"));
        new DstackMembershipNFT(governance, kms.addr, new address[](1), 3, 100, LIFETIME);
    }

    /// Neither registered, seated nor in office; two others are left.
    function assertGone(uint256 tokenId, uint64 term) private view {
        ISynodMembership.Member memory member = synod.memberOf(tokenId);
        assertFalse(member.active);
        assertFalse(member.seated);
        assertEq(synod.totalActiveNodes(), 2);
        ISynodMembership.Office memory office = synod.office();
        assertEq(office.seatedCount, 2);
        assertEq(office.leader, 0);
        assertEq(office.leaderIncarnation, 0);
        assertEq(office.term, term);
        assertEq(synod.currentLeader(), address(0));
        (, bool active,) = synod.getInstanceInfo(member.instanceId);
        assertFalse(active);
    }
}
