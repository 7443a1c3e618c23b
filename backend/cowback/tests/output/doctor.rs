//! `cowback doctor`, on a host that need not be one for disks.

use serde_json::Value;

use crate::folder::Folder;

#[test]
fn a_folder_that_the_unit_keeps_from_the_daemon_is_a_problem() {
    let folder = Folder::with_base("base.img");
    let output = folder.run("doctor --json --socket nothing /etc");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = document["findings"].as_array().unwrap();
    let is_meant = |finding: &&Value| {
        finding["found"]
            .to_string()
            .contains("read-only to the daemon")
    };
    let finding = findings.iter().find(is_meant).unwrap();
    assert_eq!(finding["health"], "bad");
    let advice = finding["advice"].as_str().unwrap();
    assert!(advice.contains("ReadWritePaths=/etc "), "{advice}");
    let output = folder.run("doctor --socket nothing /");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("read-only to the daemon"), "{text}");
}
