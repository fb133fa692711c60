// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

/// @title What nodes, owners and indexers see of the membership contract
/// @notice Errors carry the facts (expected, found); events carry every changed field, un-hashed,
///         so that an indexer can rebuild the whole state from them.
interface ISynodMembership {
    // ------------------------------------------------------------------ types

    /// Everything that `register` binds together. Public keys are 64 bytes x ‖ y (uncompressed, no prefix byte).
    struct Registration {
        uint256 tokenId;
        address instanceId; // dstack instance id (20 bytes, as in IAppAuth)
        address appId; // dstack app id (20 bytes)
        bytes derivedKey; // wallet key made by GetKey; its address must be msg.sender
        bytes appKey; // app root key, must be the one that the KMS signed
        bytes appSignature; // 65 bytes r ‖ s ‖ v over keccak256(purpose ":" hex(compressed derivedKey))
        bytes kmsSignature; // 65 bytes r ‖ s ‖ v over keccak256("dstack-kms-issued:" ‖ appId ‖ compressed appKey)
        bytes sessionKey; // made in memory at this boot; signs frames and ballots
        string endpoint; // <= 256 bytes
        bytes32 evidenceHash;
        uint64 expiresAt; // unix seconds, capped by maxLifetime
    }

    /// Newest checkpoint that the signers of an election hold a certificate for. (0, 0) before there is one.
    struct Anchor {
        uint64 index;
        bytes32 root;
    }

    /// One ballot signature, EIP-2098 compact, by the session key registered for `tokenId`.
    struct BallotSignature {
        uint256 tokenId;
        bytes32 r;
        bytes32 vs;
    }

    /// One member as the views show it.
    struct Member {
        uint256 tokenId;
        uint64 incarnation; // counts registrations; 0 = never registered
        bool active; // registered, not deactivated; expiry is the reader's to judge by expiresAt
        bool seated; // counts in on-chain quorums
        address owner;
        address wallet;
        address instanceId;
        address sessionAddress;
        bytes32 sessionX; // x of the session key
        bool sessionYOdd; // its parity
        uint64 expiresAt;
        uint64 registeredBlock;
        uint64 adoptionNumber; // the number that the next adoption must carry
        bytes32 evidenceHash;
        string name;
        string endpoint;
    }

    /// The office, and what the newest election recorded.
    struct Office {
        uint64 term;
        uint256 leader; // token id, 0 = vacant
        uint64 leaderIncarnation;
        uint64 electedBlock;
        uint64 seatedCount;
        uint64 founders; // members that must be seated before the first election
        Anchor anchor;
    }

    // ------------------------------------------------------------------ errors: (…, expected, found) where there are both

    error SettingRefused(string setting, uint256 found);
    error NameLengthWrong(uint256 max, uint256 found);
    error EndpointTooLong(uint256 max, uint256 found);
    error NodesExhausted(uint256 maxNodes);
    error PageTooLong(uint256 max, uint256 found);
    error IdZero(string what);
    error NotTokenOwner(uint256 tokenId, address expected, address found);
    error NotEntitled(uint256 tokenId, address sender);
    error GasNotForwarded(address wallet, uint256 value);
    error AppNotAllowed(address appId);
    error SenderNotDerivedKey(address expected, address found);
    /// Neither the owner's transaction nor his signature covers this wallet, instance and adoption number.
    error NotAdopted(uint256 tokenId, address wallet, address instanceId, uint64 adoptionNumber);
    error WalletInUse(address wallet, uint256 byToken);
    error InstanceInUse(address instanceId, uint256 byToken);
    /// A session key is registered once in its life; make a new one at each boot.
    error SessionUsedBefore(address session, uint256 byToken);
    error ExpiryOutOfRange(uint256 earliest, uint256 latest, uint64 found);
    error NotActive(uint256 tokenId);
    error NotSeated(uint256 tokenId);
    error Expired(uint256 tokenId, uint64 expiresAt);
    error NotExpired(uint256 tokenId, uint64 expiresAt);
    error TermWrong(uint64 expected, uint64 found);
    error DeadlineOutOfRange(uint256 earliest, uint256 latest, uint64 found);
    error BallotsNotAscending(uint256 previous, uint256 found);
    error BallotSignerWrong(uint256 tokenId, address expected, address found);
    error BallotsTooFew(uint256 expected, uint256 found);
    error FoundersTooFew(uint64 expected, uint64 found);
    error NotLeader(uint256 leader, address expected, address found);

