//! The guest agents of `up`: simulated here, one for each node; or one that runs already and that all nodes share,
//! as on dstack's official simulator.
//!
//! Rule: an agent that we did not start is asked whom it believes, which is good for a development contract only.

use super::Plan;
use crate::world::{Authority, Simulated, kept};
use anyhow::Context;
use dstack_simulator::InstanceConfig;
use std::path::{Path, PathBuf};
use std::time::Duration;
use synod_agent::{Agent, keychain, socket_path};
use synod_wire::Address;

/// An agent that was named by hand is there, or the name is wrong.
const AGENT_WAIT: Duration = Duration::from_secs(5);

pub(crate) enum Agents {
    Simulated {
        simulated: Simulated,
        running: dstack_simulator::Running,
        sockets: PathBuf,
    },
    Shared {
        socket: PathBuf,
        authority: Authority,
    },
}

impl Agents {
    pub(crate) async fn start(plan: &Plan, dir: &Path) -> anyhow::Result<Self> {
        if let Some(socket) = &plan.dstack_socket {
            return Self::ask(socket).await;
        }
        let seed = kept::secret(&dir.join("simulator.seed"))?;
        let simulated = Simulated::new(&seed)?;
        let sockets = dir.join("agents");
        // whoever opens a socket gets its keys
        kept::private_dir(&sockets)?;
        let instances = (1..=plan.nodes)
            .map(|node| {
                let number = u32::try_from(node).unwrap_or(u32::MAX);
                let seed = dstack_simulator::instance_seed(&seed, number);
                InstanceConfig::new(sockets.join(format!("{node}.sock")), seed)
            })
            .collect();
        let running = simulated.serve(instances).await?;
        Ok(Self::Simulated {
            simulated,
            running,
            sockets,
        })
    }

    /// App and KMS root, by the agent's own word.
    async fn ask(socket: &Path) -> anyhow::Result<Self> {
        const PURPOSE: &str = "synod-up";
        let context = || format!("--dstack-socket {}", socket.display());
        // the nodes run elsewhere
        let socket = std::path::absolute(socket_path("--dstack-socket", socket)?)?;
        let tell = |line: &str| crate::prompt::say(line);
        let agent = Agent::wait(&socket, AGENT_WAIT, tell)
            .await
            .with_context(context)?;
        let app_id = agent.info().await.with_context(context)?.app_id;
        let key = agent.key("synod/up", PURPOSE).await.with_context(context)?;
        let (public, chain) = (key.public_compressed(), &key.signature_chain);
        let (root, _) = keychain::signer(&public, PURPOSE, &app_id, chain).with_context(context)?;
        Ok(Self::Shared {
            socket,
            authority: Authority {
                kms_root: Address(keychain::address(&root)),
                app_id: Address(app_id),
            },
        })
    }

    pub(crate) fn authority(&self) -> Authority {
        match self {
            Self::Simulated { simulated, .. } => simulated.authority,
            Self::Shared { authority, .. } => *authority,
        }
    }

    /// What a node is told about its agent.
    pub(crate) fn arguments(&self, node: u64) -> Vec<String> {
        let option = |path: &Path| vec!["--dstack-socket".to_owned(), path.display().to_string()];
        match self {
            Self::Simulated { sockets, .. } => option(&sockets.join(format!("{node}.sock"))),
            Self::Shared { socket, .. } => {
                let mut words = option(socket);
                words.extend(["--node-name".to_owned(), format!("node{node}")]);
                words.push("--insecure-unattested-peers".to_owned());
                words
            }
        }
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Simulated {
                simulated, sockets, ..
            } => format!(
                "{}\nagents      {}",
                simulated.shown(),
                sockets.join("N.sock").display()
            ),
            Self::Shared { socket, authority } => format!(
                "agent       {}, KMS root {}, app {} (UNATTESTED: both by the agent's own word, and all nodes are one \
                 instance; for development only)",
                socket.display(),
                authority.kms_root,
                authority.app_id
            ),
        }
    }

    pub(crate) async fn stop(self) {
        match self {
            Self::Simulated { running, .. } => running.stop().await,
            Self::Shared { .. } => {}
        }
    }
}
