//! A world of files: the production disk on files in memory, through production operations whose system calls end as the
//! run says.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use blockio::buffer::AlignedBuf;
use blockio::disk::{Disk, DiskNumber, DiskOptions, Finished};
use blockio::executor::faulty::{self, CallKind, FaultyExecutor};
use blockio::executor::{Event, Executor};
use blockio::file::FileSystem;
use blockio::image::{Image, ImageAccess, ParentFormat, identify_parent};
use blockio::space::SpaceStrategy;
use dscow::engine::{Engine, Errno, Mode, Request, Token};
use dscow::header::Header;
use rustix::fs::MemfdFlags;

use crate::chain::{Below, Chain, Content};
use crate::run::{Plan, Run, opened_as};
use crate::script::Script;
use crate::world::{Answer, Fate, Nudge, Order, Setting, World};

const NUMBER: DiskNumber = DiskNumber(7);

/// Runs a disk on files as `data` decides.
///
/// # Panics
/// If it does what it must not.
pub fn disk(data: &[u8]) {
    run(data, Plan::default());
}

/// The same, with one thing decided beforehand. Returns how many steps the plan could have had a fate for.
pub(crate) fn run(data: &[u8], plan: Plan) -> u32 {
    let mut script = Script::new(data);
    let chain = Chain::of_script(&mut script);
    let setting = opened_as(&mut script);
    let initial = chain.initial();
    let world = Files::new(chain, setting, script.byte());
    Run::new(world, initial, setting, script, plan).run()
}

/// A file in memory, with a path by which it can be opened as long as it is there.
pub(crate) struct MemoryFile {
    file: File,
    path: PathBuf,
}

pub(crate) struct Files {
    disk: Option<Disk>,
    executor: FaultyExecutor,
    top: MemoryFile,
    /// Kept so that their paths lead to them.
    _below: Vec<MemoryFile>,
    space: SpaceStrategy,
    /// How far requests' memory is from being aligned, in bytes.
    misaligned: usize,
    answers: Vec<Answer>,
    poisoned: bool,
}

