//! An image opened as the daemon opens one, with requests under way.

use std::collections::VecDeque;

use blockio::buffer::{AlignedBuf, Buffer};
use blockio::disk::{Disk, DiskNumber, DiskOptions, Finished};
use blockio::executor::{Event, Executor};
use blockio::image::Image;
use dscow::engine::{OnNoSpace, Request, Token};
use dscow::layout::Layout;
use dscow::units::DiskRange;

use crate::content::{SECTOR, Value, recognise};
use crate::error::Error;

const NUMBER: DiskNumber = DiskNumber(1);
const LIFECYCLE: Token = Token(u64::MAX);

/// An open image.
pub(crate) struct OpenImage<'a> {
    executor: &'a mut dyn Executor,
    disk: Disk,
    finished: VecDeque<Finished>,
    under_way: usize,
}

impl<'a> OpenImage<'a> {
    pub(crate) fn open(
        image: Image,
        options: DiskOptions,
        executor: &'a mut dyn Executor,
    ) -> Result<Self, Error> {
        let (engine, files) = image.into_engine(OnNoSpace::Report);
        let mut disk = Disk::new(NUMBER, engine, files, options, executor);
        disk.open(executor, LIFECYCLE);
        let mut opened = Self {
            executor,
            disk,
            finished: VecDeque::new(),
            under_way: 1,
        };
        succeed(&opened.wait()?, "opening the image")?;
        Ok(opened)
    }

    /// How many requests have not been returned by [`OpenImage::wait`].
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    pub(crate) fn submit(&mut self, token: Token, request: Request, data: &[u8]) {
        let buffer = match data {
            [] => Buffer::empty(),
            data => AlignedBuf::from_slice(data).into_buffer(),
        };
        self.under_way += 1;
        self.disk.submit(self.executor, token, request, buffer);
    }

    pub(crate) fn commit_idle(&mut self) {
        self.disk.commit_idle(self.executor);
    }

    /// The next request that ends.
    pub(crate) fn wait(&mut self) -> Result<Finished, Error> {
        let mut events = Vec::new();
        loop {
            self.finished.extend(self.disk.take_finished());
            if let Some(finished) = self.finished.pop_front() {
                self.under_way -= 1;
                return Ok(finished);
            }
            self.executor
                .wait(None, &mut events)
                .map_err(Error::Executor)?;
            for event in events.drain(..) {
                if let Event::Done { key, result } = event {
                    let (_, op) = DiskNumber::of_key(key);
                    self.disk.complete(self.executor, op, result);
                }
            }
        }
    }

    /// The shape of the image.
    pub(crate) fn layout(&self) -> &Layout {
        self.disk.engine().layout()
    }

    /// What every sector holds, read through the engine. Nothing else is under way.
    pub(crate) fn read_all(&mut self) -> Result<Vec<Value>, Error> {
        let len = self.layout().virtual_size();
        let space = vec![0; usize::try_from(len).expect("it is held in memory")];
        self.submit(Token(0), Request::Read(DiskRange::new(0, len)), &space);
        let finished = self.wait()?;
        succeed(&finished, "reading the whole disk")?;
        let bytes = finished.buffer.to_vec();
        let sectors = (0..).zip(bytes.as_chunks::<SECTOR>().0);
        Ok(sectors
            .map(|(sector, bytes)| recognise(sector, bytes))
            .collect())
    }

    pub(crate) fn close(mut self) -> Result<(), Error> {
        self.under_way += 1;
        self.disk.close(self.executor, LIFECYCLE);
        succeed(&self.wait()?, "closing the image")?;
        self.disk.release(self.executor);
        Ok(())
    }
}

/// The error of a request that failed.
pub(crate) fn succeed(finished: &Finished, what: &str) -> Result<(), Error> {
    finished.result.map_err(|errno| Error::Request {
        what: what.to_owned(),
        errno: errno.0,
    })
}
