//! The executor on io_uring.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use libc::iovec;
use slab::Slab;

use super::files::Files;
use super::in_place::Kind;
use super::pace::Pace;
use super::task::{Outcome, Step, Task};
use super::thread_pool::execute;
use super::watches::{Interest, WatchId, Watches};
use super::{Event, Executor, FileSlot, IoError, Op};
use crate::file::BlockFile;

/// Places in the submission queue. More operations than this in one batch cost more system calls, nothing else.
const SUBMISSION_ENTRIES: u32 = 256;

/// Places in the completion queue. More completions than this wait in the kernel until there is room.
const COMPLETION_ENTRIES: u32 = 4096;

/// Files in the kernel's table of registered files. Those beyond it work too, by their descriptors.
const FIXED_FILES_MAX: u32 = 4096;

/// Operations that are handed to the kernel together, at most: the storage works on the first of them while the next
/// are being prepared. Fewer cost more system calls, more leave the storage idle; see docs/performance.md.
const BATCH: usize = 4;

/// Of the operations in flight, one in so many is waited for together, since to sleep and to be woken costs about as
/// much as an operation. See docs/performance.md.
const AWAITED_SHARE: usize = 4;

/// Segment lists kept for reuse.
const SPARE_LISTS_MAX: usize = 256;

/// What a completion is about: the upper byte of its user data. The rest is a place or an id.
const TAG_SHIFT: u32 = 56;
const TAG_TASK: u64 = 0;
const TAG_WATCH: u64 = 1;
const TAG_CANCEL: u64 = 2;

fn tagged(tag: u64, value: u64) -> u64 {
    (tag << TAG_SHIFT) | value
}

/// Executes operations on an io_uring of its own.
///
/// Stays on the thread that made it: the ring is set up for a single issuer where the kernel supports it.
pub struct UringExecutor {
    ring: IoUring,
    /// How many places the kernel's table of registered files has; 0 if it could not be made.
    fixed_files: usize,
    /// Whether the kernel can wait for several completions for a bounded time, and for one after that (Linux 6.12).
    waits_for_several: bool,
    pace: Pace,
    files: Files,
    tasks: Slab<Running>,
    spare_lists: Vec<Vec<iovec>>,
    /// Tasks whose next step found no place in the submission queue.
    parked: VecDeque<usize>,
    watches: Watches,
    /// Watches that are to be armed before the next wait. One-shot polls are armed anew after each report: arming
    /// looks at the present state first, so a descriptor that stayed readable is reported again and none is missed.
    to_arm: Vec<WatchId>,
    /// Watches that have ended and whose poll in the kernel is to be cancelled.
    to_cancel: Vec<WatchId>,
    /// Events that needed no kernel.
    settled: Vec<Event>,
    /// Completions taken from the queue and not yet looked at: user data and result.
    reaped: Vec<(u64, i32)>,
}

/// A task, and the segment list that the kernel may be reading. The list is on the heap and is neither changed nor
/// dropped before the step's completion, wherever the task itself moves to.
struct Running {
    task: Task,
    segments: Vec<iovec>,
}

impl UringExecutor {
    /// Sets up an io_uring for the calling thread.
    ///
    /// # Errors
    ///
    /// If the kernel has no io_uring, forbids it, or lacks what this executor needs (everything since Linux 5.11
    /// has it).
    pub fn new() -> io::Result<Self> {
        let ring = build_ring()?;
        check_features(&ring)?;
        let fixed_files = register_sparse_files(&ring);
        let waits_for_several = ring.params().is_feature_min_timeout();
        Ok(Self {
            ring,
            fixed_files,
            waits_for_several,
            pace: Pace::default(),
            files: Files::default(),
            tasks: Slab::new(),
            spare_lists: Vec::new(),
            parked: VecDeque::new(),
            watches: Watches::default(),
            to_arm: Vec::new(),
            to_cancel: Vec::new(),
            settled: Vec::new(),
            reaped: Vec::new(),
        })
    }

    /// Puts the task's next step into the submission queue, or parks it if there is no place.
    fn start(&mut self, index: usize) {
        let running = &mut self.tasks[index];
        let file = self.files.get(running.task.file);
        let step = running.task.step(file, &mut running.segments);
        let descriptor = descriptor_of(running.task.file, file, self.fixed_files);
        let mut entry = entry_for(step, descriptor, &running.segments)
            .user_data(tagged(TAG_TASK, index as u64));
        if running.task.must_block() {
            entry = entry.flags(squeue::Flags::ASYNC);
        }
        if self.push(&entry).is_err() {
            self.parked.push_back(index);
        }
    }

