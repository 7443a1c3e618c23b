//! What the preloaded shim and the simulated hypervisor say to each other, over a unix socket of type
//! `SOCK_SEQPACKET`: each message is one packet, each request has one reply. Numbers are little-endian.
//!
//! Requests: a `u32` kind, then its fields. Replies: an `i32`, zero or a negative `errno`, then the result's fields.
//! File descriptors travel with the packet.

use crate::ids::{DomId, EventPort, GrantRef, PageIndex};

/// The environment variable that tells the shim where the hypervisor listens.
pub const SOCKET_VARIABLE: &str = "SIMXEN_SOCKET";
/// Most grants in one request; longer lists go in several.
pub const GRANTS_PER_REQUEST_MAX: usize = 1024;
/// Longest packet in either direction, in bytes: a map request or reply of the greatest length, with some room.
pub const PACKET_BYTES_MAX: usize = 16 + 20 * GRANTS_PER_REQUEST_MAX;
/// Most file descriptors with one packet.
pub const DESCRIPTORS_MAX: usize = 2;

/// How many grants a domain's grant table holds.
pub const GRANT_TABLE_ENTRIES: u32 = 65_536;

/// Names a mapping of one grant by one process; the hypervisor chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MapHandle(pub u64);

/// An entry of a domain's grant table, which the hypervisor shares with the shims: a `u64` each, zero if unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantEntry {
    /// Who may use the page.
    pub granted_to: DomId,
    /// Whether it may only be read.
    pub read_only: bool,
    /// The page.
    pub page: PageIndex,
}

impl GrantEntry {
    /// The entry as it lies in the table: bit 0 in use, bit 1 read-only, bits 16 to 31 the domain, 32 to 63 the page.
    #[must_use]
    pub fn to_word(self) -> u64 {
        1 | u64::from(self.read_only) << 1
            | u64::from(self.granted_to.0) << 16
            | u64::from(self.page.0) << 32
    }

    /// Reads an entry; `None` if it is unused.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fields are cut out of the word"
    )]
    pub fn from_word(word: u64) -> Option<Self> {
        (word & 1 != 0).then_some(Self {
            granted_to: DomId((word >> 16) as u16),
            read_only: word & 2 != 0,
            page: PageIndex((word >> 32) as u32),
        })
    }
}

/// What a backend's process asks of the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The memory and the grant table of a domain, as two descriptors.
    Domain(DomId),
    /// Map grants: all or none.
    Map {
        /// Whether the mapping is for writing too.
        writable: bool,
        /// The granting domain and the reference, each.
        grants: Vec<(DomId, GrantRef)>,
    },
    /// End mappings.
    Unmap(Vec<MapHandle>),
    /// Bind an event channel to another domain's unbound port; two descriptors come back.
    Bind {
        /// Whose port.
        domain: DomId,
        /// Which.
        port: EventPort,
    },
    /// Close the local end of an event channel.
    Unbind(EventPort),
}

/// Descriptors of [`Request::Domain`]'s reply are, in this order, the memory and the grant table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainReply {
    /// Tells this domain from an earlier one of the same identifier.
    pub incarnation: u64,
    /// The size of the memory in pages.
    pub pages: u32,
}

/// A grant that is now mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedGrant {
    /// For unmapping.
    pub handle: MapHandle,
    /// Which domain of the identifier it belongs to, as in [`DomainReply`].
    pub incarnation: u64,
    /// The page of the granting domain's memory.
    pub page: PageIndex,
}

/// What the hypervisor answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Domain`].
    Domain(DomainReply),
    /// To [`Request::Map`], in the order of the request.
    Mapped(Vec<MappedGrant>),
    /// To [`Request::Bind`]: the local port. The descriptors are the eventfd that becomes readable when the other end
    /// notifies, and the one that notifies the other end.
    Bound(EventPort),
    /// To the requests that have no result.
    Done,
    /// The request failed, with this `errno`.
    Failed(i32),
}

/// A packet was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet")]
pub struct Malformed;

struct Reader<'p>(&'p [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }

    fn domain(&mut self) -> Result<DomId, Malformed> {
        // A hypercall's field is 16 bits wide; the ioctl's is wider. What does not fit is no domain.
        u16::try_from(self.u32()?).map(DomId).map_err(|_| Malformed)
    }

    fn items<T>(
        &mut self,
        one: impl Fn(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let mut items = Vec::new();
        while !self.0.is_empty() {
            items.push(one(self)?);
        }
        Ok(items)
    }
}

