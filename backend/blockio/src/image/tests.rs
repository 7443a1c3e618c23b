//! Images on real files and devices.

mod devices;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dscow::units::{BlockIndex, BlockSize};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A folder with a raw base of 1 MiB and an overlay on it.
struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self {
            folder: TempDir::new().unwrap(),
        };
        let content: Vec<u8> = (0..1 << 20).map(|i: u32| i.to_le_bytes()[1]).collect();
        fs::write(fixture.path("base.img"), content).unwrap();
        fixture.create("vm.cow", "base.img").unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn create(&self, name: &str, base: &str) -> Result<dscow::header::Header, ImageError> {
        let options = CreateOptions {
            base: Some(self.path(base)),
            ..CreateOptions::default()
        };
        create(&self.path(name), &options)
    }

    fn open_error(&self, name: &str) -> String {
        let error = Image::open(&self.path(name), ImageAccess::Writable);
        let message = error.err().expect("it must not open").to_string();
        message.replace(self.folder.path().to_str().unwrap(), "DIR")
    }

    fn patch(&self, name: &str, offset: u64, bytes: &[u8]) {
        let file = fs::File::options()
            .write(true)
            .open(self.path(name))
            .unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }
}

#[test]
fn a_new_overlay_takes_its_size_from_the_base_and_no_space() {
    let fixture = Fixture::new();
    let image = Image::open(&fixture.path("vm.cow"), ImageAccess::Writable).unwrap();
    assert_eq!(image.header().layout.virtual_size(), 1 << 20);
    assert_eq!(image.bitmap().count_set(), 0);
    assert_eq!(image.below().len(), 1);
    assert!(image.file().allocated_bytes().unwrap() <= 8192);
}

#[test]
fn an_image_without_a_base_needs_a_size() {
    let fixture = Fixture::new();
    let path = fixture.path("empty.cow");
    let error = create(&path, &CreateOptions::default()).unwrap_err();
    assert!(error.to_string().ends_with("give a size or a base"));
    assert!(!path.exists());
    let options = CreateOptions {
        size: Some(10 << 30),
        block_size: BlockSize::MAX,
        ..CreateOptions::default()
    };
    create(&path, &options).unwrap();
    let image = Image::open(&path, ImageAccess::ReadOnly).unwrap();
    assert_eq!(image.header().layout.block_count(), 5120);
}

#[test]
fn nothing_that_exists_is_replaced() {
    let fixture = Fixture::new();
    let before = fs::read(fixture.path("base.img")).unwrap();
    let error = fixture.create("base.img", "base.img").unwrap_err();
    assert!(error.to_string().ends_with("base.img: exists already"));
    assert_eq!(fs::read(fixture.path("base.img")).unwrap(), before);
}

#[test]
fn a_failed_creation_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let before = fs::read_dir(fixture.folder.path()).unwrap().count();
    fixture.create("new.cow", "missing.img").unwrap_err();
    fs::write(fixture.path("odd.img"), [0; 1000]).unwrap();
    let error = fixture.create("new.cow", "odd.img").unwrap_err();
    assert!(error.to_string().contains("not a multiple of 512"));
    let after = fs::read_dir(fixture.folder.path()).unwrap().count();
    assert_eq!(after, before + 1);
}

#[test]
fn each_reason_not_to_open_names_file_and_cause() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.open_error("none.cow"),
        "DIR/none.cow: does not exist"
    );
    assert_eq!(
        fixture.open_error("base.img"),
        "DIR/base.img: is not a dscow image"
    );
    fs::write(fixture.path("short"), b"DSCOW").unwrap();
    assert_eq!(
        fixture.open_error("short"),
        "DIR/short: is not a dscow image"
    );
    fs::create_dir(fixture.path("dir")).unwrap();
    assert!(
        fixture
            .open_error("dir")
            .contains("DIR/dir: is a directory")
    );
}

/// What a writer counted further would be no header.
#[test]
fn an_image_whose_counters_are_exhausted_is_only_read() {
    use dscow::header::{Header, State};

    let room = 1 << 32;
    for (sequence, generation, is_exhausted) in [
        ((1 << 62) - room, (1 << 62) - room, false),
        (1 << 62, 0, true),
        ((1 << 62) - room + 1, 0, true),
        (2, 1 << 62, true),
        (2, (1 << 62) - room + 1, true),
    ] {
        let fixture = Fixture::new();
        let path = fixture.path("vm.cow");
        let image = Image::open(&path, ImageAccess::ReadOnly).unwrap();
        let header = Header {
            sequence,
            generation,
            // So that a repair would find something to do.
            state: State::InUse {
                owner: uuid::Uuid::nil(),
            },
            ..image.header().clone()
        };
        drop(image);
        fixture.patch("vm.cow", 0, &header.encode()[..]);
        let before = fs::read(&path).unwrap();

        Image::open(&path, ImageAccess::ReadOnly).unwrap();
        assert!(check(&path).unwrap().problems.is_empty());
        if is_exhausted {
            let counter = sequence.max(generation);
            let message = format!(
                "DIR/vm.cow: cannot be written: a counter in its header stands at {counter}, and none goes beyond \
                 4611686018427387904; copy its disk into a new image with: cowback convert"
            );
            assert_eq!(fixture.open_error("vm.cow"), message);
            let parent = identify_parent(&fixture.path("base.img"), ParentFormat::Raw).unwrap();
            record_parent(&path, parent).unwrap_err();
            repair(&path).unwrap_err();
            assert!(fs::read(&path).unwrap() == before, "it is as it was");
        } else {
            Image::open(&path, ImageAccess::Writable).unwrap();
        }
    }
}

