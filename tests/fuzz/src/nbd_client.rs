//! A client that takes apart what a server has sent, by the protocol's document and not by the server's code. It panics
//! at whatever is not well-formed.

use ::nbd::{Export, Session};

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\x00\x03";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// The errors that a client may know.
const ERRORS: [u32; 8] = [1, 5, 12, 22, 28, 75, 95, 108];

pub(crate) struct Client<'a> {
    export: &'a Export,
    /// What was agreed upon, and how many bytes had been sent then.
    entered: Option<(Session, usize)>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(export: &'a Export, entered: Option<(Session, usize)>) -> Self {
        Self { export, entered }
    }

    /// Takes apart all that was sent.
    pub(crate) fn read(&self, sent: &[u8]) {
        let rest = sent.strip_prefix(GREETING).expect("a greeting comes first");
        let Some((session, at)) = self.entered else {
            let rest = Self::option_replies(rest);
            assert!(rest.is_empty(), "{rest:02x?} before transmission");
            return;
        };
        let (negotiation, transmission) = rest.split_at(at - GREETING.len());
        self.end_of_negotiation(Self::option_replies(negotiation));
        match session.structured() {
            true => self.chunks(transmission),
            false => Self::simple_replies(transmission),
        }
    }

    /// What a client that asks for an export in the old way is told without the form of a reply.
    fn end_of_negotiation(&self, rest: &[u8]) {
        let mut rest = Bytes(rest);
        if rest.0.is_empty() {
            return;
        }
        assert_eq!(rest.u64(), self.export.size());
        assert!(rest.u16() & 1 == 1, "a transmission phase without flags");
        let filling = rest.0;
        let len = filling.len();
        assert!(len == 0 || len == 124, "{len} bytes after the flags");
        assert!(filling.iter().all(|byte| *byte == 0));
    }

    /// Returns what follows the last reply to an option.
    fn option_replies(sent: &[u8]) -> &[u8] {
        let mut rest = Bytes(sent);
        while rest.0.starts_with(&OPTION_REPLY_MAGIC.to_be_bytes()) {
            rest.u64();
            let option = rest.u32();
            let kind = rest.u32();
            let len = rest.u32();
            let mut data = rest.bytes(len);
            match kind {
                1 => assert_eq!(len, 0, "an acknowledgement with data"),
                2 => {
                    assert_eq!(option, 3, "an export where no list was asked for");
                    let name = data.u32();
                    data.bytes(name).text();
                    data.text();
                }
                3 => {
                    assert!(matches!(option, 6 | 7), "information nobody asked for");
                    Self::information(data);
                }
                4 => {
                    assert!(matches!(option, 9 | 10), "a context nobody asked for");
                    assert_eq!(data.u32() == 0, option == 9, "the context's number");
                    data.text();
                }
                error => {
                    let known = [1, 3, 6, 9].map(|code| 1 << 31 | code);
                    assert!(known.contains(&error), "a reply of kind {error:#x}");
                    data.text();
                }
            }
        }
        rest.0
    }

    fn information(data: Bytes<'_>) {
        let mut data = data;
        match data.u16() {
            0 => assert_eq!(data.0.len(), 10, "size and flags"),
            1 | 2 => data.text(),
            3 => {
                let (minimum, preferred, most) = (data.u32(), data.u32(), data.u32());
                assert!(minimum <= preferred && preferred <= most && data.0.is_empty());
            }
            other => panic!("information of kind {other}"),
        }
    }

    fn simple_replies(sent: &[u8]) {
        let mut rest = Bytes(sent);
        while !rest.0.is_empty() {
            assert_eq!(rest.u32(), SIMPLE_REPLY_MAGIC);
            let error = rest.u32();
            assert!(error == 0 || ERRORS.contains(&error), "error {error}");
            rest.u64();
        }
    }

    fn chunks(&self, sent: &[u8]) {
        let mut rest = Bytes(sent);
        while !rest.0.is_empty() {
            assert_eq!(rest.u32(), STRUCTURED_REPLY_MAGIC);
            let flags = rest.u16();
            assert!(flags <= 1, "flags {flags:#x}");
            let kind = rest.u16();
            rest.u64();
            let len = rest.u32();
            match kind {
                0 => assert!(
                    len == 0 && flags == 1,
                    "an empty chunk that is not the last"
                ),
                // The server of these tests does not send the data itself.
                1 => self.check_range(rest.u64(), len.checked_sub(8).expect("the offset")),
                2 => {
                    assert_eq!(len, 12);
                    let offset = rest.u64();
                    self.check_range(offset, rest.u32());
                }
                5 => self.descriptors(rest.bytes(len)),
                0x8001 | 0x8002 => {
                    let mut data = rest.bytes(len);
                    let error = data.u32();
                    assert!(ERRORS.contains(&error), "error {error}");
                    let text = u32::from(data.u16());
                    data.bytes(text).text();
                    assert_eq!(data.0.len(), if kind == 0x8002 { 8 } else { 0 });
                }
                other => panic!("a chunk of kind {other:#x}"),
            }
        }
    }

    fn descriptors(&self, data: Bytes<'_>) {
        let mut data = data;
        assert!(
            matches!(data.u32(), 1 | 2),
            "a context that was not negotiated"
        );
        assert!(!data.0.is_empty(), "no descriptor");
        let mut described = 0;
        while !data.0.is_empty() {
            let len = data.u32();
            data.u32();
            assert!(len > 0, "a descriptor of nothing");
            described += u64::from(len);
        }
        assert!(described <= self.export.size());
    }

    fn check_range(&self, offset: u64, len: u32) {
        let end = offset.checked_add(len.into());
        assert!(
            len > 0 && end.is_some_and(|end| end <= self.export.size()),
            "{len} bytes at {offset}"
        );
    }
}

/// Bytes that were received. Whatever is missing is a fault of the server.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn bytes(&mut self, len: u32) -> Bytes<'a> {
        let (now, rest) = self
            .0
            .split_at_checked(len as usize)
            .expect("as long as it says");
        self.0 = rest;
        Bytes(now)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (now, rest) = self.0.split_first_chunk().expect("as long as it must be");
        self.0 = rest;
        *now
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    fn text(&self) {
        let text = std::str::from_utf8(self.0).expect("strings are UTF-8");
        assert!(text.len() <= 4096 && !text.contains('\0'), "{text:?}");
    }
}
