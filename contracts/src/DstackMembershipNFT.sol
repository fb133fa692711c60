// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ISynodMembership} from "./ISynodMembership.sol";
import {KeyChain} from "./KeyChain.sol";

/// @title Membership, seats and the office of a Synod cluster
/// @notice Rules: a token's rights end in the block in which it changes hands (one hook, `_update`); every end of an office
///         raises the term, so a ballot names one situation; no transaction loops over members.
///         It does not appraise quotes (it keeps their hash and expiry), does not sell tokens and cannot reseat a cluster
///         whose last seat is gone: those refuse until the contract is completed.
contract DstackMembershipNFT is ISynodMembership, ERC721, Ownable2Step, EIP712 {
    bytes32 private constant BALLOT_TYPEHASH =
        keccak256("Ballot(uint64 term,uint256 candidate,uint64 anchorIndex,bytes32 anchorRoot,uint64 deadline)");
    bytes32 private constant ADOPTION_TYPEHASH =
        keccak256("Adoption(uint256 tokenId,address wallet,address instanceId,uint64 adoptionNumber)");

    uint256 private constant NAME_LENGTH_MAX = 64;
    uint256 private constant ENDPOINT_LENGTH_MAX = 256;
    uint256 private constant PAGE_LENGTH_MAX = 100;
    uint256 private constant BALLOT_LIFETIME_MAX = 60;

    /// One token's registration. The first slot is all that a ballot costs to look up.
    struct Node {
        address session;
        uint64 expiresAt;
        bool active;
        bool seated;
        bool sessionYOdd;
        address wallet;
        uint64 incarnation;
        address instanceId;
        uint64 adoptionNumber;
        address adoptedWallet;
        uint64 registeredBlock;
        address adoptedInstance;
        bytes32 sessionX;
        bytes32 evidenceHash;
        string name;
        string endpoint;
    }

    address private immutable _kmsRoot;
    uint64 private immutable _founders;
    uint64 private immutable _maxNodes;
    uint64 private immutable _maxLifetime;
    uint256 private immutable _deployBlock;

    // one slot: an election writes it and no other
    uint64 private _term;
    uint64 private _leader;
    uint64 private _leaderIncarnation;
    uint64 private _electedBlock; // 0 until the first election
    // one slot: counts, and the index of the anchor
    uint64 private _minted;
    uint64 private _activeCount;
    uint64 private _seatedCount;
    uint64 private _anchorIndex;
    bytes32 private _anchorRoot;

    mapping(uint256 tokenId => Node) private _nodes;
    mapping(address appId => bool) private _apps;
    // The last token that registered the wallet or instance; it counts while that token is active with it.
    mapping(address wallet => uint256 tokenId) private _tokenOfWallet;
    mapping(address instanceId => uint256 tokenId) private _tokenOfInstance;
    // Never cleared: an old session stays fenced.
    mapping(address session => uint256 tokenId) private _tokenOfSession;

    constructor(
        address initialOwner,
        address root,
        address[] memory allowedApps,
        uint64 founders,
        uint256 maxNodes,
        uint64 lifetime
    ) ERC721("Synod Node Access", "SYNOD") Ownable(initialOwner) EIP712("Synod", "1") {
        if (root == address(0)) revert IdZero("kmsRoot");
        if (allowedApps.length == 0) revert SettingRefused("allowedApps", 0);
        if (founders == 0) revert SettingRefused("founders", founders);
        if (maxNodes < founders || maxNodes > type(uint64).max) revert SettingRefused("maxNodes", maxNodes);
        if (lifetime == 0) revert SettingRefused("maxLifetime", lifetime);
        _kmsRoot = root;
        _founders = founders;
        // forge-lint: disable-next-line(unsafe-typecast) two lines above
        _maxNodes = uint64(maxNodes);
        _maxLifetime = lifetime;
        _deployBlock = block.number;
        emit Configured(root, founders, maxNodes, lifetime);
        for (uint256 i = 0; i < allowedApps.length; ++i) {
            if (allowedApps[i] == address(0)) revert IdZero("appId");
            _apps[allowedApps[i]] = true;
            emit AppAllowed(allowedApps[i]);
        }
    }

    // ------------------------------------------------------------------ access and adoption

    /// @inheritdoc ISynodMembership
    function mintNodeAccess(address to, string calldata name) external onlyOwner returns (uint256 tokenId) {
        uint256 length = bytes(name).length;
        if (length == 0 || length > NAME_LENGTH_MAX) revert NameLengthWrong(NAME_LENGTH_MAX, length);
        if (_minted == _maxNodes) revert NodesExhausted(_maxNodes);
        tokenId = ++_minted;
        _nodes[tokenId].name = name;
        emit NodeAccessMinted(tokenId, to, name);
        _safeMint(to, tokenId);
    }

    /// @inheritdoc ISynodMembership
    function adopt(uint256 tokenId, address wallet, address instanceId) external payable {
        address holder = _requireOwned(tokenId);
        if (msg.sender != holder) revert NotTokenOwner(tokenId, holder, msg.sender);
        if (wallet == address(0)) revert IdZero("wallet");
        if (instanceId == address(0)) revert IdZero("instanceId");
        Node storage node = _nodes[tokenId];
        node.adoptedWallet = wallet;
        node.adoptedInstance = instanceId;
        emit Adopted(tokenId, wallet, instanceId, node.adoptionNumber);
        if (msg.value > 0) {
            (bool sent,) = wallet.call{value: msg.value}("");
            if (!sent) revert GasNotForwarded(wallet, msg.value);
        }
    }

    // ------------------------------------------------------------------ registration

    /// @inheritdoc ISynodMembership
    function register(Registration calldata registration, bytes calldata ownerSignature)
        external
        returns (uint64 incarnation)
    {
        address holder = _requireOwned(registration.tokenId);
        _requireShape(registration);
        _requireKeyChain(registration);
        _requireAdoption(registration, holder, ownerSignature);
        KeyChain.Key memory session = KeyChain.parse(registration.sessionKey);
        _requireUnique(registration, KeyChain.addressOf(session));

        // Upon a reboot of the leader its office ends: the new incarnation has promised nothing.
        if (registration.tokenId == _leader) _vacate();
        incarnation = _record(registration, session);
        // Before the first election every registration is seated; later the log decides (`seat`).
        if (_electedBlock == 0) _seat(registration.tokenId);
    }

    function _requireShape(Registration calldata registration) private view {
        if (registration.instanceId == address(0)) revert IdZero("instanceId");
        uint256 length = bytes(registration.endpoint).length;
        if (length > ENDPOINT_LENGTH_MAX) revert EndpointTooLong(ENDPOINT_LENGTH_MAX, length);
        uint256 earliest = block.timestamp + 1;
        uint256 latest = block.timestamp + _maxLifetime;
        if (registration.expiresAt < earliest || registration.expiresAt > latest) {
            revert ExpiryOutOfRange(earliest, latest, registration.expiresAt);
        }
    }

    /// Allowed app, purpose of this chain, contract and instance, each link, and the sender at its end.
    function _requireKeyChain(Registration calldata registration) private view {
        if (!_apps[registration.appId]) revert AppNotAllowed(registration.appId);
        KeyChain.Key memory derived = KeyChain.parse(registration.derivedKey);
        address wallet = KeyChain.addressOf(derived);
        if (msg.sender != wallet) revert SenderNotDerivedKey(wallet, msg.sender);
        KeyChain.requireLinked(
            purposeOf(registration.instanceId),
            derived,
            KeyChain.parse(registration.appKey),
            registration.appId,
            registration.appSignature,
            registration.kmsSignature,
            _kmsRoot
        );
    }

    /// The owner sends it himself, adopted by transaction, or signed (EIP-712; EIP-1271 when a contract).
    function _requireAdoption(Registration calldata registration, address holder, bytes calldata ownerSignature)
        private
        view
    {
        Node storage node = _nodes[registration.tokenId];
        address instanceId = registration.instanceId;
        if (msg.sender == holder) return;
        if (node.adoptedWallet == msg.sender && node.adoptedInstance == instanceId) return;
        uint64 number = node.adoptionNumber;
        bytes32 digest = adoptionDigest(registration.tokenId, msg.sender, instanceId, number);
        if (!SignatureChecker.isValidSignatureNow(holder, digest, ownerSignature)) {
            revert NotAdopted(registration.tokenId, msg.sender, instanceId, number);
        }
    }

    /// One active token a wallet, one an instance; a session key only once.
    function _requireUnique(Registration calldata registration, address session) private view {
        uint256 other = _tokenOfWallet[msg.sender];
        Node storage node = _nodes[other];
        if (other != registration.tokenId && node.active && node.wallet == msg.sender) {
            revert WalletInUse(msg.sender, other);
        }
        other = _tokenOfInstance[registration.instanceId];
        node = _nodes[other];
        if (other != registration.tokenId && node.active && node.instanceId == registration.instanceId) {
            revert InstanceInUse(registration.instanceId, other);
        }
        other = _tokenOfSession[session];
        if (other != 0) revert SessionUsedBefore(session, other);
    }

    function _record(Registration calldata registration, KeyChain.Key memory session)
        private
        returns (uint64 incarnation)
    {
        uint256 tokenId = registration.tokenId;
        Node storage node = _nodes[tokenId];
        address sessionAddress = KeyChain.addressOf(session);
        if (!node.active) ++_activeCount;
        node.session = sessionAddress;
        node.expiresAt = registration.expiresAt;
        node.active = true;
        node.sessionYOdd = KeyChain.isOdd(session);
        incarnation = node.incarnation + 1;
        node.wallet = msg.sender;
        node.incarnation = incarnation;
        node.instanceId = registration.instanceId;
        node.registeredBlock = uint64(block.number);
        node.sessionX = session.x;
        node.evidenceHash = registration.evidenceHash;
        node.endpoint = registration.endpoint;
        _tokenOfWallet[msg.sender] = tokenId;
        _tokenOfInstance[registration.instanceId] = tokenId;
        _tokenOfSession[sessionAddress] = tokenId;
        _announce(registration, incarnation);
    }

    function _announce(Registration calldata registration, uint64 incarnation) private {
        emit Registered(
            registration.tokenId,
            incarnation,
            msg.sender,
            registration.instanceId,
            registration.appId,
            registration.sessionKey,
            registration.endpoint,
            registration.evidenceHash,
            registration.expiresAt
        );
    }

    // ------------------------------------------------------------------ election and seats

    /// @inheritdoc ISynodMembership
    function elect(
        uint64 term,
        uint256 candidate,
        Anchor calldata anchor,
        uint64 deadline,
        BallotSignature[] calldata ballots
    ) external {
        if (term != _term + 1) revert TermWrong(_term + 1, term);
        if (deadline < block.timestamp || deadline > block.timestamp + BALLOT_LIFETIME_MAX) {
            revert DeadlineOutOfRange(block.timestamp, block.timestamp + BALLOT_LIFETIME_MAX, deadline);
        }
        uint64 seated = _seatedCount;
        if (_electedBlock == 0 && seated < _founders) revert FoundersTooFew(_founders, seated);
        if (ballots.length * 2 <= seated) revert BallotsTooFew(requiredVotes(), ballots.length);
        _requireVoter(candidate);
        uint256[] memory voters = _requireBallots(ballotDigest(term, candidate, anchor, deadline), ballots);

        uint64 incarnation = _nodes[candidate].incarnation;
        _term = term;
        // forge-lint: disable-next-line(unsafe-typecast) a seated token was minted, and ids are counted in 64 bits
        _leader = uint64(candidate);
        _leaderIncarnation = incarnation;
        _electedBlock = uint64(block.number);
        emit LeaderElected(term, candidate, incarnation, voters);
        if (anchor.index > _anchorIndex) {
            _anchorIndex = anchor.index;
            _anchorRoot = anchor.root;
            emit Anchored(anchor.index, anchor.root);
        }
    }

    /// Strictly ascending ids, so none counts twice; each by the session key registered now.
    function _requireBallots(bytes32 digest, BallotSignature[] calldata ballots)
        private
        view
        returns (uint256[] memory voters)
    {
        voters = new uint256[](ballots.length);
        uint256 previous = 0;
        for (uint256 i = 0; i < ballots.length; ++i) {
            BallotSignature calldata ballot = ballots[i];
            uint256 tokenId = ballot.tokenId;
            if (tokenId <= previous) revert BallotsNotAscending(previous, tokenId);
            previous = tokenId;
            address expected = _requireVoter(tokenId).session;
            (address found,,) = ECDSA.tryRecover(digest, ballot.r, ballot.vs);
            // tryRecover answers zero for a high s and for no point; a registered session is never zero
            if (found != expected) revert BallotSignerWrong(tokenId, expected, found);
            voters[i] = tokenId;
        }
    }

    function _requireVoter(uint256 tokenId) private view returns (Node storage node) {
        node = _requireLive(tokenId);
        if (!node.seated) revert NotSeated(tokenId);
    }

    function _requireLive(uint256 tokenId) private view returns (Node storage node) {
        node = _nodes[tokenId];
        if (!node.active) revert NotActive(tokenId);
        if (block.timestamp > node.expiresAt) revert Expired(tokenId, node.expiresAt);
    }

    /// @inheritdoc ISynodMembership
    function seat(uint256[] calldata tokenIds) external {
        if (tokenIds.length > PAGE_LENGTH_MAX) revert PageTooLong(PAGE_LENGTH_MAX, tokenIds.length);
        address wallet = currentLeader();
        if (_leader == 0 || msg.sender != wallet) revert NotLeader(_leader, wallet, msg.sender);
        _requireLive(_leader);
        for (uint256 i = 0; i < tokenIds.length; ++i) {
            _requireLive(tokenIds[i]);
            _seat(tokenIds[i]);
        }
    }

    function _seat(uint256 tokenId) private {
        if (_nodes[tokenId].seated) return;
        _nodes[tokenId].seated = true;
        emit Seated(tokenId, ++_seatedCount);
    }

    // ------------------------------------------------------------------ leaving

    /// @inheritdoc ISynodMembership
    function deactivate(uint256 tokenId) external {
        address holder = _requireOwned(tokenId);
        Node storage node = _nodes[tokenId];
        if (msg.sender == holder || msg.sender == owner()) {
            _revokeAdoption(node);
        } else if (msg.sender != node.wallet) {
            revert NotEntitled(tokenId, msg.sender);
        } else if (!node.active) {
            revert NotActive(tokenId);
        }
        _end(tokenId);
    }

    /// @inheritdoc ISynodMembership
    function expire(uint256 tokenId) external {
        Node storage node = _nodes[tokenId];
        if (!node.active) revert NotActive(tokenId);
        if (block.timestamp <= node.expiresAt) revert NotExpired(tokenId, node.expiresAt);
        _end(tokenId);
    }

    /// The one hook of ownership: a token that changes hands takes no right along.
    function _update(address to, uint256 tokenId, address auth) internal override returns (address from) {
        from = super._update(to, tokenId, auth);
        if (from != address(0)) {
            _revokeAdoption(_nodes[tokenId]);
            _end(tokenId);
        }
    }

    function _revokeAdoption(Node storage node) private {
        ++node.adoptionNumber;
        node.adoptedWallet = address(0);
        node.adoptedInstance = address(0);
    }

    /// Registration, seat and office of a token end together; says so even when there was only an adoption to end.
    function _end(uint256 tokenId) private {
        Node storage node = _nodes[tokenId];
        if (node.active) {
            node.active = false;
            --_activeCount;
        }
        emit Deactivated(tokenId, node.adoptionNumber);
        if (node.seated) {
            node.seated = false;
            emit Unseated(tokenId, --_seatedCount);
        }
        if (tokenId == _leader) _vacate();
    }

    function _vacate() private {
        uint64 former = _leader;
        _leader = 0;
        _leaderIncarnation = 0;
        emit OfficeVacated(++_term, former);
    }

    // ------------------------------------------------------------------ views

    /// @inheritdoc ISynodMembership
    function office() external view returns (Office memory) {
        return Office({
            term: _term,
            leader: _leader,
            leaderIncarnation: _leaderIncarnation,
            electedBlock: _electedBlock,
            seatedCount: _seatedCount,
            founders: _founders,
            anchor: Anchor(_anchorIndex, _anchorRoot)
        });
    }

    /// @inheritdoc ISynodMembership
    function memberOf(uint256 tokenId) public view returns (Member memory member) {
        member.owner = _requireOwned(tokenId);
        Node storage node = _nodes[tokenId];
        member.tokenId = tokenId;
        member.incarnation = node.incarnation;
        member.active = node.active;
        member.seated = node.seated;
        member.wallet = node.wallet;
        member.instanceId = node.instanceId;
        member.sessionAddress = node.session;
        member.sessionX = node.sessionX;
        member.sessionYOdd = node.sessionYOdd;
        member.expiresAt = node.expiresAt;
        member.registeredBlock = node.registeredBlock;
        member.adoptionNumber = node.adoptionNumber;
        member.evidenceHash = node.evidenceHash;
        member.name = node.name;
        member.endpoint = node.endpoint;
    }

    /// @inheritdoc ISynodMembership
    function members(uint256 from, uint256 limit) external view returns (Member[] memory page) {
        (uint256 first, uint256 length) = _page(from, limit);
        page = new Member[](length);
        for (uint256 i = 0; i < length; ++i) {
            page[i] = memberOf(first + i);
        }
    }

    /// Tokens are never burnt, so each id from 1 to the newest exists.
    function _page(uint256 from, uint256 limit) private view returns (uint256 first, uint256 length) {
        if (limit > PAGE_LENGTH_MAX) revert PageTooLong(PAGE_LENGTH_MAX, limit);
        first = from;
        length = limit;
        if (first == 0 && length > 0) {
            first = 1;
            --length;
        }
        uint256 available = first > _minted ? 0 : _minted - first + 1;
        if (length > available) length = available;
    }

    /// The ids of the active ones in a page.
    function _activePage(uint256 from, uint256 limit) private view returns (uint256[] memory found) {
        (uint256 first, uint256 length) = _page(from, limit);
        uint256 count = 0;
        for (uint256 i = 0; i < length; ++i) {
            if (_nodes[first + i].active) ++count;
        }
        found = new uint256[](count);
        uint256 filled = 0;
        for (uint256 i = 0; i < length; ++i) {
            if (_nodes[first + i].active) found[filled++] = first + i;
        }
    }

    /// @inheritdoc ISynodMembership
    function adoptionOf(uint256 tokenId)
        external
        view
        returns (address wallet, address instanceId, uint64 adoptionNumber)
    {
        _requireOwned(tokenId);
        Node storage node = _nodes[tokenId];
        return (node.adoptedWallet, node.adoptedInstance, node.adoptionNumber);
    }

    /// @inheritdoc ISynodMembership
    function kmsRoot() external view returns (address) {
        return _kmsRoot;
    }

    /// @inheritdoc ISynodMembership
    function appAllowed(address appId) external view returns (bool) {
        return _apps[appId];
    }

    /// @inheritdoc ISynodMembership
    function maxLifetime() external view returns (uint64) {
        return _maxLifetime;
    }

    /// @inheritdoc ISynodMembership
    function deployBlock() external view returns (uint256) {
        return _deployBlock;
    }

    /// @inheritdoc ISynodMembership
    function ballotDigest(uint64 term, uint256 candidate, Anchor calldata anchor, uint64 deadline)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(
            keccak256(abi.encode(BALLOT_TYPEHASH, term, candidate, anchor.index, anchor.root, deadline))
        );
    }

    /// @inheritdoc ISynodMembership
    function adoptionDigest(uint256 tokenId, address wallet, address instanceId, uint64 adoptionNumber)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(keccak256(abi.encode(ADOPTION_TYPEHASH, tokenId, wallet, instanceId, adoptionNumber)));
    }

    /// @inheritdoc ISynodMembership
    function purposeOf(address instanceId) public view returns (string memory) {
        return KeyChain.purposeOf(block.chainid, address(this), instanceId);
    }

    /// @inheritdoc ISynodMembership
    function currentTerm() external view returns (uint64) {
        return _term;
    }

    /// @inheritdoc ISynodMembership
    function currentLeader() public view returns (address wallet) {
        return _leader == 0 ? address(0) : _nodes[_leader].wallet;
    }

    /// @inheritdoc ISynodMembership
    function totalActiveNodes() external view returns (uint256) {
        return _activeCount;
    }

    /// @inheritdoc ISynodMembership
    function requiredVotes() public view returns (uint256) {
        return uint256(_seatedCount) / 2 + 1;
    }

    /// @inheritdoc ISynodMembership
    function getActiveInstances(uint256 from, uint256 limit) external view returns (address[] memory instances) {
        uint256[] memory found = _activePage(from, limit);
        instances = new address[](found.length);
        for (uint256 i = 0; i < found.length; ++i) {
            instances[i] = _nodes[found[i]].instanceId;
        }
    }

    /// @inheritdoc ISynodMembership
    function getInstanceInfo(address instanceId) external view returns (uint256 tokenId, bool active, address owner) {
        tokenId = _tokenOfInstance[instanceId];
        Node storage node = _nodes[tokenId];
        active = node.active && node.instanceId == instanceId;
        owner = _ownerOf(tokenId);
    }

    /// @inheritdoc ISynodMembership
    function getPeerEndpoints(uint256 from, uint256 limit) external view returns (string[] memory endpoints) {
        uint256[] memory found = _activePage(from, limit);
        endpoints = new string[](found.length);
        for (uint256 i = 0; i < found.length; ++i) {
            endpoints[i] = _nodes[found[i]].endpoint;
        }
    }
}
