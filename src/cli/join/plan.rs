//! What `--join` was asked for, and what follows from it: the node's own options pass through, those that say where
//! chain, contract and guest agent are do not, since they are found here.

use super::entrance::{self, Entrance};
use crate::class::ClassCode;
use crate::devnet::route_to;
use crate::world::{OWNERS, kept};
use anyhow::Context;
use clap::ArgMatches;
use dstack_simulator::SharedSecret;
use std::path::{Path, PathBuf};
use synod_devchain::DEV_CHAIN_ID;
use synod_node::{SOURCES, Said};
use synod_wire::{Address, ClusterId};

/// What `--join` finds out or makes itself.
const OWN: &[&str] = &["rpc", "contract", "chain-id", "dstack-socket"];
/// Digits of the cluster id that name its folder: a whole id makes paths too long for sockets, and the node checks
/// the whole id in its directory.
const CLUSTER_DIGITS: usize = 16;

/// What was asked for.
pub(crate) struct Plan {
    pub node: u64,
    pub entrance: Entrance,
    pub class: ClassCode,
    /// Options of the node, from the command line or the environment.
    pub said: Said,
}

impl Plan {
    pub(crate) fn from(
        args: &ArgMatches,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let given = |name: &str| args.get_one::<String>(name);
        let target = given("join").context("--join expects HOST:PORT")?;
        let words = given("class").with_context(|| entrance::no_class(target))?;
        let class = words.parse().context("--class")?;
        let own: Vec<String> = OWN
            .iter()
            .filter(|name| given(name).is_some())
            .map(|name| format!("--{name}"))
            .collect();
        anyhow::ensure!(
            own.is_empty(),
            "--join finds chain, contract and guest agent itself; leave out {}",
            own.join(", ")
        );
        let value = |name: &str, variable: &str| given(name).cloned().or_else(|| env(variable));
        let mut said = Said(
            SOURCES
                .iter()
                .filter(|(name, ..)| !OWN.contains(name))
                .filter_map(|(name, variable, _)| Some((*name, value(name, variable)?)))
                .collect(),
        );
        // the log is a file anyway: `--quiet` asks for everything in it
        if args.get_flag("debug") || args.get_flag("quiet") {
            said.0.insert("log-level", "debug".to_owned());
        }
        let token = said.0.get("token").map_or("", String::as_str);
        let node = token
            .parse()
            .ok()
            .filter(|node| (1..=OWNERS).contains(node))
            .with_context(|| {
                format!("node number: expected 1 to {OWNERS}, whose tokens synod devnet mints, found {token:?}")
            })?;
        Ok(Self {
            node,
            entrance: Entrance::find(target)?,
            class,
            said,
        })
    }
}

/// This machine's own: the plain seed of the number, and a salt that only this directory has.
pub(crate) fn instance_seed(world_seed: &[u8; 32], node: u64, salt: &[u8; 32]) -> [u8; 32] {
    let number = u32::try_from(node).unwrap_or(u32::MAX);
    let plain = dstack_simulator::instance_seed(world_seed, number);
    let mut both = [0; 64];
    let (left, right) = both.split_at_mut(32);
    left.copy_from_slice(&plain);
    right.copy_from_slice(salt);
    *SharedSecret::new(both).derive("synod/join/v1/instance")
}

/// The directory that was named, or one per class, cluster and node, so that a restart finds its disk. Every fresh
/// development chain has its contract at the same address: the KMS root, which follows from the class, tells them apart.
pub(crate) fn data_dir(
    said: &Said,
    node: u64,
    contract: Address,
    kms_root: Address,
) -> anyhow::Result<PathBuf> {
    if let Some(dir) = said.0.get("data-dir") {
        return Ok(PathBuf::from(dir));
    }
    let digits = |id: String| -> String {
        let digits = id.trim_start_matches("0x").chars();
        digits.take(CLUSTER_DIGITS).collect()
    };
    let cluster = digits(ClusterId::of(DEV_CHAIN_ID, contract).to_string());
    let class = digits(kms_root.to_string());
    Ok(kept::data_home()?
        .join(format!("{cluster}-{class}"))
        .join(format!("node{node}")))
}

