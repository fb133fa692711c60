//! What `up` simulates, all of it on this machine: guest agents on sockets, the chain, and the owners of the tokens.
//! The parts are those of every simulated world, see `crate::world`.

use super::Plan;
use super::doorway::Status;
use crate::world::{self, Deployment, Simulated, kept};
use dstack_simulator::InstanceConfig;
use std::path::{Path, PathBuf};
use synod_chain::Chain;
use synod_wire::Address;

pub(crate) struct World {
    pub contract: Address,
    pub kms_root: Address,
    pub app_id: Address,
    chain: synod_devchain::Running,
    agents: dstack_simulator::Running,
    sockets: PathBuf,
    client: Chain,
}

impl World {
    pub(crate) async fn start(plan: &Plan, dir: &Path) -> anyhow::Result<Self> {
        let seed = kept::secret(&dir.join("simulator.seed"))?;
        let simulated = Simulated::new(&seed)?;
        let sockets = dir.join("agents");
        // whoever opens a socket gets its keys
        kept::private_dir(&sockets)?;
        let instances = (1..=plan.nodes)
            .map(|node| {
                InstanceConfig::new(
                    sockets.join(format!("{node}.sock")),
                    dstack_simulator::instance_seed(&seed, u32::try_from(node).unwrap_or(u32::MAX)),
                )
            })
            .collect();
        let agents = simulated.serve(instances).await?;
        let chain = world::chain(dir, plan.rpc_port, plan.other_chain).await?;
        let rpc = format!("http://127.0.0.1:{}", plan.rpc_port);
        let wanted = Deployment {
            simulated: &simulated,
            founders: plan.nodes,
            option: "--nodes",
            tokens: plan.nodes,
        };
        let client = world::contract(&dir.join("contract"), &rpc, &wanted).await?;
        Ok(Self {
            contract: client.domain().contract,
            kms_root: simulated.kms_root,
            app_id: simulated.app_id,
            chain,
            agents,
            sockets,
            client,
        })
    }

    pub(crate) fn socket(&self, node: u64) -> PathBuf {
        self.sockets.join(format!("{node}.sock"))
    }

    /// As the token's owner: this wallet and instance, and its first gas.
    pub(crate) async fn adopt(&self, node: u64, status: &Status) -> anyhow::Result<()> {
        let (wallet, instance) = (status.wallet_address.parse()?, status.instance_id.parse()?);
        world::adopt(&self.client, node, wallet, instance).await?;
        Ok(())
    }

    pub(crate) async fn stop(self) {
        self.agents.stop().await;
        self.chain.stop().await;
    }
}
