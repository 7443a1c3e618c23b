//! Disks copied into new images and raw files.

use super::*;
use crate::testing::LoopDevice;

#[test]
fn a_chain_is_flattened_into_a_sparse_raw_file_and_back() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 64 * MIB, &[(0, 1 << 20, 1)]);
    let top = folder.overlay("top.cow", &base, Some(64 * MIB + 512), 4096);
    // Among the data are a block of zeros, and one that is not all zeros.
    write(
        &top,
        &[
            (512 << 10, 8192, 0),
            (64 * MIB, 512, 9),
            (32 * MIB + 512, 512, 5),
        ],
    );
    let before = content(&top);
    let raw = folder.path("flat.img");
    let converted = to_raw(&top, &raw);
    assert_eq!(converted.virtual_size, 64 * MIB + 512);
    assert_eq!(converted.written_bytes, MIB - 8192 + 4096 + 512);
    assert_eq!(fs::read(&raw).unwrap(), before);
    let image = folder.path("flat.cow");
    to_dscow(&raw, &image, None, 64 << 10);
    assert_eq!(content(&image), before);
    // All 16 blocks of the first MiB have data, and two more.
    assert_eq!(allocated(&image), 18);
    let file = Image::open(&raw, ImageAccess::ReadOnly);
    assert!(file.is_err_and(|error| matches!(error, ImageError::NotAnImage(_))));
    use std::os::unix::fs::MetadataExt;
    assert!(fs::metadata(&raw).unwrap().blocks() * 512 < 2 * MIB);
}

#[test]
fn over_a_base_only_what_differs_is_held() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 2 << 20, 1)]);
    let mut bytes = fs::read(&base).unwrap();
    bytes[5000] = 9;
    bytes[1 << 20..(1 << 20) + 4096].fill(0);
    let full = folder.path("full.img");
    fs::write(&full, &bytes).unwrap();
    let thin = folder.path("thin.cow");
    to_dscow(&full, &thin, Some(&base), 4096);
    assert_eq!(content(&thin), bytes);
    assert_eq!(allocated(&thin), 2);
    // A chain is shortened without reading what stays.
    let top = folder.overlay("top.cow", &thin, None, 4096);
    write(&top, &[(3 * MIB, 4096, 3)]);
    let short = folder.path("short.cow");
    let converted = to_dscow(&top, &short, Some(&base), 4096);
    assert_eq!(
        (converted.read_bytes, converted.written_bytes),
        (3 * 4096, 3 * 4096)
    );
    assert_eq!(content(&short), content(&top));
}

#[test]
fn nothing_that_exists_is_replaced_and_nothing_is_left_of_a_failure() {
    let folder = Folder::new();
    let base = folder.raw("base.img", MIB, &[(0, 4096, 1)]);
    let raw = Target::Raw { force: true };
    let error = convert((&base, DETECT), &base, &raw, true, &mut Silent).unwrap_err();
    assert_eq!(message(&error, &folder), "DIR/base.img: exists already");
    let new = folder.path("new.cow");
    let options = CreateOptions {
        base: Some(folder.path("none.img")),
        ..CreateOptions::default()
    };
    let dscow = Target::Dscow(options);
    let error = convert((&base, DETECT), &new, &dscow, true, &mut Silent).unwrap_err();
    assert_eq!(message(&error, &folder), "DIR/none.img: does not exist");
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 1);
}

#[test]
fn a_raw_disk_on_a_device_has_zeros_where_the_source_has_none() {
    // Also where the disk ends inside a sector of the device.
    for sector_size in ["512", "4096"] {
        convert_to_device(&["--sector-size", sector_size]);
    }
}

fn convert_to_device(options: &[&str]) {
    let folder = Folder::new();
    let backing = folder.raw("backing", 4 * MIB, &[(MIB, 3 << 20, 0xee)]);
    let Some(device) = LoopDevice::attach(&backing, options) else {
        return;
    };
    let empty = folder.raw("empty.img", MIB + 512, &[]);
    to_raw(&empty, &device.path);
    let on_device = fs::read(&device.path).unwrap();
    assert!(on_device[..1 << 20 | 512].iter().all(|byte| *byte == 0));
    assert!(on_device[1 << 20 | 512..].iter().all(|byte| *byte == 0xee));
    let source = folder.raw(
        "source.img",
        3 * MIB + 512,
        &[(0, 4096, 1), (2 << 20, 4096, 2)],
    );
    to_raw(&source, &device.path);
    let on_device = fs::read(&device.path).unwrap();
    assert_eq!(on_device[..3 << 20 | 512], fs::read(&source).unwrap());
    assert!(on_device[3 << 20 | 512..].iter().all(|byte| *byte == 0xee));
    let large = folder.raw("large.img", 5 * MIB, &[]);
    let raw = Target::Raw { force: true };
    let error = convert((&large, DETECT), &device.path, &raw, true, &mut Silent).unwrap_err();
    let message = message(&error, &folder);
    assert!(
        message.ends_with(": holds 4194304 bytes, but 5242880 are needed"),
        "{message}"
    );
    let raw = Target::Raw { force: false };
    convert((&source, DETECT), &device.path, &raw, true, &mut Silent).unwrap_err();
}
