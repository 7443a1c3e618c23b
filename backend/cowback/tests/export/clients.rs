//! The clients that people use: libnbd's, QEMU's, and fio.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use super::server::*;

const MIB: usize = 1 << 20;
const SIZE: u64 = 64 << 20;

/// A base of 8 MiB of noise and an overlay over it of 64 MiB.
fn chain(folder: &Folder) -> (std::path::PathBuf, std::path::PathBuf) {
    let base = folder.path("base.img");
    fs::write(&base, noise(8 * MIB)).unwrap();
    let image = folder.create("vm.cow", SIZE, Some(&base));
    (base, image)
}

/// The extents that `nbdinfo --map` shows: offset, length, number.
fn map(context: &str, uri: &str) -> Vec<(u64, u64, u64)> {
    let output = succeeds(
        Command::new("nbdinfo")
            .args(["--map", "--json"])
            .arg(format!("--map={context}"))
            .arg(uri),
    );
    let extents: Vec<Value> = serde_json::from_str(&output).unwrap();
    let number = |extent: &Value, name: &str| extent[name].as_u64().unwrap();
    extents
        .iter()
        .map(|e| (number(e, "offset"), number(e, "length"), number(e, "type")))
        .collect()
}

#[test]
fn nbdinfo_sees_what_is_offered_and_where_it_is() {
    let Some(mut nbdinfo) = tool("nbdinfo") else {
        return;
    };
    let folder = Folder::new();
    let (_, image) = chain(&folder);
    let server = Server::with(&image, &folder.path("sock"), &["--name", "disk"]);
    let uri = server.uri();
    let output = succeeds(nbdinfo.args(["--json", uri]));
    let info: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    let export = &info["exports"][0];
    assert_eq!(export["export-name"], "disk");
    assert_eq!(export["description"], image.to_str().unwrap());
    assert_eq!(export["export-size"], SIZE);
    assert_eq!(
        export["contexts"],
        json!(["base:allocation", "qemu:allocation-depth"])
    );
    for (what, wanted) in [
        ("is_read_only", json!(false)),
        ("can_df", json!(true)),
        ("can_fast_zero", json!(true)),
        ("can_flush", json!(true)),
        ("can_fua", json!(true)),
        ("can_multi_conn", json!(true)),
        ("can_trim", json!(true)),
        ("can_zero", json!(true)),
        ("block_minimum", json!(512)),
        ("block_preferred", json!(4096)),
        ("block_maximum", json!(32 << 20)),
    ] {
        let found = export.get(what).or_else(|| {
            let name = what.replace("block_", "block_size_");
            export.get(name.as_str())
        });
        assert_eq!(found, Some(&wanted), "{what}: {export}");
    }
    let (end, base) = (SIZE, 8 << 20);
    assert_eq!(
        map("base:allocation", uri),
        [(0, base, 0), (base, end - base, 3)]
    );
    assert_eq!(
        map("qemu:allocation-depth", uri),
        [(0, base, 2), (base, end - base, 0)]
    );
    let list = succeeds(Command::new("nbdinfo").args(["--list", "--json", uri]));
    assert!(list.contains("\"export-name\": \"disk\""), "{list}");
    server.stop("-TERM");
}

#[test]
fn nbdcopy_brings_in_and_out_what_it_copies() {
    let Some(mut nbdcopy) = tool("nbdcopy") else {
        return;
    };
    let folder = Folder::new();
    let (base, image) = chain(&folder);
    let server = Server::new(&image, &folder.path("sock"));
    let uri = server.uri();
    let out = folder.path("out.img");
    succeeds(nbdcopy.arg(uri).arg(&out));
    let mut expected = fs::read(&base).unwrap();
    expected.resize(64 * MIB, 0);
    assert!(fs::read(&out).unwrap() == expected);

    // In, over several connections; noise with holes in it.
    let source = folder.path("in.img");
    let mut content = noise(64 * MIB);
    content[3 * MIB..20 * MIB].fill(0);
    content[40 * MIB + 512..41 * MIB].fill(0);
    fs::write(&source, &content).unwrap();
    let sparse = ["--flush", "--connections=4", "--requests=16"];
    succeeds(Command::new("nbdcopy").args(sparse).arg(&source).arg(uri));
    succeeds(Command::new("nbdcopy").arg(uri).arg(&out));
    assert!(fs::read(&out).unwrap() == content);
    server.stop("-TERM");
    check(&image);
}

