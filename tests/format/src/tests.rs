use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use blockio::image::{CreateOptions, Image, ImageAccess, create};
use blockio::offline::resize;
use dscow::engine::Request;
use dscow::header::{Header, State};
use dscow::layout::Headroom;
use dscow::units::{BlockSize, DiskRange};
use tempfile::TempDir;
use uuid::Uuid;

use crate::guest::Guest;
use crate::other;

/// Numbers that look random, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % end
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len)
            .map(|_| u8::try_from(self.below(256)).unwrap())
            .collect()
    }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn create(
        &self,
        name: &str,
        base: Option<&str>,
        size: Option<u64>,
        block_size: u64,
    ) -> PathBuf {
        let options = CreateOptions {
            base: base.map(|base| self.path(base)),
            size,
            block_size: BlockSize::from_bytes(block_size).unwrap(),
            headroom: Some(Headroom::UpTo(8 << 20)),
            ..CreateOptions::default()
        };
        create(&self.path(name), &options).unwrap();
        self.path(name)
    }
}

/// Writes, discards and zeroes all over the disk.
fn use_disk(guest: &mut Guest, size: u64, random: &mut Random) {
    for _ in 0..40 {
        let start = random.below(size / 512) * 512;
        let len = ((1 + random.below(60)) * 512).min(size - start);
        let range = DiskRange::new(start, len);
        match random.below(6) {
            0 => guest.request(Request::Discard(range), &[]),
            1 => guest.request(Request::WriteZeroes(range), &[]),
            2 => guest.request(Request::Flush, &[]),
            _ => guest.request(Request::Write(range), &random.bytes(len)),
        };
    }
}

/// Both say the same of what a disk holds. Clean, and left by a crash.
#[test]
fn both_read_the_same_from_a_chain() {
    let mut random = Random(7);
    let folder = Folder::new();
    // Ends inside a block, as the disks do.
    let base = random.bytes((2 << 20) + 1536);
    fs::write(folder.path("base.img"), base).unwrap();
    // Smaller than what is below, then larger, so that ends of parents and a limit of one show; and each block size over
    // another.
    let layers = [
        ("1.cow", "base.img", (1 << 20) + 512, 65536),
        ("2.cow", "1.cow", (3 << 20) + 512, 4096),
        ("3.cow", "2.cow", (2 << 20) + 2560, 16384),
    ];
    for (name, below, size, block_size) in layers {
        let path = folder.create(name, Some(below), Some(size), block_size);
        let mut guest = Guest::start(&path);
        use_disk(&mut guest, size, &mut random);
        guest.stop();
        resize(&path, size + (1 << 20)).unwrap();
        let mut guest = Guest::start(&path);
        use_disk(&mut guest, size + (1 << 20), &mut random);
        let ours = guest.read_all();
        guest.stop();
        let Some(theirs) = other::read(&path) else {
            return;
        };
        assert_eq!(ours.len(), theirs.len());
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!(
            differs, None,
            "the first byte of {name} in which they differ"
        );
        let limit = header(&path).parent_limit;
        assert_eq!(limit.is_some(), name != "2.cow", "{name}: {limit:?}");
    }
    let path = folder.path("3.cow");
    let mut guest = Guest::start(&path);
    use_disk(&mut guest, 2 << 20, &mut random);
    let ours = guest.read_all();
    guest.crash();
    assert!(matches!(header(&path).state, State::InUse { .. }));
    assert!(other::read(&path).unwrap() == ours);
}

fn header(path: &Path) -> Header {
    let mut slot = [0; 4096];
    fs::File::open(path)
        .unwrap()
        .read_exact_at(&mut slot, 0)
        .unwrap();
    Header::decode(&slot).unwrap()
}

/// Why we refuse an image.
fn refusal(path: &Path) -> Option<String> {
    let error = Image::open(path, ImageAccess::ReadOnly).err();
    error.map(|error| error.to_string())
}

/// Offset and size of every field of a slot, and of some of what is reserved.
const FIELDS: [(usize, usize); 31] = [
    (0, 8),
    (8, 4),
    (12, 4),
    (16, 8),
    (24, 8),
    (32, 8),
    (40, 8),
    (48, 8),
    (64, 8),
    (72, 4),
    (76, 4),
    (80, 8),
    (88, 8),
    (96, 8),
    (104, 8),
    (112, 8),
    (120, 4),
    (124, 4),
    (128, 8),
    (144, 8),
    (152, 8),
    (160, 8),
    (192, 8),
    (200, 4),
    (204, 4),
    (208, 8),
    (224, 4),
    (228, 4),
    (232, 8),
    (300, 8),
    (3600, 8),
];

