//! Grants through the shim, as a process meets them that knows only gntdev.

mod support;

use simxen::control::wire::GrantEntry;
use simxen::{Access, DomId, Error, GrantRef, Host, PageIndex};
use support::{Probe, TIMEOUT};

const EINVAL: &str = "errno 22";
const ENOENT: &str = "errno 2";
const ENOTTY: &str = "errno 25";

fn mapped_now(host: &Host) -> usize {
    host.accounts().iter().map(|one| one.grants_mapped).sum()
}

#[test]
fn both_sides_see_the_same_pages() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let first = guest.allocate_pages(1).unwrap();
    let second = guest.allocate_pages(1).unwrap();
    guest.write_memory(first, 0, b"first");
    guest.write_memory(second, 0, b"second");
    let grants = [first, second].map(|page| guest.grant(page, Access::ReadWrite).unwrap());
    assert_eq!(grants, [GrantRef(8), GrantRef(9)]);

    let mut probe = Probe::start(&host);
    let fd = probe.run("open");
    // In the order of the request, which is not that of memory.
    assert_eq!(probe.run(&format!("map {fd} 1 9 1 8")), "0");
    assert_eq!(mapped_now(&host), 0, "mapping happens at mmap");
    let at = probe.run(&format!("mmap {fd} 0 2"));
    assert_eq!(probe.run(&format!("peek {at} 6")), "7365636f6e64");
    let base = usize::from_str_radix(&at[2..], 16).unwrap();
    let next_page = base + 4096;
    assert_eq!(probe.run(&format!("peek {next_page:#x} 5")), "6669727374");
    assert_eq!(probe.run(&format!("poke {at} 0x53")), "ok");
    let mut seen = [0; 6];
    guest.read_memory(second, 0, &mut seen);
    assert_eq!(&seen, b"Second");
    assert_eq!(mapped_now(&host), 2);
    assert_eq!(guest.map_count(GrantRef(9)), 1);
    assert!(matches!(
        guest.end_access(GrantRef(9)),
        Err(Error::GrantStillMapped { mappings: 1, .. })
    ));

    assert_eq!(probe.run(&format!("offset {fd} {at}")), "0 2");
    assert_eq!(probe.run(&format!("munmap {at} 2")), "ok");
    assert_eq!(mapped_now(&host), 0);
    assert_eq!(probe.run(&format!("offset {fd} {at}")), EINVAL);
    assert_eq!(probe.run(&format!("unmap {fd} 0 2")), "ok");
    assert_eq!(probe.run(&format!("unmap {fd} 0 2")), ENOENT);
    guest.end_access(GrantRef(9)).unwrap();
    assert_eq!(host.accounts()[0].grants_mapped_total, 2);
}

#[test]
fn bad_grants_fail_the_whole_mapping() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let page = guest.allocate_pages(1).unwrap();
    let good = guest.grant(page, Access::ReadWrite).unwrap();
    let read_only = guest.grant(page, Access::ReadOnly).unwrap();
    let entry = |granted_to, page| GrantEntry {
        granted_to: DomId(granted_to),
        read_only: false,
        page: PageIndex(page),
    };
    let for_another = guest.grant_entry(entry(2, page.0)).unwrap();
    let nowhere = guest.grant_entry(entry(0, 65_536)).unwrap();
    let revoked = guest.grant(page, Access::ReadWrite).unwrap();
    guest.revoke(revoked);

    let mut probe = Probe::start(&host);
    let fd = probe.run("open");
    for (domain, bad) in [
        (1, read_only.0),
        (1, for_another.0),
        (1, nowhere.0),
        (1, revoked.0),
        (1, 65_536),
        (1, u32::MAX),
        (7, good.0),
        (65_537, good.0),
    ] {
        let index = probe.run(&format!("map {fd} 1 {good} {domain} {bad}"));
        assert_eq!(index, "0", "domain {domain}, grant {bad}");
        assert_eq!(
            probe.run(&format!("mmap {fd} 0 2")),
            EINVAL,
            "domain {domain}, grant {bad}"
        );
        assert_eq!(probe.run(&format!("unmap {fd} 0 2")), "ok");
        assert_eq!(mapped_now(&host), 0);
    }
    // For reading, a read-only grant is good.
    assert_eq!(probe.run(&format!("map {fd} 1 {read_only}")), "0");
    let at = probe.run(&format!("mmap-read-only {fd} 0 1"));
    assert!(at.starts_with("0x"), "{at}");
}

