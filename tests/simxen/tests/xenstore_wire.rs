//! The wire protocol of the simulated xenstore, byte for byte, as other clients than ours see it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use simxen::Host;

const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const GET_PERMS: u32 = 3;
const WATCH: u32 = 4;
const UNWATCH: u32 = 5;
const TRANSACTION_START: u32 = 6;
const TRANSACTION_END: u32 = 7;
const GET_DOMAIN_PATH: u32 = 10;
const WRITE: u32 = 11;
const MKDIR: u32 = 12;
const RM: u32 = 13;
const SET_PERMS: u32 = 14;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;
const IS_DOMAIN_INTRODUCED: u32 = 17;
const RESET_WATCHES: u32 = 21;
const DIRECTORY_PART: u32 = 22;

/// A client that knows nothing but messages.
struct Client {
    stream: UnixStream,
    next_request: u32,
}

#[derive(Debug, PartialEq, Eq)]
struct Message {
    message_type: u32,
    request: u32,
    transaction: u32,
    payload: Vec<u8>,
}

impl Client {
    fn connect(host: &Host) -> Self {
        let (_, socket) = host.xenstore_environment().remove(0);
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self {
            stream,
            next_request: 100,
        }
    }

    fn send(&mut self, message_type: u32, transaction: u32, payload: &[u8]) -> u32 {
        self.next_request += 1;
        let length = u32::try_from(payload.len()).unwrap();
        for word in [message_type, self.next_request, transaction, length] {
            self.stream.write_all(&word.to_le_bytes()).unwrap();
        }
        self.stream.write_all(payload).unwrap();
        self.next_request
    }

    fn receive(&mut self) -> Message {
        let mut word = || {
            let mut bytes = [0; 4];
            self.stream.read_exact(&mut bytes).unwrap();
            u32::from_le_bytes(bytes)
        };
        let (message_type, request, transaction, length) = (word(), word(), word(), word());
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).unwrap();
        Message {
            message_type,
            request,
            transaction,
            payload,
        }
    }

    /// Sends a request and expects its reply, or the name of an error.
    fn ask_in(
        &mut self,
        transaction: u32,
        message_type: u32,
        payload: &[u8],
    ) -> Result<Vec<u8>, String> {
        let request = self.send(message_type, transaction, payload);
        let reply = self.receive();
        assert_eq!((reply.request, reply.transaction), (request, transaction));
        if reply.message_type == ERROR {
            return Err(String::from_utf8(reply.payload).unwrap());
        }
        assert_eq!(reply.message_type, message_type);
        Ok(reply.payload)
    }

    fn ask(&mut self, message_type: u32, payload: &[u8]) -> Result<Vec<u8>, String> {
        self.ask_in(0, message_type, payload)
    }

    fn ok(&mut self, message_type: u32, payload: &[u8]) {
        assert_eq!(self.ask(message_type, payload), Ok(b"OK\0".to_vec()));
    }

    fn event(&mut self) -> String {
        let event = self.receive();
        assert_eq!(
            (event.message_type, event.request, event.transaction),
            (WATCH_EVENT, 0, 0)
        );
        String::from_utf8(event.payload).unwrap()
    }

    /// All that was sent before this has been answered, so no event can be on its way: expects none.
    fn expect_no_event(&mut self) {
        let request = self.send(GET_DOMAIN_PATH, 0, b"0\0");
        assert_eq!(self.receive().request, request);
    }
}

fn error<T>(name: &str) -> Result<T, String> {
    Err(format!("{name}\0"))
}

