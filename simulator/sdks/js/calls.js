// Every public call of the official JavaScript SDK, against the agent that DSTACK_SIMULATOR_ENDPOINT names.
//
// Each answer is judged, not only received; prints one JSON line with the addresses that the SDK's helpers compute.
// @solana/web3.js, an optional peer, stays out (it brings an LGPL package), so toKeypair is not run. Run by .ci/sdks.

import { ed25519 } from "@noble/curves/ed25519";
import { secp256k1 } from "@noble/curves/secp256k1";
import { keccak_256 } from "@noble/hashes/sha3";
import { sha256 } from "@noble/hashes/sha256";
import { DstackClient, TappdClient } from "@phala/dstack-sdk";
import { toViemAccount, toViemAccountSecure } from "@phala/dstack-sdk/viem";
import { deepStrictEqual } from "node:assert";
import { X509Certificate, createHash, createPrivateKey } from "node:crypto";

console.warn = () => {}; // the SDK announces its endpoint and its deprecated calls
const appId = process.env.SYNOD_APP_ID;
const kmsRoot = process.env.SYNOD_KMS_ROOT;
const overHttp = process.env.DSTACK_SIMULATOR_ENDPOINT.startsWith("http");
const ethereumPaths = ["wallet/ethereum", "", "node/1"];
const ed25519Paths = ["wallet/solana"];
const purpose = "sdks";
let judged = 0;

const hex = (data) => Buffer.from(data).toString("hex");
const bytes = (text) => Buffer.from(text, "hex");

/** One call, judged. */
function expect(what, expected, found) {
  judged += 1;
  try {
    deepStrictEqual(found, expected);
  } catch {
    console.error(`js, ${what}: expected ${JSON.stringify(expected)}, found ${JSON.stringify(found)}`);
    process.exit(1);
  }
}

/** One call that has to fail, with this in its message. */
async function refused(what, part, call) {
  const found = await call().then((answer) => `an answer: ${JSON.stringify(answer)}`, (error) => error.message);
  expect(what, true, (!found.startsWith("an answer") && found.includes(part)) || found);
}

function signer(message, signature) {
  const compact = secp256k1.Signature.fromCompact(signature.slice(0, 64)).addRecoveryBit(signature[64]);
  return Buffer.from(compact.recoverPublicKey(keccak_256(message)).toRawBytes(true));
}

/** The key at which a chain of two signatures ends. */
function chainRoot(derivedPublic, over, [derived, app]) {
  const appPublic = signer(Buffer.from(`${over}:${hex(derivedPublic)}`), derived);
  return hex(signer(Buffer.concat([Buffer.from("dstack-kms-issued:"), bytes(appId), appPublic]), app));
}

/** The register that these events make. Digests of register 3 are recomputed: real agents leave them out. */
function replay(events, imr) {
  const sha384 = (...parts) => createHash("sha384").update(Buffer.concat(parts)).digest();
  const own = ({ event_type, event, event_payload }) => {
    const type = Buffer.alloc(4);
    type.writeUInt32LE(event_type);
    return sha384(type, Buffer.from(`:${event}:`), bytes(event_payload));
  };
  const step = (register, event) => sha384(register, imr === 3 ? own(event) : bytes(event.digest));
  return hex(events.filter((event) => event.imr === imr).reduce(step, Buffer.alloc(48)));
}

async function keyCalls(agent) {
  const ethereum = {};
  const ed = {};
  for (const path of ethereumPaths) {
    const key = await agent.getKey(path, purpose);
    const derived = secp256k1.getPublicKey(key.key, true);
    expect(`chain of '${path}'`, kmsRoot, chainRoot(derived, purpose, key.signature_chain));
    ethereum[path] = toViemAccount(key).address;
    expect("toViemAccountSecure", ethereum[path], toViemAccountSecure(key).address);
  }
  for (const path of ed25519Paths) {
    const key = await agent.getKey(path, purpose, "ed25519");
    const derived = ed25519.getPublicKey(key.key);
    expect(`chain of '${path}', ed25519`, kmsRoot, chainRoot(derived, purpose, key.signature_chain));
    ed[path] = hex(derived);
  }
  expect("a key without path", ethereum[""], toViemAccount(await agent.getKey()).address);
  // looks at no status: the refusal is an answer without `key`
  await refused("getKey with rsa", "undefined", () => agent.getKey("p", "", "rsa"));
  // over a socket it counts UTF-16 units and cuts the body; over http it counts bytes
  if (overHttp) expect("a path that is not ASCII", 32, (await agent.getKey("Schlüssel")).key.length);
  else await refused("a path that is not ASCII", "undefined", () => agent.getKey("Schlüssel"));
  return { ethereum, ed25519: ed };
}

