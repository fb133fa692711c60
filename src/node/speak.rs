//! What leaves the driver: each frame by every way that its receiver needs (`ways`).

use crate::driver::Driver;
use synod_wire::{Message, Token};

impl Driver {
    /// Seal and send, to one member or to all.
    pub(crate) async fn send(&mut self, to: Option<Token>, mut message: Message) {
        self.complete(&mut message);
        let frame = self.sealer.seal(&self.identity.session, to, &message);
        self.metrics.frame_sent(message.kind());
        match to {
            None => self.spread(&frame).await,
            Some(token) => self.direct(token, &frame).await,
        }
    }

    /// A sealed frame to all members.
    pub(crate) async fn spread(&mut self, frame: &[u8]) {
        let now = self.clock.now_ms();
        self.udp.send_all(frame).await;
        for token in self.others() {
            if self.ways.needs_unicast(now, token)
                && let Some(address) = self.book.udp(token)
            {
                self.udp.send_to(address, frame).await;
            }
            if self.ways.needs_link(now, token) {
                self.post.send(token, frame.to_vec());
            }
        }
    }

    /// A sealed frame to one member.
    async fn direct(&mut self, token: Token, frame: &[u8]) {
        match self.book.udp(token) {
            Some(address) => self.udp.send_to(address, frame).await,
            None => tracing::debug!("no address of node {token} yet"),
        }
        if self.ways.needs_link(self.clock.now_ms(), token) {
            self.post.send(token, frame.to_vec());
        }
    }

    /// What the pure machine leaves to the shell, because only the shell knows it.
    fn complete(&self, message: &mut Message) {
        match message {
            Message::Heartbeat(beat) => {
                let now = self.clock.now_ms();
                let all = self.others().into_iter();
                beat.unheard = all.filter(|token| !self.ways.hears(now, *token)).collect();
            }
            Message::JoinResponse(answer) => answer.clock = self.ledger.clock().clone(),
            _ => {}
        }
    }

    /// Active members but us.
    fn others(&self) -> Vec<Token> {
        let active = self.view.members.iter().filter(|m| m.active);
        active
            .map(|m| m.token)
            .filter(|token| *token != self.config.token)
            .collect()
    }
}
