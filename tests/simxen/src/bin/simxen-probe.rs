//! Makes system calls on command, one a line on standard input, and prints one line of result for each: the far side
//! of the tests of the shim. It knows only libc and libxenevtchn, like any backend.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::{BufRead, Write};
use std::mem::transmute;

const MAP_GRANT_REF: u64 = 24 << 16 | (b'G' as u64) << 8;
const UNMAP_GRANT_REF: u64 = 16 << 16 | (b'G' as u64) << 8 | 1;
const GET_OFFSET_FOR_VADDR: u64 = 24 << 16 | (b'G' as u64) << 8 | 2;
const GRANT_COPY: u64 = 16 << 16 | (b'G' as u64) << 8 | 8;
const PAGE_BYTES: usize = 4096;

#[repr(C)]
struct MapGrantRefs {
    count: u32,
    pad: u32,
    index: u64,
    grants: [[u32; 2]; 2048],
}

#[repr(C)]
struct UnmapGrantRefs {
    index: u64,
    count: u32,
    pad: u32,
}

#[repr(C)]
struct OffsetForAddress {
    address: u64,
    offset: u64,
    count: u32,
    pad: u32,
}

#[repr(C)]
struct CopySegment {
    source: u64,
    dest: u64,
    length: u16,
    flags: u16,
    status: i16,
}

#[repr(C)]
struct Copy {
    count: u32,
    segments: *mut CopySegment,
}

type Outcome = Result<String, String>;

/// The result of a C function, with errno where it failed.
fn checked(result: c_int) -> Result<c_int, String> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn shown(result: Result<impl ToString, String>) -> Outcome {
    result.map(|result| result.to_string())
}

fn errno() -> String {
    let errno = std::io::Error::last_os_error().raw_os_error();
    format!("errno {}", errno.unwrap_or(0))
}

/// The words of a command, each read as a number; hexadecimal ones begin with 0x.
struct Arguments<'l>(std::str::SplitWhitespace<'l>);

impl Arguments<'_> {
    fn number(&mut self) -> Result<usize, String> {
        let word = self.0.next().ok_or("an argument is missing")?;
        let parsed = match word.strip_prefix("0x") {
            Some(digits) => usize::from_str_radix(digits, 16),
            None => word.parse(),
        };
        parsed.map_err(|error| format!("{word}: {error}"))
    }

    fn as_type<T: TryFrom<usize>>(&mut self) -> Result<T, String> {
        let number = self.number()?;
        T::try_from(number).map_err(|_| format!("{number} is too large"))
    }

    fn rest(&mut self) -> Result<Vec<u32>, String> {
        let mut numbers = Vec::new();
        let words: Vec<&str> = self.0.by_ref().collect();
        for word in words {
            numbers.push(word.parse().map_err(|error| format!("{word}: {error}"))?);
        }
        Ok(numbers)
    }
}