impl MemoryFile {
    pub(crate) fn new(content: Content) -> Self {
        let descriptor = rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC);
        let file = File::from(descriptor.expect("a file in memory"));
        file.set_len(content.len).expect("files of cases are small");
        for (at, piece) in content.pieces {
            file.write_all_at(&piece, at)
                .expect("files of cases are small");
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Self { file, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Files {
    fn new(chain: Chain, setting: Setting, options: u8) -> Self {
        let Chain { mut header, below } = chain;
        let mut files: Vec<MemoryFile> = Vec::new();
        // The lowest first: each names the one below.
        for (index, layer) in below.iter().enumerate().rev() {
            let parent = files.last();
            let content = layer.content(index, |header| adopt(header, parent));
            files.push(MemoryFile::new(content));
            if matches!(layer, Below::Raw { .. }) {
                // What is below a raw base is not part of the chain.
                let raw = files.pop();
                files.clear();
                files.extend(raw);
            }
        }
        adopt(&mut header, files.last());
        let mut world = Self {
            disk: None,
            executor: FaultyExecutor::new(),
            top: MemoryFile::new(Content::of_new_image(&header)),
            _below: files,
            misaligned: [0, 0, 8, 512][usize::from(options % 4)],
            space: match options >> 2 & 3 {
                0 => SpaceStrategy::Sparse,
                1 => SpaceStrategy::Strides,
                _ => SpaceStrategy::Fill,
            },
            answers: Vec::new(),
            poisoned: false,
        };
        world.open(setting);
        world
    }

    fn open(&mut self, setting: Setting) {
        let access = match setting.mode {
            Mode::ReadOnly => ImageAccess::ReadOnly,
            Mode::Writable { .. } => ImageAccess::Writable,
        };
        let image = Image::open(self.top.path(), access).expect("the image is valid at every time");
        let (engine, files) = image.into_engine(setting.on_no_space);
        let options = DiskOptions {
            detect_zeroes: true,
            space: self.space,
        };
        let mut disk = Disk::new(NUMBER, engine, files, options, &mut self.executor);
        // The files are in memory, where storage is not taken in strides.
        disk.assume_file_system(FileSystem::Ext4);
        self.disk = Some(disk);
    }

    /// Does something to the disk, and takes what comes of it.
    fn act(&mut self, act: impl FnOnce(&mut Disk, &mut FaultyExecutor)) {
        let disk = self.disk.as_mut().expect("the disk is open");
        act(disk, &mut self.executor);
        let mut events = Vec::new();
        loop {
            self.executor
                .poll(&mut events)
                .expect("polling does nothing that can fail");
            if events.is_empty() {
                break;
            }
            for event in events.drain(..) {
                complete(disk, &mut self.executor, event);
            }
        }
        self.answers
            .extend(disk.take_finished().iter().map(answer_of));
    }
}

/// Makes `parent`, if there is one, the parent that the header names.
fn adopt(header: &mut Header, parent: Option<&MemoryFile>) {
    header.parent = parent.map(|parent| {
        let parent = identify_parent(parent.path(), ParentFormat::Detect);
        parent.expect("the layers below are valid")
    });
}

fn complete(disk: &mut Disk, executor: &mut FaultyExecutor, event: Event) {
    let Event::Done { key, result } = event else {
        unreachable!("nothing is watched")
    };
    let (number, op) = DiskNumber::of_key(key);
    assert_eq!(number, NUMBER);
    disk.complete(executor, op, result);
}

fn answer_of(finished: &Finished) -> Answer {
    Answer {
        token: finished.token,
        result: finished.result,
        data: finished.buffer.to_vec(),
    }
}

impl World for Files {
    fn engine(&self) -> &Engine {
        self.disk.as_ref().expect("the disk is open").engine()
    }

    fn order(&mut self, token: Token, order: Order) {
        let misaligned = self.misaligned;
        self.act(|disk, executor| match order {
            Order::Open => disk.open(executor, token),
            Order::Request(request, data) => {
                disk.submit(executor, token, request, buffer(&data, misaligned));
            }
            // The disk finds the zeros itself.
            Order::SparseWrite { range, data, .. } => {
                let request = Request::Write(range);
                disk.submit(executor, token, request, buffer(&data, misaligned));
            }
            Order::Grow(size) => disk.grow(executor, token, size),
            Order::Close => disk.close(executor, token),
        });
    }

    fn nudge(&mut self, nudge: Nudge) {
        self.act(|disk, executor| match nudge {
            Nudge::CommitIdle => disk.commit_idle(executor),
            Nudge::RetryStalled => disk.retry_stalled(executor),
            Nudge::FailStalled => disk.fail_stalled(executor),
        });
    }

    fn waiting(&self) -> usize {
        self.executor.due().len()
    }

    fn advance(&mut self, index: usize, fate: Fate) {
        let call = self.executor.due().nth(index).expect("it waits");
        let part = |of: u8| call.len * usize::from(of) / 256;
        let fate = match fate {
            Fate::Done => faulty::Fate::Real,
            Fate::Part(0) => faulty::Fate::Short(0),
            // At least a unit of direct I/O: the kernel transfers no less, except at the end of a file.
            Fate::Part(of) => faulty::Fate::Short(part(of).max(call.len.min(4096))),
            Fate::Again(errno) => faulty::Fate::Fails { errno, done: 0 },
            Fate::Fails { errno, landed } => {
                let errno = match call.kind {
                    // No read finds no space.
                    CallKind::Read if Errno(errno).is_no_space() => Errno::EIO.0,
                    CallKind::Sync => {
                        self.poisoned = true;
                        errno
                    }
                    _ => errno,
                };
                let done = part(landed);
                faulty::Fate::Fails { errno, done }
            }
        };
        self.act(|disk, executor| {
            if let Some(event) = executor.perform(index, fate) {
                complete(disk, executor, event);
            }
        });
    }

    fn describe(&self, index: usize) -> String {
        format!("{:?}", self.executor.due().nth(index))
    }

    fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn restart(&mut self, script: &mut Script<'_>, setting: Setting) {
        for index in 0..self.waiting() {
            let call = self.executor.due().nth(index).expect("it waits");
            let done = call.len * usize::from(script.byte()) / 255;
            let interrupted = faulty::Fate::Fails {
                errno: rustix::io::Errno::INTR.raw_os_error(),
                done,
            };
            self.executor.perform(index, interrupted);
        }
        self.disk = None;
        self.executor = FaultyExecutor::new();
        self.answers.clear();
        self.poisoned = false;
        self.open(setting);
    }

    fn check_rest(&self) {
        assert!(
            self.engine().is_idle(),
            "the engine still has something under way"
        );
        assert_eq!(self.executor.in_flight(), 0, "operations are under way");
    }
}

/// Memory with these bytes, so far from being aligned.
fn buffer(data: &[u8], misaligned: usize) -> blockio::buffer::Buffer {
    let mut memory = AlignedBuf::zeroed(misaligned + data.len());
    memory.as_mut_slice()[misaligned..].copy_from_slice(data);
    memory.into_buffer().slice(misaligned, data.len())
}
