//! Watched descriptors: what becomes readable is reported, by both executors, and nothing else is.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::{Way, buffer_of, for_each_way, write};
use crate::executor::{Event, Executor};
use crate::file::{Access, BlockFile, Caching};

for_each_way! {
    a_readable_descriptor_is_reported_until_it_is_read
    a_descriptor_that_becomes_readable_ends_the_wait
    an_ended_watch_reports_nothing_more
    a_key_can_be_watched_again_with_another_descriptor
    a_key_has_one_watch_at_a_time
    the_caller_may_close_its_descriptor
    a_hang_up_is_reported
    a_full_socket_is_reported_once_it_takes_bytes
    a_wait_ends_after_its_time
    many_descriptors_are_told_apart
    one_wait_covers_operations_and_descriptors
    no_wakeup_is_lost
    an_executor_with_watches_can_be_dropped
}

fn event_descriptor() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn signal(descriptor: &OwnedFd) {
    rustix::io::write(descriptor, &1u64.to_ne_bytes()).unwrap();
}

/// Takes a signal; whether there was one.
fn take(descriptor: &OwnedFd) -> bool {
    match rustix::io::read(descriptor, &mut [0; 8]) {
        Ok(_) => true,
        Err(Errno::AGAIN) => false,
        Err(cause) => panic!("{cause}"),
    }
}

/// The keys that are readable now.
fn readable_now(executor: &mut dyn Executor) -> Vec<u64> {
    let mut events = Vec::new();
    // Twice: io_uring first hears of a new watch, and then answers.
    executor.wait(Some(Duration::ZERO), &mut events).unwrap();
    executor.wait(Some(Duration::ZERO), &mut events).unwrap();
    let mut keys = readable(&events);
    keys.dedup();
    keys
}

fn readable(events: &[Event]) -> Vec<u64> {
    let mut keys: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Readable { key } => Some(*key),
            Event::Done { .. } | Event::Writable { .. } => None,
        })
        .collect();
    keys.sort_unstable();
    keys
}

fn a_readable_descriptor_is_reported_until_it_is_read(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let descriptor = event_descriptor();
    executor.watch(5, descriptor.as_fd()).unwrap();
    assert_eq!(readable_now(&mut *executor), []);
    signal(&descriptor);
    for _ in 0..3 {
        let mut events = Vec::new();
        executor.wait(None, &mut events).unwrap();
        assert_eq!(readable(&events), [5]);
    }
    assert!(take(&descriptor));
    // One report may have been on its way already.
    readable_now(&mut *executor);
    assert_eq!(readable_now(&mut *executor), []);
    signal(&descriptor);
    let mut events = Vec::new();
    executor.wait(None, &mut events).unwrap();
    assert_eq!(readable(&events), [5]);
}

fn a_descriptor_that_becomes_readable_ends_the_wait(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let descriptor = event_descriptor();
    executor.watch(1, descriptor.as_fd()).unwrap();
    let other_end = descriptor.try_clone().unwrap();
    let signaller = thread::spawn(move || signal(&other_end));
    let mut events = Vec::new();
    executor.wait(None, &mut events).unwrap();
    assert_eq!(readable(&events), [1]);
    signaller.join().unwrap();
}

fn an_ended_watch_reports_nothing_more(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let (never_asked, armed, fired) = (event_descriptor(), event_descriptor(), event_descriptor());
    executor.watch(2, armed.as_fd()).unwrap();
    executor.watch(3, fired.as_fd()).unwrap();
    signal(&fired);
    assert_eq!(readable_now(&mut *executor), [3]);
    executor.watch(1, never_asked.as_fd()).unwrap();
    for key in [1, 2, 3, 4] {
        executor.unwatch(key);
    }
    for descriptor in [&never_asked, &armed, &fired] {
        signal(descriptor);
    }
    assert_eq!(readable_now(&mut *executor), []);
    assert_eq!(readable_now(&mut *executor), []);
}

fn a_key_can_be_watched_again_with_another_descriptor(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let (old, new) = (event_descriptor(), event_descriptor());
    executor.watch(1, old.as_fd()).unwrap();
    assert_eq!(readable_now(&mut *executor), []);
    executor.unwatch(1);
    executor.watch(1, new.as_fd()).unwrap();
    signal(&old);
    assert_eq!(readable_now(&mut *executor), []);
    assert_eq!(readable_now(&mut *executor), []);
    signal(&new);
    assert_eq!(readable_now(&mut *executor), [1]);
}