#[test]
fn nodes_are_written_read_listed_and_removed() {
    let host = Host::start().unwrap();
    let mut client = Client::connect(&host);
    client.ok(WRITE, b"/a/b\0one");
    client.ok(WRITE, b"/a/c\0\xff\0\xfe");
    client.ok(MKDIR, b"/a/b\0");
    client.ok(MKDIR, b"/a/d/e\0");
    assert_eq!(client.ask(READ, b"/a/b\0"), Ok(b"one".to_vec()));
    assert_eq!(client.ask(READ, b"/a/c\0"), Ok(b"\xff\0\xfe".to_vec()));
    assert_eq!(client.ask(READ, b"/a\0"), Ok(Vec::new()));
    assert_eq!(client.ask(DIRECTORY, b"/a\0"), Ok(b"b\0c\0d\0".to_vec()));
    assert_eq!(client.ask(DIRECTORY, b"/a/b\0"), Ok(Vec::new()));
    client.ok(RM, b"/a/d\0");
    client.ok(RM, b"/a/d\0");
    assert_eq!(client.ask(READ, b"/a/d/e\0"), error("ENOENT"));
    assert_eq!(client.ask(RM, b"/x/y\0"), error("ENOENT"));
    assert_eq!(client.ask(RM, b"/\0"), error("EINVAL"));
    assert_eq!(client.ask(DIRECTORY, b"/x\0"), error("ENOENT"));
    assert_eq!(client.ask(READ, b"/a//b\0"), error("EINVAL"));
    assert_eq!(client.ask(READ, b"/a/b"), error("EINVAL"));
    assert_eq!(client.ask(99, b"\0"), error("ENOSYS"));
    // Without a slash in front, a path is domain 0's.
    client.ok(WRITE, b"backend/vbd\0x");
    assert_eq!(
        client.ask(READ, b"/local/domain/0/backend/vbd\0"),
        Ok(b"x".to_vec())
    );
    assert_eq!(host.xenstore().read("/a/c").unwrap(), b"\xff\0\xfe");
}

#[test]
fn domains_and_permissions_are_known() {
    let host = Host::start().unwrap();
    let mut client = Client::connect(&host);
    assert_eq!(
        client.ask(GET_DOMAIN_PATH, b"7\0"),
        Ok(b"/local/domain/7\0".to_vec())
    );
    assert_eq!(
        client.ask(IS_DOMAIN_INTRODUCED, b"7\0"),
        Ok(b"F\0".to_vec())
    );
    let _domain = host.new_domain(7).unwrap();
    assert_eq!(
        client.ask(IS_DOMAIN_INTRODUCED, b"7\0"),
        Ok(b"T\0".to_vec())
    );
    client.ok(WRITE, b"/a\0x");
    assert_eq!(client.ask(GET_PERMS, b"/a\0"), Ok(b"r0\0".to_vec()));
    client.ok(SET_PERMS, b"/a\0n7\0r0\0");
    assert_eq!(client.ask(GET_PERMS, b"/a\0"), Ok(b"n7\0r0\0".to_vec()));
    assert_eq!(client.ask(SET_PERMS, b"/a\0x7\0"), error("EINVAL"));
    assert_eq!(client.ask(SET_PERMS, b"/b\0n7\0"), error("ENOENT"));
}

#[test]
fn a_long_directory_comes_in_parts() {
    let host = Host::start().unwrap();
    let mut client = Client::connect(&host);
    for index in 0..1000 {
        host.xenstore()
            .write(&format!("/long/{index:04}"), "")
            .unwrap();
    }
    assert_eq!(client.ask(DIRECTORY, b"/long\0"), error("E2BIG"));
    let mut names = Vec::new();
    let mut parts = 0;
    loop {
        let offset = names.len().to_string();
        let request = [b"/long\0", offset.as_bytes(), b"\0"].concat();
        let part = client.ask(DIRECTORY_PART, &request).unwrap();
        parts += 1;
        let generation_end = part.iter().position(|&c| c == 0).unwrap();
        let list = &part[generation_end + 1..];
        names.extend_from_slice(list);
        if list.ends_with(b"\0\0") {
            names.pop();
            break;
        }
    }
    assert_eq!(parts, 2);
    assert_eq!(names.len(), 5000);
    assert!(names.starts_with(b"0000\x000001\0"));
    assert!(names.ends_with(b"0999\0"));
}

