//! `cowback top` on a terminal: tmux is the terminal, and says what is on its screen.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use simulated::{PATIENCE, Rig};

/// The command, with the daemon that it is to ask.
fn top(rig: &Rig) -> String {
    let (cowback, socket) = (rig.commands().join("cowback"), rig.path("run/control.sock"));
    format!(
        "{} top --interval 0.2 --socket {}",
        cowback.display(),
        socket.display()
    )
}

/// A terminal in which a command runs.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn start(rig: &Rig, command: &str) -> Self {
        let socket = rig.path("tmux.sock");
        let terminal = Self { socket };
        let shell = format!("echo before; {command}; echo ended with $?; exec sleep infinity");
        terminal.tmux(&["new-session", "-d", "-x", "120", "-y", "24", &shell]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(&self.socket)
            .args(["-f", "/dev/null"])
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .output()
            .expect("tmux runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Waits until all of this is on the screen.
    fn shows(&self, texts: &[&str]) {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if texts.iter().all(|text| screen.contains(text)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{texts:?} in:\n{screen}");
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_shows_disks_takes_keys_and_gives_the_terminal_back() {
    let rig = Rig::start();
    let (one, two) = (rig.guest(1), rig.guest(2));
    let (first, mut idle) = rig.connect(&one, "xvda", "one.cow");
    let (second, mut busy) = rig.connect(&two, "xvda", "two.cow");
    idle.read(0, 4096).unwrap();
    let top = Terminal::start(&rig, &top(&rig));
    top.shows(&["2 disks by requests", "W MiB/s", "one.cow", "two.cow"]);
    top.press("n");
    top.shows(&["2 disks by name"]);
    top.press("Enter");
    top.shows(&["xvda of domain 1", "Esc back"]);
    top.press("Down");
    busy.write(0, &[1; 4096]).unwrap();
    top.shows(&["xvda of domain 2", "two.cow", "writes:        1, "]);
    top.press("q");
    // The screen is again what it was before.
    top.shows(&["before\nended with 0"]);
    let screen = top.screen();
    assert!(!screen.contains("xvda"), "{screen}");
    drop(top);
    rig.detach(&first, idle);
    rig.detach(&second, busy);
}

#[test]
fn top_says_that_the_daemon_is_gone_and_goes_on_with_the_next() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (_disk, _frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let top = Terminal::start(&rig, &top(&rig));
    top.shows(&["1 disk by requests", "vm.cow"]);
    rig.daemon.kill().unwrap();
    top.shows(&["cowback top: the daemon does not answer", "vm.cow"]);
    rig.daemon.restart().unwrap();
    top.shows(&["1 disk by requests", "vm.cow"]);
}
