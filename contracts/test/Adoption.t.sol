// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {Vm} from "forge-std/Test.sol";
import {ISynodMembership} from "../src/ISynodMembership.sol";
import {Cluster} from "./Cluster.sol";

/// A contract as owner: it says yes to what its one signer signed (EIP-1271).
contract OwnerContract {
    address private immutable _signer;

    constructor(address signer) {
        _signer = signer;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        address found = ecrecover(digest, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
        return found == _signer ? this.isValidSignature.selector : bytes4(0xffffffff);
    }

    function onERC721Received(address, address, uint256, bytes calldata) external pure returns (bytes4) {
        return this.onERC721Received.selector;
    }
}

contract Purse {
    receive() external payable {
        revert("closed");
    }
}

/// The owner's word: which wallet and instance may use the token, and how it is taken back.
contract AdoptionTest is Cluster {
    function test_without_adoption_nobody_registers_H1() public {
        Machine memory m = mintMachine("node1");
        refuse(registrationOf(m), m.wallet.addr, notAdopted(m, 0));
    }

    function test_an_adoption_names_one_wallet_and_one_instance() public {
        Machine memory m = mintMachine("node1");
        vm.startPrank(m.holder.addr);
        synod.adopt(m.tokenId, m.wallet.addr, makeAddr("other instance"));
        vm.stopPrank();
        refuse(registrationOf(m), m.wallet.addr, notAdopted(m, 0));
        vm.startPrank(m.holder.addr);
        synod.adopt(m.tokenId, makeAddr("other wallet"), m.instanceId);
        vm.stopPrank();
        refuse(registrationOf(m), m.wallet.addr, notAdopted(m, 0));
    }

    function test_an_owner_adopts_by_signature() public {
        Machine memory m = mintMachine("node1");
        assertEq(send(m.wallet.addr, registrationOf(m), adoptionSignature(m, 0)), 1);
        m.session = newSession();
        assertEq(send(m.wallet.addr, registrationOf(m), adoptionSignature(m, 0)), 2, "it lasts over reboots");
    }

    function test_an_adoption_signed_by_another_or_for_another_number_is_refused() public {
        Machine memory m = mintMachine("node1");
        ISynodMembership.Registration memory registration = registrationOf(m);
        bytes memory early = adoptionSignature(m, 1);
        m.holder = vm.createWallet("not the owner");
        bytes memory foreign = adoptionSignature(m, 0);
        bytes[4] memory signatures = [early, foreign, new bytes(65), new bytes(1)];
        for (uint256 i = 0; i < signatures.length; ++i) {
            vm.expectRevert(notAdopted(m, 0));
            send(m.wallet.addr, registration, signatures[i]);
        }
    }

    function test_an_adoption_signed_for_a_foreign_contract_is_refused() public {
        Machine memory m = mintMachine("node1");
        bytes memory here = adoptionSignature(m, 0);
        synod = deploy(3);
        vm.prank(governance);
        synod.mintNodeAccess(m.holder.addr, "node1");
        ISynodMembership.Registration memory registration = registrationOf(m);
        vm.expectRevert(notAdopted(m, 0));
        send(m.wallet.addr, registration, here);
    }

    function test_a_contract_owner_adopts_by_eip_1271() public {
        Machine memory m = mintMachine("node1");
        OwnerContract safe = new OwnerContract(m.holder.addr);
        vm.prank(m.holder.addr);
        synod.safeTransferFrom(m.holder.addr, address(safe), m.tokenId);
        ISynodMembership.Registration memory registration = registrationOf(m);
        bytes memory old = adoptionSignature(m, 0);
        bytes memory current = adoptionSignature(m, 1);
        vm.expectRevert(notAdopted(m, 1));
        send(m.wallet.addr, registration, old);
        assertEq(send(m.wallet.addr, registration, current), 1);
    }

    function test_a_node_that_holds_its_own_token_needs_no_adoption() public {
        Machine memory m = mintMachine("node1");
        vm.prank(m.holder.addr);
        synod.transferFrom(m.holder.addr, m.wallet.addr, m.tokenId);
        assertEq(register(m), 1);
    }

    function test_a_used_adoption_is_void_after_deactivation_by_owner_or_governance() public {
        for (uint256 i = 0; i < 2; ++i) {
            Machine memory m = registered(i == 0 ? "by owner" : "by governance");
            bytes memory signed = adoptionSignature(m, 0);
            vm.prank(i == 0 ? m.holder.addr : governance);
            synod.deactivate(m.tokenId);
            (address wallet, address instanceId, uint64 number) = synod.adoptionOf(m.tokenId);
            assertEq(wallet, address(0));
            assertEq(instanceId, address(0));
            assertEq(number, 1);

            m.session = newSession();
            ISynodMembership.Registration memory registration = registrationOf(m);
            refuse(registration, m.wallet.addr, notAdopted(m, 1));
            vm.expectRevert(notAdopted(m, 1));
            send(m.wallet.addr, registration, signed);
            assertEq(send(m.wallet.addr, registration, adoptionSignature(m, 1)), 2, "adopted anew");
        }
    }

    function test_deactivation_by_the_nodes_wallet_keeps_the_adoption() public {
        Machine memory m = registered("node1");
        vm.prank(m.wallet.addr);
        synod.deactivate(m.tokenId);
        m.session = newSession();
        assertEq(register(m), 2);
    }

    function test_an_owner_takes_back_an_adoption_before_it_is_used() public {
        Machine memory m = adopted("node1");
        vm.prank(m.holder.addr);
        synod.deactivate(m.tokenId);
        refuse(registrationOf(m), m.wallet.addr, notAdopted(m, 1));
    }

    function test_adopt_forwards_the_first_gas() public {
        Machine memory m = mintMachine("node1");
        vm.deal(m.holder.addr, 1 ether);
        vm.expectEmit(address(synod));
        emit ISynodMembership.Adopted(m.tokenId, m.wallet.addr, m.instanceId, 0);
        vm.prank(m.holder.addr);
        synod.adopt{value: 0.1 ether}(m.tokenId, m.wallet.addr, m.instanceId);
        assertEq(m.wallet.addr.balance, 0.1 ether);
        assertEq(address(synod).balance, 0);
    }

    function test_gas_that_a_wallet_does_not_take_is_not_kept() public {
        Machine memory m = mintMachine("node1");
        address purse = address(new Purse());
        vm.deal(m.holder.addr, 1 ether);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.GasNotForwarded.selector, purse, 5));
        vm.prank(m.holder.addr);
        synod.adopt{value: 5}(m.tokenId, purse, m.instanceId);
    }

    function test_only_the_owner_adopts_and_only_real_ids() public {
        Machine memory m = mintMachine("node1");
        vm.expectRevert(
            abi.encodeWithSelector(ISynodMembership.NotTokenOwner.selector, m.tokenId, m.holder.addr, governance)
        );
        vm.prank(governance);
        synod.adopt(m.tokenId, m.wallet.addr, m.instanceId);
        vm.startPrank(m.holder.addr);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.IdZero.selector, "wallet"));
        synod.adopt(m.tokenId, address(0), m.instanceId);
        vm.expectRevert(abi.encodeWithSelector(ISynodMembership.IdZero.selector, "instanceId"));
        synod.adopt(m.tokenId, m.wallet.addr, address(0));
        vm.expectRevert(abi.encodeWithSignature("ERC721NonexistentToken(uint256)", 0));
        synod.adopt(0, m.wallet.addr, m.instanceId);
    }

    function notAdopted(Machine memory m, uint64 number) private pure returns (bytes memory) {
        return
            abi.encodeWithSelector(ISynodMembership.NotAdopted.selector, m.tokenId, m.wallet.addr, m.instanceId, number);
    }
}
