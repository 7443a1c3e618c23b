//! What it costs in a dom0 to reach pages of a guest for one request: by mapping them, or by copying.
//!
//! `map_or_copy [ROUNDS]`. The pages are granted by this process itself, through the kernel's gntalloc, to the domain that it
//! runs in, so no guest is needed. Each way reads all bytes and checks them. Prints the median of the rounds, which take
//! turns, in microseconds for each request.
//!
//! Source of the interface: `include/uapi/xen/gntalloc.h` of Linux.
#![allow(
    unsafe_code,
    reason = "the interface of gntalloc is ioctl and mmap; see the library"
)]

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use xengnttab::{Access, CopySegment, DomId, Gnttab, GrantRef, PAGE_SIZE};

/// Pages of a request: one, as many as a plain request has at most, and 128 KiB.
const PAGES: [usize; 3] = [1, 11, 32];

/// `IOCTL_GNTALLOC_ALLOC_GREF`: `_IOC(_IOC_NONE, 'G', 5, 24)`.
const ALLOC_GREF: libc::c_ulong = 24 << 16 | (b'G' as libc::c_ulong) << 8 | 5;

/// `GNTALLOC_FLAG_WRITABLE`.
const WRITABLE: u64 = 1;

/// Pages of this process that are granted to the domain that it runs in. They stay granted until it ends.
struct Granted {
    grefs: Vec<GrantRef>,
    memory: *mut u8,
    _device: File,
}

impl Granted {
    fn pages(domid: DomId, count: usize) -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/xen/gntalloc")?;
        // A word of domain, flags and count, a word for the offset, and the references, two in a word.
        let mut request = vec![0_u64; 2 + count.div_ceil(2)];
        request[0] = u64::from(domid.0) | WRITABLE << 16 | (count as u64) << 32;
        // SAFETY: the structure is as the kernel expects it, with room for `count` references, and lives during the call.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), ALLOC_GREF, request.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let offset = libc::off_t::try_from(request[1]).expect("a small offset");
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * PAGE_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                device.as_raw_fd(),
                offset,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let refs = request[2..]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect::<Vec<_>>();
        let grefs = refs
            .chunks_exact(4)
            .take(count)
            .map(|bytes| GrantRef(u32::from_ne_bytes(bytes.try_into().expect("four bytes"))))
            .collect();
        Ok(Self {
            grefs,
            memory: memory.cast(),
            _device: device,
        })
    }

    fn fill(&self, byte: u8) {
        let len = self.grefs.len() * PAGE_SIZE;
        // SAFETY: the memory is mapped as long as the process lives, and nothing refers to it.
        unsafe { self.memory.write_bytes(byte, len) };
    }
}

/// Maps the pages, reads them, and unmaps them.
fn map(
    gnttab: &Gnttab,
    domid: DomId,
    grefs: &[GrantRef],
    data: &mut [u8],
) -> Result<(), Box<dyn Error>> {
    let mapping = gnttab.map(domid, grefs, Access::ReadOnly)?;
    for (page, data) in mapping.into_pages().zip(data.chunks_mut(PAGE_SIZE)) {
        page.copy_out(0, data);
    }
    Ok(())
}

/// Has the pages copied.
fn copy(
    gnttab: &Gnttab,
    domid: DomId,
    grefs: &[GrantRef],
    data: &mut [u8],
) -> Result<(), Box<dyn Error>> {
    let chunks = data.chunks_mut(PAGE_SIZE);
    let mut segments: Vec<_> = grefs
        .iter()
        .zip(chunks)
        .map(|(gref, to)| CopySegment::FromGrant {
            gref: *gref,
            offset: 0,
            to,
        })
        .collect();
    for result in gnttab.copy(domid, &mut segments)? {
        result?;
    }
    Ok(())
}

fn median(times: &mut [Duration]) -> u128 {
    times.sort_unstable();
    times[times.len() / 2].as_micros()
}

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(1_000_u32), |rounds| rounds.parse())?;
    // Grants to the domain itself are good grants.
    let domid = DomId(0);
    let gnttab = Gnttab::open()?;
    for pages in PAGES {
        let granted = Granted::pages(domid, pages)?;
        let mut data = vec![0; pages * PAGE_SIZE];
        let (mut mapped, mut copied) = (Vec::new(), Vec::new());
        for round in 0..rounds.max(1) {
            let fill = u8::try_from(round % 251)? + 1;
            granted.fill(fill);
            for (way, times) in [
                (map as fn(&_, _, &_, &mut _) -> _, &mut mapped),
                (copy, &mut copied),
            ] {
                data.fill(0);
                let begun = Instant::now();
                way(&gnttab, domid, &granted.grefs, &mut data)?;
                times.push(begun.elapsed());
                if data.iter().any(|byte| *byte != fill) {
                    return Err(
                        format!("{pages} pages of {fill} were not read in round {round}").into(),
                    );
                }
            }
        }
        let (mapped, copied) = (median(&mut mapped), median(&mut copied));
        println!(
            "{pages} pages: mapping, reading and unmapping takes {mapped} us, copying {copied} us"
        );
    }
    Ok(())
}
