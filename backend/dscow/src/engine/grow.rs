//! Growing the disk while it is open.
//!
//! 1. Make the file as long as the new header will say, or see that the device is. 2. Sync. 3. Write the new header to
//!    the slot that is not current. 4. Sync. Only then the disk is larger.
//!
//! Without 2, a power failure could leave the new header on a file that is too short for it, which does not open.
//!
//! The syncs are commits, which never overlap: of two syncs at a time only one is told that something was lost, and a
//! flush could be answered by the other one.

use super::action::{Action, Errno, Token};
use super::commit::Waiter;
use super::lifecycle::Lifecycle;
use super::{Engine, Mode, Part};
use crate::bitmap::Bitmap;
use crate::header::Header;
use crate::layout::Layout;

/// A disk on its way to a larger size.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Growing {
    token: Token,
    layout: Layout,
}

impl Engine {
    /// Makes the disk larger: `virtual_size` bytes, a multiple of 512. Requests go on meanwhile, and may use the new
    /// space when it ends in [`Action::Finish`] with `token`. What is new reads as zeros.
    ///
    /// It fails with `EINVAL` if the size is not possible or smaller than before, `EFBIG` if the bitmap has no room
    /// for it ([`Layout::grown`] says so beforehand), `ENOMEM` if the host has no memory for it, `EROFS` if the image is read-only, and `EBUSY` while it is
    /// being grown or closed. If a step fails, the disk is as large as before, or, if it was the last of them, larger.
    pub fn grow(&mut self, token: Token, virtual_size: u64) {
        match self.check_growth(virtual_size) {
            Err(errno) => self.finish(token, Err(errno)),
            Ok((layout, room)) => {
                self.room = Some(room);
                self.lifecycle = Lifecycle::Growing(Growing { token, layout });
                let op = self.new_op(Part::Length);
                let len = layout.file_len();
                self.push(Action::SetLen { op, len });
            }
        }
    }

    fn check_growth(&self, virtual_size: u64) -> Result<(Layout, Bitmap), Errno> {
        if self.mode == Mode::ReadOnly {
            return Err(Errno::EROFS);
        }
        if self.lifecycle != Lifecycle::Open {
            return Err(Errno::EBUSY);
        }
        if virtual_size < self.layout.virtual_size() {
            return Err(Errno::EINVAL);
        }
        let layout = self.layout.grown(virtual_size).map_err(|_| Errno::EFBIG)?;
        // Before anything is changed: once the new header is written there is no way back.
        let room = Bitmap::empty(&layout).map_err(|_| Errno::ENOMEM)?;
        Ok((layout, room))
    }

    /// The file has its new length.
    pub(super) fn length_set(&mut self, result: Result<(), Errno>) {
        if result.is_err() {
            return self.length_synced(result);
        }
        self.commit_for(Waiter::Growing);
    }

    /// The file's new length is durable.
    pub(super) fn length_synced(&mut self, result: Result<(), Errno>) {
        let Lifecycle::Growing(growing) = std::mem::replace(&mut self.lifecycle, Lifecycle::Open)
        else {
            unreachable!("the length is only changed to grow")
        };
        let Growing { token, layout } = growing;
        if result.is_err() {
            self.room = None;
            return self.finish(token, result);
        }
        let header = Header {
            layout,
            parent_limit: self.parent_limit_when_grown(),
            ..self.next_header(self.header.state)
        };
        self.lifecycle = Lifecycle::Resizing(self.write_header(token, header));
    }

    /// The new header is durable.
    pub(super) fn grown(&mut self, layout: Layout) {
        self.layout = layout;
        let room = self.room.take().expect("made when the growing began");
        self.bitmap.grow_into(room);
        self.parent_limit = self.header.parent_limit.unwrap_or(u64::MAX);
    }

    /// How much of a parent that is larger than this disk shows: no more than did before it grew.
    fn parent_limit_when_grown(&self) -> Option<u64> {
        let size = self.layout.virtual_size();
        let is_hiding = self.parents.size() > size;
        self.header.parent_limit.or(is_hiding.then_some(size))
    }
}