/// Values at which rules begin and end, given the one that is there.
fn values(now: u64) -> Vec<u64> {
    let mut values = vec![
        0,
        1,
        2,
        3,
        11,
        12,
        21,
        22,
        512,
        4096,
        8192,
        3072,
        3073,
        1 << 20,
    ];
    values.extend([
        1 << 40,
        64 << 40,
        128 << 40,
        1 << 62,
        (1 << 62) + 1,
        u64::MAX,
    ]);
    for step in [1, 512, 4096, 1 << 20, 64 << 40] {
        values.extend([now.wrapping_add(step), now.wrapping_sub(step)]);
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// Slots with one field changed and the checksum made right.
fn changed(slot: &[u8; 4096]) -> Vec<([u8; 4096], String)> {
    let mut all = Vec::new();
    for (offset, size) in FIELDS {
        let mut now = [0; 8];
        now[..size].copy_from_slice(&slot[offset..offset + size]);
        for value in values(u64::from_le_bytes(now)) {
            let mut slot = *slot;
            slot[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
            if offset != 12 {
                slot[12..16].fill(0);
                let checksum = crc32c::crc32c(&slot);
                slot[12..16].copy_from_slice(&checksum.to_le_bytes());
            }
            all.push((slot, format!("{value:#x} in the field at {offset}")));
        }
    }
    all
}

/// Both take and refuse the same images, at every edge of every rule.
#[test]
fn both_judge_the_same_of_every_field() {
    let folder = Folder::new();
    fs::write(folder.path("base.img"), vec![1; 1 << 20]).unwrap();
    folder.create("base.cow", None, Some(1 << 20), 4096);
    let mut refused = [0, 0];
    for (base, in_use) in [
        (None, false),
        (Some("base.img"), true),
        (Some("base.cow"), false),
    ] {
        let original = folder.create("original.cow", base, Some(2 << 20), 4096);
        let mut of_original = header(&original);
        if in_use {
            of_original.state = State::InUse {
                owner: Uuid::from_u128(1),
            };
        }
        let slots = changed(&of_original.encode());
        let len = of_original.layout.file_len();
        let write = |(i, (slot, _)): (usize, &([u8; 4096], String))| {
            let path = folder.path(&format!("{i}.cow"));
            let file = fs::File::create(&path).unwrap();
            file.set_len(len).unwrap();
            file.write_all_at(slot, 0).unwrap();
            path
        };
        let paths: Vec<PathBuf> = slots.iter().enumerate().map(write).collect();
        let Some(verdicts) = other::judge(&paths) else {
            return;
        };
        for (((_, what), path), theirs) in slots.iter().zip(&paths).zip(verdicts) {
            let ours = refusal(path);
            assert_eq!(
                ours.is_none(),
                theirs == "ok",
                "{what}, base {base:?}, in use {in_use}: ours {ours:?}, the other {theirs}"
            );
            refused[usize::from(ours.is_some())] += 1;
        }
        fs::remove_file(&original).unwrap();
    }
    // Both kinds in numbers, or nothing was compared.
    assert!(refused[0] > 500 && refused[1] > 500, "{refused:?}");
}

/// Each pair of slots: which is in force, or why none is.
#[test]
fn both_choose_the_same_slot() {
    let folder = Folder::new();
    let original = folder.create("original.cow", None, Some(1 << 20), 4096);
    let good = |sequence: u64, size: u64| {
        let mut header = header(&original);
        header.sequence = sequence;
        header.layout = header.layout.grown(size).unwrap();
        header.state = State::InUse {
            owner: Uuid::from_u128(1),
        };
        *header.encode()
    };
    let mut torn = good(9, 512);
    torn[4000] = 1;
    let mut unknown = good(7, 512);
    unknown[24] = 1;
    unknown[12..16].fill(0);
    let checksum = crc32c::crc32c(&unknown);
    unknown[12..16].copy_from_slice(&checksum.to_le_bytes());
    // Different sizes, of which the file has room for the smaller ones only: so the choice shows in the verdict.
    let kinds = [
        [0; 4096],
        torn,
        unknown,
        good(5, 1 << 20),
        good(6, 1 << 20),
        good(6, 2 << 20),
        good(8, 2 << 20),
        good(8, 1 << 20),
    ];
    let mut paths = Vec::new();
    for (i, a) in kinds.iter().enumerate() {
        for (j, b) in kinds.iter().enumerate() {
            let path = folder.path(&format!("{i}-{j}.cow"));
            let file = fs::File::create(&path).unwrap();
            file.set_len(header(&original).layout.file_len()).unwrap();
            file.write_all_at(a, 0).unwrap();
            file.write_all_at(b, 4096).unwrap();
            paths.push(path);
        }
    }
    let Some(verdicts) = other::judge(&paths) else {
        return;
    };
    let mut taken = 0;
    for (path, theirs) in paths.iter().zip(verdicts) {
        let ours = refusal(path);
        assert_eq!(
            ours.is_none(),
            theirs == "ok",
            "{}: ours {ours:?}, the other {theirs}",
            path.display()
        );
        taken += usize::from(ours.is_none());
    }
    assert!((10..54).contains(&taken), "{taken}");
}

/// What keeps a chain from being used does so for both.
#[test]
fn both_notice_that_a_parent_changed() {
    let folder = Folder::new();
    let base = folder.path("base.img");
    fs::write(&base, vec![1; 1 << 20]).unwrap();
    let middle = folder.create("middle.cow", Some("base.img"), None, 4096);
    let top = folder.create("top.cow", Some("middle.cow"), None, 4096);
    let check = |expected: &[&str]| {
        let paths = [middle.clone(), top.clone()];
        let ours = paths
            .iter()
            .map(|path| Image::open(path, ImageAccess::ReadOnly).is_ok());
        let theirs = other::judge(&paths)?;
        let theirs_ok: Vec<bool> = theirs.iter().map(|verdict| verdict == "ok").collect();
        assert_eq!(ours.collect::<Vec<_>>(), theirs_ok, "{theirs:?}");
        for (verdict, expected) in theirs.iter().zip(expected) {
            assert!(
                verdict.contains(expected),
                "{verdict} is not about {expected}"
            );
        }
        Some(())
    };
    if check(&["ok", "ok"]).is_none() {
        return;
    }
    let modified = fs::metadata(&base).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(&base).unwrap();
    file.write_all_at(&[2], 5000).unwrap();
    file.set_modified(modified).unwrap();
    check(&["fingerprint", "fingerprint"]);
    file.write_all_at(&[1], 5000).unwrap();
    check(&["modified", "modified"]);
    file.set_modified(modified).unwrap();
    check(&["ok", "ok"]);
    Guest::start(&middle).stop();
    check(&["ok", "generation"]);
    fs::remove_file(&base).unwrap();
    check(&["No such file", "generation"]);
}