impl Request {
    /// The request as a packet.
    #[must_use]
    pub fn to_packet(&self) -> Vec<u8> {
        let mut packet = Vec::new();
        let mut put = |word: u32| packet.extend_from_slice(&word.to_le_bytes());
        match self {
            Self::Domain(domain) => {
                put(1);
                put(u32::from(domain.0));
            }
            Self::Map { writable, grants } => {
                put(2);
                put(u32::from(*writable));
                for (domain, grant) in grants {
                    put(u32::from(domain.0));
                    put(grant.0);
                }
            }
            Self::Unmap(handles) => {
                put(3);
                for handle in handles {
                    packet.extend_from_slice(&handle.0.to_le_bytes());
                }
            }
            Self::Bind { domain, port } => {
                put(4);
                put(u32::from(domain.0));
                put(port.0);
            }
            Self::Unbind(port) => {
                put(5);
                put(port.0);
            }
        }
        packet
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// [`Malformed`] if it is none of the above.
    pub fn from_packet(packet: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Reader(packet);
        match fields.u32()? {
            1 => Ok(Self::Domain(fields.domain()?)),
            2 => Ok(Self::Map {
                writable: fields.u32()? != 0,
                grants: fields.items(|fields| Ok((fields.domain()?, GrantRef(fields.u32()?))))?,
            }),
            3 => Ok(Self::Unmap(
                fields.items(|fields| fields.u64().map(MapHandle))?,
            )),
            4 => Ok(Self::Bind {
                domain: fields.domain()?,
                port: EventPort(fields.u32()?),
            }),
            5 => Ok(Self::Unbind(EventPort(fields.u32()?))),
            _ => Err(Malformed),
        }
    }
}

impl Reply {
    /// The reply as a packet.
    #[must_use]
    pub fn to_packet(&self) -> Vec<u8> {
        let status = if let Self::Failed(errno) = self {
            -errno
        } else {
            0
        };
        let mut packet = status.to_le_bytes().to_vec();
        match self {
            Self::Domain(domain) => {
                packet.extend_from_slice(&domain.incarnation.to_le_bytes());
                packet.extend_from_slice(&domain.pages.to_le_bytes());
            }
            Self::Mapped(grants) => {
                for grant in grants {
                    packet.extend_from_slice(&grant.handle.0.to_le_bytes());
                    packet.extend_from_slice(&grant.incarnation.to_le_bytes());
                    packet.extend_from_slice(&grant.page.0.to_le_bytes());
                }
            }
            Self::Bound(port) => packet.extend_from_slice(&port.0.to_le_bytes()),
            Self::Done | Self::Failed(_) => {}
        }
        packet
    }

    /// Reads the reply to `request`.
    ///
    /// # Errors
    /// [`Malformed`] if it does not fit the request.
    pub fn from_packet(request: &Request, packet: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Reader(packet);
        let status = i32::from_le_bytes(fields.take()?);
        if status != 0 {
            return Ok(Self::Failed(-status));
        }
        Ok(match request {
            Request::Domain(_) => Self::Domain(DomainReply {
                incarnation: fields.u64()?,
                pages: fields.u32()?,
            }),
            Request::Map { .. } => Self::Mapped(fields.items(|fields| {
                Ok(MappedGrant {
                    handle: MapHandle(fields.u64()?),
                    incarnation: fields.u64()?,
                    page: PageIndex(fields.u32()?),
                })
            })?),
            Request::Bind { .. } => Self::Bound(EventPort(fields.u32()?)),
            Request::Unmap(_) | Request::Unbind(_) => Self::Done,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_way() {
        for request in [
            Request::Domain(DomId(7)),
            Request::Map {
                writable: true,
                grants: vec![(DomId(1), GrantRef(8)), (DomId(2), GrantRef(u32::MAX))],
            },
            Request::Unmap(vec![MapHandle(1), MapHandle(u64::MAX)]),
            Request::Bind {
                domain: DomId(0x7fef),
                port: EventPort(3),
            },
            Request::Unbind(EventPort(4)),
        ] {
            assert_eq!(Request::from_packet(&request.to_packet()), Ok(request));
        }
        assert_eq!(Request::from_packet(&[9, 0, 0, 0]), Err(Malformed));
        assert_eq!(Request::from_packet(&[1, 0, 0, 0]), Err(Malformed));
    }

    #[test]
    fn replies_survive_the_way() {
        let map = Request::Map {
            writable: false,
            grants: Vec::new(),
        };
        let reply = Reply::Mapped(vec![MappedGrant {
            handle: MapHandle(5),
            incarnation: 7,
            page: PageIndex(6),
        }]);
        assert_eq!(Reply::from_packet(&map, &reply.to_packet()), Ok(reply));
        let failed = Reply::Failed(22);
        assert_eq!(Reply::from_packet(&map, &failed.to_packet()), Ok(failed));
    }

    #[test]
    fn a_grant_entry_has_this_form() {
        let entry = GrantEntry {
            granted_to: DomId(0x1234),
            read_only: true,
            page: PageIndex(0x89ab_cdef),
        };
        assert_eq!(entry.to_word(), 0x89ab_cdef_1234_0003);
        assert_eq!(GrantEntry::from_word(0x89ab_cdef_1234_0003), Some(entry));
        assert_eq!(GrantEntry::from_word(0), None);
    }

    #[test]
    fn the_longest_map_fits_in_a_packet() {
        let request = Request::Map {
            writable: true,
            grants: vec![(DomId(1), GrantRef(1)); GRANTS_PER_REQUEST_MAX],
        };
        assert!(request.to_packet().len() <= PACKET_BYTES_MAX);
        let reply = Reply::Mapped(vec![
            MappedGrant {
                handle: MapHandle(1),
                incarnation: 1,
                page: PageIndex(1)
            };
            GRANTS_PER_REQUEST_MAX
        ]);
        assert!(reply.to_packet().len() <= PACKET_BYTES_MAX);
    }
}
