//! Images on block devices: loop devices over sparse files.

use std::process::Command;

use dscow::layout::{Headroom, LayoutError};

use super::*;
use crate::testing::{LoopDevice, Mounted};

/// A loop device of `len` bytes of zeros in a folder of its own.
struct Device {
    // First, so that the device is detached before its file goes.
    device: LoopDevice,
    folder: TempDir,
}

impl Device {
    fn new(len: u64, arguments: &[&str]) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let backing = folder.path().join("backing");
        fs::File::create(&backing).unwrap().set_len(len).unwrap();
        let device = LoopDevice::attach(&backing, arguments)?;
        Some(Self { device, folder })
    }

    fn path(&self) -> &Path {
        &self.device.path
    }

    fn create(&self, options: &CreateOptions) -> Result<dscow::header::Header, ImageError> {
        create(self.path(), options)
    }

    fn refusal(&self, options: &CreateOptions) -> String {
        let error = self.create(options).unwrap_err().to_string();
        error.replace(self.path().to_str().unwrap(), "DEVICE")
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let device = fs::File::options().write(true).open(self.path()).unwrap();
        device.write_all_at(bytes, offset).unwrap();
        device.sync_all().unwrap();
    }
}

fn of_size(size: u64) -> CreateOptions {
    CreateOptions {
        size: Some(size),
        ..CreateOptions::default()
    }
}

#[test]
fn an_image_fills_its_device_to_the_last_block() {
    let Some(device) = Device::new(16 << 20, &[]) else {
        return;
    };
    let header = device.create(&of_size(15 << 20)).unwrap();
    assert_eq!(header.layout.file_len(), 16 << 20);
    assert_eq!(header.layout.bitmap_reserved_len(), 4096);
    let image = Image::open(device.path(), ImageAccess::Writable).unwrap();
    assert_eq!(image.bitmap().count_set(), 0);
    drop(image);
    assert!(check(device.path()).unwrap().problems.is_empty());
}

#[test]
fn a_device_that_is_too_small_is_refused_with_the_sizes() {
    let Some(device) = Device::new(16 << 20, &[]) else {
        return;
    };
    assert_eq!(
        device.refusal(&of_size(16 << 20)),
        "DEVICE: is too small: the image would take 17825792 bytes (1048576 of them in front of its data), but the \
         device has 16777216; the largest disk for which it has room is one of 15728640 bytes"
    );
    let options = CreateOptions {
        headroom: Some(Headroom::Generous),
        ..of_size(15 << 20)
    };
    assert!(
        device
            .refusal(&options)
            .ends_with("(135266304 of them in front of its data), but the device has 16777216; it has no room for any image")
    );
    let header = device
        .create(&CreateOptions {
            headroom: Some(Headroom::UpTo(10 << 30)),
            ..of_size(14 << 20)
        })
        .unwrap();
    assert_eq!(header.layout.largest_disk_of_bitmap(), 10 << 30);
    let error = device.create(&CreateOptions {
        headroom: Some(Headroom::UpTo(65 << 40)),
        ..of_size(14 << 20)
    });
    let Err(ImageError::Layout { cause, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(cause, LayoutError::VirtualSize(65 << 40));
}

#[test]
fn what_a_device_holds_is_lost_only_by_force() {
    let Some(device) = Device::new(16 << 20, &[]) else {
        return;
    };
    device.write((1 << 20) - 1, &[1]);
    assert_eq!(
        device.refusal(&of_size(1 << 20)),
        "DEVICE: holds data already; to give that up, create the image with --force"
    );
    device.write((1 << 20) - 1, &[0]);
    device.create(&of_size(1 << 20)).unwrap();
    assert_eq!(
        device.refusal(&of_size(1 << 20)),
        "DEVICE: holds a dscow image already; to give that up, create the image with --force"
    );
    // Of an image whose first slot is gone, the second still tells.
    device.write(0, &[0; 4096]);
    device.write(4096, b"DSCOW\r\n\x1a");
    assert!(device.refusal(&of_size(1 << 20)).contains("a dscow image"));
}

#[test]
fn nothing_of_what_was_on_the_device_shows_in_an_image_created_by_force() {
    let Some(device) = Device::new(16 << 20, &[]) else {
        return;
    };
    device.write(0, &vec![0xff; 16 << 20]);
    let options = CreateOptions {
        force: true,
        ..of_size(15 << 20)
    };
    device.create(&options).unwrap();
    let report = check(device.path()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.allocated_blocks, 0);
}

#[test]
fn a_device_in_use_is_left_alone_also_by_force() {
    let Some(device) = Device::new(64 << 20, &[]) else {
        return;
    };
    let force = CreateOptions {
        force: true,
        ..of_size(1 << 20)
    };
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .arg(device.path())
        .status();
    assert!(made.unwrap().success());
    let mount_point = device.folder.path().join("mnt");
    fs::create_dir(&mount_point).unwrap();
    let Some(mounted) = Mounted::new(device.path(), &mount_point) else {
        return;
    };
    assert_eq!(
        device.refusal(&force),
        "DEVICE: is mounted, or claimed by a volume group, an array or another program"
    );
    drop(mounted);
    device.create(&force).unwrap();
    let image = Image::open(device.path(), ImageAccess::Writable).unwrap();
    let refusal = device.refusal(&force);
    assert!(
        refusal.starts_with("DEVICE: cannot be locked for writing: it is in use by process"),
        "{refusal}"
    );
    // Who does not know of locks is kept out too.
    let made = Command::new("mkfs.ext4")
        .arg("-qF")
        .arg(device.path())
        .output();
    assert!(!made.unwrap().status.success());
    drop(image);
    device.create(&force).unwrap();
}

#[test]
fn a_device_that_shrank_does_not_open() {
    let Some(device) = Device::new(16 << 20, &[]) else {
        return;
    };
    device.create(&of_size(15 << 20)).unwrap();
    let backing = fs::File::options()
        .write(true)
        .open(device.folder.path().join("backing"));
    backing.unwrap().set_len(12 << 20).unwrap();
    device.device.follow_size();
    let error = Image::open(device.path(), ImageAccess::Writable)
        .err()
        .expect("it must not open");
    assert!(
        error
            .to_string()
            .ends_with("is truncated: 12582912 bytes long, but its header asks for 16777216"),
        "{error}"
    );
}
