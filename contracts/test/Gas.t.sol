// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {ISynodMembership} from "../src/ISynodMembership.sol";
import {Cluster} from "./Cluster.sol";

/// What each act costs a wallet, calldata included. The table is snapshots/Gas.json; a difference fails here.
contract GasTest is Cluster {
    function test_the_gas_table_is_the_committed_one() public {
        Machine memory first = mintMachine("node1");
        vm.snapshotGasLastCall("Gas", "mintNodeAccess");
        adopt(first);
        vm.snapshotGasLastCall("Gas", "adopt");
        register(first);
        vm.snapshotGasLastCall("Gas", "register, first of a token");

        Machine[] memory m = new Machine[](10);
        m[0] = first;
        for (uint256 i = 1; i < 3; ++i) {
            m[i] = registered(string.concat("node", vm.toString(i + 1)));
        }
        Machine[] memory trio = new Machine[](3);
        (trio[0], trio[1], trio[2]) = (m[0], m[1], m[2]);
        elect(trio, 1, 3);
        vm.snapshotGasLastCall("Gas", "elect, 3 ballots, first");
        elect(pair(m[0], m[1]), 2, 2);
        vm.snapshotGasLastCall("Gas", "elect, 2 ballots");
        elect(trio, 3, 3);
        vm.snapshotGasLastCall("Gas", "elect, 3 ballots");

        m[0].session = newSession();
        register(m[0]);
        vm.snapshotGasLastCall("Gas", "register, reboot of a follower");
        m[2].session = newSession();
        register(m[2]);
        vm.snapshotGasLastCall("Gas", "register, reboot of the leader");

        (trio[0], trio[2]) = (m[0], m[2]);
        elect(trio, 5, 3);
        Machine memory late = registered("node4");
        vm.prank(m[2].wallet.addr);
        synod.seat(just(late.tokenId));
        vm.snapshotGasLastCall("Gas", "seat, 1 token");
        vm.prank(late.wallet.addr);
        synod.deactivate(late.tokenId);
        vm.snapshotGasLastCall("Gas", "deactivate, by a follower's wallet");
        vm.prank(m[2].holder.addr);
        synod.transferFrom(m[2].holder.addr, stranger, 3);
        vm.snapshotGasLastCall("Gas", "transfer of the leader's token");
    }

    function test_the_cost_of_a_registration_does_not_grow_with_the_members_H23() public {
        for (uint256 i = 0; i < 3; ++i) {
            registered(string.concat("node", vm.toString(i)));
        }
        uint256 early = vm.lastCallGas().gasTotalUsed;
        for (uint256 i = 3; i < 40; ++i) {
            registered(string.concat("node", vm.toString(i)));
        }
        assertApproxEqAbs(vm.lastCallGas().gasTotalUsed, early, 1000);
    }
}