    /// Puts an entry into the submission queue, handing over those that make a batch first.
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().len() >= BATCH {
            self.ring.submit()?;
        }
        // SAFETY: what the entry points at is either nothing (polls, cancels, syncs) or a running task's buffer and
        // segment list, which stay in `tasks` unchanged until the completion of this entry has been reaped.
        unsafe { self.ring.submission().push(entry) }.map_err(|_| io::ErrorKind::WouldBlock.into())
    }

    /// Queues everything that waits for a place in the submission queue.
    fn queue_waiting(&mut self) {
        while let Some(&id) = self.to_cancel.last() {
            let target = tagged(TAG_WATCH, id);
            let entry = opcode::PollRemove::new(target)
                .build()
                .user_data(tagged(TAG_CANCEL, 0));
            if self.push(&entry).is_err() {
                return;
            }
            self.to_cancel.pop();
        }
        while let Some(&id) = self.to_arm.last() {
            if let Some(watch) = self.watches.get(id) {
                let descriptor = Fd(watch.descriptor.as_raw_fd());
                let readiness = match watch.interest {
                    Interest::Readable => libc::POLLIN,
                    Interest::Writable => libc::POLLOUT,
                };
                let entry = opcode::PollAdd::new(descriptor, readiness.cast_unsigned().into())
                    .build()
                    .user_data(tagged(TAG_WATCH, id));
                if self.push(&entry).is_err() {
                    return;
                }
            }
            self.to_arm.pop();
        }
        for _ in 0..self.parked.len() {
            if let Some(index) = self.parked.pop_front() {
                self.start(index);
            }
        }
    }

    /// Enters the kernel to submit what is queued, and to wait for completions for at most the timeout if given.
    fn enter(&mut self, wait: Option<Option<Duration>>) -> io::Result<()> {
        let entered = match wait {
            None => {
                let queue = self.ring.submission();
                if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                    return Ok(());
                }
                drop(queue);
                self.ring.submit()
            }
            Some(timeout) => {
                let timeout = timeout.map(Timespec::from);
                let mut how = SubmitArgs::new();
                if let Some(timeout) = &timeout {
                    how = how.timespec(timeout);
                }
                let several = self.tasks.len() / AWAITED_SHARE;
                if several > 1 && self.waits_for_several {
                    self.pace.busy(Instant::now());
                    let bound = self.pace.bound(several).as_micros();
                    let bound = u32::try_from(bound).expect("the bound is less than a second");
                    let how = how.min_wait_usec(bound);
                    self.ring.submitter().submit_with_args(several, &how)
                } else {
                    self.ring.submitter().submit_with_args(1, &how)
                }
            }
        };
        match entered.map_err(|cause| (cause.raw_os_error(), cause)) {
            Ok(_) => Ok(()),
            // Out of time, interrupted, or the kernel wants completions reaped first: all of it is seen to by the
            // caller's loop.
            Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
            Err((_, cause)) => Err(cause),
        }
    }

    /// Looks at all completions in the queue.
    fn reap(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.settled);
        let mut reaped = mem::take(&mut self.reaped);
        let in_flight = self.tasks.len();
        reaped.extend(
            self.ring
                .completion()
                .map(|entry| (entry.user_data(), entry.result())),
        );
        for (user_data, result) in reaped.drain(..) {
            let value = user_data & ((1 << TAG_SHIFT) - 1);
            match user_data >> TAG_SHIFT {
                TAG_TASK => self.step_done(
                    usize::try_from(value).expect("made from a usize"),
                    result,
                    events,
                ),
                TAG_WATCH => self.watch_fired(value, result, events),
                _ => {}
            }
        }
        self.reaped = reaped;
        let completed = in_flight.saturating_sub(self.tasks.len());
        if in_flight / AWAITED_SHARE > 1 {
            if completed > 0 {
                self.pace
                    .completed(Instant::now(), completed, self.tasks.len());
            }
        } else {
            // Never more than one is waited for, and so the clock is not asked.
            self.pace.pause();
        }
    }

    fn step_done(&mut self, index: usize, result: i32, events: &mut Vec<Event>) {
        let running = &mut self.tasks[index];
        let outcome = running
            .task
            .advance(self.files.get(running.task.file), result);
        match outcome {
            Outcome::Continue => self.start(index),
            Outcome::Done(result) => {
                let Running { task, segments } = self.tasks.remove(index);
                self.keep_list(segments);
                self.end_use(task.file);
                events.push(Event::Done {
                    key: task.key,
                    result,
                });
            }
        }
    }

    /// Does an operation at once, see [`super::in_place`].
    fn do_in_place(&mut self, mut running: Running, kind: Kind) {
        if !self.ring.submission().is_empty() {
            // The storage works on what is queued meanwhile. If this fails, it stays queued, and the next poll says why.
            let _ = self.ring.submit();
        }
        let place = running.task.file;
        let file = self.files.get(place);
        let measure = self.files.measure(kind);
        let result = loop {
            let step = running.task.step(file, &mut running.segments);
            let result = execute(file.as_raw_fd(), step, &running.segments);
            if let Outcome::Done(result) = running.task.advance(file, result) {
                break result;
            }
        };
        let held_up = measure.is_held_up();
        self.files.was_done_in_place(place, kind, held_up);
        let Running { task, segments } = running;
        self.keep_list(segments);
        self.end_use(place);
        let key = task.key;
        self.settled.push(Event::Done { key, result });
    }

    fn watch_fired(&mut self, id: WatchId, result: i32, events: &mut Vec<Event>) {
        let Some(watch) = self.watches.get(id) else {
            return;
        };
        if result != -libc::ECANCELED {
            events.push(watch.event());
        }
        self.to_arm.push(id);
    }

    fn keep_list(&mut self, mut list: Vec<iovec>) {
        if self.spare_lists.len() < SPARE_LISTS_MAX {
            list.clear();
            self.spare_lists.push(list);
        }
    }

    fn end_use(&mut self, file: usize) {
        if let Some(place) = self.files.end_use(file) {
            self.forget_fixed(place);
        }
    }

    fn forget_fixed(&self, place: usize) {
        if place < self.fixed_files {
            let place = u32::try_from(place).expect("the table is small");
            if let Err(cause) = self.ring.submitter().register_files_update(place, &[-1]) {
                tracing::warn!("io_uring keeps a file open that is no longer used: {cause}");
            }
        }
    }
}

