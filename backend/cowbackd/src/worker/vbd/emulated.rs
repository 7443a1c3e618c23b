//! The disk as QEMU's client: what an HVM guest uses before its own driver does.

use blockio::disk::{Disk, Finished};
use blockio::executor::{Event, Executor};
use nbd_server::{Clients, Offer};

use super::Vbd;

/// QEMU is one. A second may be a person who looks, or the next QEMU while the last one ends.
const CLIENTS_MAX: usize = 4;

/// What clients are told of a disk.
pub(in crate::worker) fn offer(image: &str, read_only: bool) -> Offer {
    Offer {
        name: String::new(),
        description: image.to_owned(),
        read_only,
        clients_max: CLIENTS_MAX,
    }
}

impl Vbd {
    /// Takes an event that is about a client's connection.
    pub(in crate::worker) fn client_event(&mut self, event: &Event, executor: &mut dyn Executor) {
        if let Some((clients, disk)) = self.clients() {
            clients.handle(event, disk, executor);
        }
    }

    /// Gives clients what is theirs; `false` if a finished request is not a client's.
    pub(super) fn finish_for_client(
        &mut self,
        finished: &Finished,
        executor: &mut dyn Executor,
    ) -> bool {
        self.clients()
            .is_some_and(|(clients, disk)| clients.finish(finished, disk, executor))
    }

    /// Sends clients what there is; whether there was anything.
    pub(super) fn settle_clients(&mut self, executor: &mut dyn Executor) -> bool {
        self.clients()
            .is_some_and(|(clients, disk)| clients.settle(disk, executor))
    }

    /// Whether a client is there, or was there and is not through yet.
    pub(super) fn has_clients(&self) -> bool {
        self.clients
            .as_ref()
            .is_some_and(|clients| !clients.have_left())
    }

    fn clients(&mut self) -> Option<(&mut Clients, &mut Disk)> {
        Some((self.clients.as_mut()?, &mut self.disk))
    }
}
