//! A guest that uses the disk of an image, one request at a time.

use std::path::Path;

use blockio::buffer::{AlignedBuf, Buffer};
use blockio::disk::{Disk, DiskNumber, DiskOptions};
use blockio::executor::{Event, Executor, open_executor};
use blockio::image::{Image, ImageAccess};
use dscow::engine::{OnNoSpace, Request, Token};
use dscow::units::DiskRange;

const TOKEN: Token = Token(1);

pub(crate) struct Guest {
    executor: Box<dyn Executor>,
    disk: Disk,
}

impl Guest {
    pub(crate) fn start(path: &Path) -> Self {
        let image = Image::open(path, ImageAccess::Writable).unwrap();
        let (engine, files) = image.into_engine(OnNoSpace::Report);
        let mut executor = open_executor().unwrap();
        let options = DiskOptions::default();
        let mut disk = Disk::new(DiskNumber(0), engine, files, options, executor.as_mut());
        disk.open(executor.as_mut(), TOKEN);
        let mut guest = Self { executor, disk };
        guest.wait();
        guest
    }

    fn wait(&mut self) -> Buffer {
        let mut events = Vec::new();
        loop {
            if let Some(finished) = self.disk.take_finished().pop() {
                assert_eq!(finished.result, Ok(()));
                return finished.buffer;
            }
            self.executor.wait(None, &mut events).unwrap();
            for event in events.drain(..) {
                if let Event::Done { key, result } = event {
                    let (_, op) = DiskNumber::of_key(key);
                    self.disk.complete(self.executor.as_mut(), op, result);
                }
            }
        }
    }

    pub(crate) fn request(&mut self, request: Request, bytes: &[u8]) -> Vec<u8> {
        let buffer = AlignedBuf::from_slice(bytes).into_buffer();
        self.disk
            .submit(self.executor.as_mut(), TOKEN, request, buffer);
        self.wait().to_vec()
    }

    pub(crate) fn read_all(&mut self) -> Vec<u8> {
        let size = self.disk.engine().layout().virtual_size();
        let zeros = vec![0xee; usize::try_from(size).unwrap()];
        self.request(Request::Read(DiskRange::new(0, size)), &zeros)
    }

    pub(crate) fn stop(mut self) {
        self.disk.close(self.executor.as_mut(), TOKEN);
        self.wait();
        self.disk.release(self.executor.as_mut());
    }

    /// The process ends without closing the image.
    pub(crate) fn crash(mut self) {
        self.request(Request::Flush, &[]);
        self.disk.release(self.executor.as_mut());
    }
}