#[test]
fn indices_and_lengths_must_fit_and_are_used_again() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let page = guest.allocate_pages(1).unwrap();
    let grant = guest.grant(page, Access::ReadWrite).unwrap();
    let mut probe = Probe::start(&host);
    let fd = probe.run("open");
    let one = format!("map {fd} 1 {grant}");
    let two = format!("map {fd} 1 {grant} 1 {grant}");
    assert_eq!(probe.run(&format!("map {fd}")), EINVAL);
    assert_eq!(probe.run(&one), "0");
    assert_eq!(probe.run(&two), "4096");
    assert_eq!(probe.run(&one), "12288");
    assert_eq!(probe.run(&format!("mmap {fd} 4096 1")), EINVAL);
    assert_eq!(probe.run(&format!("mmap {fd} 8192 1")), EINVAL);
    assert_eq!(probe.run(&format!("mmap-private {fd} 0 1")), EINVAL);
    assert_eq!(probe.run(&format!("unmap {fd} 4096 1")), ENOENT);
    assert_eq!(probe.run(&format!("unmap {fd} 4096 2")), "ok");
    assert_eq!(probe.run(&two), "4096");
    let at = probe.run(&format!("mmap {fd} 0 1"));
    assert_eq!(
        probe.run(&format!("mmap {fd} 0 1")),
        EINVAL,
        "a map can be in the address space once"
    );
    assert_eq!(probe.run(&format!("munmap {at} 1")), "ok");
    assert!(probe.run(&format!("mmap {fd} 0 1")).starts_with("0x"));
    assert_eq!(probe.run(&format!("bad-ioctl {fd}")), ENOTTY);
}

#[test]
fn pages_stay_mapped_until_they_are_unmapped_by_any_means() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let page = guest.allocate_pages(3).unwrap();
    let grants: Vec<GrantRef> = (0..3)
        .map(|index| {
            guest
                .grant(page.offset_by(index), Access::ReadWrite)
                .unwrap()
        })
        .collect();
    let mut probe = Probe::start(&host);
    let fd = probe.run("open");
    probe.run(&format!(
        "map {fd} 1 {} 1 {} 1 {}",
        grants[0], grants[1], grants[2]
    ));
    let at = probe.run(&format!("mmap {fd} 0 3"));
    // Neither taking the map out of the table nor closing the device takes pages out of the address space.
    assert_eq!(probe.run(&format!("unmap {fd} 0 3")), "ok");
    assert_eq!(probe.run(&format!("close {fd}")), "ok");
    assert_eq!(mapped_now(&host), 3);
    // Nor does the guest, by revoking.
    guest.revoke(grants[0]);
    guest.write_memory(page, 0, b"x");
    assert_eq!(probe.run(&format!("peek {at} 1")), "78");
    // Unmapping a part ends that part, and covering it with something else does too.
    let base = usize::from_str_radix(&at[2..], 16).unwrap();
    let second = base + 4096;
    assert_eq!(probe.run(&format!("munmap {second:#x} 1")), "ok");
    assert_eq!(mapped_now(&host), 2);
    assert_eq!(guest.map_count(grants[1]), 0);
    assert_eq!(probe.run(&format!("cover {at} 3")), "ok");
    assert_eq!(mapped_now(&host), 0);
}

#[test]
fn a_mapping_of_many_grants_goes_in_several_requests() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let page = guest.allocate_pages(1500).unwrap();
    let grants: Vec<String> = (0..1500)
        .map(|index| {
            let page = page.offset_by(1499 - index);
            let grant = guest.grant(page, Access::ReadWrite).unwrap();
            format!("1 {grant}")
        })
        .collect();
    guest.write_memory(page, 0, b"last");
    let mut probe = Probe::start(&host);
    let fd = probe.run("open");
    assert_eq!(probe.run(&format!("map {fd} {}", grants.join(" "))), "0");
    let at = probe.run(&format!("mmap {fd} 0 1500"));
    assert_eq!(mapped_now(&host), 1500);
    let last = usize::from_str_radix(&at[2..], 16).unwrap() + 1499 * 4096;
    assert_eq!(probe.run(&format!("peek {last:#x} 4")), "6c617374");
    assert_eq!(probe.run(&format!("munmap {at} 1500")), "ok");
    assert_eq!(mapped_now(&host), 0);
}

