//! Opening, control-path helpers and durable creation, on real files.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::{
    Access, BlockFile, Caching, CreateError, Extent, FileIdentity, FileKind, NewFile, OpenError,
    OpenProblem, ZeroMethod,
};
use crate::testing::{LoopDevice, directories, pattern};

const DIRECT: Caching = Caching::DIRECT;

fn on_each_file_system(check: impl Fn(&Path)) {
    for directory in directories() {
        check(directory.path());
    }
}

fn open(path: &Path, caching: Caching) -> BlockFile {
    BlockFile::open(path, Access::ReadWrite, caching).unwrap()
}

fn refusal(path: &Path, access: Access) -> OpenError {
    BlockFile::open(path, access, Caching::Buffered).unwrap_err()
}

#[test]
fn an_open_file_tells_what_it_is() {
    on_each_file_system(|directory| {
        let path = directory.join("image");
        fs::write(&path, vec![1; 12345]).unwrap();
        let file = BlockFile::open(&path, Access::ReadOnly, Caching::Buffered).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(file.path(), path);
        assert_eq!(
            (file.kind(), file.access()),
            (FileKind::Regular, Access::ReadOnly)
        );
        assert_eq!(file.size().unwrap(), 12345);
        assert_eq!((file.direct(), file.dio_alignment()), (false, None));
        let identity = FileIdentity::Regular {
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        assert_eq!(file.identity(), identity);
        let time = file.mtime().unwrap();
        assert_eq!(
            (time.seconds, time.nanoseconds),
            (metadata.mtime(), metadata.mtime_nsec())
        );
    });
}

#[test]
fn a_link_leads_to_the_same_identity() {
    on_each_file_system(|directory| {
        let (path, link) = (directory.join("image"), directory.join("link"));
        fs::write(&path, b"").unwrap();
        symlink(&path, &link).unwrap();
        let (file, linked) = (
            open(&path, Caching::Buffered),
            open(&link, Caching::Buffered),
        );
        assert_eq!(file.identity(), linked.identity());
        assert_eq!(linked.path(), link);
    });
}

#[test]
fn descriptors_are_closed_on_exec_and_block() {
    on_each_file_system(|directory| {
        let path = directory.join("image");
        fs::write(&path, b"").unwrap();
        let new = NewFile::create(directory.join("new"), Caching::Buffered).unwrap();
        for file in [
            &open(&path, Caching::Buffered),
            &open(&path, DIRECT),
            new.file(),
        ] {
            let flags = rustix::io::fcntl_getfd(file).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            let status = rustix::fs::fcntl_getfl(file).unwrap();
            assert!(!status.contains(OFlags::NONBLOCK));
            assert_eq!(status.contains(OFlags::DIRECT), file.direct());
        }
    });
}

#[test]
fn what_is_no_image_is_refused_in_one_sentence() {
    on_each_file_system(|directory| {
        let fifo = directory.join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let socket = directory.join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let (missing, null) = (directory.join("missing"), Path::new("/dev/null"));
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let cases = [
                (directory, "is a directory, not an image"),
                (&missing, "does not exist"),
                (&fifo, "is a FIFO, not a regular file or block device"),
                (&socket, "is a socket, not a regular file or block device"),
                (
                    null,
                    "is a character device, not a regular file or block device",
                ),
            ];
            for (path, cause) in cases {
                let message = refusal(path, access).to_string();
                assert_eq!(message, format!("{}: {cause}", path.display()));
            }
        }
    });
}

#[test]
fn a_file_that_may_not_be_opened_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs::write(&path, b"").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Permissions do not hold root back; that the answers of the kernel are told apart is all that can be seen.
        for errno in [rustix::io::Errno::ACCESS, rustix::io::Errno::PERM] {
            assert!(matches!(
                OpenError::of_open(&path, errno).problem,
                OpenProblem::PermissionDenied
            ));
        }
        return;
    }
    let message = refusal(&path, Access::ReadOnly).to_string();
    assert_eq!(message, format!("{}: permission denied", path.display()));
}

#[test]
fn answers_of_the_kernel_are_told_apart() {
    use rustix::io::Errno;
    let path = Path::new("/images/x.cow");
    let message = |errno| OpenError::of_open(path, errno).to_string();
    let read_only = "/images/x.cow: is on a read-only file system and cannot be opened for writing";
    assert_eq!(message(Errno::ROFS), read_only);
    let busy = "/images/x.cow: is in use by the system and cannot be opened for writing";
    assert_eq!(message(Errno::TXTBSY), busy);
    assert_eq!(
        message(Errno::NXIO),
        "/images/x.cow: is a device node without a device behind it"
    );
    let other = "/images/x.cow: cannot be opened: Too many open files (os error 24)";
    assert_eq!(message(Errno::MFILE), other);
}

