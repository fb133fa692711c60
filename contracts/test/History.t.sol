// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {Vm} from "forge-std/Test.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {ISynodMembership} from "../src/ISynodMembership.sol";
import {Cluster} from "./Cluster.sol";

/// Random acts, then two questions: do the views obey the invariants, and can an indexer that saw
/// nothing but the events say the same? (Block numbers come from the log's position and are not compared.)
contract HistoryTest is Cluster {
    struct Seen {
        address owner;
        string name;
        uint64 adoptionNumber;
        address adoptedWallet;
        address adoptedInstance;
        bool active;
        bool seated;
        Registered last;
    }

    /// The event's fields after the token.
    struct Registered {
        uint64 incarnation;
        address wallet;
        address instanceId;
        address appId;
        bytes sessionKey;
        string endpoint;
        bytes32 evidenceHash;
        uint64 expiresAt;
    }

    uint256 internal constant TOKENS = 5;
    Machine[] internal m;
    uint256 internal elections;

    mapping(uint256 tokenId => Seen) internal seen;
    uint64 internal seenTerm;
    uint256 internal seenLeader;
    uint64 internal seenLeaderIncarnation;
    uint64 internal seenSeated;
    ISynodMembership.Anchor internal seenAnchor;

    /// forge-config: default.fuzz.runs = 60
    function testFuzz_events_alone_tell_the_whole_state(uint256 seed) public {
        vm.recordLogs();
        for (uint256 i = 0; i < TOKENS; ++i) {
            m.push(mintMachine(string.concat("node", vm.toString(i))));
            adopt(m[i]);
            if (i < 3) register(m[i]);
        }
        uint64 term = 0;
        for (uint256 step = 0; step < 40; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            act(seed % 11, m[(seed >> 32) % TOKENS], seed);
            assertGe(synod.currentTerm(), term, "terms never go back");
            term = synod.currentTerm();
            checkInvariants();
        }
        replay(vm.getRecordedLogs());
        compare();
    }

    function test_the_random_acts_include_elections() public {
        testFuzz_events_alone_tell_the_whole_state(1);
        assertGt(elections, 2);
    }

    // ------------------------------------------------------------------ acts; a refused one is part of the story

    function act(uint256 kind, Machine storage machine, uint256 seed) private {
        uint256 id = machine.tokenId;
        if (kind <= 1) {
            Vm.Wallet memory old = machine.session;
            machine.session = newSession();
            ISynodMembership.Registration memory registration = registrationOf(machine);
            registration.expiresAt = uint64(block.timestamp + 1 + (seed >> 64) % LIFETIME);
            vm.prank(machine.wallet.addr);
            try synod.register(registration, "") {}
            catch {
                machine.session = old;
            }
        } else if (kind == 2) {
            address from = synod.ownerOf(id);
            vm.prank(from);
            synod.adopt(id, machine.wallet.addr, machine.instanceId);
        } else if (kind == 3 && seed % 3 == 0) {
            address from = synod.ownerOf(id);
            vm.prank(from);
            synod.transferFrom(from, makeAddr(vm.toString(seed)), id);
        } else if (kind == 4 && seed % 2 == 0) {
            address from = seed % 4 == 0 ? governance : machine.wallet.addr;
            vm.prank(from);
            try synod.deactivate(id) {} catch {}
        } else if (kind == 5) {
            vm.warp(block.timestamp + (seed >> 64) % (LIFETIME / 24));
            try synod.expire(id) {} catch {}
        } else if (kind <= 7) {
            address leader = synod.currentLeader();
            vm.prank(leader);
            try synod.seat(just(id)) {} catch {}
        } else {
            tryElect(id, ISynodMembership.Anchor(uint64(seed % 50), bytes32(seed)));
        }
    }

    /// Ballots of all who can vote.
    function tryElect(uint256 candidate, ISynodMembership.Anchor memory anchor) private {
        uint64 term = synod.currentTerm() + 1;
        bytes32 digest = synod.ballotDigest(term, candidate, anchor, deadline());
        ISynodMembership.BallotSignature[] memory all = new ISynodMembership.BallotSignature[](TOKENS);
        uint256 count = 0;
        for (uint256 i = 0; i < TOKENS; ++i) {
            ISynodMembership.Member memory member = synod.memberOf(i + 1);
            if (member.seated && member.expiresAt >= block.timestamp) all[count++] = ballot(m[i], digest);
        }
        ISynodMembership.BallotSignature[] memory signed = new ISynodMembership.BallotSignature[](count);
        for (uint256 i = 0; i < count; ++i) {
            signed[i] = all[i];
        }
        try synod.elect(term, candidate, anchor, deadline(), signed) {
            ++elections;
        } catch {}
    }

    // ------------------------------------------------------------------ invariants

    function checkInvariants() private view {
        ISynodMembership.Member[] memory all = synod.members(1, 100);
        ISynodMembership.Office memory office = synod.office();
        uint256 active = 0;
        uint256 seated = 0;
        for (uint256 i = 0; i < all.length; ++i) {
            if (all[i].active) ++active;
            if (all[i].seated) ++seated;
            assertTrue(all[i].active || !all[i].seated, "who is seated is active");
        }
        assertEq(active, synod.totalActiveNodes());
        assertEq(seated, office.seatedCount);
        if (office.leader == 0) {
            assertEq(office.leaderIncarnation, 0);
            assertEq(synod.currentLeader(), address(0));
        } else {
            ISynodMembership.Member memory leader = all[office.leader - 1];
            assertTrue(leader.seated, "the leader is seated");
            assertEq(leader.incarnation, office.leaderIncarnation, "the leader is of the elected incarnation");
        }
    }

    // ------------------------------------------------------------------ the indexer

    function replay(Vm.Log[] memory logs) private {
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter != address(synod)) continue;
            bytes32 what = logs[i].topics[0];
            uint256 first = logs[i].topics.length > 1 ? uint256(logs[i].topics[1]) : 0;
            if (what == ISynodMembership.LeaderElected.selector) {
                assertEq(first, seenTerm + 1, "each term follows the one before");
                seenTerm = uint64(first);
                seenLeader = uint256(logs[i].topics[2]);
                (seenLeaderIncarnation,) = abi.decode(logs[i].data, (uint64, uint256[]));
            } else if (what == ISynodMembership.OfficeVacated.selector) {
                assertEq(first, seenTerm + 1, "each end of an office is a term");
                assertEq(uint256(logs[i].topics[2]), seenLeader);
                seenTerm = uint64(first);
                seenLeader = 0;
                seenLeaderIncarnation = 0;
            } else if (what == ISynodMembership.Anchored.selector) {
                seenAnchor = abi.decode(logs[i].data, (ISynodMembership.Anchor));
            } else if (what == IERC721.Transfer.selector) {
                seen[uint256(logs[i].topics[3])].owner = address(uint160(uint256(logs[i].topics[2])));
            } else if (what != IERC721.Approval.selector) {
                replayToken(what, seen[first], logs[i].data);
            }
        }
    }

    function replayToken(bytes32 what, Seen storage token, bytes memory data) private {
        if (what == ISynodMembership.NodeAccessMinted.selector) {
            token.name = abi.decode(data, (string));
        } else if (what == ISynodMembership.Adopted.selector) {
            (token.adoptedWallet, token.adoptedInstance,) = abi.decode(data, (address, address, uint64));
        } else if (what == ISynodMembership.Seated.selector || what == ISynodMembership.Unseated.selector) {
            token.seated = what == ISynodMembership.Seated.selector;
            seenSeated = abi.decode(data, (uint64));
        } else if (what == ISynodMembership.Deactivated.selector) {
            uint64 number = abi.decode(data, (uint64));
            token.active = false;
            if (number != token.adoptionNumber) {
                (token.adoptedWallet, token.adoptedInstance) = (address(0), address(0));
            }
            token.adoptionNumber = number;
        } else {
            assertEq(what, ISynodMembership.Registered.selector, "an event that the indexer does not know");
            token.active = true;
            token.last = abi.decode(bytes.concat(bytes32(uint256(32)), data), (Registered));
            assertEq(token.last.appId, APP_ID);
        }
    }

    function compare() private view {
        ISynodMembership.Office memory office = synod.office();
        assertEq(seenTerm, office.term);
        assertEq(seenLeader, office.leader);
        assertEq(seenLeaderIncarnation, office.leaderIncarnation);
        assertEq(seenSeated, office.seatedCount);
        assertEq(seenAnchor.index, office.anchor.index);
        assertEq(seenAnchor.root, office.anchor.root);
        for (uint256 id = 1; id <= TOKENS; ++id) {
            compareToken(seen[id], synod.memberOf(id));
            (address wallet, address instanceId,) = synod.adoptionOf(id);
            assertEq(seen[id].adoptedWallet, wallet);
            assertEq(seen[id].adoptedInstance, instanceId);
        }
    }

    function compareToken(Seen storage token, ISynodMembership.Member memory member) private view {
        assertEq(token.owner, member.owner);
        assertEq(token.name, member.name);
        assertEq(token.adoptionNumber, member.adoptionNumber);
        assertEq(token.last.incarnation, member.incarnation);
        assertEq(token.active, member.active);
        assertEq(token.seated, member.seated);
        assertEq(token.last.wallet, member.wallet);
        assertEq(token.last.instanceId, member.instanceId);
        assertEq(token.last.endpoint, member.endpoint);
        assertEq(token.last.evidenceHash, member.evidenceHash);
        assertEq(token.last.expiresAt, member.expiresAt);
        if (token.last.incarnation == 0) return;
        bytes memory key = token.last.sessionKey;
        assertEq(address(uint160(uint256(keccak256(key)))), member.sessionAddress);
        assertEq(bytes32(key), member.sessionX);
        assertEq(uint8(key[63]) & 1 == 1, member.sessionYOdd);
    }
}
