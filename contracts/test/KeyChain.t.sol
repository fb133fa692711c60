// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {Test, Vm} from "forge-std/Test.sol";
import {KeyChain} from "../src/KeyChain.sol";

/// Opens the library's calldata functions to the test.
contract KeyChainDoor {
    function recover(bytes32 digest, bytes calldata signature) external pure returns (address) {
        return KeyChain.recover(digest, signature);
    }

    function parse(bytes calldata key) external pure returns (KeyChain.Key memory) {
        return KeyChain.parse(key);
    }
}

/// The library against bytes that a dstack guest agent really signed, and against slow spellings of the same texts.
/// The keys below are of dstack's public development fixture; they protect nothing.
contract KeyChainTest is Test {
    KeyChainDoor internal door = new KeyChainDoor();

    function test_a_derived_key_signature_observed_from_dstack_recovers_to_the_app_key() public {
        Vm.Wallet memory app = vm.createWallet(0xd6e88992cdeeee35fe70b5db61ab66cdb191fb9b6ec9313757ef162dd7214d5d);
        Vm.Wallet memory derived = vm.createWallet(0xabc24a0a6485cfceb30932bcfc9c3b918eab2216d8619c423a0d1017390938ef);
        assertEq(KeyChain.addressOf(key(derived)), 0x28815c306c03F3ec521572DE8e46e18A27C7545f);

        bytes32 digest = KeyChain.derivedKeyDigest("mainnet", key(derived));
        assertEq(digest, 0xb278528666d3cdeebc4368f810c803bf5110dfd98489ef1953b049b1ef8cd4b1);
        bytes memory link =
            hex"ff57816e9cdd93c170db1e976c787533046392e90f7b3834f15f03f771e364941220f49f266a2bd293a289871a56f4dd81b1dec22d23d9d177862f5c398a317201";
        assertEq(door.recover(digest, link), app.addr);
    }

    function test_an_app_key_issued_as_the_kms_does_recovers_to_the_root() public {
        Vm.Wallet memory root = vm.createWallet(0x1111111111111111111111111111111111111111111111111111111111111111);
        Vm.Wallet memory app = vm.createWallet(0x0c12f0ebe1e8a39031ea1e417388e2ba120d2125653f894b4db53359ebe681cb);
        bytes32 digest = KeyChain.appKeyDigest(0x2222222222222222222222222222222222222222, key(app));
        assertEq(digest, 0x638c895b75154cebff7b57c87f214b943cbb8b90e4cd7ef1328a2478a0e59406);
        bytes memory link =
            hex"c503d703f5fa1802eb2dcee55ba0dc7fe9bb18c8fc3aff41076d674ee3b47f4600335b7d1bdb987ab27be8167267203a55c8de8910635db3f4d3f491698cd01e00";
        assertEq(door.recover(digest, link), root.addr);
    }

    function testFuzz_hex_is_what_the_slow_way_writes(bytes16 sixteen, address account) public pure {
        assertEq(string(abi.encodePacked(KeyChain.hexOf(sixteen))), bare(abi.encodePacked(sixteen)));
        assertEq(string(KeyChain.hexOf(account)), bare(abi.encodePacked(account)));
    }

    function testFuzz_the_purpose_is_the_text_of_its_parts(uint256 chainId, address verifier, address instance)
        public
        pure
    {
        assertEq(
            KeyChain.purposeOf(chainId, verifier, instance),
            string.concat(
                "synod-v1:",
                vm.toString(chainId),
                ":0x",
                bare(abi.encodePacked(verifier)),
                ":",
                bare(abi.encodePacked(instance))
            )
        );
    }

    function testFuzz_every_real_key_parses_and_its_neighbour_does_not(uint256 secret) public {
        secret = bound(secret, 1, 1 << 255);
        Vm.Wallet memory wallet = vm.createWallet(secret);
        KeyChain.Key memory found = door.parse(abi.encode(wallet.publicKeyX, wallet.publicKeyY));
        assertEq(KeyChain.addressOf(found), wallet.addr);
        vm.expectPartialRevert(KeyChain.KeyNotOnCurve.selector);
        door.parse(abi.encode(wallet.publicKeyX, wallet.publicKeyY ^ 1));
    }

    function key(Vm.Wallet memory wallet) private pure returns (KeyChain.Key memory) {
        return KeyChain.Key(bytes32(wallet.publicKeyX), bytes32(wallet.publicKeyY));
    }

    function bare(bytes memory what) private pure returns (string memory) {
        return vm.replace(vm.toString(what), "0x", "");
    }
}
