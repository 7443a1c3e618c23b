//! The wire protocol of xenstore: message headers, types and errors (`xs_wire.h`).

use std::io::{self, Read};

/// Most bytes that a message carries after its header (`XENSTORE_PAYLOAD_MAX`).
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4096;
const HEADER_BYTES: usize = 16;

/// The message types that this store understands (`enum xsd_sockmsg_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageType {
    Directory,
    Read,
    GetPerms,
    Watch,
    Unwatch,
    TransactionStart,
    TransactionEnd,
    GetDomainPath,
    Write,
    Mkdir,
    Rm,
    SetPerms,
    WatchEvent,
    Error,
    IsDomainIntroduced,
    ResetWatches,
    DirectoryPart,
}

const MESSAGE_TYPES: [(u32, MessageType); 17] = [
    (1, MessageType::Directory),
    (2, MessageType::Read),
    (3, MessageType::GetPerms),
    (4, MessageType::Watch),
    (5, MessageType::Unwatch),
    (6, MessageType::TransactionStart),
    (7, MessageType::TransactionEnd),
    (10, MessageType::GetDomainPath),
    (11, MessageType::Write),
    (12, MessageType::Mkdir),
    (13, MessageType::Rm),
    (14, MessageType::SetPerms),
    (15, MessageType::WatchEvent),
    (16, MessageType::Error),
    (17, MessageType::IsDomainIntroduced),
    (21, MessageType::ResetWatches),
    (22, MessageType::DirectoryPart),
];

impl MessageType {
    fn code(self) -> u32 {
        let (code, _) = MESSAGE_TYPES
            .iter()
            .find(|(_, known)| *known == self)
            .expect("every type is in the table");
        *code
    }

    /// The type of a request's code; `None` for one that is not supported.
    pub(crate) fn of_request(code: u32) -> Option<Self> {
        MESSAGE_TYPES
            .iter()
            .find(|(known, _)| *known == code)
            .map(|(_, message_type)| *message_type)
            .filter(|message_type| !matches!(message_type, Self::WatchEvent | Self::Error))
    }
}

/// An error of xenstore, which travels as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XsError {
    /// Malformed request or path.
    #[error("EINVAL")]
    Einval,
    /// It exists already.
    #[error("EEXIST")]
    Eexist,
    /// There is no such node, watch or transaction.
    #[error("ENOENT")]
    Enoent,
    /// The operation is not supported.
    #[error("ENOSYS")]
    Enosys,
    /// The operation is not possible now, e.g. a transaction within a transaction.
    #[error("EBUSY")]
    Ebusy,
    /// The transaction conflicts with another change: try it again.
    #[error("EAGAIN")]
    Eagain,
    /// The answer does not fit in a message.
    #[error("E2BIG")]
    E2big,
}

/// Which request a reply belongs to: both numbers are echoed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestTag {
    pub(crate) request_id: u32,
    pub(crate) transaction_id: u32,
}

/// A request as it came in; `code` is not yet known to be supported.
#[derive(Debug)]
pub(crate) struct RawRequest {
    pub(crate) code: u32,
    pub(crate) tag: RequestTag,
    pub(crate) payload: Vec<u8>,
}

impl RawRequest {
    /// Reads one request.
    ///
    /// # Errors
    /// An I/O error, among them an oversized payload: the real xenstored drops such a connection.
    pub(crate) fn read_from(stream: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header)?;
        let word = |index: usize| {
            let bytes: [u8; 4] = header[index * 4..index * 4 + 4]
                .try_into()
                .expect("four bytes of sixteen");
            u32::from_ne_bytes(bytes)
        };
        let payload_bytes = word(3) as usize;
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a payload of {payload_bytes} bytes"),
            ));
        }
        let mut payload = vec![0; payload_bytes];
        stream.read_exact(&mut payload)?;
        Ok(Self {
            code: word(0),
            tag: RequestTag {
                request_id: word(1),
                transaction_id: word(2),
            },
            payload,
        })
    }
}

/// A message of the given type, ready to be sent.
pub(crate) fn message(message_type: MessageType, tag: RequestTag, payload: &[u8]) -> Vec<u8> {
    let payload_bytes = u32::try_from(payload.len()).expect("payloads are at most 4096 bytes");
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    for word in [
        message_type.code(),
        tag.request_id,
        tag.transaction_id,
        payload_bytes,
    ] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// The watch event that tells of `path`; it belongs to no request.
pub(crate) fn watch_event(path: &[u8], token: &[u8]) -> Vec<u8> {
    let payload = [path, b"\0", token, b"\0"].concat();
    let unsolicited = RequestTag {
        request_id: 0,
        transaction_id: 0,
    };
    message(MessageType::WatchEvent, unsolicited, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_request_parses_from_literal_bytes() {
        let mut bytes: &[u8] = &[
            2, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, b'/', b'a', 0,
        ];
        let request = RawRequest::read_from(&mut bytes).unwrap();
        assert_eq!(
            MessageType::of_request(request.code),
            Some(MessageType::Read)
        );
        assert_eq!(
            request.tag,
            RequestTag {
                request_id: 7,
                transaction_id: 9
            }
        );
        assert_eq!(request.payload, b"/a\0");
    }

    #[test]
    fn an_oversized_payload_is_an_error() {
        let mut bytes: &[u8] = &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 16, 0, 0];
        assert_eq!(
            RawRequest::read_from(&mut bytes).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_watch_event_has_these_bytes() {
        assert_eq!(
            watch_event(b"a", b"t"),
            [
                15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, b'a', 0, b't', 0
            ]
        );
    }

    #[test]
    fn clients_cannot_send_events_or_errors() {
        assert_eq!(MessageType::of_request(15), None);
        assert_eq!(MessageType::of_request(16), None);
        assert_eq!(MessageType::of_request(20), None);
    }
}
