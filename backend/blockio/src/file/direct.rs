//! Whether, and with what alignment, a file can be read and written past the page cache.

use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, OFlags, StatxFlags};

use super::{BlockFile, set_status_flags};
use crate::buffer::AlignedBuf;

/// `STATX_DIOALIGN` of `linux/stat.h`.
const STATX_DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);

/// What operations on a file open for direct I/O must be aligned to, in bytes. Both are powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DioAlignment {
    /// Alignment of memory addresses.
    pub memory: u32,
    /// Alignment of offsets in the file, and of the length of each segment.
    pub offset: u32,
}

/// What the kernel says about direct I/O on a file.
enum Report {
    Aligned(DioAlignment),
    Unsupported,
    /// Kernels before 6.1, and file systems that do not answer.
    Silent,
}

impl BlockFile {
    /// Switches to direct I/O if the file supports it with at most this alignment; logs why if not.
    pub(super) fn try_direct(&mut self, alignment_max: u32) {
        match self.enable_direct(alignment_max) {
            Ok(alignment) => self.dio_alignment = Some(alignment),
            Err(reason) => {
                let path = self.path.display();
                tracing::info!("{path}: using the page cache instead of direct I/O: {reason}");
                if let Err(cause) = set_status_flags(&self.file, OFlags::DIRECT, false) {
                    tracing::error!("{path}: direct I/O cannot be switched off again: {cause}");
                }
            }
        }
    }

    fn enable_direct(&self, alignment_max: u32) -> Result<DioAlignment, String> {
        let report = self.reported_alignment();
        if matches!(report, Report::Unsupported) {
            return Err("the file system does not support it for this file".to_owned());
        }
        set_status_flags(&self.file, OFlags::DIRECT, true)
            .map_err(|cause| format!("the file system refuses it ({cause})"))?;
        let alignment = match report {
            Report::Aligned(alignment) => alignment,
            _ => self.probe_alignment()?,
        };
        let coarsest = alignment.memory.max(alignment.offset);
        if coarsest > alignment_max {
            return Err(format!(
                "it needs an alignment of {coarsest} bytes, more than {alignment_max}"
            ));
        }
        Ok(alignment)
    }

    fn reported_alignment(&self) -> Report {
        let Ok(status) = rustix::fs::statx(&self.file, c"", AtFlags::EMPTY_PATH, STATX_DIOALIGN)
        else {
            return Report::Silent;
        };
        if status.stx_mask & STATX_DIOALIGN.bits() == 0 {
            return Report::Silent;
        }
        if status.stx_dio_offset_align == 0 || status.stx_dio_mem_align == 0 {
            return Report::Unsupported;
        }
        Report::Aligned(DioAlignment {
            memory: status.stx_dio_mem_align,
            offset: status.stx_dio_offset_align,
        })
    }

    /// Finds the alignment by reading. An empty file answers any read, so it tells nothing.
    fn probe_alignment(&self) -> Result<DioAlignment, String> {
        const COARSEST: usize = 4096;
        let mut memory = AlignedBuf::zeroed(2 * COARSEST);
        let size = self
            .size()
            .map_err(|cause| format!("its size is not known ({cause})"))?;
        for (alignment, reported) in [(512, 512), (COARSEST, 4096)] {
            if alignment < COARSEST && size < COARSEST as u64 {
                continue;
            }
            // Aligned to `alignment` and nothing coarser, in memory, offset and length.
            let part = &mut memory.as_mut_slice()[alignment % COARSEST..][..alignment];
            match self.file.read_at(part, (alignment % COARSEST) as u64) {
                Ok(_) => {
                    return Ok(DioAlignment {
                        memory: reported,
                        offset: reported,
                    });
                }
                Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => {}
                Err(cause) => return Err(format!("a test read failed ({cause})")),
            }
        }
        Err("it does not work with an alignment of 4096 bytes".to_owned())
    }
}
