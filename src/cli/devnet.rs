//! `synod devnet`: the development chain of a class, with the contract and nine tokens, for nodes that are started
//! one by one on this or other machines with `synod node N --join`. No node runs in here.
//!
//! On 127.0.0.1 the chain is open, as development tools expect it. With `--lan` it is also on one named address,
//! where every request must carry the key of the class door. The key is derived from the class code (`class`), which
//! also seeds the simulators of all machines, so that their KMS is one and the same; the code itself never travels.

use crate::class::ClassCode;
use crate::up::say;
use crate::world::{self, Deployment, OWNERS, Simulated, kept};
use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;
use synod_devchain::{DEV_CHAIN_ID, Door};

/// The prototype's multicast group: asked for its route only, nothing is sent.
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 1, 1, 1), 5007);

pub(crate) fn arguments(command: Command) -> Command {
    let arg = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    command
        .arg(world::other_chain())
        .arg(
            Arg::new("lan")
                .long("lan")
                .action(ArgAction::SetTrue)
                .help("Let other machines in, with the class code"),
        )
        .arg(
            arg(
                "host",
                "IP",
                "Address of this machine for --lan; default: the one that multicast leaves by",
            )
            .requires("lan"),
        )
        .arg(arg("rpc-port", "PORT", "Port of the development chain").default_value("8545"))
        .arg(
            arg(
                "founders",
                "N",
                "Nodes that must be there before the first election, 1 to 9",
            )
            .default_value("1"),
        )
        .arg(arg(
            "data-dir",
            "DIR",
            "Keep chain, contract and class code here; default: a fresh temporary directory",
        ))
        .arg(arg(
            "class",
            "WORDS",
            "Class code, five words; default: the directory's, or a new one",
        ))
}

/// What was asked for.
struct Plan {
    /// Where other machines come in.
    lan: Option<Ipv4Addr>,
    rpc_port: u16,
    other_chain: Option<u16>,
    founders: u64,
    class: Option<ClassCode>,
}

impl Plan {
    fn from(args: &ArgMatches) -> anyhow::Result<Self> {
        let mut faults = Vec::new();
        let text = |name: &str| args.get_one::<String>(name).map_or("", String::as_str);
        let mut number = |name: &str, least: u64, most: u64| {
            let found = text(name)
                .parse()
                .ok()
                .filter(|n| (least..=most).contains(n));
            if found.is_none() {
                faults.push(format!(
                    "--{name}: expected {least} to {most}, found {:?}",
                    text(name)
                ));
            }
            found.unwrap_or(least)
        };
        let rpc_port = number("rpc-port", 1, 65_535);
        let founders = number("founders", 1, OWNERS);
        let mut given = |found: anyhow::Result<Ipv4Addr>| {
            found
                .map_err(|why| faults.push(format!("--host: {why:#}")))
                .ok()
        };
        let lan = match args.get_one::<String>("host") {
            Some(host) => given(named(host)),
            None if args.get_flag("lan") => given(own_address()),
            None => None,
        };
        let class = args.get_one::<String>("class").map(|words| words.parse());
        let class = class
            .transpose()
            .map_err(|why| faults.push(format!("--class: {why}")));
        anyhow::ensure!(faults.is_empty(), "{}", faults.join("\n       "));
        Ok(Self {
            lan,
            rpc_port: u16::try_from(rpc_port)?,
            other_chain: args.get_one("dev-chain").copied(),
            founders,
            class: class.unwrap_or_default(),
        })
    }

    /// Where a node of the class finds the chain.
    fn entrance(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.lan.unwrap_or(Ipv4Addr::LOCALHOST), self.rpc_port)
    }
}

fn named(host: &str) -> anyhow::Result<Ipv4Addr> {
    let address: Ipv4Addr = host
        .parse()
        .map_err(|_| anyhow::anyhow!("expected an IPv4 address of this machine, found {host:?}"))?;
    anyhow::ensure!(
        !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast(),
        "expected the one address that the other machines reach, found {address}"
    );
    anyhow::ensure!(
        address != Ipv4Addr::LOCALHOST,
        "expected an address that other machines reach, found {address}, which is open to this machine without --lan"
    );
    Ok(address)
}

/// The address by which this machine's multicast leaves: where the class is. A UDP `connect` asks the kernel for the
/// route and sends nothing, and the group is no public address.
fn own_address() -> anyhow::Result<Ipv4Addr> {
    let found = route_to(GROUP).with_context(|| {
        format!(
            "expected a route to the multicast group {}, found none; name this machine's address",
            GROUP.ip()
        )
    })?;
    anyhow::ensure!(
        is_local(found),
        "expected an address of a local network on the way to the multicast group, found {found}; if the class is \
         really there, name it"
    );
    Ok(found)
}

/// No address of the open internet is chosen unasked. Shared (RFC 6598) and documentation networks are local too.
fn is_local(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    address.is_private() || address.is_link_local() || address.is_documentation() || shared
}

/// The address that the kernel would send from.
pub(crate) fn route_to(target: SocketAddrV4) -> anyhow::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(target)?;
    match socket.local_addr()? {
        SocketAddr::V4(local) => Ok(*local.ip()),
        SocketAddr::V6(local) => anyhow::bail!("expected an IPv4 address, found {local}"),
    }
}