#[test]
fn watches_tell_of_changes_in_the_form_of_their_registration() {
    let host = Host::start().unwrap();
    let mut client = Client::connect(&host);
    client.ok(WATCH, b"/local/domain/0/backend\0absolute\0");
    assert_eq!(client.event(), "/local/domain/0/backend\0absolute\0");
    client.ok(WATCH, b"backend\0relative\0");
    assert_eq!(client.event(), "backend\0relative\0");
    host.xenstore().write("backend/vbd/1", "x").unwrap();
    assert_eq!(client.event(), "/local/domain/0/backend/vbd/1\0absolute\0");
    assert_eq!(client.event(), "backend/vbd/1\0relative\0");
    host.xenstore().write("backends", "not beneath").unwrap();
    client.expect_no_event();
    assert_eq!(client.ask(WATCH, b"backend\0relative\0"), error("EEXIST"));
    client.ok(UNWATCH, b"backend\0relative\0");
    assert_eq!(client.ask(UNWATCH, b"backend\0relative\0"), error("ENOENT"));
    // A client is told of its own changes too.
    let request = client.send(WRITE, 0, b"backend\0y");
    let mut messages = [client.receive(), client.receive()];
    messages.sort_by_key(|message| message.message_type);
    assert_eq!(messages[0].request, request);
    assert_eq!(messages[1].payload, b"/local/domain/0/backend\0absolute\0");
    client.ok(RESET_WATCHES, b"\0");
    host.xenstore().write("backend/vbd/1", "z").unwrap();
    client.expect_no_event();
}

#[test]
fn removal_is_told_to_watches_above_and_beneath() {
    let host = Host::start().unwrap();
    host.xenstore().write("/a/b/c/d", "").unwrap();
    let mut client = Client::connect(&host);
    for watch in ["/a\0above\0", "/a/b/c\0beneath\0", "/a/b/x\0missing\0"] {
        client.ok(WATCH, watch.as_bytes());
        assert_eq!(client.event(), watch);
    }
    host.xenstore().rm("/a/b").unwrap();
    let mut events = [client.event(), client.event()];
    events.sort();
    assert_eq!(events, ["/a/b\0above\0", "/a/b/c\0beneath\0"]);
    client.expect_no_event();
    // Removing nothing changes nothing; making what is there neither.
    host.xenstore().rm("/a/b").unwrap();
    host.xenstore().mkdir("/a").unwrap();
    client.expect_no_event();
}

#[test]
fn domains_that_come_and_go_are_told() {
    let host = Host::start().unwrap();
    let mut client = Client::connect(&host);
    client.ok(WATCH, b"@introduceDomain\0in\0");
    assert_eq!(client.event(), "@introduceDomain\0in\0");
    client.ok(WATCH, b"@releaseDomain\0out\0");
    assert_eq!(client.event(), "@releaseDomain\0out\0");
    let domain = host.new_domain(5).unwrap();
    assert_eq!(client.event(), "@introduceDomain\0in\0");
    assert_eq!(
        client.ask(READ, b"/local/domain/5/domid\0"),
        Ok(b"5".to_vec())
    );
    host.vanish_domain(&domain).unwrap();
    assert_eq!(client.event(), "@releaseDomain\0out\0");
    assert_eq!(client.ask(READ, b"/local/domain/5\0"), error("ENOENT"));
    client.expect_no_event();
}

fn start_transaction(client: &mut Client) -> u32 {
    let reply = client.ask(TRANSACTION_START, b"\0").unwrap();
    let text = std::str::from_utf8(reply.strip_suffix(b"\0").unwrap()).unwrap();
    text.parse().unwrap()
}

