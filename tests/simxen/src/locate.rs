//! Finds what cargo has built beside the running test.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// The shim's file name.
const SHIM: &str = "libsimxen_shim.so";

/// The shim that a backend's process is to be run with.
///
/// # Errors
/// [`Error::NotBuilt`] with the command that builds it.
pub fn shim() -> Result<PathBuf> {
    built_file(SHIM, "cargo build -p simxen-shim")
}

/// A file of the target directory that the running program was built into, in its profile: itself or in `deps`. If it
/// is in both, the newer one.
///
/// # Errors
/// [`Error::NotBuilt`], with `build_command` as the advice.
pub fn built_file(name: &str, build_command: &str) -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(Error::io("find the running program"))?;
    let profile = profile_directory(&program);
    let candidates = [profile.join(name), profile.join("deps").join(name)];
    let modified = |path: &PathBuf| -> Option<SystemTime> {
        path.metadata()
            .and_then(|data: Metadata| data.modified())
            .ok()
    };
    candidates
        .iter()
        .filter(|path| path.is_file())
        .max_by_key(|path| modified(path))
        .cloned()
        .ok_or_else(|| Error::NotBuilt {
            path: candidates[0].clone(),
            build_command: build_command.to_owned(),
        })
}

/// Tests are in `deps` of the profile's directory, examples in `examples`, binaries in the directory itself.
fn profile_directory(program: &Path) -> &Path {
    let directory = program.parent().unwrap_or(program);
    let in_subdirectory = ["deps", "examples"]
        .iter()
        .any(|name| directory.file_name() == Some(OsStr::new(name)));
    match directory.parent() {
        Some(parent) if in_subdirectory => parent,
        _ => directory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_directory_is_above_deps() {
        for program in ["/t/debug/deps/x-1", "/t/debug/examples/x", "/t/debug/x"] {
            assert_eq!(profile_directory(Path::new(program)), Path::new("/t/debug"));
        }
    }

    #[test]
    fn a_missing_file_says_how_to_build_it() {
        let error = built_file("libnothing.so", "cargo build -p nothing").unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("libnothing.so is missing; build it with `cargo build -p nothing`"),
            "{error}"
        );
    }
}
