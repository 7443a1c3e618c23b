//! A host without space: the guest waits, and people are told.

use xenstore_glue::runner::Report;

use super::Vbd;

/// How many upkeeps, which are a second apart, a disk that is being let go may wait for space. Then what waits is left to
/// the next daemon, or, if there is no run state, fails.
const UPKEEPS_WITHOUT_SPACE: u32 = 3;

impl Vbd {
    /// Whether a disk that is being let go has waited for space long enough.
    pub(super) fn is_done_waiting(&mut self) -> bool {
        let being_let_go = self.disconnecting || self.closing;
        if !being_let_go || self.space_is_back {
            return false;
        }
        self.upkeeps_without_space += 1;
        if self.upkeeps_without_space == UPKEEPS_WITHOUT_SPACE {
            let image = self.disk.path().display();
            if self.handover && self.run_state.is_some() {
                tracing::warn!(device = %self.device, "{image}: still no space is left on the host; the next daemon goes on waiting");
                self.left_behind = true;
            } else {
                tracing::error!(device = %self.device, "{image}: still no space is left on the host; the guest's writes fail now");
                self.abandoned = true;
            }
        }
        self.abandoned || self.left_behind
    }

    /// Says loudly when writes begin to wait for space, and when none does any more.
    pub(super) fn report_waiting(&mut self, reports: &mut Vec<Report>) {
        let waiting = self.disk.engine().stalled() > 0;
        // While writes are tried again none waits, so only an upkeep can tell that it is over.
        if waiting == self.reported_waiting || (!waiting && !self.space_is_back) {
            return;
        }
        self.reported_waiting = waiting;
        let device = self.device;
        let image = self.disk.path().display();
        if waiting {
            tracing::error!(%device, "{image}: no space is left on the host; the guest waits until there is");
        } else {
            tracing::info!(%device, "{image}: there is space again; the guest goes on");
        }
        reports.push(Report::WaitingForSpace { device, waiting });
    }
}
