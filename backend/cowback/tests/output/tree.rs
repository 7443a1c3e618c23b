//! `cowback tree` where some of the images cannot be looked at.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::folder::Folder;

/// What the tree of these is, as text and as JSON, with this exit code in both cases.
#[track_caller]
fn tree(folder: &Folder, paths: &str, code: i32) -> (String, Vec<Value>) {
    let run = |line: String| {
        let output = folder.run(&line);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json = run(format!("tree --json {paths}"));
    let text = run(format!("tree {paths}"));
    (text, serde_json::from_str(&json).unwrap())
}

/// Both header slots are lost, though not what tells that it is an image.
fn damage(folder: &Folder, name: &str) {
    let file = File::options().write(true).open(folder.path(name)).unwrap();
    for slot in [0, 4096] {
        file.write_all_at(&[0xff; 64], slot + 16).unwrap();
    }
}

#[test]
fn an_image_that_is_damaged_is_shown_with_its_problem_beside_the_others() {
    let folder = Folder::with_overlay();
    assert_eq!(tree(&folder, "top.cow", 0).1.len(), 1);
    assert_eq!(tree(&folder, ".", 0).1.len(), 1);
    folder.succeeds(&["create", "bad.cow", "--size", "1M"]);
    damage(&folder, "bad.cow");
    for paths in [".", "bad.cow top.cow", "top.cow bad.cow"] {
        let (text, json) = tree(&folder, paths, 3);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("bad.cow: has a corrupt header"), "{text}");
        assert!(lines[3].ends_with("top.cow"), "{text}");
        assert_eq!(lines.len(), 4, "{text}");
        let problem = json[0]["problem"].as_str().unwrap();
        assert!(
            problem.contains("bad.cow: has a corrupt header"),
            "{problem}"
        );
        assert_eq!(json[1]["overlays"][0]["problem"], Value::Null);
    }
}

#[test]
fn what_is_missing_or_cut_off_or_no_image_is_shown_when_it_is_named() {
    let folder = Folder::with_overlay();
    folder.succeeds(&["create", "short.cow", "--size", "1M"]);
    let short = File::options().write(true).open(folder.path("short.cow"));
    short.unwrap().set_len(1 << 20).unwrap();
    fs::write(folder.path("note.txt"), "no image").unwrap();
    let (text, json) = tree(&folder, "nothing.cow note.txt top.cow short.cow", 3);
    for said in [
        "nothing.cow: does not exist",
        "note.txt: is not a dscow image",
        "short.cow: is truncated",
        "── ",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert_eq!(json.len(), 4);
    let short = json
        .iter()
        .find(|disk| disk["problem"].to_string().contains("trunc"));
    assert_eq!(short.unwrap()["virtual_size_bytes"], 1 << 20);
    // A directory has more than images in it, and that is as it should be.
    let (text, _) = tree(&folder, ".", 3);
    assert!(!text.contains("note.txt"), "{text}");
}

#[test]
fn images_that_stand_on_each_other_end_with_a_sentence() {
    let folder = Folder::with_overlay();
    folder.succeeds(&["create", "a.cow", "--size", "1M"]);
    folder.succeeds(&["create", "b.cow", "--base", "a.cow"]);
    folder.succeeds(&["create", "c.cow", "--base", "b.cow"]);
    folder.succeeds(&["create", "upper.cow", "--base", "c.cow"]);
    fs::rename(folder.path("c.cow"), folder.path("a.cow")).unwrap();
    fs::copy(folder.path("a.cow"), folder.path("c.cow")).unwrap();
    for paths in [
        "a.cow",
        "b.cow",
        "a.cow b.cow",
        "b.cow a.cow",
        "upper.cow",
        ".",
    ] {
        let (text, json) = tree(&folder, paths, 3);
        assert_eq!(text.matches("is its own base").count(), 1, "{text}");
        for name in ["a.cow", "b.cow"] {
            let disks = text.lines().map(|line| line.split(": ").next().unwrap());
            let of_it = disks.filter(|disk| disk.ends_with(name)).count();
            assert_eq!(of_it, 1, "{text}");
        }
        let problem = json[0]["problem"].as_str().unwrap();
        assert!(problem.ends_with("is its own base"), "{problem}");
    }
}