#[test]
fn direct_io_is_not_used_beyond_the_alignment_allowed() {
    on_each_file_system(|directory| {
        let path = directory.join("image");
        fs::write(&path, vec![1; 8192]).unwrap();
        let strict = open(&path, Caching::Direct { alignment_max: 1 });
        assert_eq!((strict.direct(), strict.dio_alignment()), (false, None));
        let mut bytes = [0; 3];
        strict.read_exact_at(&mut bytes, 8189).unwrap();
        assert_eq!(bytes, [1; 3]);
        let direct = open(&path, DIRECT);
        if let Some(alignment) = direct.dio_alignment() {
            assert!(
                alignment.offset.is_power_of_two() && alignment.offset <= 4096,
                "{alignment:?}"
            );
            assert!(
                alignment.memory.is_power_of_two() && alignment.memory <= 4096,
                "{alignment:?}"
            );
        }
    });
}

#[test]
fn reads_and_writes_of_any_alignment_do_what_they_say() {
    on_each_file_system(|directory| {
        for caching in [Caching::Buffered, DIRECT] {
            let path = directory.join("image");
            let mut model = pattern(3 << 20, 0);
            fs::write(&path, &model).unwrap();
            let file = open(&path, caching);
            let cases = [
                (0, 512),
                (1, 1),
                (511, 2),
                (4095, 4098),
                (1000, 0),
                (700_001, 1_500_003),
                (4096, 8192),
            ];
            for (offset, len) in cases {
                let bytes = pattern(len, 77);
                file.write_all_at(&bytes, offset).unwrap();
                let start = usize::try_from(offset).unwrap();
                model[start..start + len].copy_from_slice(&bytes);
                let mut back = vec![0; len];
                file.read_exact_at(&mut back, offset).unwrap();
                assert_eq!(back, bytes, "{len} bytes at {offset}, {caching:?}");
            }
            assert!(fs::read(&path).unwrap() == model, "{caching:?}");
        }
    });
}

#[test]
fn a_write_that_makes_the_file_longer_leaves_only_zeros_behind_it() {
    on_each_file_system(|directory| {
        for caching in [Caching::Buffered, DIRECT] {
            let path = directory.join("image");
            fs::write(&path, b"").unwrap();
            let len = (1 << 20) + 100;
            open(&path, caching).write_all_at(&vec![7; len], 0).unwrap();
            let bytes = fs::read(&path).unwrap();
            assert!(bytes[..len].iter().all(|&byte| byte == 7));
            assert!(bytes[len..].iter().all(|&byte| byte == 0), "{caching:?}");
        }
    });
}

