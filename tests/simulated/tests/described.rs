//! The control API is as it describes itself: schemathesis makes requests from the description, good ones and bad ones, and
//! holds the answers against it.
//!
//! `make api-test` installs schemathesis and runs this.

use std::process::Command;

use simulated::Rig;
use simulated::bridge::bridge;

#[test]
#[ignore = "needs schemathesis: make api-test"]
fn answers_are_as_described() {
    let schemathesis = std::env::var("SCHEMATHESIS").expect("the path of schemathesis");
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[7; 4096]).unwrap();
    let port = bridge(rig.path("run/control.sock")).unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let ran = Command::new(schemathesis)
        // It leaves notes of its own where it runs.
        .current_dir(rig.path(""))
        .args(["run", &format!("{url}/v1/openapi.json"), "--url", &url])
        .args(["--checks", "all", "--max-examples", "100", "--seed", "1"])
        .args(["--request-timeout", "20", "--no-color"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let failed = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{said}\n{failed}");
    println!("{said}");
    // It may well have asked for the disk to be removed.
    assert_eq!(rig.ask("GET", "/v1/daemon", None).status, 200);
    drop((disk, frontend));
}