fn open() -> Outcome {
    // SAFETY: the path is a C string.
    let fd = unsafe { libc::open(c"/dev/xen/gntdev".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    checked(fd).map(|fd| fd.to_string())
}

fn close(arguments: &mut Arguments<'_>) -> Outcome {
    // SAFETY: closing a descriptor that the test names concerns nothing else in this program.
    checked(unsafe { libc::close(arguments.as_type()?) }).map(|_| "ok".to_owned())
}

fn map(arguments: &mut Arguments<'_>) -> Outcome {
    let fd: c_int = arguments.as_type()?;
    let numbers = arguments.rest()?;
    let mut request = Box::new(MapGrantRefs {
        count: u32::try_from(numbers.len() / 2).map_err(|error| error.to_string())?,
        pad: 0,
        index: u64::MAX,
        grants: [[0; 2]; 2048],
    });
    for (grant, pair) in request.grants.iter_mut().zip(numbers.chunks_exact(2)) {
        *grant = [pair[0], pair[1]];
    }
    // SAFETY: the argument is as the driver wants it, with room for all grants.
    checked(unsafe { libc::ioctl(fd, MAP_GRANT_REF, &raw mut *request) })?;
    Ok(request.index.to_string())
}

fn unmap(arguments: &mut Arguments<'_>) -> Outcome {
    let fd: c_int = arguments.as_type()?;
    let mut request = UnmapGrantRefs {
        index: arguments.as_type()?,
        count: arguments.as_type()?,
        pad: 0,
    };
    // SAFETY: the argument is as the driver wants it.
    checked(unsafe { libc::ioctl(fd, UNMAP_GRANT_REF, &raw mut request) })?;
    Ok("ok".to_owned())
}

fn offset(arguments: &mut Arguments<'_>) -> Outcome {
    let fd: c_int = arguments.as_type()?;
    let mut request = OffsetForAddress {
        address: arguments.as_type()?,
        offset: 0,
        count: 0,
        pad: 0,
    };
    // SAFETY: the argument is as the driver wants it.
    checked(unsafe { libc::ioctl(fd, GET_OFFSET_FOR_VADDR, &raw mut request) })?;
    Ok(format!("{} {}", request.offset, request.count))
}

fn bad_ioctl(arguments: &mut Arguments<'_>) -> Outcome {
    let mut argument = 0_u64;
    // SAFETY: the argument is larger than anything that this unknown request could be about.
    checked(unsafe { libc::ioctl(arguments.as_type()?, 0x4799, &raw mut argument) })?;
    Ok("ok".to_owned())
}

fn mmap(arguments: &mut Arguments<'_>, protection: c_int, flags: c_int) -> Outcome {
    let fd: c_int = arguments.as_type()?;
    let offset: libc::off_t = arguments.as_type()?;
    let bytes = arguments.number()? * PAGE_BYTES;
    // SAFETY: the kernel, or the shim, chooses where.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, offset) };
    if at == libc::MAP_FAILED {
        return Err(errno());
    }
    Ok(format!("{at:p}"))
}

fn munmap(arguments: &mut Arguments<'_>) -> Outcome {
    let at = arguments.number()? as *mut c_void;
    let bytes = arguments.number()? * PAGE_BYTES;
    // SAFETY: the test names a range that it has mapped.
    checked(unsafe { libc::munmap(at, bytes) }).map(|_| "ok".to_owned())
}

/// Puts anonymous memory over a range.
fn cover(arguments: &mut Arguments<'_>) -> Outcome {
    let at = arguments.number()? as *mut c_void;
    let bytes = arguments.number()? * PAGE_BYTES;
    let flags = libc::MAP_FIXED | libc::MAP_ANONYMOUS | libc::MAP_PRIVATE;
    // SAFETY: the test names a range that it has mapped.
    let covered = unsafe { libc::mmap(at, bytes, libc::PROT_NONE, flags, -1, 0) };
    if covered == libc::MAP_FAILED {
        return Err(errno());
    }
    Ok("ok".to_owned())
}

fn peek(arguments: &mut Arguments<'_>) -> Outcome {
    let at = arguments.number()? as *const u8;
    let length = arguments.number()?;
    // SAFETY: the test names mapped memory.
    let bytes = unsafe { std::slice::from_raw_parts(at, length) };
    Ok(hexadecimal(bytes))
}

fn poke(arguments: &mut Arguments<'_>) -> Outcome {
    let at = arguments.number()? as *mut u8;
    let value: u8 = arguments.as_type()?;
    // SAFETY: the test names mapped, writable memory.
    unsafe { at.write_volatile(value) };
    Ok("ok".to_owned())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn foreign(domain: u16, reference: u32, offset: u16) -> u64 {
    u64::from(reference) | u64::from(offset) << 32 | u64::from(domain) << 48
}

fn copy(arguments: &mut Arguments<'_>, out_of_guest: bool) -> Outcome {
    let fd: c_int = arguments.as_type()?;
    let domain = arguments.as_type()?;
    let reference = arguments.as_type()?;
    let granted = foreign(domain, reference, arguments.as_type()?);
    let length: u16 = arguments.as_type()?;
    let value: u8 = if out_of_guest {
        0
    } else {
        arguments.as_type()?
    };
    let mut buffer = vec![value; usize::from(length)];
    let local = buffer.as_mut_ptr() as u64;
    let (source, dest, flags) = if out_of_guest {
        (granted, local, 1)
    } else {
        (local, granted, 2)
    };
    let mut segment = CopySegment {
        source,
        dest,
        length,
        flags,
        status: 99,
    };
    let mut request = Copy {
        count: 1,
        segments: &raw mut segment,
    };
    // SAFETY: the argument is as the driver wants it, and the local end is the buffer.
    checked(unsafe { libc::ioctl(fd, GRANT_COPY, &raw mut request) })?;
    Ok(format!(
        "status {} {}",
        segment.status,
        hexadecimal(&buffer)
    ))
}

/// The functions of libxenevtchn, loaded as the `xenevtchn` crate loads them.
struct EventChannels {
    library: *mut c_void,
}

type Handle = *mut c_void;

impl EventChannels {
    fn load() -> Result<Self, String> {
        // SAFETY: the name is a C string, and the library has no initialisers that could do harm.
        let library = unsafe { libc::dlopen(c"libxenevtchn.so".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return Err("libxenevtchn.so cannot be loaded".to_owned());
        }
        Ok(Self { library })
    }

    fn symbol(&self, name: &CStr) -> Result<*mut c_void, String> {
        // SAFETY: the library is loaded and the name a C string.
        let symbol = unsafe { libc::dlsym(self.library, name.as_ptr().cast::<c_char>()) };
        if symbol.is_null() {
            return Err(format!("{name:?} is missing"));
        }
        Ok(symbol)
    }

    fn open(&self) -> Outcome {
        let function = self.symbol(c"xenevtchn_open")?;
        // SAFETY: this is the function's type.
        let function: extern "C" fn(*mut c_void, c_uint) -> Handle = unsafe { transmute(function) };
        let handle = function(std::ptr::null_mut(), 0);
        if handle.is_null() {
            return Err(errno());
        }
        Ok(format!("{handle:p}"))
    }

    /// A function of a handle alone.
    fn of_handle(&self, name: &CStr, handle: Handle) -> Result<c_int, String> {
        let function = self.symbol(name)?;
        // SAFETY: this is the type of all functions that are called so.
        let function: extern "C" fn(Handle) -> c_int = unsafe { transmute(function) };
        checked(function(handle))
    }

    /// The next event of a handle; does not wait for ever if there is none.
    fn pending(&self, handle: Handle) -> Result<c_int, String> {
        let fd = self.of_handle(c"xenevtchn_fd", handle)?;
        if !poll(fd, 5000)? {
            return Err("no event".to_owned());
        }
        self.of_handle(c"xenevtchn_pending", handle)
    }

    /// A function of a handle and a port.
    fn of_port(&self, name: &CStr, arguments: &mut Arguments<'_>) -> Outcome {
        let function = self.symbol(name)?;
        // SAFETY: this is the type of all functions that are called so.
        let function: extern "C" fn(Handle, u32) -> c_int = unsafe { transmute(function) };
        let handle = arguments.number()? as Handle;
        checked(function(handle, arguments.as_type()?)).map(|result| result.to_string())
    }

    fn bind(&self, arguments: &mut Arguments<'_>) -> Outcome {
        let function = self.symbol(c"xenevtchn_bind_interdomain")?;
        // SAFETY: this is the function's type.
        let function: extern "C" fn(Handle, u32, u32) -> c_int = unsafe { transmute(function) };
        let handle = arguments.number()? as Handle;
        let domain = arguments.as_type()?;
        checked(function(handle, domain, arguments.as_type()?)).map(|port| port.to_string())
    }
}

/// Whether a descriptor becomes readable within so many milliseconds.
fn poll(fd: c_int, timeout_ms: c_int) -> Result<bool, String> {
    let mut polled = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the argument is one pollfd.
    checked(unsafe { libc::poll(&raw mut polled, 1, timeout_ms) }).map(|count| count == 1)
}

fn execute(line: &str, channels: &EventChannels) -> Outcome {
    let mut words = line.split_whitespace();
    let command = words.next().unwrap_or("");
    let arguments = &mut Arguments(words);
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    match command {
        "open" => open(),
        "close" => close(arguments),
        "map" => map(arguments),
        "unmap" => unmap(arguments),
        "offset" => offset(arguments),
        "bad-ioctl" => bad_ioctl(arguments),
        "mmap" => mmap(arguments, writable, libc::MAP_SHARED),
        "mmap-read-only" => mmap(arguments, libc::PROT_READ, libc::MAP_SHARED),
        "mmap-private" => mmap(arguments, writable, libc::MAP_PRIVATE),
        "munmap" => munmap(arguments),
        "cover" => cover(arguments),
        "peek" => peek(arguments),
        "poke" => poke(arguments),
        "copy-out" => copy(arguments, true),
        "copy-in" => copy(arguments, false),
        "channel-open" => channels.open(),
        "channel-close" => {
            let handle = arguments.number()? as Handle;
            shown(channels.of_handle(c"xenevtchn_close", handle))
        }
        "channel-fd" => shown(channels.of_handle(c"xenevtchn_fd", arguments.number()? as Handle)),
        "bind" => channels.bind(arguments),
        "unbind" => channels.of_port(c"xenevtchn_unbind", arguments),
        "pending" => shown(channels.pending(arguments.number()? as Handle)),
        "unmask" => channels.of_port(c"xenevtchn_unmask", arguments),
        "notify" => channels.of_port(c"xenevtchn_notify", arguments),
        "readable" => shown(poll(arguments.as_type()?, arguments.as_type()?)),
        _ => Err(format!("unknown command {command:?}")),
    }
}

fn main() -> Result<(), String> {
    let channels = EventChannels::load()?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let outcome = match execute(&line, &channels) {
            Ok(result) => result,
            Err(failure) => failure,
        };
        println!("{outcome}");
        std::io::stdout()
            .flush()
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}
