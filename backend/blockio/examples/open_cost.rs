//! Measures what it costs to open a large image that holds little: time, and memory that becomes resident.
//!
//! `cargo run --release -p blockio --example open_cost [FOLDER]` makes an image of 1 TiB with 10 GiB allocated in
//! FOLDER (by default the temporary one) for each way in which the blocks may lie, opens each a few times, and prints
//! one line for each way as JSON.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use blockio::image::{CreateOptions, Image, ImageAccess, create};
use dscow::bitmap::Bitmap;
use dscow::engine::OnNoSpace;
use dscow::header::{Header, State};
use dscow::units::BlockIndex;

const DISK: u64 = 1 << 40;
const ALLOCATED: u64 = 10 << 30;
const BLOCK: u64 = 4096;
const TRIES: usize = 11;

/// How the allocated blocks lie on the disk.
struct Spread {
    name: &'static str,
    /// Blocks in each run.
    run: u64,
}

/// Together, as after an installation; in pieces of a megabyte, as in a used file system; every block by itself, which is
/// the worst case: each page of the bitmap has bits.
const SPREADS: [Spread; 3] = [
    Spread {
        name: "together",
        run: ALLOCATED / BLOCK,
    },
    Spread {
        name: "runs of 1 MiB",
        run: 256,
    },
    Spread {
        name: "single blocks",
        run: 1,
    },
];

fn main() -> io::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let path = folder.join(format!("open-cost-{}.cow", std::process::id()));
    for spread in &SPREADS {
        let result = make(&path, spread).and_then(|()| measure(&path, spread));
        fs::remove_file(&path)?;
        result?;
    }
    Ok(())
}

/// An image that says that blocks are allocated; where their data would be it has holes, which opening does not look at.
fn make(path: &Path, spread: &Spread) -> io::Result<()> {
    let options = CreateOptions {
        size: Some(DISK),
        ..CreateOptions::default()
    };
    let header = create(path, &options).map_err(io::Error::other)?;
    let mut bitmap = Bitmap::empty(&header.layout).unwrap();
    for run in runs(spread) {
        for block in run {
            bitmap.set(BlockIndex(block));
        }
    }
    let file = fs::File::options().write(true).open(path)?;
    let pages = bitmap.used_bytes().chunks(4096).zip(0..);
    for (page, number) in pages.filter(|(page, _)| page.iter().any(|byte| *byte != 0)) {
        file.write_all_at(page, header.layout.bitmap_offset().0 + number * 4096)?;
    }
    let bitmap_crc = bitmap.crc();
    for offset in [4096, 0] {
        let header = Header {
            sequence: header.sequence + 2 - offset / 4096,
            state: State::Clean { bitmap_crc },
            ..header.clone()
        };
        file.write_all_at(&header.encode()[..], offset)?;
    }
    file.sync_all()
}

fn runs(spread: &Spread) -> impl Iterator<Item = Range<u64>> {
    let count = ALLOCATED / BLOCK / spread.run;
    let (stride, run) = (DISK / BLOCK / count, spread.run);
    (0..count).map(move |i| i * stride..i * stride + run)
}

/// Prints the median time of opening, and how much memory became resident by the first.
fn measure(path: &Path, spread: &Spread) -> io::Result<()> {
    let mut times = Vec::new();
    let mut resident_kib = 0;
    for attempt in 0..TRIES {
        let before = resident_set_kib()?;
        let begun = Instant::now();
        let image = Image::open(path, ImageAccess::Writable).map_err(io::Error::other)?;
        let engine = image.into_engine(OnNoSpace::Report);
        times.push(begun.elapsed());
        if attempt == 0 {
            resident_kib = resident_set_kib()?.saturating_sub(before);
        }
        drop(engine);
    }
    times.sort();
    println!(
        "{{\"disk_bytes\": {DISK}, \"allocated_bytes\": {ALLOCATED}, \"spread\": \"{}\", \"open_ms\": {:.3}, \
         \"resident_kib\": {resident_kib}}}",
        spread.name,
        times[TRIES / 2].as_secs_f64() * 1000.0
    );
    Ok(())
}

fn resident_set_kib() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
