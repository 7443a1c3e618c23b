//! What the daemon's unit leaves it of a folder. A folder that is fine for who asks may be hidden from the daemon, or
//! read-only to it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::host::Finding;

/// Of these the daemon has its own, by `PrivateTmp` in its unit.
const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];
/// These it cannot write to, by `ProtectSystem=full`.
const PROTECTED: [&str; 4] = ["/usr", "/boot", "/efi", "/etc"];

/// What a folder is to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Usable,
    Hidden,
    ReadOnly,
}

impl View {
    /// What the process has of a folder. Nothing is known if there is no such process, or if it may not be looked into.
    fn of_process(pid: u32, folder: &Path) -> Option<Self> {
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        fs::metadata(&root).ok()?;
        let identity = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        };
        let theirs = root.join(folder.strip_prefix("/").ok()?);
        if identity(&theirs).is_none_or(|theirs| identity(folder) != Some(theirs)) {
            return Some(Self::Hidden);
        }
        let is_read_only = |path: &Path| {
            let found = statvfs(path).ok()?;
            Some(found.f_flag.contains(StatVfsMountFlags::RDONLY))
        };
        Some(match (is_read_only(folder)?, is_read_only(&theirs)?) {
            (false, true) => Self::ReadOnly,
            _ => Self::Usable,
        })
    }

    /// What the unit leaves of a folder, if nobody has changed it.
    fn of_unit(folder: &Path) -> Self {
        let is_in = |folders: &[&str]| folders.iter().any(|parent| folder.starts_with(parent));
        if is_in(&PRIVATE) {
            Self::Hidden
        } else if is_in(&PROTECTED) {
            Self::ReadOnly
        } else {
            Self::Usable
        }
    }
}

/// What is wrong with a folder for the daemon alone: for the process `pid`, or, if there is none or it cannot be looked
/// into, for one that its unit starts.
pub(crate) fn examine(folder: &Path, pid: Option<u32>) -> Option<Finding> {
    let folder = fs::canonicalize(folder).ok()?;
    let seen = pid.and_then(|pid| View::of_process(pid, &folder));
    finding(&folder, seen.unwrap_or_else(|| View::of_unit(&folder)))
}

fn finding(folder: &Path, view: View) -> Option<Finding> {
    let subject = "images";
    let shown = folder.display();
    match view {
        View::Usable => None,
        View::Hidden if PRIVATE.iter().any(|parent| folder.starts_with(parent)) => {
            Some(Finding::bad(
                subject,
                format!(
                    "{shown}: the daemon does not see it, since its unit gives it a /tmp and a /var/tmp of its own"
                ),
                "keep images elsewhere, as in /srv/images; or put PrivateTmp=no below [Service] with: systemctl edit \
                 cowbackd.service; then: systemctl restart cowbackd.service",
            ))
        }
        View::Hidden => Some(Finding::bad(
            subject,
            format!("{shown}: the daemon does not see it, or sees something else by that name"),
            "see which mounts the daemon has: findmnt --task $(pidof cowbackd); what hides the folder may be in its unit: \
             systemctl cat cowbackd.service",
        )),
        View::ReadOnly => Some(Finding::bad(
            subject,
            format!(
                "{shown}: is read-only to the daemon by its unit, so it can have bases, and no images that guests write to"
            ),
            format!(
                "keep images elsewhere, as in /srv/images; or put ReadWritePaths={shown} below [Service] with: systemctl \
                 edit cowbackd.service; then: systemctl restart cowbackd.service"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Health;

    #[test]
    fn what_the_unit_hides_or_protects_is_bad() {
        let of = |folder: &str| {
            let folder = Path::new(folder);
            finding(folder, View::of_unit(folder))
        };
        for (folder, word) in [
            ("/tmp", "PrivateTmp=no"),
            ("/var/tmp/images", "PrivateTmp=no"),
            ("/usr/share/images", "ReadWritePaths=/usr/share/images"),
            ("/boot", "ReadWritePaths=/boot"),
            ("/etc/images", "ReadWritePaths=/etc/images"),
        ] {
            let Finding { health, advice, .. } = of(folder).unwrap();
            assert_eq!(health, Health::Bad, "{folder}");
            let advice = advice.unwrap();
            assert!(
                advice.contains(word) && advice.contains("/srv/images"),
                "{advice}"
            );
        }
        for folder in ["/", "/images", "/srv/tmp", "/tmpfiles", "/home/usr"] {
            assert_eq!(of(folder), None, "{folder}");
        }
    }

    #[test]
    fn what_a_running_daemon_has_counts_more_than_its_unit() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        assert!(examine(folder.path(), None).is_some());
        // It has not begun to exist, so nothing is known of it.
        assert!(examine(folder.path(), Some(u32::MAX)).is_some());
        // This process is in no sandbox.
        let own = Some(std::process::id());
        assert_eq!(examine(folder.path(), own), None);
        assert_eq!(examine(Path::new("/nothing/there"), own), None);
    }
}
