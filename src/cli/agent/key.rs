//! `synod agent key PATH`: what can be seen of a derived key, and whether its chain of signatures ends at a KMS root
//! that the caller brings. The private key is printed only upon `--show-private-key`.

use super::{fixed, line, typed_hex};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::io::Write;
use synod_agent::{Agent, DerivedKey, keychain, keychain::KmsRoot};

pub(super) fn command() -> Command {
    Command::new("key")
        .about("Public key, address and signature chain of a path; with --kms-root, whether the chain holds")
        .arg(Arg::new("path").value_name("PATH").required(true).help(
            "Path of the key; whoever opens the socket can derive every path's key",
        ))
        .arg(
            Arg::new("purpose")
                .long("purpose")
                .value_name("TEXT")
                .default_value("")
                .help("Purpose that the app root key signs with the public key; the key does not depend on it"),
        )
        .arg(
            Arg::new("kms-root")
                .long("kms-root")
                .value_name("HEX")
                .value_parser(kms_root)
                .help("KMS root, from the contract and never from this agent: address or compressed public key"),
        )
        .arg(
            Arg::new("app-id")
                .long("app-id")
                .value_name("HEX")
                .value_parser(fixed::<20>)
                .requires("kms-root")
                .help("App that the chain has to name; without it the agent's word is taken, and marked so"),
        )
        .arg(
            Arg::new("show-private-key")
                .long("show-private-key")
                .action(ArgAction::SetTrue)
                .help("Print the private key too: whoever sees it has what the key holds"),
        )
}

pub(super) async fn run(
    agent: &Agent,
    args: &ArgMatches,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let text = |name| args.get_one::<String>(name).map_or("", String::as_str);
    let (path, purpose) = (text("path"), text("purpose"));
    let key = agent.key(path, purpose).await?;
    line(out, "path", format!("{path:?}"))?;
    line(out, "purpose", format!("{purpose:?}"))?;
    let public = key.public_compressed();
    line(out, "public key", format!("0x{}", hex::encode(public)))?;
    line(out, "address", format!("0x{}", hex::encode(key.address())))?;
    if args.get_flag("show-private-key") {
        let secret = hex::encode(key.secret.expose());
        line(out, "private key", format!("0x{secret}"))?;
    }
    for (number, link) in key.signature_chain.iter().enumerate() {
        line(
            out,
            &format!("link {number}"),
            format!("{} ({})", hex::encode(link), signer(number, link)),
        )?;
    }
    match args.get_one::<KmsRoot>("kms-root") {
        Some(root) => verified(agent, args, &key, root, out).await,
        None => Ok(line(
            out,
            "chain",
            "not verified: nothing to compare it with; --kms-root brings the anchor",
        )?),
    }
}

/// Says who vouches for whom; a chain that does not hold ends the command with the reason.
async fn verified(
    agent: &Agent,
    args: &ArgMatches,
    key: &DerivedKey,
    root: &KmsRoot,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (app_id, word) = match args.get_one::<[u8; 20]>("app-id") {
        Some(app_id) => (*app_id, "as given"),
        None => (
            agent.info().await?.app_id,
            "the agent's word; --app-id brings yours",
        ),
    };
    line(out, "app id", format!("0x{} ({word})", hex::encode(app_id)))?;
    let purpose = args.get_one::<String>("purpose").map_or("", String::as_str);
    let public = key.public_compressed();
    match keychain::verify(&public, purpose, &app_id, &key.signature_chain, root) {
        Ok(chain) => {
            line(
                out,
                "app root key",
                format!("0x{}", hex::encode(chain.app_public)),
            )?;
            let root = match root {
                KmsRoot::Address(address) => hex::encode(address),
                KmsRoot::Public(public) => hex::encode(public),
            };
            let holds = format!("verified: it ends at KMS root 0x{root}");
            Ok(line(out, "chain", holds)?)
        }
        Err(why) => {
            line(out, "chain", "does NOT hold")?;
            Err(anyhow::anyhow!("signature chain: {why}"))
        }
    }
}

fn signer(number: usize, link: &[u8]) -> &'static str {
    match (number, link) {
        (0, _) => "app root key over purpose and public key",
        (1, []) => "empty: no KMS vouches for this app, its keys belong to one machine",
        (1, _) => "KMS root over app id and app root key",
        _ => "unknown: a chain has two links",
    }
}

/// Address or compressed key.
fn kms_root(text: &str) -> Result<KmsRoot, String> {
    match typed_hex(text)?.len() {
        20 => fixed(text).map(KmsRoot::Address),
        33 => fixed(text).map(KmsRoot::Public),
        found => Err(format!(
            "expected an address of 20 bytes or a compressed public key of 33, found {found}"
        )),
    }
}
