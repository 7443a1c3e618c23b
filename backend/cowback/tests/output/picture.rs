//! Pictures that are written to files.

use std::fs;
use std::process::Command;

use crate::folder::Folder;
use crate::xml;

/// Whatever XML takes badly, as a name.
const ODD_NAME: &str = "a<b>&\"c'\u{1}\u{ffff}]]>.cow";

#[test]
fn a_picture_is_well_formed_whatever_the_image_is_called() {
    let folder = Folder::with_overlay();
    fs::rename(folder.path("top.cow"), folder.path(ODD_NAME)).unwrap();
    folder.succeeds(&["map", "--picture", "new.svg", ODD_NAME]);
    let picture = fs::read_to_string(folder.path("new.svg")).unwrap();
    assert_eq!(xml::check(&picture), Ok(()), "{picture}");
    assert!(picture.contains("<title>a&lt;b&gt;&amp;"), "{picture}");
    // A cell for each block of 4 KiB of 4 MiB, and five in the legend.
    assert_eq!(picture.matches("<rect ").count(), 1024 + 5);
}

#[test]
fn a_picture_takes_the_place_of_another_only_when_it_is_complete() {
    let folder = Folder::with_overlay();
    let names = || {
        let entries = fs::read_dir(folder.path(".")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    fs::write(folder.path("map.svg"), "the old one").unwrap();
    let before = names();
    // A limit on the length of files is as good as a full disk.
    let output = Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "bash"])
        .arg(env!("CARGO_BIN_EXE_cowback"))
        .args(["map", "--picture", "map.svg", "top.cow"])
        .current_dir(folder.path("."))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("cowback: map.svg: cannot write"), "{said}");
    let old = fs::read_to_string(folder.path("map.svg")).unwrap();
    assert_eq!(old, "the old one");
    assert_eq!(names(), before);
    folder.succeeds(&["map", "--picture", "map.svg", "top.cow"]);
    let new = fs::read_to_string(folder.path("map.svg")).unwrap();
    assert_eq!(xml::check(&new), Ok(()));
    assert_eq!(names(), before);
}
