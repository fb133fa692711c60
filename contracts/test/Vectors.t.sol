// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {Cluster} from "./Cluster.sol";

/// The digests that both languages must agree on. `vectors/eip712.json` says the same to the Rust tests.
/// The digests are also computed from the JSON that wallets show, by code that is not ours.
contract VectorsTest is Cluster {
    string internal constant DOMAIN =
        '"domain":{"name":"Synod","version":"1","chainId":31337,"verifyingContract":"0x5FbDB2315678afecb367f032d93F642f64180aa3"},"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"}],';
    string internal constant BALLOT_JSON =
        '"Ballot":[{"name":"term","type":"uint64"},{"name":"candidate","type":"uint256"},{"name":"anchorIndex","type":"uint64"},{"name":"anchorRoot","type":"bytes32"},{"name":"deadline","type":"uint64"}]},"primaryType":"Ballot","message":{"term":1,"candidate":3,"anchorIndex":0,"anchorRoot":"0x0000000000000000000000000000000000000000000000000000000000000000","deadline":1700000000}';
    string internal constant ADOPTION_JSON =
        '"Adoption":[{"name":"tokenId","type":"uint256"},{"name":"wallet","type":"address"},{"name":"instanceId","type":"address"},{"name":"adoptionNumber","type":"uint64"}]},"primaryType":"Adoption","message":{"tokenId":3,"wallet":"0x1111111111111111111111111111111111111111","instanceId":"0x2222222222222222222222222222222222222222","adoptionNumber":1}';

    bytes32 internal constant BALLOT = 0xf9d274dab64f74c446a9f94b1f117a706bef8b2d3176de86f0a8e4450292f17e;
    bytes32 internal constant ADOPTION = 0x4d5045a8dd0833ac0934a2b01576529ea75ad3ace81782d8ffdc7de3cbca149a;

    string internal vectors;

    /// The address of the first contract of the well-known development account.
    function setUp() public override {
        vm.chainId(31337);
        vm.startPrank(0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266);
        synod = deploy(3);
        vm.stopPrank();
        assertEq(address(synod), 0x5FbDB2315678afecb367f032d93F642f64180aa3);
        vectors = vm.readFile("vectors/eip712.json");
    }

    function test_the_ballot_digest_is_the_shared_one() public view {
        bytes32 digest = synod.ballotDigest(1, 3, NO_ANCHOR, 1_700_000_000);
        assertEq(digest, vm.eip712HashTypedData(string.concat("{", DOMAIN, BALLOT_JSON, "}")));
        assertEq(digest, BALLOT);
        assertEq(digest, vm.parseJsonBytes32(vectors, ".ballot.digest"));
    }

    function test_the_adoption_digest_is_the_shared_one() public view {
        address wallet = 0x1111111111111111111111111111111111111111;
        address instance = 0x2222222222222222222222222222222222222222;
        bytes32 digest = synod.adoptionDigest(3, wallet, instance, 1);
        assertEq(digest, vm.eip712HashTypedData(string.concat("{", DOMAIN, ADOPTION_JSON, "}")));
        assertEq(digest, ADOPTION);
        assertEq(digest, vm.parseJsonBytes32(vectors, ".adoption.digest"));
    }

    function test_the_ballot_signature_is_the_shared_one() public view {
        uint256 secret = vm.parseJsonUint(vectors, ".ballot.session_private");
        (bytes32 r, bytes32 vs) = vm.signCompact(secret, BALLOT);
        assertEq(r, vm.parseJsonBytes32(vectors, ".ballot.r"));
        assertEq(vs, vm.parseJsonBytes32(vectors, ".ballot.vs"));
        assertEq(vm.addr(secret), vm.parseJsonAddress(vectors, ".ballot.session_address"));
    }

    function test_the_purpose_is_the_shared_one() public view {
        assertEq(
            synod.purposeOf(0x2222222222222222222222222222222222222222), vm.parseJsonString(vectors, ".purpose.text")
        );
    }
}
