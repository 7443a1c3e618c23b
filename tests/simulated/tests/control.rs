//! The control API, and the commands that use it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use serde_json::{Value, json};
use simulated::control::ask;
use simulated::{BASE_SIZE, Rig};

/// Runs a command against the daemon of a rig.
fn cowback(rig: &Rig, arguments: &[&str]) -> Output {
    let socket = rig.path("run/control.sock");
    let mut all = arguments.to_vec();
    all.extend(["--socket", socket.to_str().unwrap()]);
    rig.cowback(&all)
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_disk_is_shown_with_what_it_has_done() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[7; 4096]).unwrap();
    frontend.read(0, 8192).unwrap();
    frontend.flush().unwrap();
    let answer = rig.ask("GET", "/v1/devices/vbd3/1/51712", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    let shown = answer.json();
    for (member, expected) in [
        ("device", json!("backend/vbd3/1/51712")),
        ("vdev", json!("xvda")),
        ("image", json!(rig.path("vm.cow"))),
        ("connected", json!(true)),
        ("virtual_size_bytes", json!(BASE_SIZE)),
        ("reads", json!(1)),
        ("read_bytes", json!(8192)),
        ("writes", json!(1)),
        ("flushes", json!(1)),
        ("on_enospc", json!("pause")),
        ("detect_zeroes", json!(false)),
    ] {
        assert_eq!(shown[member], expected, "{member} of {shown}");
    }
    let count = |kind: &str| {
        let buckets = shown["latency"][kind]["buckets"].as_array().unwrap();
        buckets
            .iter()
            .map(|count| count.as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((count("read"), count("write"), count("flush")), (1, 1, 1));
    assert_eq!(count("discard"), 0);
    // The list says the same.
    assert_eq!(rig.list()[0]["reads"], 1);

    let by_name = text(&cowback(&rig, &["show", "1:xvda"]));
    assert!(by_name.contains("xvda of domain 1"), "{by_name}");
    assert!(by_name.contains("reads:         1, 8.0 KiB; "), "{by_name}");
    for name in ["backend/vbd3/1/51712", "vbd3/1/51712"] {
        let shown = text(&cowback(&rig, &["show", name, "--json"]));
        assert_eq!(
            serde_json::from_str::<Value>(&shown).unwrap()["vdev"],
            "xvda"
        );
    }
    rig.detach(&disk, frontend);
}

#[test]
fn what_is_not_there_is_named() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for (method, path, body, status, part) in [
        ("GET", "/v1/devices/vbd3/9/1", None, 404, "backend/vbd3/9/1"),
        ("GET", "/v1/devices/tap/1/1", None, 400, "tap"),
        ("GET", "/v1/devices/vbd3/x/1", None, 400, "x"),
        ("GET", "/v2", None, 404, "/v1/openapi.json"),
        ("DELETE", "/v1/devices", None, 405, "DELETE"),
        (
            "PATCH",
            "/v1/devices/vbd3/1/51712",
            Some("{}"),
            422,
            "nothing is to be changed",
        ),
        (
            "PATCH",
            "/v1/devices/vbd3/1/51712",
            Some("{\"size\": 1}"),
            422,
            "size",
        ),
        ("PATCH", "/v1/devices/vbd3/1/51712", Some("{"), 400, "EOF"),
        (
            "PATCH",
            "/v1/devices/vbd3/1/51712",
            None,
            415,
            "application/json",
        ),
        (
            "PUT",
            "/v1/log",
            Some("{\"filter\": \"a=b=c\"}"),
            422,
            "a=b=c",
        ),
        (
            "POST",
            "/v1/hotplug/add",
            Some("{\"device\": \"x\"}"),
            400,
            "x",
        ),
    ] {
        let answer = rig.ask(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(part), "{method} {path}: {error}");
    }
    for (arguments, part) in [
        (&["show", "1:xvdb"][..], "it serves 1:xvda"),
        (&["show", "2:xvda"], "it serves 1:xvda"),
        (&["show", "a b"], "neither like 5:xvda"),
        (
            &["set", "9:xvda", "--on-enospc", "pause"],
            "it serves 1:xvda",
        ),
        (&["log", "a=b=c"], "a=b=c"),
    ] {
        let output = cowback(&rig, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    assert_eq!(cowback(&rig, &["set", "1:xvda"]).status.code(), Some(2));
    rig.detach(&disk, frontend);
}

#[test]
fn policies_and_the_log_are_changed_while_a_guest_runs() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    // The base is not zeros where this writes zeros, so they are a hole only if they are looked for.
    let set = |what: &[&str]| {
        let all = [&["set", "1:xvda", "--json"], what].concat();
        serde_json::from_str::<Value>(&text(&cowback(&rig, &all))).unwrap()
    };
    let shown = set(&["--detect-zeroes", "on", "--on-enospc", "report"]);
    assert_eq!(
        (&shown["detect_zeroes"], &shown["on_enospc"]),
        (&json!(true), &json!("report"))
    );
    frontend.write(0, &vec![0; 1 << 20]).unwrap();
    frontend.flush().unwrap();
    let stored = || {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(rig.path("vm.cow")).unwrap().blocks() * 512
    };
    assert!(stored() < 1 << 20, "{}", stored());
    let shown = set(&["--detect-zeroes", "off"]);
    assert_eq!(
        (&shown["detect_zeroes"], &shown["on_enospc"]),
        (&json!(false), &json!("report"))
    );
    frontend.write(2048, &vec![0; 1 << 20]).unwrap();
    frontend.flush().unwrap();
    assert!(stored() >= 1 << 20, "{}", stored());
    assert_eq!(frontend.read(0, 4096).unwrap(), vec![0; 4096]);

    assert_eq!(text(&cowback(&rig, &["log"])), "debug\n");
    assert_eq!(text(&cowback(&rig, &["log", "warn"])), "warn\n");
    assert_eq!(
        rig.ask("GET", "/v1/log", None).json(),
        json!({ "filter": "warn" })
    );
    let lines = rig.daemon.log().lines().count();
    rig.detach(&disk, frontend);
    assert_eq!(
        rig.daemon.log().lines().count(),
        lines,
        "nothing of that is a warning"
    );
    text(&cowback(&rig, &["log", "info"]));
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    rig.daemon
        .wait_for_log("connecting to the frontend", simulated::PATIENCE)
        .unwrap();
    // What was set does not outlive the opening of the image.
    assert_eq!(rig.list()[0]["on_enospc"], "pause");
    rig.detach(&disk, frontend);
}

#[test]
fn prometheus_reads_everything_at_a_socket_of_its_own() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for sector in [0, 8, 16] {
        frontend.write(sector, &[7; 4096]).unwrap();
    }
    let labels = "domid=\"1\",vdev=\"xvda\",device=\"backend/vbd3/1/51712\"";
    for socket in ["run/control.sock", "run/metrics.sock"] {
        let answer = ask(&rig.path(socket), "GET", "/metrics", None).unwrap();
        assert_eq!(answer.status, 200);
        assert!(
            answer.headers.contains("application/openmetrics-text"),
            "{answer:?}"
        );
        for line in [
            format!("cowback_disk_requests_total{{{labels},kind=\"write\"}} 3"),
            format!("cowback_disk_data_bytes_total{{{labels},kind=\"write\"}} 12288"),
            format!("cowback_disk_connected{{{labels}}} 1"),
            format!("cowback_disk_virtual_size_bytes{{{labels}}} {BASE_SIZE}"),
            format!("cowback_disk_latency_seconds_count{{{labels},kind=\"write\"}} 3"),
            format!("cowback_disk_latency_seconds_bucket{{le=\"+Inf\",{labels},kind=\"write\"}} 3"),
            format!("cowback_disk_rejected_requests_total{{{labels}}} 0"),
            "cowback_worker_disks{worker=\"0\"} 1".to_owned(),
        ] {
            assert!(
                answer.body.lines().any(|found| found == line),
                "{line}\n{}",
                answer.body
            );
        }
        assert!(answer.body.ends_with("# EOF\n"));
    }
    // Nothing else is there.
    let other = ask(&rig.path("run/metrics.sock"), "GET", "/v1/devices", None).unwrap();
    assert_eq!(other.status, 404);
    rig.detach(&disk, frontend);
}

#[test]
fn the_group_may_look_and_root_alone_may_change() {
    let rig = Rig::start_with(&["--control-access", "group"]);
    let socket = rig.path("run/control.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // Somebody else of the daemon's group. The folder of the test lets them in.
    let folder = socket.parent().unwrap().parent().unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let other = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--unix-socket", socket.to_str().unwrap()]);
        command.args(["--write-out", "%{http_code}", "--output", "/dev/null"]);
        command.args(arguments).uid(65534).gid(0);
        text(&command.output().expect("curl, which this test needs"))
    };
    assert_eq!(other(&["http://cowbackd/v1/devices"]), "200");
    assert_eq!(other(&["http://cowbackd/metrics"]), "200");
    let json = "Content-Type: application/json";
    let put = |url| {
        [
            "--request",
            "PUT",
            "--header",
            json,
            "--data",
            "{\"filter\":\"info\"}",
            url,
        ]
    };
    assert_eq!(other(&put("http://cowbackd/v1/log")), "403");
    assert_eq!(
        rig.ask("PUT", "/v1/log", Some("{\"filter\": \"info\"}"))
            .status,
        200
    );

    let private = Rig::start();
    let mode = std::fs::metadata(private.path("run/control.sock")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
}

#[test]
fn top_and_tree_show_what_is_served() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let top = text(&cowback(
        &rig,
        &["top", "--batch", "--count", "2", "--interval", "0.1"],
    ));
    let lines: Vec<_> = top.lines().collect();
    assert_eq!(lines.len(), 4, "{top}");
    assert!(
        lines[0].contains("READ/s") && lines[1].ends_with("vm.cow"),
        "{top}"
    );
    let tree = text(&cowback(&rig, &["tree", "--json"]));
    let tree: Value = serde_json::from_str(&tree).unwrap();
    assert_eq!(tree[0]["format"], "raw");
    assert_eq!(tree[0]["overlays"][0]["virtual_size_bytes"], BASE_SIZE);
    let shown = text(&cowback(&rig, &["tree", rig.path("").to_str().unwrap()]));
    assert!(shown.lines().nth(2).unwrap().contains("└── "), "{shown}");
    rig.detach(&disk, frontend);
}
