//! A guest that makes requests as fast as its ring takes them, and spends little on each itself.

use std::time::{Duration, Instant};

use simxen::frontend::{Operation, Segment};
use simxen::{Access, Frontend, GrantRef};
use smallvec::{SmallVec, smallvec};

use crate::error::{BenchError, Result};
use crate::pattern::Step;

/// Looks at its ring so often before it sleeps. A guest has other processors than the daemon, and Linux's blkfront is
/// woken by an interrupt; here that is a write to an eventfd and a wake-up of a thread.
const LOOKS: u32 = 2_000;

/// Longer than any request takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest with one disk and one page for each place on its ring, all of them granted for good. Larger requests have that
/// page several times.
pub struct Guest {
    frontend: Frontend,
    grants: Vec<GrantRef>,
    /// Places on the ring that no request has.
    free: Vec<usize>,
    answered: usize,
}

impl Guest {
    pub(super) fn new(mut frontend: Frontend) -> Result<Self> {
        let places = frontend.ring(0).entry_count() as usize;
        let domain = frontend.domain();
        let grants = (0..places)
            .map(|_| domain.grant(domain.allocate_pages(1)?, Access::ReadWrite))
            .collect::<simxen::Result<Vec<_>>>()?;
        Ok(Self {
            frontend,
            grants,
            free: (0..places).collect(),
            answered: 0,
        })
    }

    /// Makes the requests, each of at most 11 pages, at most `depth` at a time; gives how long that took.
    ///
    /// # Errors
    /// If one fails, or is not answered.
    pub fn run(&mut self, steps: &[Step], depth: usize) -> Result<Duration> {
        let begun = Instant::now();
        let (mut next, done) = (0, self.answered + steps.len());
        let mut looks = 0;
        while self.answered < done {
            let room = depth.saturating_sub(self.grants.len() - self.free.len());
            let more = &steps[next..(next + room.min(self.free.len())).min(steps.len())];
            next += more.len();
            self.put(more)?;
            if self.take()? > 0 || !more.is_empty() {
                looks = 0;
            } else if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                self.sleep()?;
            }
        }
        Ok(begun.elapsed())
    }

    /// Puts requests on the ring, for which there is room.
    ///
    /// # Errors
    /// If there is none.
    ///
    /// # Panics
    /// As above.
    pub fn put(&mut self, steps: &[Step]) -> Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        let (abi, handle) = (self.frontend.abi(), self.frontend.handle());
        for step in steps {
            let (operation, range) = match step {
                Step::Read(range) => (Operation::Read, *range),
                Step::Write(range) => (Operation::Write, *range),
                Step::Flush => unreachable!("these lists have no flushes"),
            };
            let place = self.free.pop().expect("there is room");
            let segment = Segment {
                grant: self.grants[place],
                first_sector: 0,
                last_sector: 7,
            };
            let pages = usize::try_from(range.len / 4096).expect("a few pages");
            let segments: SmallVec<[Segment; 11]> = smallvec![segment; pages];
            let entry = abi.encode_transfer(
                operation.code(),
                handle,
                place as u64,
                range.start.0 / 512,
                &segments,
            );
            self.frontend.ring(0).put_request(&entry)?;
        }
        self.frontend.ring(0).push_requests();
        Ok(())
    }

    /// Takes the answers that have come; gives how many.
    ///
    /// # Errors
    /// If one is an error.
    pub fn take(&mut self) -> Result<usize> {
        let before = self.answered;
        while let Some(response) = self.frontend.ring(0).take_response()? {
            if response.status != 0 {
                return Err(BenchError::Request(response.status));
            }
            let place = usize::try_from(response.id).expect("the number of a place");
            self.free.push(place);
            self.answered += 1;
        }
        Ok(self.answered - before)
    }

    /// Waits until everything is answered.
    ///
    /// # Errors
    /// If one is an error.
    pub fn finish(&mut self) -> Result<()> {
        while self.free.len() < self.grants.len() {
            if self.take()? == 0 {
                self.sleep()?;
            }
        }
        Ok(())
    }

    /// Waits for an answer.
    fn sleep(&mut self) -> Result<()> {
        let ring = self.frontend.ring(0);
        if !ring.arm_notification() {
            ring.channel().wait(PATIENCE)?;
        }
        Ok(())
    }
}
