//! Names of files that are no text. They come from the command line, and out of the headers of images.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use crate::folder::Folder;

const BASE: &[u8] = b"b\xffse.img";
const TOP: &[u8] = b"t\xfep.cow";

/// Arguments with the names of the base and the overlay in place of BASE and TOP.
fn args(line: &str) -> Vec<&OsStr> {
    let named = |word: &'static str, name: &'static [u8]| (word, OsStr::from_bytes(name));
    let names = [
        named("BASE", BASE),
        named("TOP", TOP),
        named("NEW", b"n\xfdw"),
    ];
    line.split(' ')
        .map(|word| {
            let name = names.iter().find(|(placeholder, _)| *placeholder == word);
            name.map_or(word.as_ref(), |(_, name)| *name)
        })
        .collect()
}

#[test]
fn names_that_are_no_text_are_shown_as_well_as_they_can_be() {
    for line in [
        "create --json NEW --base BASE",
        "info --json TOP",
        "check --json TOP",
        "check --json --repair TOP",
        "map --json TOP",
        "diff --json TOP BASE",
        "convert --json TOP NEW",
        "commit --json --sole-overlay TOP",
        "rebase --json --unsafe --base BASE TOP",
        "rebase --json --no-base TOP",
        "resize --json TOP 5M",
    ] {
        let folder = Folder::with_base(OsStr::from_bytes(BASE));
        folder.succeeds(&args("create TOP --base BASE"));
        let output = folder.succeeds(&args(line));
        let document: Value = serde_json::from_str(&output).unwrap();
        assert!(document.is_object(), "{line}: {output}");
        assert!(output.contains('\u{fffd}'), "{line}: {output}");
        folder.check(OsStr::from_bytes(TOP));
    }
}

#[test]
fn a_base_in_a_header_is_shown_in_place() {
    let folder = Folder::with_base(OsStr::from_bytes(BASE));
    folder.succeeds(&args("create TOP --base BASE"));
    let json = |line| -> Value { serde_json::from_str(&folder.succeeds(&args(line))).unwrap() };
    let info = json("info --json TOP");
    let ends = |value: &Value, name: &str| value.as_str().unwrap().ends_with(name);
    assert!(ends(&info["base"]["path"], "b\u{fffd}se.img"), "{info}");
    assert!(ends(&info["chain"][0], "b\u{fffd}se.img"), "{info}");
    let map = json("map --json TOP");
    assert!(ends(&map["layers"][1]["path"], "b\u{fffd}se.img"), "{map}");
    assert_eq!(map["image"], "t\u{fffd}p.cow");
}
