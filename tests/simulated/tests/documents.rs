//! The commands in the documents do what the documents say: those of the scenes below are run as they stand there.
//!
//! Images are in a folder of the test instead of `/images`, and `/run` is one of its own, with the daemon's directory in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use simulated::Rig;
use simxen::Frontend;

/// Blocks that are run as one script.
struct Scene {
    document: &'static str,
    /// The headings of the blocks, in their order.
    headings: &'static [&'static str],
    /// Domain 5 has the disk vm1.cow as xvda.
    with_guest: bool,
    /// What has to be there besides `/images/debian.img` and `/images/vm1.cow`.
    before: &'static str,
    /// What must be so afterwards.
    after: &'static str,
}

const SCENES: &[Scene] = &[
    Scene {
        document: "README.md",
        headings: &["Images"],
        with_guest: false,
        before: "cp --sparse=always /images/debian.img /images/debian-2.img
                 mkdir /images/new; cp /images/debian.img /new/path.img
                 rm /images/vm1.cow",
        after: "cmp vm1.img /images/debian.img; cowback check /images/vm1.cow",
    },
    Scene {
        document: "docs/operations.md",
        headings: &["A newer golden image"],
        with_guest: false,
        before: "",
        after: "cmp /images/debian.img /images/debian-2.img",
    },
    Scene {
        document: "docs/operations.md",
        headings: &["Other formats", "Other formats"],
        with_guest: false,
        before: "",
        after: "cowback diff --compare --exit-code /images/vm1.cow /images/new.cow",
    },
    Scene {
        document: "docs/operations.md",
        headings: &["One disk"],
        with_guest: true,
        before: "",
        after: "cowback show --json 5:xvda | grep -q '\"on_enospc\": *\"report\"'",
    },
    Scene {
        document: "docs/operations.md",
        headings: &["The control API"],
        with_guest: true,
        before: "",
        after: "cowback info --json /images/vm1.cow | grep -q 21474836480",
    },
    Scene {
        document: "docs/operations.md",
        headings: &["Backing up"],
        with_guest: false,
        before: "mkdir /images/backup",
        after: "cmp /images/vm1-restored.img /backup/vm1-full.img
                cowback diff --compare --exit-code /images/vm1.cow /backup/vm1-tuesday.cow",
    },
    Scene {
        document: "docs/nbd.md",
        headings: &["Using it", "Foreign formats"],
        with_guest: false,
        // The disk is as its base.
        before: "rm /images/vm1.cow; cowback create /images/vm1.cow --base /images/debian.img",
        after: "cmp vm1.raw /images/debian.img",
    },
];

/// Blocks that are no commands, or are run by something else.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("README.md", "cowback", "Makefile"),
    ("README.md", "A disk", "tests/xen/cases/10-two-guests.sh"),
    (
        "docs/architecture.md",
        "*",
        "tests/architecture/src/tests.rs",
    ),
    ("docs/image-format.md", "*", "tests/format/src/lib.rs"),
    (
        "docs/operations.md",
        "Install",
        "tests/xen/cases/90-package.sh",
    ),
    (
        "docs/operations.md",
        "Disk specifications",
        "tests/xen/cases/27-disk-options.sh",
    ),
    (
        "docs/operations.md",
        "Prometheus",
        "tests/xen/cases/90-package.sh",
    ),
    ("docs/testing.md", "*", "Makefile"),
];

