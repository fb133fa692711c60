//! A TCP proxy before the development chain: switched off, the RPC endpoint is gone for the nodes while the
//! chain itself lives on.

use anyhow::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (open, _) = watch::channel(true);
        let proxy = Arc::new(Self {
            address: listener.local_addr()?,
            open,
        });
        let serving = Arc::clone(&proxy);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut open = serving.open.subscribe();
                if *open.borrow() {
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = pass(client, target) => {}
                            _ = open.wait_for(|open| !open) => {}
                        }
                    });
                }
            }
        });
        Ok(proxy)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Off: connections are cut and new ones closed at once.
    pub fn switch(&self, on: bool) {
        self.open.send_replace(on);
    }
}

async fn pass(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server)
        .await
        .map(drop)
}