#[test]
fn an_open_image_cannot_be_opened_for_writing_again() {
    let fixture = Fixture::new();
    let _open = Image::open(&fixture.path("vm.cow"), ImageAccess::Writable).unwrap();
    let message = fixture.open_error("vm.cow");
    assert!(
        message.starts_with("DIR/vm.cow: cannot be locked for writing: it is in use by"),
        "{message}"
    );
}

#[test]
fn a_base_may_be_shared() {
    let fixture = Fixture::new();
    fixture.create("vm2.cow", "base.img").unwrap();
    let _one = Image::open(&fixture.path("vm.cow"), ImageAccess::Writable).unwrap();
    let _two = Image::open(&fixture.path("vm2.cow"), ImageAccess::Writable).unwrap();
}

#[test]
fn corrupt_headers_and_truncated_files_do_not_open() {
    let fixture = Fixture::new();
    fixture.patch("vm.cow", 64, &[1]);
    fixture.patch("vm.cow", 4096 + 64, &[1]);
    let message = fixture.open_error("vm.cow");
    assert!(
        message.starts_with("DIR/vm.cow: has a corrupt header (header slot A: header checksum")
    );
    let fixture = Fixture::new();
    let file = fs::File::options()
        .write(true)
        .open(fixture.path("vm.cow"))
        .unwrap();
    file.set_len((129 << 20) + 4096).unwrap();
    assert_eq!(
        fixture.open_error("vm.cow"),
        "DIR/vm.cow: is truncated: 135270400 bytes long, but its header asks for 136314880"
    );
}

#[test]
fn a_bitmap_that_changed_while_the_image_was_closed_does_not_open() {
    let fixture = Fixture::new();
    fixture.patch("vm.cow", 8192, &[1]);
    assert!(fixture.open_error("vm.cow").contains("corrupt bitmap"));
    let report = check(&fixture.path("vm.cow")).unwrap();
    assert_eq!(report.problems.len(), 1);
}

#[test]
fn check_finds_bits_in_the_headroom() {
    let fixture = Fixture::new();
    assert!(check(&fixture.path("vm.cow")).unwrap().problems.is_empty());
    fixture.patch("vm.cow", 8192 + 100_000, &[1]);
    let report = check(&fixture.path("vm.cow")).unwrap();
    assert_eq!(
        report.problems[0].to_string(),
        "the bitmap's headroom has a bit set at byte 108192 of the file"
    );
}

#[test]
fn a_base_that_changed_is_refused_and_can_be_recorded_anew() {
    let fixture = Fixture::new();
    fixture.patch("base.img", 300, &[77]);
    let message = fixture.open_error("vm.cow");
    assert!(
        message.starts_with(
            "DIR/vm.cow: its base DIR/base.img has changed since: its content is different; if"
        ),
        "{message}"
    );
    let parent = identify_parent(&fixture.path("base.img"), ParentFormat::Raw).unwrap();
    record_parent(&fixture.path("vm.cow"), parent).unwrap();
    Image::open(&fixture.path("vm.cow"), ImageAccess::Writable).unwrap();
}

#[test]
fn a_change_outside_the_samples_shows_in_the_modification_time() {
    let fixture = Fixture::new();
    // 1 MiB less 64 KiB has 240 pages, of which 64 are samples: page 1 of them is not.
    fixture.patch("base.img", (64 << 10) + 4096, &[77]);
    let message = fixture.open_error("vm.cow");
    assert!(message.contains("it was modified on @"), "{message}");
}

#[test]
fn a_base_of_another_size_is_refused() {
    let fixture = Fixture::new();
    let base = fs::File::options()
        .write(true)
        .open(fixture.path("base.img"))
        .unwrap();
    base.set_len(2 << 20).unwrap();
    let message = fixture.open_error("vm.cow");
    assert!(
        message.contains("its size is 2097152 bytes, was 1048576"),
        "{message}"
    );
}

#[test]
fn a_missing_base_is_named_with_its_overlay() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.path("base.img")).unwrap();
    assert_eq!(
        fixture.open_error("vm.cow"),
        "DIR/vm.cow: cannot open its base: DIR/base.img: does not exist"
    );
}