#[test]
fn grant_copy_goes_both_ways_and_reports_bad_grants() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let page = guest.allocate_pages(1).unwrap();
    guest.write_memory(page, 4092, b"tail");
    let grant = guest.grant(page, Access::ReadWrite).unwrap();
    let read_only = guest.grant(page, Access::ReadOnly).unwrap();
    let mut probe = Probe::start(&host);
    let fd = probe.run("open");
    assert_eq!(
        probe.run(&format!("copy-out {fd} 1 {grant} 4092 4")),
        "status 0 7461696c"
    );
    assert_eq!(
        probe.run(&format!("copy-in {fd} 1 {grant} 10 3 0x41")),
        "status 0 414141"
    );
    let mut seen = [0; 5];
    guest.read_memory(page, 9, &mut seen);
    assert_eq!(&seen, b"\0AAA\0");
    assert_eq!(
        probe.run(&format!("copy-out {fd} 1 {read_only} 10 1")),
        "status 0 41"
    );
    assert_eq!(
        probe.run(&format!("copy-in {fd} 1 {read_only} 0 1 1")),
        "status -1 01"
    );
    assert_eq!(
        probe.run(&format!("copy-out {fd} 1 99999 0 1")),
        "status -3 00"
    );
    assert_eq!(
        probe.run(&format!("copy-out {fd} 1 77 0 1")),
        "status -1 00"
    );
    assert_eq!(probe.run(&format!("copy-out {fd} 5 8 0 1")), "status -2 00");
    assert_eq!(
        probe.run(&format!("copy-out {fd} 1 {grant} 4093 4")),
        EINVAL,
        "a copy does not go over the end of a page"
    );
    assert_eq!(mapped_now(&host), 0);
}

#[test]
fn a_new_domain_of_the_same_number_is_another_one() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let page = guest.allocate_pages(1).unwrap();
    guest.write_memory(page, 0, b"old");
    let grant = guest.grant(page, Access::ReadWrite).unwrap();
    let mut probe = Probe::start(&host);
    let fd = probe.run("open");
    probe.run(&format!("map {fd} 1 {grant}"));
    let old = probe.run(&format!("mmap {fd} 0 1"));
    host.vanish_domain(&guest).unwrap();
    assert_eq!(
        probe.run(&format!("copy-out {fd} 1 {grant} 0 3")),
        "status -2 000000"
    );

    let guest = host.new_domain(1).unwrap();
    let page = guest.allocate_pages(1).unwrap();
    guest.write_memory(page, 0, b"new");
    assert_eq!(guest.grant(page, Access::ReadWrite).unwrap(), grant);
    assert_eq!(guest.map_count(grant), 0);
    probe.run(&format!("map {fd} 1 {grant}"));
    let new = probe.run(&format!("mmap {fd} 4096 1"));
    assert_eq!(probe.run(&format!("peek {old} 3")), "6f6c64");
    assert_eq!(probe.run(&format!("peek {new} 3")), "6e6577");
    assert_eq!(
        probe.run(&format!("copy-out {fd} 1 {grant} 0 3")),
        "status 0 6e6577"
    );
    assert_eq!(mapped_now(&host), 2);
}

#[test]
fn a_killed_process_leaves_nothing_mapped() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let page = guest.allocate_pages(1).unwrap();
    let grant = guest.grant(page, Access::ReadWrite).unwrap();
    let mut probe = Probe::start(&host);
    let fd = probe.run("open");
    probe.run(&format!("map {fd} 1 {grant}"));
    assert!(probe.run(&format!("mmap {fd} 0 1")).starts_with("0x"));
    assert_eq!(guest.map_count(grant), 1);
    probe.kill();
    host.wait_for_accounts("the process to be gone", <[_]>::is_empty, TIMEOUT)
        .unwrap();
    guest.end_access(grant).unwrap();
}