pub(crate) fn run(args: &ArgMatches) -> anyhow::Result<()> {
    let plan = Plan::from(args)?;
    let kept = args.get_one::<String>("data-dir").map(PathBuf::from);
    let temporary = match kept {
        None => Some(tempfile::Builder::new().prefix("synod-").tempdir()?),
        Some(_) => None,
    };
    let dir = kept
        .or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned()))
        .context("no data directory")?;
    kept::private_dir(&dir)?;
    let _locked = kept::lock(&dir, "devnet.lock")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()?;
    let ended = runtime.block_on(devnet(plan, &dir));
    runtime.shutdown_timeout(Duration::from_millis(500));
    ended
}

async fn devnet(mut plan: Plan, dir: &Path) -> anyhow::Result<()> {
    let mut stop = world::stop_asked()?;
    let class = kept::class(&dir.join("class"), plan.class.take())?;
    let mut chain = world::chain(dir, plan.rpc_port, plan.other_chain)
        .await
        .context("--rpc-port moves the chain")?;
    let ended = tokio::select! {
        open = open(&plan, &class, dir, &mut chain) => open,
        _ = stop.recv() => {
            chain.stop().await;
            return Ok(());
        }
    };
    if ended.is_ok() {
        // until Ctrl-C; the sender lives as long as the runtime
        let _ = stop.recv().await;
        say("stopping");
    }
    chain.stop().await;
    ended
}

/// Contract and tokens first, then the door, then the line that others start with.
async fn open(
    plan: &Plan,
    class: &ClassCode,
    dir: &Path,
    chain: &mut synod_devchain::Running,
) -> anyhow::Result<()> {
    let simulated = Simulated::new(&class.world_seed())?;
    let wanted = Deployment {
        authority: simulated.authority,
        founders: plan.founders,
        option: "--founders",
        tokens: OWNERS,
    };
    let rpc = format!("http://127.0.0.1:{}", plan.rpc_port);
    let client = world::contract(&dir.join("contract"), &rpc, &wanted).await?;
    let contract = client.domain().contract;
    let told = json!({
        "chain_id": DEV_CHAIN_ID,
        "contract": contract.to_string(),
        "kms_root": simulated.authority.kms_root.to_string(),
        "founders": plan.founders,
        "simulated": true,
    });
    let lan = plan.lan.map(|_| SocketAddr::V4(plan.entrance()));
    chain
        .open(Door::new(class.door_key(), told.to_string()), lan)
        .await
        .context("--host must be an address of this machine, with --rpc-port free")?;
    say(&world::chain_shown(&rpc, plan.other_chain));
    if plan.lan.is_some() {
        say(&format!(
            "lan         http://{} (for whoever has the class code; not encrypted)",
            plan.entrance()
        ));
    }
    say(&format!("contract    {contract}"));
    say(&simulated.shown());
    say(&format!("data        {}", dir.display()));
    say(&format!(
        "tokens      1 to {OWNERS} are minted; the first election waits for {} node(s)",
        plan.founders
    ));
    say(
        "start a node on any machine of the class, each with a number of its own; stop with Ctrl-C:",
    );
    say(&format!(
        "synod node 2 --join {} --class {}",
        plan.entrance(),
        class.words()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str]) -> Result<Plan, String> {
        let command = arguments(Command::new("devnet"));
        let args = command
            .try_get_matches_from(["devnet"].iter().chain(words))
            .map_err(|why| why.to_string())?;
        Plan::from(&args).map_err(|why| format!("{why:#}"))
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let text = plan(&[
            "--lan",
            "--host",
            "0.0.0.0",
            "--rpc-port",
            "0",
            "--founders",
            "10",
            "--class",
            "one-two",
        ])
        .map(drop)
        .expect_err("faulty");
        for part in [
            "0.0.0.0",
            "--rpc-port",
            "--founders",
            "1 to 9",
            "--class",
            "five words",
        ] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn no_public_address_is_chosen_unasked() {
        let local = |text: &str| is_local(text.parse().expect("an address"));
        for address in [
            "10.77.0.1",
            "192.168.1.10",
            "172.31.0.1",
            "169.254.3.4",
            "100.64.0.1",
        ] {
            assert!(local(address), "{address}");
        }
        for address in [
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "127.0.0.1",
            "0.0.0.0",
        ] {
            assert!(!local(address), "{address}");
        }
    }

    #[test]
    fn the_lan_is_one_named_address_and_never_the_open_one() {
        let entrance = |words: &[&str]| plan(words).map(|plan| plan.entrance().to_string());
        assert_eq!(entrance(&[]).as_deref(), Ok("127.0.0.1:8545"));
        let named = entrance(&["--lan", "--host", "192.168.1.10"]);
        assert_eq!(named.as_deref(), Ok("192.168.1.10:8545"));
        for host in [
            "127.0.0.1",
            "0.0.0.0",
            "224.1.1.1",
            "255.255.255.255",
            "teacher",
        ] {
            assert!(plan(&["--lan", "--host", host]).is_err(), "{host}");
        }
        assert!(
            plan(&["--host", "192.168.1.10"]).is_err(),
            "an address without --lan"
        );
    }
}