#[test]
fn a_chain_opens_and_a_parent_opened_for_writing_breaks_it() {
    let fixture = Fixture::new();
    fixture.create("top.cow", "vm.cow").unwrap();
    let image = Image::open(&fixture.path("top.cow"), ImageAccess::Writable).unwrap();
    let below: Vec<_> = image
        .below()
        .iter()
        .map(|layer| layer.path().to_owned())
        .collect();
    assert_eq!(below, [fixture.path("vm.cow"), fixture.path("base.img")]);
    // While it is open, its parent cannot be opened for writing.
    assert!(fixture.open_error("vm.cow").contains("in use by"));
    drop(image);
    let image = Image::open(&fixture.path("vm.cow"), ImageAccess::Writable).unwrap();
    let header = image.header().clone();
    drop(image);
    let written = dscow::header::Header {
        sequence: header.sequence + 1,
        generation: header.generation + 1,
        ..header
    };
    fixture.patch("vm.cow", 4096, &written.encode()[..]);
    let message = fixture.open_error("top.cow");
    assert!(
        message.contains("it was opened for writing (generation 1, was 0)"),
        "{message}"
    );
}

#[test]
fn an_image_that_names_itself_as_its_base_does_not_open() {
    let fixture = Fixture::new();
    let path = fixture.path("vm.cow");
    let parent = identify_parent(&path, ParentFormat::Dscow).unwrap();
    let image = Image::open(&path, ImageAccess::ReadOnly).unwrap();
    let header = dscow::header::Header {
        parent: Some(parent),
        ..image.header().clone()
    };
    drop(image);
    for slot in [0, 4096] {
        fixture.patch("vm.cow", slot, &header.encode()[..]);
    }
    for access in [ImageAccess::ReadOnly, ImageAccess::Writable] {
        let error = Image::open(&path, access);
        let message = error.err().expect("it must not open").to_string();
        assert!(message.ends_with("vm.cow: is its own base"), "{message}");
    }
}

#[test]
fn an_image_is_not_recorded_as_its_own_base() {
    let fixture = Fixture::new();
    fixture.create("middle.cow", "vm.cow").unwrap();
    fixture.create("upper.cow", "middle.cow").unwrap();
    let path = fixture.path("vm.cow");
    let before = fs::read(&path).unwrap();
    for (base, format) in [
        ("vm.cow", ParentFormat::Dscow),
        ("vm.cow", ParentFormat::Raw),
        ("middle.cow", ParentFormat::Dscow),
        ("upper.cow", ParentFormat::Dscow),
    ] {
        let parent = identify_parent(&fixture.path(base), format).unwrap();
        let error = record_parent(&path, parent).unwrap_err().to_string();
        assert!(
            error.ends_with("vm.cow: is its own base"),
            "{base}: {error}"
        );
        assert!(fs::read(&path).unwrap() == before, "{base}");
    }
}

#[test]
fn a_chain_of_64_images_opens_and_one_of_65_does_not() {
    let fixture = Fixture::new();
    let mut below = "vm.cow".to_owned();
    // vm.cow and base.img are two already.
    for i in 3..=64 {
        let name = format!("{i}.cow");
        fixture.create(&name, &below).unwrap();
        below = name;
    }
    let image = Image::open(&fixture.path("64.cow"), ImageAccess::ReadOnly).unwrap();
    assert_eq!(image.below().len(), 63);
    drop(image);
    fixture.create("65.cow", "64.cow").unwrap();
    let error = Image::open(&fixture.path("65.cow"), ImageAccess::ReadOnly);
    assert!(matches!(error, Err(ImageError::TooDeep(_))));
}

#[test]
fn a_base_with_a_dscow_header_is_dscow_unless_said_otherwise() {
    let fixture = Fixture::new();
    let path = fixture.path("vm.cow");
    let format = |format| identify_parent(&path, format).unwrap().format_name();
    assert_eq!(format(ParentFormat::Detect), "dscow");
    assert_eq!(format(ParentFormat::Raw), "raw");
    let error = identify_parent(&fixture.path("base.img"), ParentFormat::Dscow);
    assert!(matches!(error, Err(ImageError::NotAnImage(_))));
}

#[test]
fn a_bitmap_is_read_from_its_extents() {
    let fixture = Fixture::new();
    let options = CreateOptions {
        size: Some(64 << 30),
        ..CreateOptions::default()
    };
    let path = fixture.path("big.cow");
    let header = create(&path, &options).unwrap();
    let in_use = dscow::header::Header {
        sequence: header.sequence + 1,
        state: dscow::header::State::InUse {
            owner: uuid::Uuid::nil(),
        },
        ..header
    };
    fixture.patch("big.cow", 4096, &in_use.encode()[..]);
    fixture.patch("big.cow", 8192 + 1_000_000, &[0x10]);
    let image = Image::open(&path, ImageAccess::ReadOnly).unwrap();
    assert_eq!(image.bitmap().count_set(), 1);
    assert!(image.bitmap().is_set(BlockIndex(8_000_004)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_open_or_give_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..20_000),
        signed in any::<bool>(),
    ) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("image");
        if signed && bytes.len() > 12 {
            bytes[..8].copy_from_slice(b"DSCOW\r\n\x1a");
            bytes[8..12].copy_from_slice(&[2, 0, 0, 0]);
        }
        fs::write(&path, &bytes).unwrap();
        prop_assert!(Image::open(&path, ImageAccess::Writable).is_err());
    }
}