impl Executor for UringExecutor {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn register(&mut self, file: Arc<BlockFile>) -> FileSlot {
        let descriptor = file.as_raw_fd();
        let slot = self.files.insert(file);
        if slot.index() < self.fixed_files {
            let place = u32::try_from(slot.index()).expect("the table is small");
            if let Err(cause) = self
                .ring
                .submitter()
                .register_files_update(place, &[descriptor])
            {
                // Operations by place would fail or, worse, reach another file. Descriptors always work.
                tracing::warn!(
                    "io_uring refuses to register a file ({cause}); going on with plain descriptors"
                );
                self.fixed_files = 0;
            }
        }
        slot
    }

    fn unregister(&mut self, slot: FileSlot) {
        if let Some(place) = self.files.remove(slot) {
            self.forget_fixed(place);
        }
    }

    fn submit(&mut self, key: u64, op: Op) {
        let Some(file) = self.files.begin_use(op.file()) else {
            let result = Err(IoError::NotRegistered {
                action: op.action(),
            });
            self.settled.push(Event::Done { key, result });
            return;
        };
        let task = Task::new(key, file, op);
        if let Some(result) = task.settled_at_once(self.files.get(file)) {
            self.end_use(file);
            self.settled.push(Event::Done { key, result });
            return;
        }
        let segments = self.spare_lists.pop().unwrap_or_default();
        let running = Running { task, segments };
        if let Some(kind) = self.files.in_place(file, &running.task) {
            return self.do_in_place(running, kind);
        }
        let index = self.tasks.insert(running);
        self.start(index);
    }

    fn watch(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let id = self.watches.insert(key, descriptor, Interest::Readable)?;
        self.to_arm.push(id);
        Ok(())
    }

    fn watch_writable(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let id = self.watches.insert(key, descriptor, Interest::Writable)?;
        self.to_arm.push(id);
        Ok(())
    }

