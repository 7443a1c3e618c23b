use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Which of our crates each of our crates may depend on, outside of tests.
const RULES: &[(&str, &[&str])] = &[
    ("dscow", &[]),
    ("blkif", &[]),
    ("xengnttab", &[]),
    ("runstate", &[]),
    ("blockio", &["dscow"]),
    ("xenstore-glue", &[]),
    ("nbd", &[]),
    ("control-api", &[]),
    ("nbd-server", &["blockio", "dscow", "nbd"]),
    (
        "cowbackd",
        &[
            "blkif",
            "blockio",
            "control-api",
            "dscow",
            "nbd-server",
            "runstate",
            "xengnttab",
            "xenstore-glue",
        ],
    ),
    (
        "cowback",
        &["blockio", "control-api", "dscow", "nbd-server"],
    ),
    ("manuals", &["cowback", "cowbackd"]),
];

/// Crates of the product in which no unsafe code is possible.
const SAFE: &[&str] = &[
    "control-api",
    "dscow",
    "nbd",
    "nbd-server",
    "xenstore-glue",
    "cowback",
    "manuals",
];

/// The files in which unsafe code is allowed where the rest of the crate has none.
const UNSAFE_FILES: &[(&str, &[&str])] = &[
    ("blkif", &["shared.rs"]),
    ("cowbackd", &["worker/foreign.rs"]),
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo describes the workspace")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rules() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    RULES
        .iter()
        .map(|(name, allowed)| (*name, allowed.iter().copied().collect()))
        .collect()
}

#[test]
fn crates_import_only_what_the_rules_allow() {
    let metadata = metadata();
    let rules = rules();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    for name in rules.keys() {
        assert!(
            ours.contains(name),
            "{name} is in the rules but not in the workspace"
        );
    }
    for package in &metadata.packages {
        let is_test_crate = package.manifest_path.as_str().contains("/tests/");
        let Some(allowed) = rules.get(package.name.as_str()) else {
            assert!(is_test_crate, "{} is not in the rules", package.name);
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if dependency.kind == DependencyKind::Development || !ours.contains(name) {
                continue;
            }
            assert!(
                allowed.contains(name),
                "{} must not import {name}",
                package.name
            );
        }
    }
}

#[test]
fn the_document_has_the_same_rules() {
    let document = fs::read_to_string(root().join("docs/architecture.md")).expect("it is there");
    let mut documented = BTreeMap::new();
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        // | path | crate | owns | may import | unsafe |
        let [_, _, name, _, imports, _, _] = cells[..] else {
            continue;
        };
        let name = name.trim_matches('`').to_owned();
        let imports: BTreeSet<String> = imports
            .split(", ")
            .filter_map(|import| import.strip_prefix('`')?.strip_suffix('`'))
            .map(str::to_owned)
            .collect();
        documented.insert(name, imports);
    }
    for (name, allowed) in rules() {
        let allowed: BTreeSet<String> = allowed.into_iter().map(str::to_owned).collect();
        assert_eq!(documented.get(name), Some(&allowed), "imports of {name}");
    }
}

#[test]
fn safe_crates_forbid_unsafe_code() {
    for package in metadata().packages {
        if !SAFE.contains(&package.name.as_str()) {
            continue;
        }
        for target in &package.targets {
            let source = fs::read_to_string(&target.src_path).expect("targets have sources");
            assert!(
                target.is_test() || source.contains("#![forbid(unsafe_code)]"),
                "{} must forbid unsafe code",
                target.src_path
            );
        }
    }
}

#[test]
fn unsafe_code_is_only_in_the_files_named_for_it() {
    for package in metadata().packages {
        let Some((_, allowed)) = UNSAFE_FILES
            .iter()
            .find(|(name, _)| *name == package.name.as_str())
        else {
            continue;
        };
        let main = &package.targets[0].src_path;
        let source = fs::read_to_string(main).expect("targets have sources");
        assert!(
            source.contains("#![deny(unsafe_code)]"),
            "{main} must deny unsafe code"
        );
        let folder = main.parent().expect("a source is in a folder");
        for path in sources(folder.as_std_path()) {
            let relative = path.strip_prefix(folder).expect("it was found there");
            let text = fs::read_to_string(&path).expect("it was found");
            if text.contains("allow(unsafe_code)") {
                assert!(
                    allowed.iter().any(|file| relative.ends_with(file)),
                    "{} must not allow unsafe code",
                    path.display()
                );
            }
        }
    }
}

fn sources(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("it is a folder") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Tests as docs/threat-model.md names them: `file.rs::function`.
fn tests_in_the_threat_model() -> BTreeSet<String> {
    let path = root().join("docs/threat-model.md");
    let document = fs::read_to_string(path).expect("it is there");
    let quoted = document.split('`').skip(1).step_by(2);
    quoted
        .filter(|text| text.contains(".rs::"))
        .map(str::to_owned)
        .collect()
}

/// The tests of the hostile guests, by the same names.
fn tests_of_hostile_guests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in sources(&root().join("tests/simulated/tests/hostile")) {
        let file = path.file_name().expect("it was found").to_string_lossy();
        let text = fs::read_to_string(&path).expect("it was found");
        for test in text.split("#[test]\nfn ").skip(1) {
            let (name, _) = test.split_once('(').expect("a function");
            found.insert(format!("{file}::{name}"));
        }
    }
    found
}

#[test]
fn the_threat_model_names_the_tests_of_hostile_guests() {
    let (named, there) = (tests_in_the_threat_model(), tests_of_hostile_guests());
    assert!(named.len() > 30, "{named:?}");
    assert_eq!(named, there);
}

#[test]
fn what_the_threat_model_refers_to_is_there() {
    let path = root().join("docs/threat-model.md");
    let document = fs::read_to_string(path).expect("it is there");
    let quoted = document.split('`').skip(1).step_by(2);
    for file in quoted.filter(|text| text.contains('/') && !text.contains(' ')) {
        assert!(root().join(file).exists(), "{file} is not there");
    }
}
