//! Marks in the log of writes. Each names how many events of the journal had happened when it was set, so that places
//! in the log can be related to what was promised by then.

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::rc::Rc;

use rustix::ioctl::{Opcode, Updater, opcode};

use crate::error::{Error, IoContext};
use crate::recorder::Recording;

const CONTROL: &str = "/dev/mapper/control";

/// Where marks go.
pub enum Marks {
    /// Nowhere: nothing is logged.
    None,
    /// Into the log of a `log-writes` target of device mapper.
    Kernel(KernelMarks),
    /// Into a log that this process writes itself.
    Recorded(Rc<RefCell<Recording>>),
}

impl Marks {
    /// Sets a mark: all of the journal's events below this number have happened.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn set(&self, happened: usize) -> Result<(), Error> {
        match self {
            Self::None => Ok(()),
            Self::Kernel(kernel) => kernel.set(happened),
            Self::Recorded(recording) => {
                recording.borrow_mut().mark(&encode(happened));
                Ok(())
            }
        }
    }
}

/// The text of a mark.
fn encode(happened: usize) -> Vec<u8> {
    format!("events={happened}").into_bytes()
}

/// The number that a mark names; `None` if somebody else set it (the kernel sets one at the end).
pub fn decode(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text)
        .ok()?
        .strip_prefix("events=")?
        .parse()
        .ok()
}

/// `struct dm_ioctl` of `linux/dm-ioctl.h`.
#[repr(C)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// The same, followed by `struct dm_target_msg` and its message.
#[repr(C)]
struct DmMessage {
    header: DmIoctl,
    sector: u64,
    message: [u8; 64],
}

const HEADER_LEN: u32 = 312;
const MESSAGE_LEN: u32 = 384;
const _: () = assert!(size_of::<DmIoctl>() == HEADER_LEN as usize);
const _: () = assert!(size_of::<DmMessage>() == MESSAGE_LEN as usize);

/// `DM_TARGET_MSG`.
const DM_TARGET_MSG: Opcode = opcode::read_write::<DmIoctl>(0xfd, 14);

/// A `log-writes` device. The ioctl is used directly since starting `dmsetup` for each mark would take an emulated
/// machine longer than the workload.
pub struct KernelMarks {
    control: File,
    name: [u8; 128],
}

impl KernelMarks {
    /// The device of this name.
    ///
    /// # Errors
    /// If the name is too long, or device mapper is not there.
    pub fn open(name: &str) -> Result<Self, Error> {
        let mut padded = [0; 128];
        let Some(space) = padded[..127].get_mut(..name.len()) else {
            return Err(Error::Usage(format!("{name}: longer than 127 bytes")));
        };
        space.copy_from_slice(name.as_bytes());
        let path = Path::new(CONTROL);
        let control = File::options()
            .read(true)
            .write(true)
            .open(path)
            .context(path, "open")?;
        Ok(Self {
            control,
            name: padded,
        })
    }

    fn set(&self, happened: usize) -> Result<(), Error> {
        let mut message = self.message(&[b"mark ", encode(happened).as_slice()].concat());
        // SAFETY: DM_TARGET_MSG takes a pointer to a `dm_ioctl` that says in `data_size` how many bytes there are at
        // that place; that is the size of the whole `DmMessage`.
        let updater = unsafe { Updater::<DM_TARGET_MSG, DmMessage>::new(&mut message) };
        // SAFETY: the descriptor is device mapper's control device, for which this number has this meaning, and the
        // kernel writes back no more than `data_size` bytes.
        unsafe { rustix::ioctl::ioctl(&self.control, updater) }
            .context(Path::new(CONTROL), "send a mark through")
    }

    /// A message of two words, ended by the zeros behind it.
    fn message(&self, text: &[u8]) -> DmMessage {
        let mut message = [0; 64];
        message[..text.len()].copy_from_slice(text);
        DmMessage {
            header: DmIoctl {
                version: [4, 0, 0],
                data_size: MESSAGE_LEN,
                data_start: HEADER_LEN,
                target_count: 0,
                open_count: 0,
                flags: 0,
                event_nr: 0,
                padding: 0,
                dev: 0,
                name: self.name,
                uuid: [0; 129],
                data: [0; 7],
            },
            sector: 0,
            message,
        }
    }
}