async function quoteCalls(agent) {
  const answer = await agent.getQuote("hello");
  const quote = bytes(answer.quote);
  const events = JSON.parse(answer.event_log);
  expect("report data of the quote", hex("hello").padEnd(128, "0"), hex(quote.subarray(568, 632)));
  expect("report data of the answer", hex(quote.subarray(568, 632)), answer.report_data);
  const rtmr = [376, 424, 472, 520].map((at) => hex(quote.subarray(at, at + 48)));
  expect("registers 0 to 3 by our replay", rtmr, [0, 1, 2, 3].map((imr) => replay(events, imr)));
  expect("registers 0 to 2 by the SDK's replay", rtmr.slice(0, 3), answer.replayRtmrs().slice(0, 3));
  await refused("getQuote of 65 bytes", "too large", () => agent.getQuote(Buffer.alloc(65)));
  expect("a quote of nothing", "0".repeat(128), (await agent.getQuote("")).report_data);
  expect("attest is MessagePack", "83", (await agent.attest("hello")).attestation.slice(0, 2));

  const info = await agent.info();
  const tcb = info.tcb_info;
  expect("info: registers", rtmr, [tcb.rtmr0, tcb.rtmr1, tcb.rtmr2, tcb.rtmr3]);
  expect("info: app id", appId, info.app_id);
  expect("info: compose hash", hex(sha256(tcb.app_compose)), info.compose_hash);
}

async function tlsCalls(agent) {
  const options = { subject: "sdk.example", altNames: ["sdk.example", "127.0.0.1"], usageRaTls: true, usageClientAuth: true };
  const answer = await agent.getTlsKey(options);
  const chain = answer.certificate_chain.map((pem) => new X509Certificate(pem));
  expect("certificates under a KMS", 3, chain.length);
  const issuers = [...chain.slice(1), chain.at(-1)];
  expect("signatures of the certificates", [true, true, true], chain.map((issued, at) => issued.verify(issuers[at].publicKey)));
  expect("key of the leaf", true, chain[0].checkPrivateKey(createPrivateKey(answer.key)));
  expect("names", "DNS:sdk.example, IP Address:127.0.0.1", chain[0].subjectAltName);
  const der = createPrivateKey({ key: Buffer.from(answer.asUint8Array()), format: "der", type: "pkcs8" });
  expect("key as bytes", true, chain[0].checkPrivateKey(der));
  const dated = await agent.getTlsKey({ subject: "a", notBefore: 1_700_000_000, notAfter: 1_900_000_000, withAppInfo: true });
  const leaf = new X509Certificate(dated.certificate_chain[0]);
  expect("dates", [1_700_000_000_000, 1_900_000_000_000], [Date.parse(leaf.validFrom), Date.parse(leaf.validTo)]);
}

async function signCalls(agent) {
  const digest = sha256("hello");
  for (const [algorithm, data] of [["secp256k1", "hello"], ["secp256k1_prehashed", digest], ["ed25519", "hello"]]) {
    const signed = await agent.sign(algorithm, data);
    const { signature, public_key, signature_chain } = signed;
    expect(`sign ${algorithm}: lengths`, [64, 3], [signature.length, signature_chain.length]);
    expect(`sign ${algorithm}: chain`, kmsRoot, chainRoot(public_key, "signing", signature_chain.slice(1)));
    const own = algorithm === "ed25519" ? ed25519.verify(signature, Buffer.from("hello"), public_key) : secp256k1.verify(signature, digest, public_key);
    expect(`sign ${algorithm}, verified here`, true, own);
    expect(`verify ${algorithm}`, true, (await agent.verify(algorithm, data, signature, public_key)).valid);
    const other = Buffer.from(data);
    other[0] ^= 1;
    expect(`verify ${algorithm} of other data`, false, (await agent.verify(algorithm, other, signature, public_key)).valid);
  }
  await refused("sign with rsa", "undefined", () => agent.sign("rsa", "x"));
  await refused("a digest of 5 bytes", "32-byte", () => agent.sign("secp256k1_prehashed", "hello"));
}

async function tappdCalls(agent) {
  const tappd = new TappdClient();
  const derived = createPrivateKey((await tappd.deriveKey("node/1")).key).export({ format: "jwk" });
  const { key } = await agent.getKey("node/1");
  expect("tappd: deriveKey and getKey share bytes", hex(key), hex(Buffer.from(derived.d, "base64url")));
  const raw = bytes((await tappd.tdxQuote("hello", "raw")).quote);
  expect("tappd: raw pads on the left", hex("hello").padStart(128, "0"), hex(raw.subarray(568, 632)));
  const hashed = bytes((await tappd.tdxQuote("hello", "sha256")).quote);
  expect("tappd: sha256", hex(sha256("app-data:hello")).padEnd(128, "0"), hex(hashed.subarray(568, 632)));
  expect("tappd: reachable", true, await tappd.isReachable());
  // asks /Info, which tappd has not: the page of the web framework
  await refused("tappd: info", "failed to parse response", () => tappd.info());
}

const agent = new DstackClient();
expect("version", "0.5.11", (await agent.version()).version);
expect("reachable", true, await agent.isReachable());
const addresses = await keyCalls(agent);
await quoteCalls(agent);
await tlsCalls(agent);
await signCalls(agent);
// looks at no status: the refusal passes for success
expect("emitEvent", undefined, await agent.emitEvent("event", "x"));
await refused("deriveKey", "deprecated", () => agent.deriveKey("p"));
await tappdCalls(agent);
const keys = await Promise.all(Array.from({ length: 20 }, (_, n) => agent.getKey(`node/${n % 4}`)));
expect("20 keys at a time", 4, new Set(keys.map(({ key }) => hex(key))).size);
console.log(JSON.stringify({ sdk: "js", judged, ...addresses }));