#[test]
fn qemu_img_compares_maps_and_converts() {
    let Some(_) = tool("qemu-img") else { return };
    let folder = Folder::new();
    let (base, image) = chain(&folder);
    let server = Server::new(&image, &folder.path("sock"));
    let uri = server.uri();
    let qemu = |args: &[&str]| succeeds(Command::new("qemu-img").args(args));
    let base = base.to_str().unwrap();
    // It warns that the base is shorter.
    let compared = qemu(&["compare", "-f", "raw", "-F", "raw", base, uri]);
    assert!(compared.ends_with("Images are identical.\n"), "{compared}");
    // Writes of one guest block, so that the map has something to say.
    let io = [
        "-f",
        "raw",
        "-c",
        "write -P 7 12M 64k",
        "-c",
        "discard 1M 64k",
        "-c",
        "flush",
    ];
    succeeds(Command::new("qemu-io").args(io).arg(uri));
    let map: Vec<Value> =
        serde_json::from_str(&qemu(&["map", "--output=json", "-f", "raw", uri])).unwrap();
    let map: Vec<_> = map
        .iter()
        .map(|e| {
            (
                e["start"].as_u64().unwrap() >> 10,
                e["length"].as_u64().unwrap() >> 10,
                e["data"] == true,
            )
        })
        .collect();
    assert_eq!(
        map,
        [
            (0, 1024, true),
            (1024, 64, false),
            (1088, 8192 - 1088, true),
            (8192, 4096, false),
            (12288, 64, true),
            (12352, 65536 - 12352, false)
        ]
    );
    server.stop("-TERM");
    check(&image);
}

/// Out into a foreign format, and from there into a new image.
fn passes_through(format: &str, options: &[&str]) {
    let Some(_) = tool("qemu-img") else { return };
    let folder = Folder::new();
    let (_, image) = chain(&folder);
    let foreign = folder.path("foreign");
    let foreign = foreign.to_str().unwrap();
    let server = Server::with(&image, &folder.path("out"), &["--read-only"]);
    let mut export = Command::new("qemu-img");
    export
        .args(["convert", "-f", "raw", "-O", format])
        .args(options);
    succeeds(export.args([server.uri(), foreign]));

    let copy = folder.create("copy.cow", SIZE, None);
    let target = Server::new(&copy, &folder.path("in"));
    let mut import = Command::new("qemu-img");
    import.args([
        "convert",
        "-n",
        "--target-is-zero",
        "-f",
        format,
        "-O",
        "raw",
        foreign,
    ]);
    succeeds(import.arg(target.uri()));
    let mut compare = Command::new("qemu-img");
    compare.args([
        "compare",
        "-s",
        "-f",
        "raw",
        "-F",
        "raw",
        server.uri(),
        target.uri(),
    ]);
    assert_eq!(succeeds(&mut compare), "Images are identical.\n");
    server.stop("-TERM");
    target.stop("-TERM");
    // What the base does not hold takes no room.
    assert_eq!(check(&copy)["allocated_blocks"], 8 * MIB / 4096);
}

#[test]
fn an_image_passes_through_qcow2() {
    passes_through("qcow2", &[]);
}

#[test]
fn an_image_passes_through_vhd() {
    passes_through("vpc", &["-o", "subformat=dynamic,force_size=on"]);
}

#[test]
fn an_image_passes_through_vmdk() {
    passes_through("vmdk", &[]);
}

/// Random writes of several sizes by three jobs at once, each verified.
fn fio(uri: &str, folder: &Path) -> Command {
    let mut fio = Command::new("fio");
    fio.current_dir(folder)
        .args([
            "--ioengine=nbd",
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--bs_unaligned=0",
        ])
        .args([
            "--blockalign=512",
            "--iodepth=16",
            "--size=12m",
            "--offset_increment=16m",
        ])
        .args(["--numjobs=3", "--group_reporting", "--fsync=50"])
        .args([
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
            "--verify_backlog=64",
        ])
        .arg("--name=verified")
        .arg(format!("--uri={uri}"));
    fio
}

#[test]
fn fio_finds_what_it_wrote_beside_clients_that_misbehave() {
    let Some(_) = tool("fio") else { return };
    let folder = Folder::new();
    let (_, image) = chain(&folder);
    let socket = folder.path("sock");
    let server = Server::new(&image, &socket);
    let mut fio = fio(server.uri(), &folder.path(""));
    let honest = thread::spawn(move || succeeds(&mut fio));
    let mut attacks = 0;
    while attacks < 50 || !honest.is_finished() {
        attack(&socket, attacks);
        attacks += 1;
    }
    let output = honest.join().unwrap();
    assert!(output.contains("err= 0"), "{output}");
    server.stop("-TERM");
    check(&image);
}

/// One of several ways not to be an NBD client.
fn attack(socket: &Path, number: usize) {
    let mut client = UnixStream::connect(socket).unwrap();
    client.read_exact(&mut [0; 18]).unwrap();
    let into_transmission = b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0";
    let (bytes, drain): (Vec<u8>, bool) = match number % 5 {
        0 => (noise(4096), true),
        1 => (
            b"\0\0\0\x03IHAVEOPT\0\0\0\x0a\x7f\xff\xff\xff".to_vec(),
            true,
        ),
        2 => ([into_transmission, &noise(1000)[..]].concat(), true),
        3 => {
            // A write of 32 MiB and one byte: more than anybody takes.
            let write = b"\x25\x60\x95\x13\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\x01";
            ([into_transmission, &write[..]].concat(), true)
        }
        _ => {
            // Half of the data of a write, and then nothing.
            let write = b"\x25\x60\x95\x13\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0";
            (
                [into_transmission, &write[..], &noise(500_000)].concat(),
                false,
            )
        }
    };
    // The server may close at any point, but it does close.
    let _ = client.write_all(&bytes);
    if drain {
        let _ = client.read_to_end(&mut Vec::new());
    }
}
