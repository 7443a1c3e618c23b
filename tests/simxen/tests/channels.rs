//! Event channels through the shim, as a process meets them that knows only libxenevtchn.

mod support;

use std::time::Duration;

use simxen::{DomId, Host};
use support::{Probe, TIMEOUT};

const EINVAL: &str = "errno 22";
const ESRCH: &str = "errno 3";
const ENOTCONN: &str = "errno 107";

#[test]
fn notifications_go_both_ways() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let channel = guest.allocate_channel().unwrap();
    assert!(!channel.is_bound());
    let mut probe = Probe::start(&host);
    let handle = probe.run("channel-open");
    let fd = probe.run(&format!("channel-fd {handle}"));
    assert_eq!(probe.run(&format!("readable {fd} 0")), "false");
    let port = probe.run(&format!("bind {handle} 1 {}", channel.port()));
    assert!(channel.is_bound());
    assert_eq!(host.accounts()[0].channels_bound, 1);
    // Xen sets a new binding pending, since notifications of the time before are lost.
    assert_eq!(probe.run(&format!("readable {fd} 0")), "true");
    assert_eq!(probe.run(&format!("pending {handle}")), port);
    assert_eq!(probe.run(&format!("unmask {handle} {port}")), "0");
    assert_eq!(probe.run(&format!("readable {fd} 0")), "false");

    channel.notify();
    assert_eq!(probe.run(&format!("readable {fd} 5000")), "true");
    assert_eq!(probe.run(&format!("pending {handle}")), port);

    assert!(!channel.take_pending());
    assert_eq!(probe.run(&format!("notify {handle} {port}")), "0");
    assert!(channel.wait(TIMEOUT).unwrap());
    assert!(!channel.take_pending());
}

#[test]
fn a_reported_channel_is_silent_until_unmasked_and_then_tells_what_it_missed() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let channel = guest.allocate_channel().unwrap();
    let mut probe = Probe::start(&host);
    let handle = probe.run("channel-open");
    let fd = probe.run(&format!("channel-fd {handle}"));
    let port = probe.run(&format!("bind {handle} 1 {}", channel.port()));
    assert_eq!(probe.run(&format!("pending {handle}")), port);
    // Masked now: a notification is kept, not reported.
    channel.notify();
    channel.notify();
    assert_eq!(probe.run(&format!("readable {fd} 50")), "false");
    assert_eq!(probe.run(&format!("unmask {handle} {port}")), "0");
    assert_eq!(probe.run(&format!("readable {fd} 0")), "true");
    // Two notifications are one event.
    assert_eq!(probe.run(&format!("pending {handle}")), port);
    assert_eq!(probe.run(&format!("unmask {handle} {port}")), "0");
    assert_eq!(probe.run(&format!("readable {fd} 50")), "false");
}

#[test]
fn only_an_open_port_that_is_offered_to_us_can_be_bound_and_only_once() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let channel = guest.allocate_channel().unwrap();
    let for_another = guest.offer_channel(DomId(2)).unwrap();
    let closed = guest.allocate_channel().unwrap();
    let closed_port = closed.port();
    closed.close();
    let mut probe = Probe::start(&host);
    let handle = probe.run("channel-open");
    let bind = |port| format!("bind {handle} 1 {port}");
    assert_eq!(probe.run(&bind(for_another.port())), EINVAL);
    assert_eq!(probe.run(&bind(closed_port)), EINVAL);
    assert_eq!(probe.run(&format!("bind {handle} 9 1")), ESRCH);
    let port = probe.run(&bind(channel.port()));
    assert_eq!(probe.run(&bind(channel.port())), EINVAL);
    assert_eq!(probe.run(&format!("unbind {handle} {port}")), "0");
    assert_eq!(probe.run(&format!("unbind {handle} {port}")), ENOTCONN);
    assert_eq!(probe.run(&format!("notify {handle} {port}")), ENOTCONN);
    assert!(!channel.is_bound());
    let again = probe.run(&bind(channel.port()));
    assert_ne!(again, port);
    assert!(channel.is_bound());
    assert_eq!(probe.run(&format!("channel-close {handle}")), "0");
    assert!(!channel.is_bound());
    assert_eq!(host.accounts()[0].channels_bound, 0);
}

#[test]
fn a_handle_tells_its_channels_apart() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let channels = [(); 2].map(|()| guest.allocate_channel().unwrap());
    let mut probe = Probe::start(&host);
    let handle = probe.run("channel-open");
    let ports = channels
        .each_ref()
        .map(|channel| probe.run(&format!("bind {handle} 1 {}", channel.port())));
    for _ in 0..2 {
        let port = probe.run(&format!("pending {handle}"));
        assert_eq!(probe.run(&format!("unmask {handle} {port}")), "0");
    }
    channels[1].notify();
    assert_eq!(probe.run(&format!("pending {handle}")), ports[1]);
    channels[0].notify();
    assert_eq!(probe.run(&format!("pending {handle}")), ports[0]);
    probe.run(&format!("notify {handle} {}", ports[1]));
    assert!(channels[1].wait(TIMEOUT).unwrap());
    assert!(!channels[0].take_pending());
}

#[test]
fn after_the_death_of_the_backend_another_can_bind() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let channel = guest.allocate_channel().unwrap();
    let mut probe = Probe::start(&host);
    let handle = probe.run("channel-open");
    probe.run(&format!("bind {handle} 1 {}", channel.port()));
    probe.kill();
    host.wait_for_accounts("the process to be gone", <[_]>::is_empty, TIMEOUT)
        .unwrap();
    assert!(!channel.is_bound());
    // Into the void, without harm.
    channel.notify();
    assert!(!channel.wait(Duration::ZERO).unwrap());

    let mut probe = Probe::start(&host);
    let handle = probe.run("channel-open");
    let port = probe.run(&format!("bind {handle} 1 {}", channel.port()));
    assert_eq!(probe.run(&format!("pending {handle}")), port);
    probe.run(&format!("notify {handle} {port}"));
    assert!(channel.wait(TIMEOUT).unwrap());
}

#[test]
fn a_destroyed_domain_has_no_ports() {
    let host = Host::start().unwrap();
    let guest = host.new_domain(1).unwrap();
    let channel = guest.allocate_channel().unwrap();
    let port = channel.port();
    host.vanish_domain(&guest).unwrap();
    let mut probe = Probe::start(&host);
    let handle = probe.run("channel-open");
    assert_eq!(probe.run(&format!("bind {handle} 1 {port}")), ESRCH);
    host.new_domain(1).unwrap();
    assert_eq!(probe.run(&format!("bind {handle} 1 {port}")), EINVAL);
}
