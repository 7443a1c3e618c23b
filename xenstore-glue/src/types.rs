//! Names and numbers of xenbus and of vbd devices.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A domain's number. Xen's highest ordinary one is 0x7fef (`DOMID_FIRST_RESERVED` in xen.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomId(u16);

impl DomId {
    /// The first number that Xen keeps for special uses.
    pub const FIRST_RESERVED: u16 = 0x7ff0;

    /// The domain with this number, unless Xen keeps the number for itself.
    pub fn new(raw: u16) -> Option<Self> {
        (raw < Self::FIRST_RESERVED).then_some(Self(raw))
    }

    /// The number as Xen's interfaces take it.
    pub fn raw(self) -> u16 {
        self.0
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for DomId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decimal(text)
            .and_then(|value| u16::try_from(value).ok())
            .and_then(Self::new)
            .ok_or_else(|| ParseIdError::new("domain number", text))
    }
}

/// A virtual device's number, for example 51712 for xvda (vbd-interface(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevId(u32);

impl DevId {
    /// The device with this number.
    pub fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number as xenstore paths spell it.
    pub fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for DevId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for DevId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decimal(text)
            .map(Self)
            .ok_or_else(|| ParseIdError::new("device number", text))
    }
}

/// A grant reference, as a frontend writes it in xenstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantRef(pub u32);

/// The frontend's end of an event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventChannel(pub u32);

/// Which of the two backend directories a device lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceClass {
    /// `backend/vbd`: libxl's phy backend; the kernel's blkback may be bound to the device too.
    Vbd,
    /// `backend/vbd3`: libxl's tap backend since Xen 4.19; no kernel driver.
    Vbd3,
}

impl DeviceClass {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Vbd, Self::Vbd3];

    /// The directory's name below `backend`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vbd3 => "vbd3",
        }
    }

    /// The directory, relative to the backend domain's home: `backend/vbd3`.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Vbd => "backend/vbd",
            Self::Vbd3 => "backend/vbd3",
        }
    }
}

/// A vbd device of this backend domain. Written as its directory: `backend/vbd3/1/51712`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// Which backend directory it is in.
    pub class: DeviceClass,
    /// The domain it is for.
    pub domid: DomId,
    /// Its number within that domain.
    pub devid: DevId,
}

impl DeviceId {
    /// The path of one of its backend nodes, relative to the backend domain's home.
    pub fn node(self, name: &str) -> String {
        format!("{self}/{name}")
    }

    /// The name of the kernel's device for it on the xen-backend bus: `vbd-1-51712`.
    pub fn bus_name(self) -> String {
        format!("{}-{}-{}", self.class.name(), self.domid, self.devid)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.class.directory(),
            self.domid,
            self.devid
        )
    }
}

impl FromStr for DeviceId {
    type Err = ParseIdError;

    /// Takes `backend/vbd3/1/51712`, and the absolute form `/local/domain/0/backend/vbd3/1/51712`
    /// that libxl passes to scripts as `XENBUS_PATH`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseIdError::new("device", text);
        let relative = below_home(text).ok_or_else(bad)?;
        let mut parts = relative.split('/');
        let (Some("backend"), Some(class), Some(domid), Some(devid), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(bad());
        };
        let class = DeviceClass::ALL
            .into_iter()
            .find(|known| known.name() == class)
            .ok_or_else(bad)?;
        Ok(Self {
            class,
            domid: domid.parse()?,
            devid: devid.parse()?,
        })
    }
}

/// The path without the home directory of whichever domain it starts with; relative paths as they are.
pub(crate) fn below_home(path: &str) -> Option<&str> {
    let Some(rest) = path.strip_prefix("/local/domain/") else {
        return (!path.starts_with('/')).then_some(path);
    };
    let (domid, rest) = rest.split_once('/')?;
    domid.parse::<DomId>().ok()?;
    Some(rest)
}

/// A text that is not the number or path it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text} is not a valid {what}")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
}

impl ParseIdError {
    fn new(what: &'static str, text: &str) -> Self {
        Self {
            what,
            text: excerpt(text),
        }
    }
}

/// An unsigned decimal number of at most 32 bits, digits only: no sign, no spaces, no leading `+`.
pub(crate) fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A quoted, escaped piece of a value that a guest may have written, short enough for a log line.
pub(crate) fn excerpt(value: &str) -> String {
    const SHOWN_CHARS: usize = 40;
    let mut shown = String::from("\"");
    for (index, character) in value.chars().enumerate() {
        if index == SHOWN_CHARS {
            shown.push_str("...");
            break;
        }
        shown.extend(character.escape_default());
    }
    shown.push('"');
    shown
}

