// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {Vm} from "forge-std/Test.sol";
import {DstackMembershipNFT} from "../src/DstackMembershipNFT.sol";
import {ISynodMembership} from "../src/ISynodMembership.sol";
import {KeyChain} from "../src/KeyChain.sol";
import {Cluster} from "./Cluster.sol";

/// One link false at a time: whatever `register` binds together, a test unbinds. (H1 … C16: flaws of the prototype.)
contract RegistrationTest is Cluster {
    Machine internal node;
    ISynodMembership.Registration internal good;

    function setUp() public override {
        super.setUp();
        node = adopted("node1");
        good = registrationOf(node);
    }

    function test_the_unchanged_registration_is_accepted() public {
        assertEq(send(node.wallet.addr, good, ""), 1);
    }

    // ------------------------------------------------------------------ who sends

    function test_a_replay_by_another_sender_is_refused_H2_C2() public {
        address[3] memory senders = [stranger, node.holder.addr, governance];
        for (uint256 i = 0; i < senders.length; ++i) {
            refuse(
                good,
                senders[i],
                abi.encodeWithSelector(ISynodMembership.SenderNotDerivedKey.selector, node.wallet.addr, senders[i])
            );
        }
    }

    function test_a_senders_own_key_without_the_apps_signature_is_refused() public {
        Vm.Wallet memory own = vm.createWallet("stranger with a key");
        ISynodMembership.Registration memory bad = good;
        bad.derivedKey = raw(own);
        refuseUnlinked(bad, own.addr);
    }

    // ------------------------------------------------------------------ the purpose: chain, contract, instance

    function test_a_chain_made_for_a_foreign_contract_is_refused() public {
        signedFor(purpose(block.chainid, address(deploy(3)), node.instanceId));
    }

    function test_a_chain_made_for_a_foreign_instance_is_refused_C3() public {
        signedFor(purpose(block.chainid, address(synod), makeAddr("other instance")));
        ISynodMembership.Registration memory bad = good;
        bad.instanceId = makeAddr("other instance");
        refuseUnlinked(bad, node.wallet.addr);
    }

    function test_a_chain_made_for_a_foreign_chain_id_is_refused() public {
        signedFor(purpose(block.chainid + 1, address(synod), node.instanceId));
        vm.chainId(block.chainid + 1);
        refuseUnlinked(good, node.wallet.addr);
    }

    function test_a_chain_made_for_another_purpose_is_refused_H3() public {
        signedFor("");
        signedFor("wallet");
        signedFor(string.concat("x", purpose(block.chainid, address(synod), node.instanceId)));
    }

    function signedFor(string memory text) private {
        ISynodMembership.Registration memory bad = good;
        bad.appSignature = appSignature(app, text, node.wallet);
        refuseUnlinked(bad, node.wallet.addr);
    }

    /// Refused as AppKeyNotLinked, whatever key the false text recovers to.
    function refuseUnlinked(ISynodMembership.Registration memory bad, address from) private {
        vm.expectPartialRevert(KeyChain.AppKeyNotLinked.selector);
        send(from, bad, "");
    }

    // ------------------------------------------------------------------ app key and KMS root

    function test_an_attackers_app_key_with_a_seen_kms_signature_is_refused_C1() public {
        Vm.Wallet memory attacker = vm.createWallet("attacker");
        ISynodMembership.Registration memory bad = good;
        bad.appSignature = appSignature(attacker, purpose(block.chainid, address(synod), node.instanceId), node.wallet);
        refuse(
            bad, node.wallet.addr, abi.encodeWithSelector(KeyChain.AppKeyNotLinked.selector, app.addr, attacker.addr)
        );
        bad.appKey = raw(attacker);
        vm.expectPartialRevert(KeyChain.KmsRootForeign.selector);
        send(node.wallet.addr, bad, "");
    }

    function test_a_foreign_kms_root_is_refused() public {
        Vm.Wallet memory foreign = vm.createWallet("foreign kms");
        ISynodMembership.Registration memory bad = good;
        bad.kmsSignature = kmsSignature(foreign, APP_ID, app);
        refuse(bad, node.wallet.addr, abi.encodeWithSelector(KeyChain.KmsRootForeign.selector, kms.addr, foreign.addr));
    }

    function test_an_app_key_issued_for_another_app_is_refused() public {
        ISynodMembership.Registration memory bad = good;
        bad.kmsSignature = kmsSignature(kms, makeAddr("other app"), app);
        vm.expectPartialRevert(KeyChain.KmsRootForeign.selector);
        send(node.wallet.addr, bad, "");
    }

    function test_an_app_that_is_not_allowed_is_refused() public {
        address[2] memory others = [makeAddr("other app"), address(0)];
        for (uint256 i = 0; i < others.length; ++i) {
            ISynodMembership.Registration memory bad = good;
            bad.appId = others[i];
            bad.kmsSignature = kmsSignature(kms, others[i], app);
            refuse(bad, node.wallet.addr, abi.encodeWithSelector(ISynodMembership.AppNotAllowed.selector, others[i]));
        }
    }

    // ------------------------------------------------------------------ the form of signatures and keys

    function test_recovery_ids_27_and_28_are_accepted_too_H5() public {
        ISynodMembership.Registration memory other = good;
        other.appSignature[64] = bytes1(uint8(other.appSignature[64]) + 27);
        other.kmsSignature[64] = bytes1(uint8(other.kmsSignature[64]) + 27);
        assertEq(send(node.wallet.addr, other, ""), 1);
    }

    function test_other_recovery_ids_are_refused() public {
        uint8[4] memory ids = [2, 26, 29, 255];
        for (uint256 i = 0; i < ids.length; ++i) {
            ISynodMembership.Registration memory bad = good;
            bad.appSignature[64] = bytes1(ids[i]);
            refuse(bad, node.wallet.addr, abi.encodeWithSelector(KeyChain.SignatureRecoveryIdUnknown.selector, ids[i]));
        }
    }

    function test_a_high_s_is_refused_in_both_links_H21() public {
        ISynodMembership.Registration memory bad = good;
        bytes32 s;
        (bad.appSignature, s) = mirrored(good.appSignature);
        refuse(bad, node.wallet.addr, abi.encodeWithSelector(KeyChain.SignatureHighS.selector, s));
        bad = good;
        (bad.kmsSignature, s) = mirrored(good.kmsSignature);
        refuse(bad, node.wallet.addr, abi.encodeWithSelector(KeyChain.SignatureHighS.selector, s));
    }

    /// The other valid signature of the same key over the same text.
    function mirrored(bytes memory signature) private pure returns (bytes memory, bytes32 s) {
        bytes32 r;
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
        }
        s = bytes32(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 - uint256(s));
        return (abi.encodePacked(r, s, uint8(signature[64]) ^ 1), s);
    }

    function test_signatures_of_wrong_length_are_refused() public {
        bytes[4] memory lengths = [new bytes(0), new bytes(1), new bytes(64), new bytes(66)];
        for (uint256 i = 0; i < lengths.length; ++i) {
            bytes memory why = abi.encodeWithSelector(KeyChain.SignatureLengthWrong.selector, 65, lengths[i].length);
            ISynodMembership.Registration memory bad = good;
            bad.appSignature = lengths[i];
            refuse(bad, node.wallet.addr, why);
            bad = good;
            bad.kmsSignature = lengths[i];
            refuse(bad, node.wallet.addr, why);
        }
    }

    function test_65_zero_bytes_are_refused_H4() public {
        ISynodMembership.Registration memory bad = good;
        bad.appSignature = new bytes(65);
        vm.expectPartialRevert(KeyChain.SignatureUnrecoverable.selector);
        send(node.wallet.addr, bad, "");
        bad = good;
        bad.kmsSignature = new bytes(65);
        vm.expectPartialRevert(KeyChain.SignatureUnrecoverable.selector);
        send(node.wallet.addr, bad, "");
    }

    function test_keys_of_wrong_length_are_refused() public {
        bytes[4] memory lengths = [new bytes(0), new bytes(33), new bytes(63), new bytes(65)];
        for (uint256 i = 0; i < lengths.length; ++i) {
            bytes memory why = abi.encodeWithSelector(KeyChain.KeyLengthWrong.selector, 64, lengths[i].length);
            ISynodMembership.Registration memory bad = good;
            bad.derivedKey = lengths[i];
            refuse(bad, node.wallet.addr, why);
            bad = good;
            bad.appKey = lengths[i];
            refuse(bad, node.wallet.addr, why);
            bad = good;
            bad.sessionKey = lengths[i];
            refuse(bad, node.wallet.addr, why);
        }
    }

    function test_a_session_key_that_is_no_point_of_the_curve_is_refused() public {
        uint256 prime = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F;
        uint256[2][4] memory points = [
            [uint256(0), 0],
            [node.session.publicKeyX, node.session.publicKeyY ^ 2],
            [node.session.publicKeyX + 1, node.session.publicKeyY],
            // the point (1, y) written with x = 1 + p: right equation, two spellings
            [prime + 1, 0x4218F20AE6C646B363DB68605822FB14264CA8D2587FDD6FBC750D587E76A7EE]
        ];
        for (uint256 i = 0; i < points.length; ++i) {
            ISynodMembership.Registration memory bad = good;
            bad.sessionKey = abi.encode(points[i]);
            refuse(
                bad,
                node.wallet.addr,
                abi.encodeWithSelector(KeyChain.KeyNotOnCurve.selector, points[i][0], points[i][1])
            );
        }
        ISynodMembership.Registration memory reduced = good;
        reduced.sessionKey = abi.encode([uint256(1), points[3][1]]);
        assertEq(send(node.wallet.addr, reduced, ""), 1, "the same point, reduced");
    }

    // ------------------------------------------------------------------ ids, lengths, times

    function test_zero_and_unknown_ids_are_refused_H22() public {
        ISynodMembership.Registration memory bad = good;
        bad.instanceId = address(0);
        refuse(bad, node.wallet.addr, abi.encodeWithSelector(ISynodMembership.IdZero.selector, "instanceId"));
        uint256[2] memory tokens = [uint256(0), 99];
        for (uint256 i = 0; i < tokens.length; ++i) {
            bad = good;
            bad.tokenId = tokens[i];
            refuse(bad, node.wallet.addr, abi.encodeWithSignature("ERC721NonexistentToken(uint256)", tokens[i]));
        }
    }

    function test_an_endpoint_may_have_256_bytes_and_no_more_C14() public {
        ISynodMembership.Registration memory bad = good;
        bad.endpoint = string(new bytes(257));
        refuse(bad, node.wallet.addr, abi.encodeWithSelector(ISynodMembership.EndpointTooLong.selector, 256, 257));
        bad.endpoint = string(new bytes(256));
        assertEq(send(node.wallet.addr, bad, ""), 1);
    }

    function test_an_expiry_lies_in_the_future_and_within_the_lifetime() public {
        uint64 time = uint64(block.timestamp);
        uint64[4] memory expiries = [0, time, time + LIFETIME + 1, type(uint64).max];
        for (uint256 i = 0; i < expiries.length; ++i) {
            ISynodMembership.Registration memory bad = good;
            bad.expiresAt = expiries[i];
            refuse(
                bad,
                node.wallet.addr,
                abi.encodeWithSelector(
                    ISynodMembership.ExpiryOutOfRange.selector, time + 1, time + LIFETIME, expiries[i]
                )
            );
        }
        ISynodMembership.Registration memory short = good;
        short.expiresAt = time + 1;
        assertEq(send(node.wallet.addr, short, ""), 1);
    }

    // ------------------------------------------------------------------ one of each

    function test_a_wallet_serves_one_token_at_a_time_H7_C4() public {
        send(node.wallet.addr, good, "");
        Machine memory second = mintMachine("node2");
        second.wallet = node.wallet;
        adopt(second);
        refuse(
            registrationOf(second),
            node.wallet.addr,
            abi.encodeWithSelector(ISynodMembership.WalletInUse.selector, node.wallet.addr, node.tokenId)
        );
        vm.prank(node.wallet.addr);
        synod.deactivate(node.tokenId);
        assertEq(register(second), 1, "free again once the first has left");
    }

    function test_an_instance_serves_one_token_at_a_time_H9_C11() public {
        send(node.wallet.addr, good, "");
        Machine memory second = mintMachine("node2");
        second.instanceId = node.instanceId;
        adopt(second);
        refuse(
            registrationOf(second),
            second.wallet.addr,
            abi.encodeWithSelector(ISynodMembership.InstanceInUse.selector, node.instanceId, node.tokenId)
        );
    }

    function test_a_session_key_is_registered_once_in_its_life() public {
        send(node.wallet.addr, good, "");
        bytes memory why =
            abi.encodeWithSelector(ISynodMembership.SessionUsedBefore.selector, node.session.addr, node.tokenId);
        refuse(good, node.wallet.addr, why);
        Machine memory second = adopted("node2");
        second.session = node.session;
        refuse(registrationOf(second), second.wallet.addr, why);
    }

    function test_a_deactivated_token_and_instance_come_back_H8() public {
        send(node.wallet.addr, good, "");
        vm.prank(node.wallet.addr);
        synod.deactivate(node.tokenId);
        node.session = newSession();
        assertEq(register(node), 2);
    }
}
