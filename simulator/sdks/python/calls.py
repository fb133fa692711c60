"""Every public call of the official Python SDK, against the agent that DSTACK_SIMULATOR_ENDPOINT names.

Each answer is judged, not only received: chains are verified up to SYNOD_KMS_ROOT, certificates up to their CA, quotes
against the event log. Prints one JSON line with the addresses that the SDK's helpers compute. Run by .ci/sdks.
"""

import asyncio, hashlib, json, os, sys, warnings

import httpx
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from dstack_sdk import AsyncDstackClient, DstackClient, TappdClient
from dstack_sdk.ethereum import to_account, to_account_secure
from dstack_sdk.solana import to_keypair_secure
from eth_keys import keys as eth_keys
from eth_utils import keccak

warnings.simplefilter("ignore", DeprecationWarning)  # tappd's client says so at each call
KMS_ROOT = bytes.fromhex(os.environ["SYNOD_KMS_ROOT"])
APP_ID = bytes.fromhex(os.environ["SYNOD_APP_ID"])
ETHEREUM_PATHS = ["wallet/ethereum", "", "node/1"]
ED25519_PATHS = ["wallet/solana"]
PURPOSE = "sdks"
calls = 0


def expect(what, expected, found):
    """One call, judged."""
    global calls
    calls += 1
    if expected != found:
        sys.exit(f"python, {what}: expected {expected!r}, found {found!r}")


def refused(what, kind, call):
    """One call that has to fail, in this way."""
    try:
        found = call()
    except kind as error:
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
        return expect(what, 400 if kind is httpx.HTTPStatusError else None, status)
    expect(what, kind.__name__, found)


def signer(message, signature):
    return eth_keys.Signature(signature).recover_public_key_from_msg_hash(keccak(message)).to_compressed_bytes()


def chain_root(derived_public, purpose, chain):
    """The key at which a chain of two signatures ends; spec: KMS root over app root over derived key."""
    app = signer(f"{purpose}:{derived_public.hex()}".encode(), chain[0])
    return signer(b"dstack-kms-issued:" + APP_ID + app, chain[1])


def replay(events, imr):
    """The register that these events make. Digests of register 3 are recomputed: real agents leave them out."""
    register = bytes(48)
    for event in (e for e in events if e["imr"] == imr):
        text = event["event_type"].to_bytes(4, "little") + b":" + event["event"].encode() + b":"
        own = hashlib.sha384(text + bytes.fromhex(event["event_payload"])).digest()
        register = hashlib.sha384(register + (own if imr == 3 else bytes.fromhex(event["digest"]))).digest()
    return register.hex()


def key_calls(agent):
    ethereum, ed25519 = {}, {}
    for path in ETHEREUM_PATHS:
        key = agent.get_key(path, PURPOSE)
        public = eth_keys.PrivateKey(key.decode_key()).public_key
        expect(f"chain of {path!r}", KMS_ROOT, chain_root(public.to_compressed_bytes(), PURPOSE, key.decode_signature_chain()))
        ethereum[path] = to_account(key).address
        expect("to_account_secure", ethereum[path], to_account_secure(key).address)
    for path in ED25519_PATHS:
        key = agent.get_key(path, PURPOSE, "ed25519")
        public = bytes(to_keypair_secure(key).pubkey())
        expect(f"chain of {path!r}, ed25519", KMS_ROOT, chain_root(public, PURPOSE, key.decode_signature_chain()))
        ed25519[path] = public.hex()
    expect("a key without path", ethereum[""], to_account(agent.get_key()).address)
    refused("get_key with rsa", httpx.HTTPStatusError, lambda: agent.get_key("p", "", "rsa"))
    return ethereum, ed25519


def quote_calls(agent):
    answer = agent.get_quote("hello")
    quote, events = answer.decode_quote(), json.loads(answer.event_log)
    expect("report data of the quote", b"hello".ljust(64, b"\0"), quote[568:632])
    expect("report data of the answer", quote[568:632].hex(), answer.report_data)
    rtmr = [quote[at : at + 48].hex() for at in (376, 424, 472, 520)]
    expect("registers 0 to 3 by our replay", rtmr, [replay(events, imr) for imr in range(4)])
    expect("registers 0 to 2 by the SDK's replay", rtmr[:3], [answer.replay_rtmrs()[imr] for imr in range(3)])
    expect("events", len(events), len(answer.decode_event_log()))
    refused("get_quote of nothing", ValueError, lambda: agent.get_quote(b""))
    refused("get_quote of 65 bytes", ValueError, lambda: agent.get_quote(bytes(65)))
    expect("attest is MessagePack", 0x83, agent.attest(b"hello").decode_attestation()[0])

    info = agent.info()
    tcb = info.tcb_info
    expect("info: registers", rtmr, [tcb.rtmr0, tcb.rtmr1, tcb.rtmr2, tcb.rtmr3])
    expect("info: app id", APP_ID.hex(), info.app_id)
    compose_hash = hashlib.sha256(tcb.app_compose.encode()).hexdigest()
    expect("info: compose hash", [compose_hash, compose_hash], [info.compose_hash, tcb.compose_hash])
    log = {event["event"]: event["event_payload"] for event in events if event["imr"] == 3}
    expect("info and event log", [info.app_id, info.instance_id, compose_hash],
           [log["app-id"], log["instance-id"], log["compose-hash"]])
    expect("image hash in info, vm_config and log", [info.os_image_hash] * 2,
           [json.loads(info.vm_config)["os_image_hash"], log["os-image-hash"]])


