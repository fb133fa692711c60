// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {Test, Vm} from "forge-std/Test.sol";
import {DstackMembershipNFT} from "../src/DstackMembershipNFT.sol";
import {ISynodMembership} from "../src/ISynodMembership.sol";
import {KeyChain} from "../src/KeyChain.sol";

/// A KMS, an app and some machines whose keys and signatures are made as dstack makes them, beside a fresh contract.
/// The signed texts are built here a second time, from strings, so that a slip in `KeyChain` does not cancel out.
abstract contract Cluster is Test {
    struct Machine {
        uint256 tokenId;
        address instanceId;
        Vm.Wallet wallet;
        Vm.Wallet session;
        Vm.Wallet holder;
    }

    uint64 internal constant LIFETIME = 1 days;
    address internal constant APP_ID = address(uint160(0xa990000000000000000000000000000000000001));
    ISynodMembership.Anchor internal NO_ANCHOR = ISynodMembership.Anchor(0, 0);

    DstackMembershipNFT internal synod;
    address internal governance = makeAddr("governance");
    address internal stranger = makeAddr("stranger");
    Vm.Wallet internal kms = vm.createWallet("kms root");
    Vm.Wallet internal app = vm.createWallet("app root");
    uint256 private _sessions;

    function setUp() public virtual {
        vm.warp(1_700_000_000);
        synod = deploy(3);
    }

    function deploy(uint64 founders) internal returns (DstackMembershipNFT) {
        address[] memory apps = new address[](1);
        apps[0] = APP_ID;
        return new DstackMembershipNFT(governance, kms.addr, apps, founders, 100, LIFETIME);
    }

    // ------------------------------------------------------------------ machines

    /// Mints a token to a new owner and makes the machine that will use it; nothing is adopted or registered yet.
    function mintMachine(string memory name) internal returns (Machine memory machine) {
        machine.holder = vm.createWallet(string.concat(name, " owner"));
        machine.wallet = vm.createWallet(string.concat(name, " wallet"));
        machine.instanceId = makeAddr(string.concat(name, " instance"));
        machine.session = newSession();
        vm.prank(governance);
        machine.tokenId = synod.mintNodeAccess(machine.holder.addr, name);
    }

    /// What a reboot does: the session key is new, all else stays.
    function newSession() internal returns (Vm.Wallet memory) {
        return vm.createWallet(string.concat("session ", vm.toString(++_sessions)));
    }

    function adopted(string memory name) internal returns (Machine memory machine) {
        machine = mintMachine(name);
        adopt(machine);
    }

    function adopt(Machine memory machine) internal {
        vm.prank(machine.holder.addr);
        synod.adopt(machine.tokenId, machine.wallet.addr, machine.instanceId);
    }

    function registered(string memory name) internal returns (Machine memory machine) {
        machine = adopted(name);
        register(machine);
    }

    /// Three seated members; token ids 1, 2, 3.
    function three() internal returns (Machine[] memory machines) {
        machines = new Machine[](3);
        machines[0] = registered("node1");
        machines[1] = registered("node2");
        machines[2] = registered("node3");
    }

    function register(Machine memory machine) internal returns (uint64) {
        return send(machine.wallet.addr, registrationOf(machine), "");
    }

    function send(address from, ISynodMembership.Registration memory registration, bytes memory ownerSignature)
        internal
        returns (uint64)
    {
        vm.prank(from);
        return synod.register(registration, ownerSignature);
    }

    function refuse(ISynodMembership.Registration memory registration, address from, bytes memory why) internal {
        vm.expectRevert(why);
        send(from, registration, "");
    }

    // ------------------------------------------------------------------ the chain, as dstack signs it

    function registrationOf(Machine memory machine) internal returns (ISynodMembership.Registration memory) {
        return ISynodMembership.Registration({
            tokenId: machine.tokenId,
            instanceId: machine.instanceId,
            appId: APP_ID,
            derivedKey: raw(machine.wallet),
            appKey: raw(app),
            appSignature: appSignature(app, purpose(block.chainid, address(synod), machine.instanceId), machine.wallet),
            kmsSignature: kmsSignature(kms, APP_ID, app),
            sessionKey: raw(machine.session),
            endpoint: "127.0.0.1:9001",
            evidenceHash: keccak256("evidence"),
            expiresAt: uint64(block.timestamp) + LIFETIME
        });
    }

    function purpose(uint256 chainId, address verifier, address instanceId) internal pure returns (string memory) {
        return string.concat(
            "synod-v1:",
            vm.toString(chainId),
            ":0x",
            bareHex(abi.encodePacked(verifier)),
            ":",
            bareHex(abi.encodePacked(instanceId))
        );
    }

    function appSignature(Vm.Wallet memory by, string memory text, Vm.Wallet memory derived)
        internal
        returns (bytes memory)
    {
        return dstackSign(by, keccak256(bytes(string.concat(text, ":", bareHex(compressed(derived))))));
    }

    function kmsSignature(Vm.Wallet memory by, address appId, Vm.Wallet memory appKey) internal returns (bytes memory) {
        return dstackSign(by, keccak256(bytes.concat("dstack-kms-issued:", bytes20(appId), compressed(appKey))));
    }

    /// r ‖ s ‖ recovery id 0 or 1.
    function dstackSign(Vm.Wallet memory by, bytes32 digest) internal returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(by, digest);
        return abi.encodePacked(r, s, v - 27);
    }

    function raw(Vm.Wallet memory key) internal pure returns (bytes memory) {
        return abi.encodePacked(key.publicKeyX, key.publicKeyY);
    }

    function compressed(Vm.Wallet memory key) internal pure returns (bytes memory) {
        return abi.encodePacked(key.publicKeyY % 2 == 1 ? bytes1(0x03) : bytes1(0x02), key.publicKeyX);
    }

    function bareHex(bytes memory what) internal pure returns (string memory) {
        return vm.replace(vm.toString(what), "0x", "");
    }

    function adoptionSignature(Machine memory machine, uint64 number) internal returns (bytes memory) {
        bytes32 digest = synod.adoptionDigest(machine.tokenId, machine.wallet.addr, machine.instanceId, number);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(machine.holder, digest);
        return abi.encodePacked(r, s, v);
    }

    // ------------------------------------------------------------------ ballots

    function deadline() internal view returns (uint64) {
        return uint64(block.timestamp) + 60;
    }

    function ballot(Machine memory machine, uint64 term, uint256 candidate)
        internal
        returns (ISynodMembership.BallotSignature memory)
    {
        return ballot(machine, synod.ballotDigest(term, candidate, NO_ANCHOR, deadline()));
    }

    function ballot(Machine memory machine, bytes32 digest) internal returns (ISynodMembership.BallotSignature memory) {
        (bytes32 r, bytes32 vs) = vm.signCompact(machine.session, digest);
        return ISynodMembership.BallotSignature(machine.tokenId, r, vs);
    }

    /// Ballots of these machines, in this order.
    function ballots(Machine[] memory machines, uint64 term, uint256 candidate)
        internal
        returns (ISynodMembership.BallotSignature[] memory signed)
    {
        signed = new ISynodMembership.BallotSignature[](machines.length);
        for (uint256 i = 0; i < machines.length; ++i) {
            signed[i] = ballot(machines[i], term, candidate);
        }
    }

    function elect(Machine[] memory machines, uint64 term, uint256 candidate) internal {
        synod.elect(term, candidate, NO_ANCHOR, deadline(), ballots(machines, term, candidate));
    }

    function refuseElection(
        ISynodMembership.BallotSignature[] memory signed,
        uint64 term,
        uint256 candidate,
        bytes memory why
    ) internal {
        vm.expectRevert(why);
        synod.elect(term, candidate, NO_ANCHOR, deadline(), signed);
    }

    function pair(Machine memory a, Machine memory b) internal pure returns (Machine[] memory both) {
        both = new Machine[](2);
        both[0] = a;
        both[1] = b;
    }

    function just(uint256 id) internal pure returns (uint256[] memory ids) {
        ids = new uint256[](1);
        ids[0] = id;
    }
}
