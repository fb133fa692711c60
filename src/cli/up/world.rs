//! What `up` surrounds its nodes with, all of it on this machine: guest agents, the chain, and the owners of the tokens.
//! The parts are those of every simulated world, see `crate::world`.

use super::Plan;
use super::agents::Agents;
use super::doorway::Status;
use crate::world::{self, Deployment};
use std::path::Path;
use synod_chain::Chain;
use synod_wire::Address;

pub(crate) struct World {
    pub contract: Address,
    pub agents: Agents,
    chain: synod_devchain::Running,
    client: Chain,
}

impl World {
    pub(crate) async fn start(plan: &Plan, dir: &Path) -> anyhow::Result<Self> {
        let agents = Agents::start(plan, dir).await?;
        let chain = world::chain(dir, plan.rpc_port, plan.other_chain).await?;
        let rpc = format!("http://127.0.0.1:{}", plan.rpc_port);
        let wanted = Deployment {
            authority: agents.authority(),
            founders: plan.nodes,
            option: "--nodes",
            tokens: plan.nodes,
        };
        let client = world::contract(&dir.join("contract"), &rpc, &wanted).await?;
        Ok(Self {
            contract: client.domain().contract,
            agents,
            chain,
            client,
        })
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