#[test]
fn a_read_beyond_the_end_is_an_error() {
    on_each_file_system(|directory| {
        for caching in [Caching::Buffered, DIRECT] {
            let path = directory.join("image");
            fs::write(&path, [1; 1000]).unwrap();
            let file = open(&path, caching);
            let mut bytes = [0; 600];
            file.read_exact_at(&mut bytes, 400).unwrap();
            assert_eq!(bytes, [1; 600]);
            let error = file.read_exact_at(&mut bytes, 401).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            let error = file.read_exact_at(&mut bytes, 1 << 20).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn unaligned_writes_past_the_page_cache_match_a_model(
        writes in prop::collection::vec((0usize..20_000, 0usize..9_000, any::<u8>()), 1..6),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let mut model = pattern(32768, 4);
        fs::write(&path, &model).unwrap();
        let file = open(&path, DIRECT);
        for (offset, len, byte) in writes {
            file.write_all_at(&vec![byte; len], offset as u64).unwrap();
            model[offset..offset + len].fill(byte);
            let mut back = vec![0; len + 100];
            file.read_exact_at(&mut back, offset as u64).unwrap();
            prop_assert_eq!(&back[..], &model[offset..offset + len + 100]);
        }
        prop_assert!(fs::read(&path).unwrap() == model);
    }
}

#[test]
fn a_sparse_file_tells_its_extents_and_its_storage() {
    on_each_file_system(|directory| {
        let path = directory.join("image");
        fs::write(&path, b"").unwrap();
        let file = open(&path, Caching::Buffered);
        assert_eq!(file.extents().unwrap().count(), 0, "empty");
        file.set_len(16 << 20).unwrap();
        assert_eq!(file.extents().unwrap().count(), 0, "one hole");
        assert_eq!(file.allocated_bytes().unwrap(), 0);
        file.write_all_at(&[1; 65536], 1 << 20).unwrap();
        file.write_all_at(&[1; 65536], 8 << 20).unwrap();
        file.sync_all().unwrap();
        let extents: Vec<_> = file.extents().unwrap().map(Result::unwrap).collect();
        let expected = [
            Extent {
                offset: 1 << 20,
                len: 65536,
            },
            Extent {
                offset: 8 << 20,
                len: 65536,
            },
        ];
        assert_eq!(extents, expected);
        assert_eq!(file.allocated_bytes().unwrap(), 131_072);
        file.zero_range(1 << 20, 65536).unwrap();
        let extents: Vec<_> = file.extents().unwrap().map(Result::unwrap).collect();
        assert_eq!(extents, expected[1..]);
        assert_eq!(file.allocated_bytes().unwrap(), 65536);
    });
}

#[test]
fn a_zeroed_range_is_zero_by_whatever_method() {
    on_each_file_system(|directory| {
        for method in [
            ZeroMethod::PunchHole,
            ZeroMethod::ZeroRange,
            ZeroMethod::Write,
        ] {
            for caching in [Caching::Buffered, DIRECT] {
                let path = directory.join("image");
                fs::write(&path, vec![5; 300_000]).unwrap();
                let file = open(&path, caching);
                file.give_up_zero_methods_before(method);
                file.zero_range(1001, 200_000).unwrap();
                file.zero_range(0, 0).unwrap();
                let mut expected = vec![5; 300_000];
                expected[1001..201_001].fill(0);
                assert!(
                    fs::read(&path).unwrap() == expected,
                    "{method:?} {caching:?}"
                );
            }
        }
    });
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Without a name, and under a temporary one, as on file systems that have no files without names.
fn on_each_way(test: impl Fn(&Path, &dyn Fn(&Path) -> Result<NewFile, CreateError>, usize)) {
    on_each_file_system(|directory| {
        test(
            directory,
            &|path| NewFile::create_by(path, DIRECT, super::create::create_nameless),
            0,
        );
    });
    on_each_file_system(|directory| {
        test(
            directory,
            &|path| NewFile::create_by(path, DIRECT, super::create::create_named),
            1,
        );
    });
}

#[test]
fn a_new_file_is_in_its_place_only_when_it_is_published() {
    on_each_way(|directory, create, temporary_names| {
        let path = directory.join("vm1.cow");
        let new = create(&path).unwrap();
        new.file().write_all_at(&[3; 4096], 0).unwrap();
        assert!(!path.exists());
        assert_eq!(names_in(directory).len(), temporary_names);
        let file = new.publish().unwrap();
        assert_eq!(names_in(directory), ["vm1.cow"]);
        assert_eq!(fs::read(&path).unwrap(), [3; 4096]);
        assert_eq!(file.path(), path);
        assert_eq!(file.identity(), open(&path, Caching::Buffered).identity());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    });
}

#[test]
fn a_new_file_that_is_given_up_leaves_nothing() {
    on_each_way(|directory, create, _| {
        drop(create(&directory.join("vm1.cow")).unwrap());
        assert!(names_in(directory).is_empty());
    });
}

#[test]
fn what_exists_is_never_replaced() {
    on_each_way(|directory, create, _| {
        let path = directory.join("vm1.cow");
        let late = create(&path).unwrap();
        fs::write(&path, b"precious").unwrap();
        for error in [create(&path).unwrap_err(), late.publish().unwrap_err()] {
            assert!(matches!(error, CreateError::Exists(_)));
            assert_eq!(
                error.to_string(),
                format!("{}: exists already", path.display())
            );
        }
        assert_eq!(names_in(directory), ["vm1.cow"]);
        assert_eq!(fs::read(&path).unwrap(), b"precious");

        let dangling = directory.join("dangling");
        symlink(directory.join("nowhere"), &dangling).unwrap();
        let error = create(&dangling).unwrap_err();
        assert!(matches!(error, CreateError::Exists(_)));
    });
}

#[test]
fn a_place_that_cannot_be_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("no/such/vm1.cow");
    let error = NewFile::create(&path, Caching::Buffered).unwrap_err();
    let expected = format!(
        "{}: cannot be created: its directory cannot be opened: No such file or directory (os error 2)",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    let error = NewFile::create("/", Caching::Buffered).unwrap_err();
    assert_eq!(error.to_string(), "/: is not the path of a file");
}

#[test]
fn a_lock_taken_before_publishing_is_still_held_after() {
    on_each_file_system(|directory| {
        let path = directory.join("vm1.cow");
        let new = NewFile::create(&path, Caching::Buffered).unwrap();
        crate::lock::lock_exclusive(new.file()).unwrap();
        let file = new.publish().unwrap();
        let other = open(&path, Caching::Buffered);
        assert!(crate::lock::lock_exclusive(&other).is_err());
        assert!(file.as_raw_fd() >= 0);
    });
}

#[test]
fn a_block_device_tells_its_sizes_and_can_be_zeroed() {
    let directory = tempfile::tempdir().unwrap();
    let backing = directory.path().join("backing");
    fs::write(&backing, vec![6; 1 << 20]).unwrap();
    let Some(device) = LoopDevice::attach(&backing, &["--sector-size", "4096"]) else {
        return;
    };
    let file = open(&device.path, DIRECT);
    assert_eq!(file.kind(), FileKind::BlockDevice);
    assert!(matches!(file.identity(), FileIdentity::BlockDevice { .. }));
    assert_eq!(file.size().unwrap(), 1 << 20);
    assert_eq!(file.allocated_bytes().unwrap(), 1 << 20);
    assert_eq!(
        file.dio_alignment().map(|alignment| alignment.offset),
        Some(4096)
    );
    assert!(
        !open(&device.path, Caching::DIRECT_SECTORS).direct(),
        "4096 is more than was allowed"
    );
    let extents: Vec<_> = file.extents().unwrap().map(Result::unwrap).collect();
    assert_eq!(
        extents,
        [Extent {
            offset: 0,
            len: 1 << 20
        }]
    );
    file.zero_range(8192, 65536).unwrap();
    file.write_all_at(b"odd", 4095).unwrap();
    let mut bytes = vec![0; 1 << 20];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let mut expected = vec![6; 1 << 20];
    expected[8192..8192 + 65536].fill(0);
    expected[4095..4098].copy_from_slice(b"odd");
    assert!(bytes == expected);
}

#[test]
fn a_read_only_device_cannot_be_opened_for_writing() {
    let directory = tempfile::tempdir().unwrap();
    let backing = directory.path().join("backing");
    fs::write(&backing, vec![6; 1 << 20]).unwrap();
    let Some(device) = LoopDevice::attach(&backing, &["--read-only"]) else {
        return;
    };
    BlockFile::open(&device.path, Access::ReadOnly, Caching::Buffered).unwrap();
    let error = refusal(&device.path, Access::ReadWrite);
    assert!(
        matches!(
            error.problem,
            OpenProblem::ReadOnlyDevice | OpenProblem::PermissionDenied
        ),
        "{error}"
    );
}

#[test]
fn a_claimed_device_cannot_be_claimed_again_by_anybody() {
    let directory = tempfile::tempdir().unwrap();
    let backing = directory.path().join("backing");
    fs::write(&backing, vec![6; 1 << 20]).unwrap();
    let Some(device) = LoopDevice::attach(&backing, &[]) else {
        return;
    };
    let mut first = open(&device.path, Caching::Buffered);
    let mut second = open(&device.path, Caching::Buffered);
    first.claim_device().unwrap();
    let error = second.claim_device().unwrap_err();
    assert!(matches!(error.problem, OpenProblem::Claimed), "{error}");
    let formatted = std::process::Command::new("mkfs.ext4")
        .arg("-q")
        .arg(&device.path)
        .output()
        .unwrap();
    assert!(!formatted.status.success(), "{formatted:?}");
    drop(first);
    second.claim_device().unwrap();
}

#[test]
fn what_a_file_holds_is_visited_without_its_zeros() {
    on_each_file_system(|directory| {
        let path = directory.join("sparse");
        let file = fs::File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[7; 100], (1 << 20) - 50).unwrap();
        file.write_all_at(&[0; 8192], 3 << 20).unwrap();
        file.write_all_at(&[8], (5 << 20) + 4096).unwrap();
        let file = open(&path, Caching::Buffered);
        let mut sum = 0;
        let mut places = Vec::new();
        let range = (1 << 20) - 20..(5 << 20) + 4097;
        file.visit_data(range, |at, bytes| {
            sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            places.push(at / 4096 * 4096);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(sum, 70 * 7 + 8, "20 bytes before 1 MiB, 50 after, and one");
        assert_eq!(places, [(1 << 20) - 4096, 1 << 20, (5 << 20) + 4096]);
        let mut calls = 0;
        file.visit_data(0..8 << 20, |_, _| {
            calls += 1;
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(calls, 1);
    });
}
