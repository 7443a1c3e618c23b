//! An image says how much memory its bitmap takes, and a sparse file can say a lot: that must be an error, not the end
//! of the process, which in the daemon would be that of all its disks.

use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs cowback with no more than so many KiB of address space.
fn limited(kib: u32, arguments: &[&str]) -> Output {
    let script = format!("ulimit -v {kib}; exec \"$@\"");
    Command::new("bash")
        .args(["-c", &script, "bash", env!("CARGO_BIN_EXE_cowback")])
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn an_image_whose_bitmap_does_not_fit_is_refused_with_a_sentence() {
    let folder = TempDir::new().unwrap();
    let image = folder.path().join("large.cow");
    let image = image.to_str().unwrap();
    let created = limited(300_000, &["create", image, "--size", "15T"]);
    assert!(created.status.success(), "{created:?}");
    for command in ["info", "check"] {
        let output = limited(300_000, &[command, image]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        let expected = format!(
            "cowback: {image}: cannot be used, since there is no memory for its bitmap of 503316480 bytes\n"
        );
        assert_eq!(error, expected);
    }
    assert!(limited(3_000_000, &["info", image]).status.success());
}
