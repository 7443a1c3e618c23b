//! What the executor is told about the storage of what it writes.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use super::*;

/// Of each write: offset and length, and whether it takes storage.
type Writes = Rc<RefCell<Vec<(u64, usize, bool)>>>;

/// Notes what it is told, and executes it.
struct Noting {
    inner: PoolExecutor,
    writes: Writes,
}

impl Executor for Noting {
    fn name(&self) -> &'static str {
        "noting"
    }

    fn register(&mut self, file: Arc<BlockFile>) -> FileSlot {
        self.inner.register(file)
    }

    fn unregister(&mut self, slot: FileSlot) {
        self.inner.unregister(slot);
    }

    fn submit(&mut self, key: u64, op: Op) {
        if let Op::Write {
            offset,
            buffer,
            takes_storage,
            ..
        } = &op
        {
            let write = (*offset, buffer.len(), *takes_storage);
            self.writes.borrow_mut().push(write);
        }
        self.inner.submit(key, op);
    }

    fn watch(&mut self, _: u64, _: BorrowedFd<'_>) -> io::Result<()> {
        unreachable!("a disk watches nothing")
    }

    fn watch_writable(&mut self, _: u64, _: BorrowedFd<'_>) -> io::Result<()> {
        unreachable!("a disk watches nothing")
    }

    fn unwatch(&mut self, _: u64) {}

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.inner.poll(events)
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.inner.wait(timeout, events)
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }
}

#[test]
fn the_first_write_to_a_block_takes_storage_and_no_other() {
    let (_folder, path) = fixture();
    let writes = Writes::default();
    let executor = Noting {
        inner: PoolExecutor::new(2).unwrap(),
        writes: Rc::clone(&writes),
    };
    let mut bench = Bench::open(&path, Box::new(executor));
    let data = bench.disk.engine().layout().data_offset().0;
    let mut written = |start: u64, len: usize| {
        writes.borrow_mut().clear();
        bench.write(start, &vec![9; len]);
        writes.take()
    };
    let block = 4096;
    assert_eq!(written(8 * block, 4096), [(data + 8 * block, 4096, true)]);
    assert_eq!(written(8 * block, 4096), [(data + 8 * block, 4096, false)]);
    // A block that is there, and one that is not.
    assert_eq!(written(8 * block, 8192), [(data + 8 * block, 8192, true)]);
    // Its block is copied up, as a whole.
    assert_eq!(written(20 * block, 512), [(data + 20 * block, 4096, true)]);
    writes.borrow_mut().clear();
    assert_eq!(
        bench.request(Request::Flush, Buffer::empty()).result,
        Ok(())
    );
    let bitmap = writes.take();
    assert!(
        !bitmap.is_empty() && bitmap.iter().all(|&(_, _, takes_storage)| !takes_storage),
        "{bitmap:?}"
    );
    bench.close();
}
