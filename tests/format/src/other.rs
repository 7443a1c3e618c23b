//! The other implementation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `None` where there is no Python. Where tests must be complete (`CI=true`), that is a failure.
fn run(arguments: &[&Path], command: &str) -> Option<Output> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dscow_read.py");
    let output = Command::new("python3")
        .arg("-B")
        .arg(script)
        .arg(command)
        .args(arguments)
        .output();
    match output {
        Ok(output) => Some(output),
        Err(cause) => {
            let complete = std::env::var("CI").as_deref() == Ok("true");
            assert!(!complete, "python3 cannot be run: {cause}");
            eprintln!("SKIPPED: python3 cannot be run: {cause}");
            None
        }
    }
}

/// What a disk holds.
pub(crate) fn read(image: &Path) -> Option<Vec<u8>> {
    let target = image.with_extension("raw");
    let output = run(&[image, &target], "read")?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(fs::read(target).unwrap())
}

/// For each image `ok`, or why it is refused.
pub(crate) fn judge(images: &[PathBuf]) -> Option<Vec<String>> {
    let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    let output = run(&images, "judge")?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let verdicts: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(verdicts.len(), images.len());
    Some(verdicts)
}