    // ------------------------------------------------------------------ events

    /// What the constructor fixed for ever.
    event Configured(address kmsRoot, uint64 founders, uint256 maxNodes, uint64 maxLifetime);
    event AppAllowed(address appId);
    event NodeAccessMinted(uint256 indexed tokenId, address indexed to, string name);
    event Adopted(uint256 indexed tokenId, address wallet, address instanceId, uint64 adoptionNumber);
    event Registered(
        uint256 indexed tokenId,
        uint64 incarnation,
        address wallet,
        address instanceId,
        address appId,
        bytes sessionKey,
        string endpoint,
        bytes32 evidenceHash,
        uint64 expiresAt
    );
    event Seated(uint256 indexed tokenId, uint64 seatedCount);
    event Unseated(uint256 indexed tokenId, uint64 seatedCount);
    event Deactivated(uint256 indexed tokenId, uint64 adoptionNumber);
    event LeaderElected(uint64 indexed term, uint256 indexed leader, uint64 incarnation, uint256[] voters);
    event Anchored(uint64 index, bytes32 root);
    /// The office ended without a successor; `term` is the new, vacant term.
    event OfficeVacated(uint64 indexed term, uint256 indexed formerLeader);

    // ------------------------------------------------------------------ acts

    function mintNodeAccess(address to, string calldata name) external returns (uint256 tokenId);

    /// The token's owner adopts exactly this wallet and instance; value is forwarded to the wallet as its first gas.
    function adopt(uint256 tokenId, address wallet, address instanceId) external payable;

    /// Sent by the node's wallet. `ownerSignature` is an EIP-712 Adoption, or empty when the owner
    /// adopted by `adopt` or sends this itself.
    function register(Registration calldata registration, bytes calldata ownerSignature)
        external
        returns (uint64 incarnation);

    /// Ballots of a majority of the seated, ids strictly ascending. Anyone may send it.
    function elect(
        uint64 term,
        uint256 candidate,
        Anchor calldata anchor,
        uint64 deadline,
        BallotSignature[] calldata ballots
    ) external;

    /// Sent by the leader's wallet after the log has made these tokens voters.
    function seat(uint256[] calldata tokenIds) external;

    /// By the token's owner, the contract's owner, or the node's wallet (which does not raise the adoption number).
    function deactivate(uint256 tokenId) external;

    /// Anyone, after expiresAt.
    function expire(uint256 tokenId) external;

    // ------------------------------------------------------------------ views

    function office() external view returns (Office memory);
    function memberOf(uint256 tokenId) external view returns (Member memory);
    /// Tokens from..from+limit-1 that exist, ascending; limit <= 100.
    function members(uint256 from, uint256 limit) external view returns (Member[] memory);
    /// (wallet, instance) adopted on chain with the current adoption number; zero when none.
    function adoptionOf(uint256 tokenId)
        external
        view
        returns (address wallet, address instanceId, uint64 adoptionNumber);
    function kmsRoot() external view returns (address);
    function appAllowed(address appId) external view returns (bool);
    function maxLifetime() external view returns (uint64);
    function deployBlock() external view returns (uint256);
    function ballotDigest(uint64 term, uint256 candidate, Anchor calldata anchor, uint64 deadline)
        external
        view
        returns (bytes32);
    function adoptionDigest(uint256 tokenId, address wallet, address instanceId, uint64 adoptionNumber)
        external
        view
        returns (bytes32);

    /// The purpose that GetKey must be asked with by this instance.
    function purposeOf(address instanceId) external view returns (string memory);

    // names of the prototype, kept
    function currentTerm() external view returns (uint64);
    function currentLeader() external view returns (address wallet);
    function totalActiveNodes() external view returns (uint256);
    function requiredVotes() external view returns (uint256);
    function getActiveInstances(uint256 from, uint256 limit) external view returns (address[] memory);
    function getInstanceInfo(address instanceId) external view returns (uint256 tokenId, bool active, address owner);
    function getPeerEndpoints(uint256 from, uint256 limit) external view returns (string[] memory);
}
