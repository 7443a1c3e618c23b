//! The disk grows while its guest uses it.

use blockio::executor::Executor;
use dscow::engine::Errno;
use dscow::units::SECTOR_SIZE;
use tokio::sync::oneshot;
use xenstore_glue::runner::Report;

use super::{GROW, Vbd};
use crate::worker::link::limits;
use crate::worker::message::OpenImage;

/// Who wants to know that the disk has grown.
pub(super) type Growing = oneshot::Sender<Result<(), Errno>>;

impl Vbd {
    /// The image as it is now.
    pub(in crate::worker) fn show_image(&self) -> OpenImage {
        let engine = self.disk.engine();
        OpenImage {
            file: self.disk.shared_file(),
            header: engine.header().clone(),
            has_last_block: engine.has_last_block(),
        }
    }

    /// Begins to make the disk larger; [`Vbd::grown`] replies.
    pub(in crate::worker) fn grow(
        &mut self,
        size: u64,
        reply: Growing,
        executor: &mut dyn Executor,
    ) {
        if self.growing.is_some() || self.closing {
            // Whoever asked may have gone, here and below.
            let _ = reply.send(Err(Errno::EBUSY));
            return;
        }
        self.growing = Some(reply);
        self.disk.grow(executor, GROW, size);
    }

    /// The disk has grown, or could not. From now on requests may use what is new; the frontend learns of it afterwards.
    pub(super) fn grown(&mut self, result: Result<(), Errno>, reports: &mut Vec<Report>) {
        self.take_size(reports);
        if let Some(reply) = self.growing.take() {
            let _ = reply.send(result);
        }
    }

    /// Takes over the size that the engine's disk has.
    fn take_size(&mut self, reports: &mut Vec<Report>) {
        let device = self.device;
        let sectors = self.disk.engine().layout().virtual_size() / SECTOR_SIZE;
        if sectors == self.properties.sectors {
            return;
        }
        let image = self.disk.path().display();
        tracing::info!(
            %device,
            "{image}: the disk has {sectors} sectors now, and had {}", self.properties.sectors
        );
        self.properties.sectors = sectors;
        if let Some(clients) = &mut self.clients {
            clients.resized(self.disk.engine());
        }
        if let Some(link) = &mut self.link {
            match limits(&self.properties) {
                Ok(limits) => link.limits = limits,
                // Such a size was refused before; what is new is not served until the frontend connects again.
                Err(error) => tracing::error!(%device, "{image}: {error}"),
            }
        }
        reports.push(Report::Resized {
            device,
            disk: self.properties,
        });
    }
}