/// What follows from where the chain is: the address that others reach us by, and the group's interface.
pub(crate) fn complete(said: &mut Said, entrance: &Entrance, dir: &Path) -> anyhow::Result<()> {
    let host = match said.0.get("host") {
        Some(host) => host.clone(),
        None => route_to(entrance.address)
            .context("--host: no route to the chain's machine; name this machine's address")?
            .to_string(),
    };
    said.0.entry("interface").or_insert_with(|| host.clone());
    said.0.insert("host", host);
    said.0.insert("data-dir", dir.display().to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str], env: &[(&str, &str)]) -> Result<Plan, String> {
        let args = crate::node::command()
            .try_get_matches_from(["node"].iter().chain(words))
            .map_err(|why| why.to_string())?;
        let env = |name: &str| {
            let found = env.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Plan::from(&args, &env).map_err(|why| format!("{why:#}"))
    }

    const CLASS: &str = "lusab-babad-gutih-tugad-bisog";

    #[test]
    fn what_join_finds_itself_is_not_said_beside_it() {
        let words = ["2", "--join", "127.0.0.1:8545", "--class", CLASS];
        let plan_ok = plan(
            &words,
            &[
                ("SYNOD_RPC", "http://10.0.0.1"),
                ("DS_HEARTBEAT_INTERVAL", "0.5"),
            ],
        );
        let said = plan_ok.expect("complete").said;
        assert_eq!(
            said.0.get("heartbeat-interval").map(String::as_str),
            Some("0.5")
        );
        assert!(
            !said.0.contains_key("rpc"),
            "the command line wins over the environment"
        );
        for own in ["rpc", "contract", "chain-id", "dstack-socket"] {
            let option = format!("--{own}");
            let words: Vec<&str> = words
                .iter()
                .copied()
                .chain([option.as_str(), "x"])
                .collect();
            let text = plan(&words, &[]).map(drop).expect_err("said twice");
            assert!(text.contains(&option), "{text}");
        }
    }

    #[test]
    fn a_fuller_log_is_asked_for_by_either_word() {
        for word in ["--debug", "--quiet"] {
            let words = ["2", "--join", "127.0.0.1:8545", "--class", CLASS, word];
            let said = plan(&words, &[]).expect("complete").said;
            assert_eq!(
                said.0.get("log-level").map(String::as_str),
                Some("debug"),
                "{word}"
            );
        }
    }

    #[test]
    fn a_missing_class_and_a_number_without_owner_are_named() {
        let text = plan(&["2", "--join", "127.0.0.1:8545"], &[])
            .map(drop)
            .expect_err("no class");
        assert!(
            text.contains("127.0.0.1:8545 asks for the class code: --class"),
            "{text}"
        );
        for number in ["0", "10", "two"] {
            let words = [number, "--join", "127.0.0.1:8545", "--class", CLASS];
            let text = plan(&words, &[]).map(drop).expect_err("no owner");
            assert!(text.contains("1 to 9") && text.contains(number), "{text}");
        }
        assert!(
            plan(&["2", "--class", CLASS], &[]).is_err(),
            "--class belongs to --join"
        );
    }

    #[test]
    fn two_machines_of_one_number_are_two_instances() {
        let seed = |node, salt| instance_seed(&[1; 32], node, &[salt; 32]);
        assert_eq!(seed(2, 1), seed(2, 1));
        assert_ne!(seed(2, 1), seed(2, 2));
        assert_ne!(seed(2, 1), seed(3, 1));
        assert_ne!(seed(2, 1), dstack_simulator::instance_seed(&[1; 32], 2));
    }
}