    fn unwatch(&mut self, key: u64) {
        if let Some((id, _)) = self.watches.remove(key) {
            match self.to_arm.iter().position(|&waiting| waiting == id) {
                Some(place) => drop(self.to_arm.swap_remove(place)),
                None => self.to_cancel.push(id),
            }
        }
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.queue_waiting();
        self.enter(None)?;
        self.reap(events);
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        loop {
            self.queue_waiting();
            let nothing_yet = self.settled.is_empty() && self.ring.completion().is_empty();
            self.enter(nothing_yet.then_some(timeout))?;
            self.reap(events);
            // How much of the timeout is left is not found out, since the clock may cost a call to the kernel.
            if events.len() > before || timeout.is_some() {
                return Ok(());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.tasks.len() + self.settled.len()
    }
}

impl Drop for UringExecutor {
    /// Waits for all operations: the kernel goes on using their memory after the ring is closed.
    fn drop(&mut self) {
        // Without watches nothing is armed again, and only operations are waited for.
        self.watches.clear();
        let mut events = Vec::new();
        while !self.tasks.is_empty() {
            if let Err(cause) = self.wait(None, &mut events) {
                tracing::error!(
                    "io_uring is broken ({cause}); memory of operations in flight is never freed"
                );
                mem::forget(mem::take(&mut self.tasks));
                // Nor may their locks end: writes may yet land.
                mem::forget(mem::take(&mut self.files));
                return;
            }
            events.clear();
        }
        // The ring itself is torn down later, in the background; the files, and with them their locks, must be free
        // when the drop is over.
        if let Err(cause) = self.ring.submitter().unregister_files() {
            tracing::debug!("io_uring has no table of files to give up: {cause}");
        }
    }
}

/// A file as an entry names it.
#[derive(Clone, Copy)]
enum Descriptor {
    Fixed(Fixed),
    Plain(Fd),
}

fn descriptor_of(place: usize, file: &BlockFile, fixed_files: usize) -> Descriptor {
    match u32::try_from(place) {
        Ok(index) if place < fixed_files => Descriptor::Fixed(Fixed(index)),
        _ => Descriptor::Plain(Fd(file.as_raw_fd())),
    }
}

/// Builds one entry for either kind of descriptor: the crate's opcodes are generic over it only when built.
macro_rules! with_descriptor {
    ($descriptor:expr, $fd:ident => $build:expr) => {
        match $descriptor {
            Descriptor::Fixed($fd) => $build,
            Descriptor::Plain($fd) => $build,
        }
    };
}

fn entry_for(step: Step, descriptor: Descriptor, segments: &[iovec]) -> squeue::Entry {
    let count = u32::try_from(segments.len()).expect("a step has at most 1024 segments");
    with_descriptor!(descriptor, fd => match step {
        Step::Read { offset } => match single(segments) {
            Some((address, len)) => opcode::Read::new(fd, address, len).offset(offset).build(),
            None => opcode::Readv::new(fd, segments.as_ptr(), count).offset(offset).build(),
        },
        Step::Write { offset } => match single(segments) {
            Some((address, len)) => opcode::Write::new(fd, address, len).offset(offset).build(),
            None => opcode::Writev::new(fd, segments.as_ptr(), count).offset(offset).build(),
        },
        Step::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        Step::Fallocate { mode, offset, len } => opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build(),
    })
}

/// The one segment of a list of one, if its length fits the entry: such an operation needs no list.
fn single(segments: &[iovec]) -> Option<(*mut u8, u32)> {
    match segments {
        [only] => Some((only.iov_base.cast(), u32::try_from(only.iov_len).ok()?)),
        _ => None,
    }
}

/// Asks for the cheapest way of completing that the kernel knows: completions are only ever looked for in `poll` and
/// `wait`, so the kernel need not interrupt the thread for them.
fn build_ring() -> io::Result<IoUring> {
    let mut deferred = IoUring::builder();
    deferred
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun().setup_taskrun_flag();
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for mut builder in [deferred, cooperative, IoUring::builder()] {
        match builder
            .setup_cqsize(COMPLETION_ENTRIES)
            .dontfork()
            .build(SUBMISSION_ENTRIES)
        {
            Ok(ring) => return Ok(ring),
            // Flags that this kernel does not know.
            Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => last = cause,
            Err(cause) => return Err(cause),
        }
    }
    Err(last)
}

fn check_features(ring: &IoUring) -> io::Result<()> {
    let features = ring.params();
    if !(features.is_feature_nodrop() && features.is_feature_ext_arg()) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel's io_uring is older than Linux 5.11",
        ));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Readv::CODE,
        opcode::Writev::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::PollAdd::CODE,
        opcode::PollRemove::CODE,
    ];
    match needed.into_iter().find(|&code| !probe.is_supported(code)) {
        Some(code) => {
            let message = format!("the kernel's io_uring lacks operation {code}");
            Err(io::Error::new(io::ErrorKind::Unsupported, message))
        }
        None => Ok(()),
    }
}

/// Makes the kernel's table of registered files, all places empty, and returns how many places it has. The limit on
/// open files bounds it as well.
fn register_sparse_files(ring: &IoUring) -> usize {
    let mut places = FIXED_FILES_MAX;
    while places >= 64 {
        if ring.submitter().register_files_sparse(places).is_ok() {
            return places as usize;
        }
        places /= 4;
    }
    0
}