fn a_key_has_one_watch_at_a_time(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let descriptor = event_descriptor();
    executor.watch(1, descriptor.as_fd()).unwrap();
    let error = executor.watch(1, descriptor.as_fd()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    executor.watch(2, descriptor.as_fd()).unwrap();
    signal(&descriptor);
    assert_eq!(readable_now(&mut *executor), [1, 2]);
}

fn the_caller_may_close_its_descriptor(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let descriptor = event_descriptor();
    let other_end = descriptor.try_clone().unwrap();
    executor.watch(1, descriptor.as_fd()).unwrap();
    drop(descriptor);
    // Takes the number that has become free, and must not be what is watched.
    let _unrelated = event_descriptor();
    assert_eq!(readable_now(&mut *executor), []);
    signal(&other_end);
    assert_eq!(readable_now(&mut *executor), [1]);
}

fn a_hang_up_is_reported(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let (reader, writer) = std::io::pipe().unwrap();
    executor.watch(1, reader.as_fd()).unwrap();
    assert_eq!(readable_now(&mut *executor), []);
    drop(writer);
    assert_eq!(readable_now(&mut *executor), [1]);
}

fn a_wait_ends_after_its_time(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let descriptor = event_descriptor();
    executor.watch(1, descriptor.as_fd()).unwrap();
    let mut events = Vec::new();
    executor
        .wait(Some(Duration::from_millis(3)), &mut events)
        .unwrap();
    executor.wait(Some(Duration::ZERO), &mut events).unwrap();
    executor.poll(&mut events).unwrap();
    assert!(events.is_empty(), "{events:?}");
}

fn many_descriptors_are_told_apart(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let descriptors: Vec<_> = (0..600).map(|_| event_descriptor()).collect();
    for (key, descriptor) in (1000..).zip(&descriptors) {
        executor.watch(key, descriptor.as_fd()).unwrap();
    }
    for index in [0, 255, 256, 599] {
        signal(&descriptors[index]);
    }
    assert_eq!(readable_now(&mut *executor), [1000, 1255, 1256, 1599]);
}

fn one_wait_covers_operations_and_descriptors(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs::write(&path, b"").unwrap();
    let opened = BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
    let file = executor.register(Arc::new(opened));
    let descriptor = event_descriptor();
    executor.watch(1, descriptor.as_fd()).unwrap();
    signal(&descriptor);
    executor.submit(1, write(file, 0, buffer_of(b"both")));
    let (mut done, mut seen) = (false, false);
    while !(done && seen) {
        let mut events = Vec::new();
        executor.wait(None, &mut events).unwrap();
        assert!(!events.is_empty());
        seen |= !readable(&events).is_empty();
        done |= events.iter().any(|event| {
            matches!(
                event,
                Event::Done {
                    key: 1,
                    result: Ok(())
                }
            )
        });
    }
    assert_eq!(fs::read(&path).unwrap(), b"both");
}

/// Another thread signals, and signals again only once it has been answered: one lost wakeup, and both wait for ever.
fn no_wakeup_is_lost(way: Way) {
    const ROUNDS: usize = 5000;
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let ping = event_descriptor();
    let pong = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    executor.watch(7, ping.as_fd()).unwrap();
    let (their_ping, their_pong) = (ping.try_clone().unwrap(), pong.try_clone().unwrap());
    let other = thread::spawn(move || {
        for _ in 0..ROUNDS {
            signal(&their_ping);
            rustix::io::read(&their_pong, &mut [0; 8]).unwrap();
        }
    });
    let mut taken = 0;
    let mut events = Vec::new();
    while taken < ROUNDS {
        events.clear();
        executor.wait(None, &mut events).unwrap();
        if take(&ping) {
            taken += 1;
            signal(&pong);
        }
    }
    other.join().unwrap();
}

fn an_executor_with_watches_can_be_dropped(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let (armed, readable) = (event_descriptor(), event_descriptor());
    executor.watch(1, armed.as_fd()).unwrap();
    executor.watch(2, readable.as_fd()).unwrap();
    signal(&readable);
    assert_eq!(readable_now(&mut *executor), [2]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    fs::write(&path, b"").unwrap();
    let opened = BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
    let file = executor.register(Arc::new(opened));
    executor.submit(3, write(file, 0, buffer_of(b"finished")));
    drop(executor);
    assert_eq!(fs::read(&path).unwrap(), b"finished");
}

/// Fills a socket until it takes no more; how many bytes that were.
fn fill(socket: &UnixStream) -> usize {
    let mut filled = 0;
    loop {
        match (&*socket).write(&[7; 4096]) {
            Ok(count) => filled += count,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return filled,
            Err(cause) => panic!("{cause}"),
        }
    }
}

fn a_full_socket_is_reported_once_it_takes_bytes(way: Way) {
    let Some(mut executor) = (way.make)() else {
        return;
    };
    let (near, mut far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let filled = fill(&near);
    executor.watch(1, near.as_fd()).unwrap();
    executor.watch_writable(2, near.as_fd()).unwrap();
    let mut events = Vec::new();
    for _ in 0..2 {
        executor.wait(Some(Duration::ZERO), &mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
    }
    let reader = thread::spawn(move || {
        far.read_exact(&mut vec![0; filled]).unwrap();
        far
    });
    executor.wait(None, &mut events).unwrap();
    assert!(
        matches!(events[..], [Event::Writable { key: 2 }]),
        "{events:?}"
    );
    let far = reader.join().unwrap();
    // Not watched any more, its hang-up is not reported, under either key.
    executor.unwatch(1);
    executor.unwatch(2);
    drop(far);
    events.clear();
    for _ in 0..2 {
        executor.wait(Some(Duration::ZERO), &mut events).unwrap();
        assert!(events.is_empty(), "{events:?}");
    }
}