/// The states of xenbus (public/io/xenbus.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XenbusState {
    /// 0, or anything that is not one of the others.
    Unknown = 0,
    /// 1
    Initialising = 1,
    /// 2
    InitWait = 2,
    /// 3
    Initialised = 3,
    /// 4
    Connected = 4,
    /// 5
    Closing = 5,
    /// 6
    Closed = 6,
    /// 7
    Reconfiguring = 7,
    /// 8
    Reconfigured = 8,
}

impl XenbusState {
    /// The state a node's value stands for; `Unknown` for whatever is not one of 1 to 8.
    pub fn from_node(value: &str) -> Self {
        match value {
            "1" => Self::Initialising,
            "2" => Self::InitWait,
            "3" => Self::Initialised,
            "4" => Self::Connected,
            "5" => Self::Closing,
            "6" => Self::Closed,
            "7" => Self::Reconfiguring,
            "8" => Self::Reconfigured,
            _ => Self::Unknown,
        }
    }

    /// The value that goes into a `state` node.
    pub fn to_node(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }
}

impl fmt::Display for XenbusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self:?})", self.to_node())
    }
}

/// What a frontend must know of a disk before the backend goes to state 4 (blkif.h, "Backend
/// Device Properties").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskProperties {
    /// The size in units of 512 bytes, whatever `sector_size` is.
    pub sectors: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Physical sector size in bytes.
    pub physical_sector_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// The medium can be taken out.
    pub removable: bool,
    /// The guest is to see a CD-ROM.
    pub cdrom: bool,
    /// In what units the guest may give storage back, in bytes; 0 if it may not.
    pub discard_granularity: u32,
}

impl DiskProperties {
    /// The value of the `info` node: `VDISK_CDROM` 1, `VDISK_REMOVABLE` 2, `VDISK_READONLY` 4.
    pub fn info(&self) -> u32 {
        u32::from(self.cdrom) | u32::from(self.removable) << 1 | u32::from(self.read_only) << 2
    }

    /// The nodes to publish, as names and values.
    pub fn nodes(&self) -> Vec<(&'static str, String)> {
        let discard = self.discard_granularity > 0;
        let mut nodes = vec![
            ("sectors", self.sectors.to_string()),
            ("info", self.info().to_string()),
            ("sector-size", self.sector_size.to_string()),
            (
                "physical-sector-size",
                self.physical_sector_size.to_string(),
            ),
            ("feature-discard", u8::from(discard).to_string()),
        ];
        if discard {
            let granularity = self.discard_granularity.to_string();
            nodes.push(("discard-granularity", granularity));
            nodes.push(("discard-alignment", "0".to_owned()));
        }
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_written_as_its_directory() {
        let device: DeviceId = "/local/domain/0/backend/vbd3/1/51712".parse().unwrap();
        assert_eq!(device.to_string(), "backend/vbd3/1/51712");
        assert_eq!(device.class, DeviceClass::Vbd3);
        assert_eq!(device.domid.raw(), 1);
        assert_eq!(device.devid.raw(), 51712);
        assert_eq!(
            "backend/vbd/0/51712"
                .parse::<DeviceId>()
                .unwrap()
                .bus_name(),
            "vbd-0-51712"
        );
    }

    #[test]
    fn paths_that_are_not_devices_are_refused() {
        for path in [
            "",
            "backend/vbd3/1",
            "backend/vbd3/1/51712/state",
            "backend/vif/1/0",
            "backend/vbd3/-1/51712",
            "backend/vbd3/+1/51712",
            "backend/vbd3/32752/51712",
            "backend/vbd3/1/4294967296",
            "/backend/vbd3/1/51712",
            "/local/domain/x/backend/vbd3/1/51712",
        ] {
            assert!(path.parse::<DeviceId>().is_err(), "{path}");
        }
    }

    #[test]
    fn excerpts_are_short_and_escaped() {
        assert_eq!(excerpt("a\n\u{1b}["), "\"a\\n\\u{1b}[\"");
        assert_eq!(excerpt(&"x".repeat(5000)).len(), 45);
    }

    #[test]
    fn info_bits_are_those_of_blkif_h() {
        let mut disk = DiskProperties {
            sectors: 8,
            sector_size: 512,
            physical_sector_size: 4096,
            read_only: true,
            removable: false,
            cdrom: false,
            discard_granularity: 0,
        };
        assert_eq!(disk.info(), 4);
        disk.cdrom = true;
        assert_eq!(disk.info(), 5);
        disk.removable = true;
        assert_eq!(disk.info(), 7);
    }
}