struct Block {
    heading: String,
    text: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn blocks(document: &str) -> Vec<Block> {
    let text = fs::read_to_string(repository().join(document)).unwrap();
    let (mut heading, mut block, mut blocks) = (String::new(), None, Vec::new());
    for line in text.lines() {
        if line.starts_with("```") {
            match block.take() {
                None => block = Some(String::new()),
                Some(text) => blocks.push(Block {
                    heading: heading.clone(),
                    text,
                }),
            }
        } else if let Some(block) = &mut block {
            *block += line;
            *block += "\n";
        } else if line.starts_with('#') {
            line.trim_start_matches('#').trim().clone_into(&mut heading);
        }
    }
    assert!(block.is_none(), "{document}: a block does not end");
    blocks
}

#[test]
fn each_block_of_the_documents_is_in_a_scene_or_said_to_be_elsewhere() {
    let documents = fs::read_dir(repository().join("docs")).unwrap();
    let names = documents.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let documents = names.map(|name| format!("docs/{name}"));
    for document in documents.chain(["README.md".to_owned()]) {
        let scenes = || SCENES.iter().filter(|scene| scene.document == document);
        for Block { heading, .. } in blocks(&document) {
            let is_run = scenes().any(|scene| scene.headings.contains(&heading.as_str()));
            let is_elsewhere = ELSEWHERE
                .iter()
                .any(|(of, at, _)| *of == document && (*at == heading || *at == "*"));
            assert!(
                is_run || is_elsewhere,
                "{document}: nobody has thought of what is below \"{heading}\""
            );
        }
        for scene in scenes() {
            let found = blocks(&document);
            let found = found
                .iter()
                .filter(|block| scene.headings.contains(&block.heading.as_str()));
            assert_eq!(
                found.count(),
                scene.headings.len(),
                "{document}: {:?}",
                scene.headings
            );
        }
    }
    for (_, _, path) in ELSEWHERE {
        assert!(repository().join(path).exists(), "{path}");
    }
}

/// A host with a golden image and an overlay of it, in which something was written.
struct Place {
    rig: Rig,
    guest: Option<Frontend>,
}

impl Place {
    fn new(with_guest: bool) -> Self {
        let rig = Rig::start();
        fs::create_dir(rig.path("images")).unwrap();
        fs::rename(rig.path("base.img"), rig.path("images/debian.img")).unwrap();
        let image = |name: &str| rig.path(&format!("images/{name}")).display().to_string();
        let target = format!("dscow:{}:{}", image("vm1.cow"), image("debian.img"));
        let guest = rig.guest(5);
        let toolstack = rig.host.toolstack();
        let disk = toolstack
            .attach(&guest, &rig.spec("xvda", &target))
            .unwrap();
        let mut frontend = Frontend::connect(&disk, simulated::options()).unwrap();
        frontend.write(4096, &[7; 65536]).unwrap();
        let guest = if with_guest {
            Some(frontend)
        } else {
            rig.detach(&disk, frontend);
            None
        };
        Self { rig, guest }
    }

    /// The text with the paths of this place.
    fn here(&self, text: &str) -> String {
        let images = self.rig.path("images").display().to_string();
        text.replace("/images", &images)
            .replace("/backup/", &format!("{images}/backup/"))
            .replace("/new/", &format!("{images}/new/"))
    }

    fn run(&self, script: &str) {
        let commands = self.rig.commands();
        let runtime = self.rig.path("run");
        let script = format!(
            "set -eu
             PATH={commands}:$PATH
             mount -t tmpfs tmpfs /run
             mkdir /run/cowback
             mount --bind {runtime} /run/cowback
             end_server() {{ [ -z \"${{server-}}\" ] || {{ kill \"$server\"; cat <&4; }}; }}
             trap end_server EXIT
             curl() {{ command curl --silent --show-error --fail-with-body \"$@\"; }}
             {script}",
            commands = commands.display(),
            runtime = runtime.display(),
        );
        let ran = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-c", &script])
            .current_dir(self.rig.path("images"))
            .output()
            .unwrap();
        assert!(ran.status.success(), "{script}\n{ran:?}");
    }
}

/// The text as a script: what serves until it is told to end does so beside the rest, and this is no Xen host.
fn as_script(text: &str) -> String {
    let lines = text.lines().map(|line| {
        if line.starts_with("cowback export") {
            format!("exec 4< <(exec {line}\n); server=$!; read -r _ <&4\n")
        } else if line.starts_with("cowback doctor") {
            format!("{{ {line}\n}} || test $? = 3\n")
        } else {
            format!("{line}\n")
        }
    });
    lines.collect()
}

#[test]
fn the_commands_of_the_documents_do_what_they_should() {
    for scene in SCENES {
        println!("{}: {}", scene.document, scene.headings[0]);
        let blocks = blocks(scene.document);
        let texts = blocks
            .iter()
            .filter(|block| scene.headings.contains(&block.heading.as_str()))
            .map(|block| as_script(&block.text));
        let script: String = texts.collect();
        let place = Place::new(scene.with_guest);
        let script = [scene.before, &script, "end_server; server=", scene.after].join("\n");
        place.run(&place.here(&script));
        if let Some(mut guest) = place.guest {
            assert_eq!(guest.read(4096, 65536).unwrap(), [7; 65536]);
        }
    }
}
