//! How much a guest can have in flight. The image is where there is no space, so that writes wait, with all that they hold;
//! only root can make such a place.

use std::path::PathBuf;
use std::process::Command;

use simulated::{Rig, options};
use simxen::FrontendOptions;

use crate::attacker::{Attacker, WRITE, part, whole};
use crate::scene::{Scene, Victim};

/// What all requests of a guest together may take, with some room for what is not counted: descriptors, operations, and
/// what the allocator has not given back.
const MEMORY_MAX: usize = 128 << 20;

/// A file system in memory, unmounted at the end.
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    fn mount(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "small"])
            .arg(&path)
            .status();
        assert!(mount.unwrap().success(), "this test has to be run by root");
        Self(path)
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily: after a failed test the daemon may still have the image open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A disk on such a file system, and as many and as large rings as there can be.
fn start(create: &[&str]) -> (SmallFileSystem, Scene) {
    let rig = Rig::start_with(&["--workers", "1", "--queues", "8"]);
    let small = SmallFileSystem::mount(rig.path("small"));
    let image = rig.path("small/bad.cow");
    let image = image.to_str().unwrap().to_owned();
    let mut arguments = vec!["create"];
    arguments.extend(create);
    arguments.push(&image);
    let made = rig.cowback(&arguments);
    assert!(made.status.success(), "{made:?}");
    let victim = Victim {
        target: Some(&image),
        image: Some("small/bad.cow"),
        ..Victim::default()
    };
    let scene = Scene::start_with(rig, &victim);
    (small, scene)
}

fn connect(scene: &Scene, persistent: bool) -> Attacker {
    scene.connect(FrontendOptions {
        ring_order: 4,
        queues: 8,
        persistent,
        segments_max: 256,
        ..options()
    })
}

/// All rings are full of writes, and the daemon has taken what it takes: memory is bounded, and others are served.
fn fill(scene: &mut Scene, attacker: &mut Attacker, entry: impl Fn(&Attacker, u64) -> Vec<u8>) {
    let before = scene.memory();
    for index in 0..512 * 8u64 {
        let entry = entry(attacker, index);
        let queue = usize::try_from(index % 8).unwrap();
        attacker.send(queue, entry);
    }
    scene.wait_for_listed("waiting_for_space", |count| count.as_u64() > Some(0));
    // Each question is a round of the worker's, in which it takes more if it takes any.
    let mut taken = scene.listed("in_flight");
    let mut rounds = 0;
    while rounds < 40 {
        let now = scene.listed("in_flight");
        rounds = if now == taken { rounds + 1 } else { 0 };
        taken = now;
        let more = scene.memory().saturating_sub(before);
        assert!(
            more <= MEMORY_MAX,
            "{more} bytes more with {taken} requests in flight"
        );
    }
    assert!(taken.as_u64() > Some(0));
    scene.bystander.check();
}

/// 8 queues of 512 requests of 1 MiB: 4 GiB, all of the same 256 pages.
#[test]
fn copied_data_is_bounded() {
    let (_small, mut scene) = start(&["--size", "1G"]);
    let mut attacker = connect(&scene, false);
    let page = attacker.page(1);
    let descriptors = attacker.descriptors(&[whole(page.grant); 256]);
    fill(&mut scene, &mut attacker, |attacker, index| {
        attacker.indirect_in(WRITE, 256, index % 1024 * 2048, &[descriptors.grant])
    });
    scene.finish();
}

/// The same with pages that stay mapped, which may be named by any number of requests.
#[test]
fn requests_of_mapped_pages_are_bounded() {
    let (_small, mut scene) = start(&["--size", "1G"]);
    let mut attacker = connect(&scene, true);
    let page = attacker.page(1);
    let descriptors = attacker.descriptors(&[whole(page.grant); 256]);
    fill(&mut scene, &mut attacker, |attacker, index| {
        attacker.indirect_in(WRITE, 256, index % 1024 * 2048, &[descriptors.grant])
    });
    scene.finish();
}

/// Parts of blocks of 2 MiB, each across a border: two blocks have to be filled up for each, which would be 16 GiB.
#[test]
fn filled_up_blocks_are_bounded() {
    let (_small, mut scene) = start(&["--size", "64G", "--block-size", "2M"]);
    let mut attacker = connect(&scene, true);
    let page = attacker.page(1);
    fill(&mut scene, &mut attacker, |attacker, index| {
        attacker.transfer(WRITE, (index * 2 + 1) * 4096 - 1, &[part(page.grant, 0, 1)])
    });
    scene.finish();
}
