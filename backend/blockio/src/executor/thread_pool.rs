//! The executor on a few threads with blocking system calls.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libc::{c_int, iovec, off_t};
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use slab::Slab;

use super::files::Files;
use super::task::{Outcome, Step, Task};
use super::watches::{Interest, Watch, Watches};
use super::{Event, Executor, FileSlot, IoError, Op};
use crate::file::BlockFile;

/// The id by which epoll reports the threads' own eventfd; watches count from 1.
const WAKE_ID: u64 = 0;

/// Most ready descriptors taken from epoll at once. The others are reported by the next call.
const READY_MAX: usize = 256;

/// Executes operations on a small pool of threads of its own.
///
/// Only addresses travel to the threads. The buffers stay with the executor on the worker's thread, which drops each
/// after its completion has come back; so buffers need not be `Send`, and their reference counts are only ever
/// touched by the worker.
pub struct PoolExecutor {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    epoll: OwnedFd,
    files: Files,
    tasks: Slab<Task>,
    spare_lists: Vec<Vec<iovec>>,
    watches: Watches,
    /// Events that needed no thread.
    settled: Vec<Event>,
    finished: Vec<Finished>,
    ready: Vec<epoll::Event>,
}

/// What the worker and the threads share.
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when the queue has a new job, or is closed.
    queue_changed: Condvar,
    finished: Mutex<Vec<Finished>>,
    /// Made readable when `finished` stops being empty.
    wake: OwnedFd,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// One system call for a thread.
struct Job {
    /// Place of the task in the executor.
    task: usize,
    descriptor: RawFd,
    step: Step,
    segments: Vec<iovec>,
}

/// The result of a job: a count of bytes or a negative errno, and the list to use again.
struct Finished {
    task: usize,
    result: i32,
    segments: Vec<iovec>,
}

// SAFETY: the addresses in `segments` are only handed to system calls by the thread. They stay valid meanwhile, on
// whichever thread: the executor keeps the task, and in it the buffer's owner and the file, until the job's `Finished`
// has come back, and joins the threads before it drops any task.
unsafe impl Send for Job {}

// SAFETY: the addresses in `segments` are not used any more; only the list's capacity is.
unsafe impl Send for Finished {}

impl PoolExecutor {
    /// Starts `threads` threads (at least one).
    ///
    /// # Errors
    ///
    /// If threads or descriptors have run out.
    pub fn new(threads: usize) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &wake,
            epoll::EventData::new_u64(WAKE_ID),
            epoll::EventFlags::IN,
        )?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            queue_changed: Condvar::new(),
            finished: Mutex::default(),
            wake,
        });
        let mut executor = Self {
            shared,
            threads: Vec::new(),
            epoll,
            files: Files::default(),
            tasks: Slab::new(),
            spare_lists: Vec::new(),
            watches: Watches::default(),
            settled: Vec::new(),
            finished: Vec::new(),
            ready: Vec::with_capacity(READY_MAX),
        };
        for number in 0..threads.max(1) {
            let shared = executor.shared.clone();
            let thread = thread::Builder::new()
                .name(format!("blockio-{number}"))
                .spawn(move || shared.work())?;
            executor.threads.push(thread);
        }
        Ok(executor)
    }

    fn start(&mut self, index: usize, mut segments: Vec<iovec>) {
        let task = &mut self.tasks[index];
        let file = self.files.get(task.file);
        let step = task.step(file, &mut segments);
        let job = Job {
            task: index,
            descriptor: file.as_raw_fd(),
            step,
            segments,
        };
        lock(&self.shared.queue).jobs.push_back(job);
        self.shared.queue_changed.notify_one();
    }

    fn watch_for(
        &mut self,
        key: u64,
        descriptor: BorrowedFd<'_>,
        interest: Interest,
    ) -> io::Result<()> {
        let id = self.watches.insert(key, descriptor, interest)?;
        let Some(watch) = self.watches.get(id) else {
            return Ok(());
        };
        let flags = match interest {
            Interest::Readable => epoll::EventFlags::IN,
            Interest::Writable => epoll::EventFlags::OUT,
        };
        let data = epoll::EventData::new_u64(id);
        if let Err(cause) = epoll::add(&self.epoll, &watch.descriptor, data, flags) {
            self.watches.remove(key);
            return Err(cause.into());
        }
        Ok(())
    }

    /// Looks at everything that the threads have finished.
    fn reap(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.settled);
        let mut finished = mem::take(&mut self.finished);
        mem::swap(&mut finished, &mut lock(&self.shared.finished));
        for Finished {
            task: index,
            result,
            segments,
        } in finished.drain(..)
        {
            let task = &mut self.tasks[index];
            match task.advance(self.files.get(task.file), result) {
                Outcome::Continue => self.start(index, segments),
                Outcome::Done(result) => {
                    let task = self.tasks.remove(index);
                    self.files.end_use(task.file);
                    self.spare_lists.push(segments);
                    events.push(Event::Done {
                        key: task.key,
                        result,
                    });
                }
            }
        }
        self.finished = finished;
    }

    /// Waits for descriptors to become ready, the threads' own among them, and reports the watched ones.
    fn look(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let timeout = timeout.map(timespec);
        self.ready.clear();
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.ready),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
        for event in &self.ready {
            // Copied out, since the kernel's structure is packed.
            let data = event.data;
            match data.u64() {
                WAKE_ID => self.shared.silence()?,
                id => events.extend(self.watches.get(id).map(Watch::event)),
            }
        }
        Ok(())
    }
}

