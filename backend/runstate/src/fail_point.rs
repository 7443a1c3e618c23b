//! Steps at which a process can be made to kill itself, to see what the next one makes of it.
//!
//! In builds with debug assertions, a process whose environment has `COWBACKD_KILL_AT=N` sends itself SIGKILL when it comes to
//! its Nth step. Other builds have no steps.

/// Passes a step, or dies there.
#[cfg(debug_assertions)]
pub fn pass() {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static KILL_AT: OnceLock<Option<u64>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let kill_at = KILL_AT.get_or_init(|| std::env::var("COWBACKD_KILL_AT").ok()?.parse().ok());
    if let Some(kill_at) = kill_at
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *kill_at
    {
        let killed =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        unreachable!("a process can kill itself: {killed:?}");
    }
}

/// Passes a step.
#[cfg(not(debug_assertions))]
#[inline]
pub fn pass() {}
