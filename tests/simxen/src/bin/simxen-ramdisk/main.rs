//! The smallest block backend that works: one file as the disk of every guest, one thread, requests served one after
//! the other. It is there to test the simulation before, and apart from, the product; it trusts the guest.
//!
//! Usage: `simxen-ramdisk <file> map|persistent|copy|leak`, which says how it reaches the guest's pages; the last one is
//! a mistake that the frontend has to notice.

mod device;
mod ring;
mod xen;
mod xenstore;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use device::Device;
use ring::PageAccess;
use xen::{EventLibrary, GrantDevice};
use xenstore::Client;

const BACKENDS: &str = "/local/domain/0/backend/vbd3";

/// What all devices share.
struct Machine {
    store: Client,
    grants: GrantDevice,
    events: EventLibrary,
    image: File,
    access: PageAccess,
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = || io::Error::other("usage: simxen-ramdisk <file> map|persistent|copy|leak");
    let image = arguments.next().ok_or_else(usage)?;
    let access = match arguments.next().as_deref() {
        Some("map") => PageAccess::Map,
        Some("persistent") => PageAccess::Persistent,
        Some("copy") => PageAccess::Copy,
        Some("leak") => PageAccess::Leak,
        _ => return Err(usage()),
    };
    let mut machine = Machine {
        store: Client::connect()?,
        grants: GrantDevice::open()?,
        events: EventLibrary::load()?,
        image: File::options().read(true).write(true).open(image)?,
        access,
    };
    machine.store.watch("/local/domain")?;
    println!("ready");
    serve(&mut machine)
}

fn serve(machine: &mut Machine) -> io::Result<()> {
    let mut devices: BTreeMap<String, Device> = BTreeMap::new();
    loop {
        // An event that came along with a reply has left the socket already.
        if !machine.store.knows_of_event() {
            let mut descriptors = vec![machine.store.fd()];
            descriptors.extend(devices.values().flat_map(Device::descriptors));
            xen::wait_readable(&descriptors)?;
        }
        for device in devices.values_mut() {
            device.serve(machine)?;
        }
        if machine.store.take_events()? {
            let paths = backends(&mut machine.store)?;
            devices.retain(|path, _| paths.contains(path));
            for path in paths {
                let device = devices
                    .entry(path.clone())
                    .or_insert_with(|| Device::new(path));
                device.follow(machine)?;
            }
        }
    }
}

fn backends(store: &mut Client) -> io::Result<Vec<String>> {
    let mut paths = Vec::new();
    for domain in store.list(BACKENDS)? {
        for device in store.list(&format!("{BACKENDS}/{domain}"))? {
            paths.push(format!("{BACKENDS}/{domain}/{device}"));
        }
    }
    Ok(paths)
}