impl Executor for PoolExecutor {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn register(&mut self, file: Arc<BlockFile>) -> FileSlot {
        self.files.insert(file)
    }

    fn unregister(&mut self, slot: FileSlot) {
        self.files.remove(slot);
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
            self.files.end_use(file);
            self.settled.push(Event::Done { key, result });
            return;
        }
        let index = self.tasks.insert(task);
        let segments = self.spare_lists.pop().unwrap_or_default();
        self.start(index, segments);
    }

    fn watch(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.watch_for(key, descriptor, Interest::Readable)
    }

    fn watch_writable(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.watch_for(key, descriptor, Interest::Writable)
    }

    fn unwatch(&mut self, key: u64) {
        if let Some((_, watch)) = self.watches.remove(key)
            && let Err(cause) = epoll::delete(&self.epoll, &watch.descriptor)
        {
            tracing::warn!("epoll does not let go of a descriptor: {cause}");
        }
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.look(Some(Duration::ZERO), events)?;
        self.reap(events);
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = if self.settled.is_empty() {
                left
            } else {
                Some(Duration::ZERO)
            };
            self.look(left, events)?;
            self.reap(events);
            if events.len() > before || left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.tasks.len() + self.settled.len()
    }
}

impl Drop for PoolExecutor {
    /// Finishes all operations and joins the threads; only then are the buffers dropped.
    fn drop(&mut self) {
        self.watches.clear();
        let mut events = Vec::new();
        while !self.tasks.is_empty() {
            if let Err(cause) = self.wait(None, &mut events) {
                tracing::error!(
                    "waiting for I/O failed ({cause}); what is not yet begun is given up"
                );
                lock(&self.shared.queue).jobs.clear();
                break;
            }
            events.clear();
        }
        lock(&self.shared.queue).closed = true;
        self.shared.queue_changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked is gone as well, and uses no memory any more.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The life of a thread.
    fn work(&self) {
        while let Some(job) = self.next_job() {
            let result = execute(job.descriptor, job.step, &job.segments);
            let mut finished = lock(&self.finished);
            finished.push(Finished {
                task: job.task,
                result,
                segments: job.segments,
            });
            if finished.len() == 1 {
                self.announce();
            }
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self
                .queue_changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes the eventfd readable. Its counter cannot overflow: it is written once per emptying of `finished`.
    fn announce(&self) {
        while let Err(rustix::io::Errno::INTR) = rustix::io::write(&self.wake, &1u64.to_ne_bytes())
        {
        }
    }

    /// Takes the announcement back. Done before `finished` is taken: what comes in between is announced anew, or
    /// taken along and announced once too often, but never missed.
    fn silence(&self) -> io::Result<()> {
        let mut counter = [0; 8];
        match rustix::io::read(&self.wake, &mut counter) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
            Err(cause) => Err(cause.into()),
        }
    }
}

/// Locks whatever a panicking thread may have left: each change under these locks is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// Runs one system call: a count of bytes, or a negative errno.
pub(super) fn execute(descriptor: RawFd, step: Step, segments: &[iovec]) -> i32 {
    let count = c_int::try_from(segments.len()).expect("a step has at most 1024 segments");
    let list = segments.as_ptr();
    let result = match step {
        Step::Read { offset } => {
            // SAFETY: the list has `count` segments of memory that the executor keeps alive until it has the result.
            unsafe { libc::preadv(descriptor, list, count, file_offset(offset)) }
        }
        Step::Write { offset } => {
            // SAFETY: as for the read; the kernel only reads this memory.
            unsafe { libc::pwritev(descriptor, list, count, file_offset(offset)) }
        }
        Step::Sync => {
            // SAFETY: no memory is passed, and the descriptor is kept open by the executor.
            let result = unsafe { libc::fdatasync(descriptor) };
            result as isize
        }
        Step::Fallocate { mode, offset, len } => {
            // SAFETY: no memory is passed, and the descriptor is kept open by the executor.
            let result =
                unsafe { libc::fallocate(descriptor, mode, file_offset(offset), file_offset(len)) };
            result as isize
        }
    };
    if result < 0 {
        return -io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
    }
    // Linux transfers at most 2 GiB minus one page in one call.
    i32::try_from(result).unwrap_or(i32::MAX)
}

/// Offsets were checked against the largest file size when the operation began.
fn file_offset(offset: u64) -> off_t {
    off_t::try_from(offset).unwrap_or(off_t::MAX)
}
