//! Where the kernel has no io_uring, or forbids it, threads do the work, without anybody asking for them.

use std::thread;

use libc::{c_long, sock_filter, sock_fprog};

use super::*;
use crate::executor::open_executor;

/// Makes `io_uring_setup` fail with `errno` for the calling thread and those that it starts, as an old kernel (`ENOSYS`)
/// or `kernel.io_uring_disabled` (`EPERM`) does. Nothing can take that back; the thread has to end.
fn forbid_io_uring(errno: i32) {
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let errno = libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    let step = |code: u32, operand, skip| sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf: skip,
        k: operand,
    };
    // The number of the call is the first word of what the filter sees.
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 1),
        step(libc::BPF_RET | libc::BPF_K, errno, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    let zero: c_long = 0;
    let one: c_long = 1;
    // SAFETY: this option takes no memory; it is what lets the filter be installed without privileges.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, zero, zero, zero) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let mode = c_long::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: the program and its filter are read during the call, and live through it.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn serve_with_io_uring_forbidden(errno: i32) {
    forbid_io_uring(errno);
    let cause = UringExecutor::new().err().expect("io_uring is forbidden");
    assert_eq!(cause.raw_os_error(), Some(errno));

    let (_folder, path) = fixture();
    let executor = open_executor().unwrap();
    assert_eq!(executor.name(), "threads");
    let mut bench = Bench::open(&path, executor);
    bench.write(4096 * 3 + 512, &[9; 8192]);
    let flush = bench.request(Request::Flush, Buffer::empty());
    assert_eq!(flush.result, Ok(()));
    bench.close();

    let mut expected = vec![0x55; 4096 * 8];
    expected[4096 * 3 + 512..4096 * 5 + 512].fill(9);
    let mut bench = Bench::open(&path, open_executor().unwrap());
    assert_eq!(bench.read(0, 4096 * 8), expected);
    bench.close();
}

#[test]
fn threads_serve_a_disk_on_a_kernel_without_io_uring() {
    let served = thread::spawn(|| serve_with_io_uring_forbidden(libc::ENOSYS));
    served.join().unwrap();
}

#[test]
fn threads_serve_a_disk_where_io_uring_is_forbidden() {
    let served = thread::spawn(|| serve_with_io_uring_forbidden(libc::EPERM));
    served.join().unwrap();
}
