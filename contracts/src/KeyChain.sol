// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.37;

import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";

/// @title The signature chain of dstack: derived key <- app key <- KMS root
/// @notice Rule: each link is compared with the key that the next link signed, never with what the caller says of it.
///         What the chain proves is "code of this app asked for this purpose"; it has no nonce, date or instance of its own,
///         so whoever uses it puts chain, contract and instance into the purpose and adds freshness himself.
/// @dev Keys are 64 bytes x ‖ y. Signatures are 65 bytes r ‖ s ‖ v, v is 0/1 (dstack) or 27/28, s is low.
library KeyChain {
    error KeyLengthWrong(uint256 expected, uint256 found);
    error KeyNotOnCurve(bytes32 x, bytes32 y);
    error SignatureLengthWrong(uint256 expected, uint256 found);
    error SignatureHighS(bytes32 s);
    error SignatureRecoveryIdUnknown(uint8 found);
    error SignatureUnrecoverable(bytes32 digest);
    /// The key that signed the derived key is not the one that the caller shows (and that the KMS signed).
    error AppKeyNotLinked(address expected, address found);
    error KmsRootForeign(address expected, address found);

    uint256 private constant FIELD_PRIME = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEFFFFFC2F;
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    struct Key {
        bytes32 x;
        bytes32 y;
    }

    /// Both links of a chain, checked against `root`.
    function requireLinked(
        string memory purpose,
        Key memory derived,
        Key memory app,
        address appId,
        bytes calldata appSignature,
        bytes calldata kmsSignature,
        address root
    ) internal pure {
        address appFound = recover(derivedKeyDigest(purpose, derived), appSignature);
        if (appFound != addressOf(app)) revert AppKeyNotLinked(addressOf(app), appFound);
        address rootFound = recover(appKeyDigest(appId, app), kmsSignature);
        if (rootFound != root) revert KmsRootForeign(root, rootFound);
    }

    /// `synod-v1:<chain id>:<contract, 0x and 40 lower hex>:<instance id, 40 lower hex>`
    function purposeOf(uint256 chainId, address verifier, address instanceId) internal pure returns (string memory) {
        return string(
            abi.encodePacked("synod-v1:", Strings.toString(chainId), ":0x", hexOf(verifier), ":", hexOf(instanceId))
        );
    }

    /// What the app key signs: purpose, a colon, the compressed derived key in hex.
    function derivedKeyDigest(string memory purpose, Key memory derived) internal pure returns (bytes32) {
        return keccak256(
            abi.encodePacked(
                purpose,
                isOdd(derived) ? ":03" : ":02",
                hexOf(bytes16(derived.x)),
                hexOf(bytes16(uint128(uint256(derived.x))))
            )
        );
    }

    /// What the KMS root signs: a fixed text, the app id, the compressed app key.
    function appKeyDigest(address appId, Key memory app) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked("dstack-kms-issued:", appId, isOdd(app) ? bytes1(0x03) : bytes1(0x02), app.x));
    }

    /// 64 bytes to a point of secp256k1.
    function parse(bytes calldata key) internal pure returns (Key memory point) {
        if (key.length != 64) revert KeyLengthWrong(64, key.length);
        point = Key(bytes32(key[:32]), bytes32(key[32:]));
        uint256 x = uint256(point.x);
        uint256 y = uint256(point.y);
        uint256 right = addmod(mulmod(mulmod(x, x, FIELD_PRIME), x, FIELD_PRIME), 7, FIELD_PRIME);
        if (x >= FIELD_PRIME || y >= FIELD_PRIME || mulmod(y, y, FIELD_PRIME) != right) {
            revert KeyNotOnCurve(point.x, point.y);
        }
    }

    function addressOf(Key memory key) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encodePacked(key.x, key.y)))));
    }

    function isOdd(Key memory key) internal pure returns (bool) {
        return uint256(key.y) & 1 == 1;
    }

    /// The signer of `digest`; never zero.
    function recover(bytes32 digest, bytes calldata signature) internal pure returns (address signer) {
        if (signature.length != 65) revert SignatureLengthWrong(65, signature.length);
        bytes32 s = bytes32(signature[32:64]);
        if (uint256(s) > HALF_ORDER) revert SignatureHighS(s);
        uint8 v = uint8(signature[64]);
        if (v < 2) v += 27;
        if (v != 27 && v != 28) revert SignatureRecoveryIdUnknown(v);
        signer = ecrecover(digest, v, bytes32(signature[:32]), s);
        if (signer == address(0)) revert SignatureUnrecoverable(digest);
    }

    /// 40 lower hex characters.
    function hexOf(address account) internal pure returns (bytes memory) {
        bytes32 head = hexOf(bytes16(bytes20(account)));
        bytes32 tail = hexOf(bytes16(bytes20(account) << 128));
        // forge-lint: disable-next-line(unsafe-typecast) 16 + 4 bytes: the rest of the tail is padding
        return abi.encodePacked(head, bytes8(tail));
    }

    /// 16 bytes as 32 lower hex characters, all at once: spread the nibbles to one a byte,
    /// then add '0', and 39 more ('a' - '0' - 10) where a nibble is ten or above.
    function hexOf(bytes16 raw) internal pure returns (bytes32) {
        uint256 n = uint256(uint128(raw));
        n = (n | (n << 64)) & 0x0000000000000000FFFFFFFFFFFFFFFF0000000000000000FFFFFFFFFFFFFFFF;
        n = (n | (n << 32)) & 0x00000000FFFFFFFF00000000FFFFFFFF00000000FFFFFFFF00000000FFFFFFFF;
        n = (n | (n << 16)) & 0x0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF0000FFFF;
        n = (n | (n << 8)) & 0x00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF00FF;
        n = (n | (n << 4)) & 0x0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F0F;
        uint256 ones = 0x0101010101010101010101010101010101010101010101010101010101010101;
        uint256 letters = ((n + ones * 6) >> 4) & ones;
        return bytes32(n + ones * 0x30 + letters * 39);
    }
}
