//! What a host must have to serve disks, and what to do about what it lacks.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How it is with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Health {
    Good,
    /// It works, and could be better.
    Doubtful,
    /// Disks cannot be served like this.
    Bad,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Finding {
    pub(crate) subject: &'static str,
    pub(crate) health: Health,
    /// What is so.
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) advice: Option<String>,
}

impl Finding {
    pub(crate) fn good(subject: &'static str, found: impl Into<String>) -> Self {
        Self {
            subject,
            health: Health::Good,
            found: found.into(),
            advice: None,
        }
    }

    pub(crate) fn doubtful(
        subject: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            health: Health::Doubtful,
            advice: Some(advice.into()),
            ..Self::good(subject, found)
        }
    }

    pub(crate) fn bad(
        subject: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            health: Health::Bad,
            ..Self::doubtful(subject, found, advice)
        }
    }
}

/// A host, as its files show it.
pub(crate) struct Host {
    root: PathBuf,
}

/// Xen with vbd3 devices in its toolstack (`backendtype=tap` with a script of one's own).
const XEN_WITH_VBD3: (u32, u32) = (4, 19);

/// Where the hotplug script is, and where it comes from.
const SCRIPT: &str = "/etc/xen/scripts/block-cow";

impl Host {
    /// The host whose files are below `root`.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    fn read(&self, absolute: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(absolute)).ok()?;
        Some(text.trim().to_owned())
    }

    fn exists(&self, absolute: &str) -> bool {
        self.path(absolute).exists()
    }

    /// Everything that can be seen without asking anybody.
    pub(crate) fn examine(&self) -> Vec<Finding> {
        vec![
            self.domain(),
            self.xen(),
            self.device("grants", "/dev/xen/gntdev", "xen-gntdev"),
            self.device("event channels", "/dev/xen/evtchn", "xen-evtchn"),
            self.xenstore(),
            self.library(),
            self.script(),
            self.unit(),
            self.io_uring(),
        ]
    }

    /// Whether this is a domain that can serve disks.
    fn domain(&self) -> Finding {
        let subject = "domain";
        match self.read("/proc/xen/capabilities") {
            Some(capabilities) if capabilities.contains("control_d") => {
                Finding::good(subject, "this is dom0")
            }
            Some(_) => Finding::doubtful(
                subject,
                "this is a Xen guest, not dom0",
                "run cowbackd in dom0, unless this is meant to be a driver domain",
            ),
            None if self.exists("/sys/hypervisor/type") => Finding::bad(
                subject,
                "xenfs is not mounted on /proc/xen",
                "mount -t xenfs xenfs /proc/xen; systemd does that for units that need it",
            ),
            None => Finding::bad(
                subject,
                "this host does not run on Xen",
                "install Xen (on Debian: apt install xen-system-amd64) and boot it",
            ),
        }
    }

    fn xen(&self) -> Finding {
        let subject = "Xen";
        let number = |name: &str| -> Option<u32> {
            self.read(&format!("/sys/hypervisor/version/{name}"))?
                .parse()
                .ok()
        };
        match (number("major"), number("minor")) {
            (Some(major), Some(minor)) if (major, minor) >= XEN_WITH_VBD3 => Finding::good(
                subject,
                format!("{major}.{minor}; disk specs take backendtype=tap,script=block-cow"),
            ),
            (Some(major), Some(minor)) => Finding::doubtful(
                subject,
                format!("{major}.{minor}, which has no vbd3 devices"),
                "leave out backendtype=tap in disk specs: script=block-cow,target=... works on every Xen",
            ),
            _ => Finding::bad(
                subject,
                "its version is not in /sys/hypervisor/version",
                "boot the host with Xen",
            ),
        }
    }

    fn device(&self, subject: &'static str, path: &'static str, module: &str) -> Finding {
        match fs::metadata(self.path(path)) {
            Ok(found) if found.file_type().is_char_device() => Finding::good(subject, path),
            Ok(_) => Finding::bad(
                subject,
                format!("{path} is no device"),
                format!("remove it, then: modprobe {module}"),
            ),
            Err(error) => Finding::bad(
                subject,
                format!("{path}: {error}"),
                format!("modprobe {module}, and write {module} to /etc/modules-load.d/xen.conf"),
            ),
        }
    }

    fn xenstore(&self) -> Finding {
        let places = ["/run/xenstored/socket", "/dev/xen/xenbus"];
        match places.iter().find(|place| self.exists(place)) {
            Some(place) => Finding::good("xenstore", *place),
            None => Finding::bad(
                "xenstore",
                "neither of /run/xenstored/socket and /dev/xen/xenbus is there",
                "start xenstored: systemctl start xenstored (on Debian: systemctl start xen)",
            ),
        }
    }

    /// The library for event channels, by the name by which it is loaded.
    fn library(&self) -> Finding {
        let mut folders = vec!["/usr/lib/cowback".to_owned(), "/usr/lib".to_owned()];
        folders.extend(self.folders_in("/usr/lib"));
        folders.push("/usr/lib64".to_owned());
        let of = |folder: &String| format!("{folder}/libxenevtchn.so");
        let mut names = folders.iter().map(of);
        match names.find(|name| self.exists(name)) {
            Some(name) => Finding::good("libxenevtchn", name),
            None => Finding::bad(
                "libxenevtchn",
                "libxenevtchn.so is not found",
                "install Xen's run-time libraries (on Debian: apt install libxenevtchn1), and the cowback package, \
                 which puts a link to it into /usr/lib/cowback",
            ),
        }
    }

    fn folders_in(&self, absolute: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(absolute)).into_iter().flatten();
        let names = entries.flatten().filter(|entry| entry.path().is_dir());
        names
            .map(|entry| format!("{absolute}/{}", entry.file_name().display()))
            .collect()
    }

    fn script(&self) -> Finding {
        match fs::metadata(self.path(SCRIPT)) {
            Ok(found) if found.permissions().mode() & 0o111 == 0 => Finding::bad(
                "hotplug script",
                format!("{SCRIPT} cannot be executed"),
                format!("chmod 755 {SCRIPT}"),
            ),
            Ok(found) if found.uid() != 0 && self.root == Path::new("/") => Finding::doubtful(
                "hotplug script",
                format!(
                    "{SCRIPT} belongs to user {}, and xl executes it as root",
                    found.uid()
                ),
                format!("chown root:root {SCRIPT}"),
            ),
            Ok(_) => Finding::good("hotplug script", SCRIPT),
            Err(error) => Finding::bad(
                "hotplug script",
                format!("{SCRIPT}: {error}"),
                "install the cowback package, or copy hotplug-scripts/block-cow there",
            ),
        }
    }

    /// Whether the daemon is started with the host: guests that xendomains starts need it.
    fn unit(&self) -> Finding {
        let wanted = "/etc/systemd/system/multi-user.target.wants/cowbackd.service";
        // It is a link, and what it names may be outside of the tree that is looked at.
        if fs::symlink_metadata(self.path(wanted)).is_ok() {
            Finding::good("start with the host", "cowbackd.service is enabled")
        } else {
            Finding::doubtful(
                "start with the host",
                "cowbackd.service is not enabled",
                "systemctl enable --now cowbackd.service",
            )
        }
    }

    /// Whether the daemon may use io_uring. Its unit leaves it no CAP_SYS_ADMIN, so to the kernel it is one of many; but
    /// its group is root's.
    fn io_uring(&self) -> Finding {
        let subject = "io_uring";
        let disabled = self.read("/proc/sys/kernel/io_uring_disabled");
        let group = self.read("/proc/sys/kernel/io_uring_group");
        let group = group.and_then(|gid| gid.parse::<u32>().ok());
        match (disabled.as_deref(), group) {
            (None | Some("0"), _) => Finding::good(subject, "the kernel allows it"),
            (Some("1"), Some(0)) => Finding::good(
                subject,
                "the kernel allows it to the group 0, in which the daemon is",
            ),
            (Some("1"), Some(gid)) => Finding::doubtful(
                subject,
                format!(
                    "the kernel allows it to the group {gid}; if the daemon is not in that, disks are served by threads, \
                     more slowly"
                ),
                format!(
                    "put SupplementaryGroups={gid} below [Service] with: systemctl edit cowbackd.service; then: \
                     systemctl restart cowbackd.service"
                ),
            ),
            (Some(value), _) => Finding::doubtful(
                subject,
                format!(
                    "kernel.io_uring_disabled is {value}, which keeps the daemon from it; disks are served by threads, \
                     more slowly"
                ),
                "allow it to root's group: sysctl kernel.io_uring_group=0 kernel.io_uring_disabled=1, and the same in \
                 /etc/sysctl.d; then: systemctl restart cowbackd.service",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        let host = Host::at(folder.path());
        (folder, host)
    }

    fn found(host: &Host, subject: &str) -> Finding {
        let mut findings = host.examine().into_iter();
        findings.find(|finding| finding.subject == subject).unwrap()
    }

    #[test]
    fn a_host_without_xen_is_told_what_to_do() {
        let (_folder, host) = host(&[]);
        for finding in host.examine() {
            let is_fine = finding.health == Health::Good;
            assert_eq!(is_fine, finding.advice.is_none(), "{finding:?}");
        }
        let domain = found(&host, "domain");
        assert_eq!(domain.health, Health::Bad);
        assert!(domain.advice.unwrap().contains("boot it"));
    }

    #[test]
    fn a_good_host_is_good_and_a_false_device_is_not() {
        let (folder, host) = host(&[
            ("/proc/xen/capabilities", "control_d\n"),
            ("/sys/hypervisor/version/major", "4\n"),
            ("/sys/hypervisor/version/minor", "20\n"),
            ("/dev/xen/gntdev", ""),
            ("/run/xenstored/socket", ""),
            ("/usr/lib/x86_64-linux-gnu/libxenevtchn.so", ""),
            ("/etc/xen/scripts/block-cow", "#!/bin/bash\n"),
            ("/proc/sys/kernel/io_uring_disabled", "2\n"),
        ]);
        let script = folder.path().join("etc/xen/scripts/block-cow");
        assert_eq!(found(&host, "hotplug script").health, Health::Bad);
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        for subject in [
            "domain",
            "Xen",
            "xenstore",
            "libxenevtchn",
            "hotplug script",
        ] {
            assert_eq!(found(&host, subject).health, Health::Good, "{subject}");
        }
        assert_eq!(found(&host, "io_uring").health, Health::Doubtful);
        assert_eq!(found(&host, "grants").health, Health::Bad);
        assert_eq!(found(&host, "start with the host").health, Health::Doubtful);
    }

    #[test]
    fn io_uring_is_good_only_if_the_daemon_may_use_it() {
        let io_uring = |disabled, group| {
            let (_folder, host) = host(&[
                ("/proc/sys/kernel/io_uring_disabled", disabled),
                ("/proc/sys/kernel/io_uring_group", group),
            ]);
            let Finding { health, advice, .. } = found(&host, "io_uring");
            (health, advice.unwrap_or_default())
        };
        assert_eq!(io_uring("0\n", "-1\n").0, Health::Good);
        // The daemon is no more than the members of its group: it has no CAP_SYS_ADMIN.
        assert_eq!(io_uring("1\n", "0\n").0, Health::Good);
        for disabled in ["1\n", "2\n"] {
            let (health, advice) = io_uring(disabled, "-1\n");
            assert_eq!(health, Health::Doubtful, "{disabled}");
            assert!(advice.contains("io_uring_group=0"), "{advice}");
        }
        assert_eq!(io_uring("2\n", "0\n").0, Health::Doubtful);
        let (health, advice) = io_uring("1\n", "988\n");
        assert_eq!(health, Health::Doubtful);
        assert!(advice.contains("SupplementaryGroups=988"), "{advice}");
    }

    #[test]
    fn the_library_is_looked_for_in_the_package_that_has_it() {
        let (_folder, host) = host(&[]);
        let advice = found(&host, "libxenevtchn").advice.unwrap();
        assert!(advice.contains("apt install libxenevtchn1"), "{advice}");
    }

    #[test]
    fn an_older_xen_takes_other_disk_specs() {
        let (_folder, host) = host(&[
            ("/sys/hypervisor/version/major", "4\n"),
            ("/sys/hypervisor/version/minor", "17\n"),
        ]);
        let xen = found(&host, "Xen");
        assert_eq!(xen.health, Health::Doubtful);
        assert!(xen.advice.unwrap().contains("leave out backendtype=tap"));
    }
}