#[test]
fn a_transaction_is_seen_only_when_committed() {
    let host = Host::start().unwrap();
    let mut client = Client::connect(&host);
    client.ok(WATCH, b"/t\0w\0");
    client.event();
    let transaction = start_transaction(&mut client);
    let ok = Ok(b"OK\0".to_vec());
    assert_eq!(client.ask_in(transaction, WRITE, b"/t/a\x001"), ok);
    assert_eq!(
        client.ask_in(transaction, READ, b"/t/a\0"),
        Ok(b"1".to_vec())
    );
    assert_eq!(client.ask_in(transaction, WRITE, b"/t/b\x002"), ok);
    assert_eq!(client.ask_in(transaction, WRITE, b"/t/a\x003"), ok);
    assert_eq!(client.ask(READ, b"/t/a\0"), error("ENOENT"));
    client.expect_no_event();
    assert_eq!(
        client.ask_in(transaction, TRANSACTION_START, b"\0"),
        error("EBUSY")
    );
    let request = client.send(TRANSACTION_END, transaction, b"T\0");
    let mut messages = [client.receive(), client.receive(), client.receive()];
    messages.sort_by_key(|message| message.message_type);
    assert_eq!(messages[0].request, request);
    // Two nodes, two events, though one was written twice.
    assert_eq!(messages[1].payload, b"/t/a\0w\0");
    assert_eq!(messages[2].payload, b"/t/b\0w\0");
    assert_eq!(client.ask(READ, b"/t/a\0"), Ok(b"3".to_vec()));
    client.expect_no_event();

    let transaction = start_transaction(&mut client);
    assert_eq!(client.ask_in(transaction, RM, b"/t\0"), ok);
    assert_eq!(client.ask_in(transaction, TRANSACTION_END, b"F\0"), ok);
    assert_eq!(client.ask(READ, b"/t/b\0"), Ok(b"2".to_vec()));
    assert_eq!(
        client.ask_in(transaction, TRANSACTION_END, b"T\0"),
        error("ENOENT")
    );
    assert_eq!(client.ask_in(9999, READ, b"/t/a\0"), error("ENOENT"));
}

#[test]
fn a_transaction_fails_if_what_it_read_was_changed() {
    let host = Host::start().unwrap();
    host.xenstore().write("/t/read", "1").unwrap();
    host.xenstore().write("/t/other", "1").unwrap();
    let mut client = Client::connect(&host);
    // (what is looked at, what another changes, whether that is a conflict)
    let cases: [(u32, &[u8], &str, bool); 5] = [
        (READ, b"/t/read\0", "/t/read", true),
        (READ, b"/t/read\0", "/t/other", false),
        (DIRECTORY, b"/t\0", "/t/new-1", true),
        (READ, b"/t/new-2\0", "/t/new-2", true),
        (RM, b"/u/x\0", "/u", true),
    ];
    for (message_type, looked_at, changed, conflict) in cases {
        let transaction = start_transaction(&mut client);
        let _ = client.ask_in(transaction, message_type, looked_at);
        client.ask_in(transaction, WRITE, b"/t/written\0x").unwrap();
        host.xenstore().write(changed, "2").unwrap();
        let ended = client.ask_in(transaction, TRANSACTION_END, b"T\0");
        let expected = if conflict {
            error("EAGAIN")
        } else {
            Ok(b"OK\0".to_vec())
        };
        assert_eq!(ended, expected, "{changed}");
    }
}

#[test]
fn the_tests_own_transactions_conflict_alike() {
    let host = Host::start().unwrap();
    let store = host.xenstore();
    store.write("/t", "1").unwrap();
    let transaction = store.transaction();
    assert_eq!(transaction.read("/t").unwrap(), b"1");
    transaction.write("/t", "2").unwrap();
    assert_eq!(store.read_text("/t").unwrap(), "1");
    assert!(transaction.commit().unwrap());
    assert_eq!(store.read_text("/t").unwrap(), "2");
    let transaction = store.transaction();
    assert_eq!(transaction.read("/t").unwrap(), b"2");
    transaction.write("/u", "").unwrap();
    store.write("/t", "3").unwrap();
    assert!(!transaction.commit().unwrap());
    assert_eq!(store.read("/u"), None);
}

#[test]
fn an_oversized_message_costs_the_connection() {
    let host = Host::start().unwrap();
    let mut client = Client::connect(&host);
    client.send(READ, 0, &[b'a'; 4097]);
    assert_eq!(client.stream.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn waiting_ends_with_the_change_or_says_what_it_saw() {
    let host = Host::start().unwrap();
    let store = host.xenstore().clone();
    let writer = std::thread::spawn({
        let store = store.clone();
        move || {
            store.write("/w", "1").unwrap();
            store.write("/w", "2").unwrap();
        }
    });
    store
        .wait_for_value("/w", "2", Duration::from_secs(10))
        .unwrap();
    writer.join().unwrap();
    let error = store
        .wait_for_value("/w", "3", Duration::ZERO)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "waited 0ns for /w to be \"3\"; last seen: \"2\"");
}