def tls_calls(agent):
    answer = agent.get_tls_key("sdk.example", ["sdk.example", "127.0.0.1"], usage_ra_tls=True, usage_client_auth=True)
    chain = [x509.load_pem_x509_certificate(pem.encode()) for pem in answer.certificate_chain]
    for issued, issuer in zip(chain, chain[1:] + chain[-1:]):
        issued.verify_directly_issued_by(issuer)
    expect("certificates under a KMS", 3, len(chain))
    leaf, key = chain[0], serialization.load_pem_private_key(answer.key.encode(), None)
    expect("key of the leaf", leaf.public_key(), key.public_key())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    expect("names", ["sdk.example", "127.0.0.1"],
           names.get_values_for_type(x509.DNSName) + [str(ip) for ip in names.get_values_for_type(x509.IPAddress)])
    expect("key as bytes", key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8,
                                             serialization.NoEncryption()), answer.as_uint8array())
    dated = agent.get_tls_key("a", not_before=1_700_000_000, not_after=1_900_000_000, with_app_info=True)
    leaf = x509.load_pem_x509_certificate(dated.certificate_chain[0].encode())
    expect("dates", [1_700_000_000, 1_900_000_000],
           [int(leaf.not_valid_before_utc.timestamp()), int(leaf.not_valid_after_utc.timestamp())])


def sign_calls(agent):
    digest = hashlib.sha256(b"hello").digest()
    for algorithm, data in [("secp256k1", b"hello"), ("secp256k1_prehashed", digest), ("ed25519", b"hello")]:
        signed = agent.sign(algorithm, data)
        public, signature, chain = signed.decode_public_key(), signed.decode_signature(), signed.decode_signature_chain()
        expect(f"sign {algorithm}: lengths", (64, 3), (len(signature), len(chain)))
        expect(f"sign {algorithm}: chain", KMS_ROOT, chain_root(public, "signing", chain[1:]))
        expect(f"verify {algorithm}", True, agent.verify(algorithm, data, signature, public).valid)
        other = data[:-1] + bytes([data[-1] ^ 1])
        expect(f"verify {algorithm} of other data", False, agent.verify(algorithm, other, signature, public).valid)
        if algorithm != "ed25519":
            r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
            der = encode_dss_signature(r, s)
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), public)
            try:
                key.verify(der, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
            except InvalidSignature:
                sys.exit(f"python, sign {algorithm}: expected a signature over SHA-256 of the data, found another")
    refused("sign with rsa", httpx.HTTPStatusError, lambda: agent.sign("rsa", b"x"))
    refused("a digest of 5 bytes", ValueError, lambda: agent.sign("secp256k1_prehashed", b"hello"))


def tappd_calls(agent):
    tappd = TappdClient()
    derived = serialization.load_pem_private_key(tappd.derive_key("node/1").key.encode(), None)
    scalar = derived.private_numbers().private_value.to_bytes(32)
    expect("tappd: derive_key and get_key share bytes", agent.get_key("node/1").key, scalar.hex())
    raw = tappd.tdx_quote("hello", "raw").decode_quote()
    expect("tappd: raw pads on the left", b"hello".rjust(64, b"\0"), raw[568:632])
    hashed = tappd.tdx_quote("hello", "sha256").decode_quote()
    expect("tappd: sha256", hashlib.sha256(b"app-data:hello").digest().ljust(64, b"\0"), hashed[568:632])
    refused("tappd: raw without padding", httpx.HTTPStatusError, lambda: tappd.tdx_quote("hello"))
    expect("tappd: info", APP_ID.hex(), tappd.info().app_id)
    expect("tappd: reachable", True, tappd.is_reachable())


async def parallel_calls():
    async with AsyncDstackClient() as agent:
        keys = await asyncio.gather(*(agent.get_key(f"node/{n % 4}") for n in range(20)))
        quotes = await asyncio.gather(*(agent.get_quote(bytes([n + 1]) * 64) for n in range(20)))
    expect("20 keys at a time", 4, len({key.key for key in keys}))
    expect("20 quotes at a time", [bytes([n + 1]) * 64 for n in range(20)], [quote.decode_quote()[568:632] for quote in quotes])


def main():
    agent = DstackClient()
    expect("version", "0.5.11", agent.version().version)
    expect("reachable", True, agent.is_reachable())
    ethereum, ed25519 = key_calls(agent)
    quote_calls(agent)
    tls_calls(agent)
    sign_calls(agent)
    refused("emit_event", httpx.HTTPStatusError, lambda: agent.emit_event("event", "x"))
    tappd_calls(agent)
    asyncio.run(parallel_calls())
    print(json.dumps({"sdk": "python", "judged": calls, "ethereum": ethereum, "ed25519": ed25519}))


main()
