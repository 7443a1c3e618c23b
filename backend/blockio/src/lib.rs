//! Executes the I/O that the dscow engine asks for.
//!
//! This is an edge: everything that touches a file descriptor, a lock or the kernel's view of memory is here.
//!
//! - [`buffer`]: memory that an operation reads from or writes to, owned by the operation until it completes.
//! - [`executor`]: asynchronous reads, writes, syncs and discards, one executor per worker thread; io_uring, or a
//!   thread pool where io_uring is missing or forbidden.
//! - [`disk`]: an engine with its files, driven through an executor.
//! - [`extents`]: which image of a chain holds what of the disk, and where it has holes.
//! - [`image`]: creating, opening and checking images and their chains of parents.
//! - [`offline`]: copying, comparing and merging whole disks.
//! - [`file`]: opening image files and block devices, blocking helpers for control paths, durable creation.
//! - [`space`]: how storage is taken in a file system for blocks that are written for the first time.
//! - [`stream`]: bytes between sockets and buffers.
//! - [`lock`]: open-file-description locks on images, and the byte locks that QEMU honours on raw bases.

pub mod buffer;
pub mod disk;
pub mod executor;
pub mod extents;
pub mod file;
pub mod image;
pub mod lock;
pub mod offline;
pub mod space;
pub mod stream;

#[cfg(test)]
mod testing;
