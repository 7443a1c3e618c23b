//! A world of vectors: the engine alone, each of its actions done and completed when the run says so.

use std::collections::BTreeMap;

use dscow::bitmap::Bitmap;
use dscow::engine::{
    Action, BounceId, Engine, Errno, Memory, Mode, OnNoSpace, OpId, Options, Token,
};
use dscow::header::{self, SlotBytes};
use dscow::parents::{LayerIndex, Parents};
use dscow::units::DiskRange;

use crate::chain::{Chain, Content};
use crate::run::{Plan, Run, opened_as};
use crate::script::Script;
use crate::stamp::SECTOR;
use crate::world::{Answer, Fate, Nudge, Order, Setting, World};

/// Runs the engine as `data` decides.
///
/// # Panics
/// If it does what it must not.
pub fn engine(data: &[u8]) {
    run(data, Plan::default());
}

/// The same, with one thing decided beforehand. Returns how many steps the plan could have had a fate for.
pub(crate) fn run(data: &[u8], plan: Plan) -> u32 {
    let mut script = Script::new(data);
    let chain = Chain::of_script(&mut script);
    let setting = opened_as(&mut script);
    let initial = chain.initial();
    let world = InMemory::new(chain, setting, script.one_in(2));
    Run::new(world, initial, setting, script, plan).run()
}

struct InMemory {
    chain: Chain,
    engine: Engine,
    setting: Setting,
    /// Of each layer, the image's own first.
    files: Vec<Vec<u8>>,
    buffers: BTreeMap<Token, Vec<u8>>,
    bounces: BTreeMap<BounceId, Vec<u8>>,
    waiting: Vec<Waiting>,
    answers: Vec<Answer>,
    poisoned: bool,
    /// Whether garbage is written wherever a driver may.
    scribbles: bool,
}

/// I/O that the engine has asked for.
struct Waiting {
    action: Action,
    /// It has been done, but the engine was not told so yet.
    landed: bool,
}

/// All of what is written.
const ALL: u8 = u8::MAX;

impl InMemory {
    fn new(chain: Chain, setting: Setting, scribbles: bool) -> Self {
        let mut files = vec![Content::of_new_image(&chain.header).into_bytes()];
        for (index, below) in chain.below.iter().enumerate() {
            files.push(below.content(index, |_| ()).into_bytes());
        }
        Self {
            engine: engine_of(&files[0], &chain, setting),
            chain,
            setting,
            files,
            buffers: BTreeMap::new(),
            bounces: BTreeMap::new(),
            waiting: Vec::new(),
            answers: Vec::new(),
            poisoned: false,
            scribbles,
        }
    }

    /// Performs what needs no completion, and puts I/O on the waiting list.
    fn collect(&mut self) {
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::FillZero { memory, len } => self.memory(memory, len).fill(0),
                Action::AllocBounce { bounce, len } => {
                    let garbage = vec![0xbb; in_memory(len)];
                    let before = self.bounces.insert(bounce, garbage);
                    assert!(before.is_none(), "{bounce:?} is allocated twice");
                }
                Action::FreeBounce { bounce } => {
                    self.bounces
                        .remove(&bounce)
                        .expect("a buffer is freed once");
                }
                Action::Copy { from, to, len } => {
                    let bytes = self.memory(from, len).to_vec();
                    self.memory(to, len).copy_from_slice(&bytes);
                }
                Action::Finish { token, result } => {
                    let data = self.buffers.remove(&token);
                    let data = data.expect("a request is finished once");
                    self.answers.push(Answer {
                        token,
                        result,
                        data,
                    });
                }
                io => self.start(io),
            }
        }
        if self.scribbles && self.setting.mode != Mode::ReadOnly {
            for unused in self.engine.unused_within(self.all_blocks()) {
                self.scribble(unused.start.0, unused.end());
            }
        }
    }

    fn all_blocks(&self) -> DiskRange {
        let layout = self.engine.layout();
        DiskRange::new(0, layout.file_len() - layout.data_offset().0)
    }

    /// Does what a driver may do that makes writes larger.
    fn scribble_around(&mut self, action: &Action) {
        let Action::WriteData { offset, len, .. } = action else {
            return;
        };
        let start = offset.0 - self.engine.layout().data_offset().0;
        let write = DiskRange::new(start, *len);
        if let Some(room) = self.engine.room_around(write, self.all_blocks()) {
            assert!(room.start <= write.start && write.end() <= room.end());
            self.scribble(room.start.0, start);
            self.scribble(write.end(), room.end());
        }
    }

    fn scribble(&mut self, start: u64, end: u64) {
        let data = in_memory(self.engine.layout().data_offset().0);
        self.files[0][data + in_memory(start)..data + in_memory(end)].fill(0xdd);
    }

    fn start(&mut self, action: Action) {
        self.check_rules(&action);
        if self.scribbles {
            self.scribble_around(&action);
        }
        self.waiting.push(Waiting {
            action,
            landed: false,
        });
    }

    /// What holds for every action by itself.
    fn check_rules(&self, action: &Action) {
        let layout = self.engine.layout();
        let in_data = |offset: u64| offset >= layout.data_offset().0;
        let aligned = |bits: u64| bits.is_multiple_of(self.setting.io_alignment.into());
        let right = match action {
            Action::Read {
                layer, offset, len, ..
            } => *layer != LayerIndex::TOP || aligned(offset.0 | len),
            Action::WriteData { offset, len, .. } | Action::ZeroData { offset, len, .. } => {
                in_data(offset.0) && aligned(offset.0 | len)
            }
            Action::WriteBitmap { offset, bytes, .. } => {
                let (start, end) = (offset.0, offset.0 + bytes.len() as u64);
                let bitmap = layout.bitmap_offset().0;
                start >= bitmap
                    && end <= bitmap + layout.bitmap_reserved_len()
                    && bytes.len() % 4096 == 0
            }
            _ => true,
        };
        assert!(right, "{action:?} breaks a rule");
        let changes = !matches!(action, Action::Read { .. } | Action::Sync { .. });
        assert!(
            !changes || self.setting.mode != Mode::ReadOnly,
            "{action:?} on an image that is read-only"
        );
    }

    /// Does what an action is about. Of what it writes, those sectors land whose bits are set, again every 8.
    fn land(&mut self, index: usize, sectors: u8) {
        if std::mem::replace(&mut self.waiting[index].landed, true) {
            return;
        }
        let action = self.waiting[index].action.clone();
        match action {
            Action::Read {
                layer,
                offset,
                memory,
                len,
                ..
            } => {
                let at = in_memory(offset.0);
                let mut bytes = self.files[layer.0][at..at + in_memory(len)].to_vec();
                spoil(&mut bytes, sectors);
                self.memory(memory, len).copy_from_slice(&bytes);
            }
            Action::WriteData {
                offset,
                memory,
                len,
                ..
            } => {
                let bytes = self.memory(memory, len).to_vec();
                self.put(offset.0, &bytes, sectors);
            }
            Action::ZeroData { offset, len, .. } => {
                self.put(offset.0, &vec![0; in_memory(len)], sectors);
            }
            Action::WriteBitmap { offset, bytes, .. } => self.put(offset.0, &bytes, sectors),
            Action::WriteHeader { slot, bytes, .. } => {
                self.put(slot.offset().0, &bytes[..], sectors);
            }
            Action::SetLen { len, .. } if sectors & 1 == 1 => {
                let len = in_memory(len).max(self.files[0].len());
                self.files[0].resize(len, 0);
            }
            _ => {}
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8], sectors: u8) {
        let at = in_memory(offset);
        let file = &mut self.files[0][at..at + bytes.len()];
        for (i, (to, from)) in file
            .chunks_mut(SECTOR)
            .zip(bytes.chunks(SECTOR))
            .enumerate()
        {
            if sectors >> (i % 8) & 1 == 1 {
                to.copy_from_slice(from);
            }
        }
    }

    fn complete(&mut self, index: usize, result: Result<(), Errno>) {
        let Waiting { action, .. } = self.waiting.remove(index);
        self.note_failure(&action, result);
        self.engine.complete(op_of(&action), result);
        self.collect();
    }

    /// After a failed sync nobody knows what is durable, and a bitmap that was not written is not there.
    fn note_failure(&mut self, action: &Action, result: Result<(), Errno>) {
        let waits_for_space =
            self.setting.on_no_space == OnNoSpace::Pause && result.is_err_and(Errno::is_no_space);
        self.poisoned |= match action {
            Action::Sync { .. } => result.is_err(),
            Action::WriteBitmap { .. } => result.is_err() && !waits_for_space,
            _ => false,
        };
    }

    fn memory(&mut self, memory: Memory, len: u64) -> &mut [u8] {
        let (buffer, offset) = match memory {
            Memory::Request { token, offset } => (self.buffers.get_mut(&token), offset),
            Memory::Bounce { bounce, offset } => (self.bounces.get_mut(&bounce), offset),
        };
        let buffer = buffer.expect("memory is named between its first and its last use");
        let at = in_memory(offset);
        &mut buffer[at..at + in_memory(len)]
    }
}

/// A read that failed has left anything in its memory.
fn spoil(bytes: &mut [u8], sectors: u8) {
    for (i, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        if sectors >> (i % 8) & 1 == 0 {
            sector.fill(0xdd);
        }
    }
}

impl World for InMemory {
    fn engine(&self) -> &Engine {
        &self.engine
    }

    fn order(&mut self, token: Token, order: Order) {
        let data = match &order {
            Order::Request(_, data) | Order::SparseWrite { data, .. } => data.clone(),
            Order::Open | Order::Grow(_) | Order::Close => Vec::new(),
        };
        self.buffers.insert(token, data);
        match order {
            Order::Open => self.engine.open(token),
            Order::Request(request, _) => self.engine.submit(token, request),
            Order::SparseWrite { range, zeros, .. } => {
                self.engine.submit_write(token, range, &zeros);
            }
            Order::Grow(size) => self.engine.grow(token, size),
            Order::Close => self.engine.close(token),
        }
        self.collect();
    }

    fn nudge(&mut self, nudge: Nudge) {
        match nudge {
            Nudge::CommitIdle => self.engine.commit_idle(),
            Nudge::RetryStalled => self.engine.retry_stalled(),
            Nudge::FailStalled => self.engine.fail_stalled(),
        }
        self.collect();
    }

    fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn advance(&mut self, index: usize, fate: Fate) {
        match fate {
            Fate::Done => {
                self.land(index, ALL);
                self.complete(index, Ok(()));
            }
            // It lands as a whole and completes later: an action has no parts for the engine.
            Fate::Part(_) => self.land(index, ALL),
            Fate::Again(_) => {}
            Fate::Fails { errno, landed } => {
                self.land(index, landed);
                let is_read = matches!(self.waiting[index].action, Action::Read { .. });
                let errno = match Errno(errno) {
                    // No read finds no space.
                    errno if is_read && errno.is_no_space() => Errno::EIO,
                    errno => errno,
                };
                self.complete(index, Err(errno));
            }
        }
    }

    fn describe(&self, index: usize) -> String {
        let Waiting { action, landed } = &self.waiting[index];
        let text = match action {
            Action::WriteBitmap { op, offset, .. } => {
                format!("WriteBitmap {{ {op:?}, {offset:?} }}")
            }
            Action::WriteHeader { op, slot, .. } => format!("WriteHeader {{ {op:?}, {slot:?} }}"),
            other => format!("{other:?}"),
        };
        text + if *landed { ", which has landed" } else { "" }
    }

    fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn restart(&mut self, script: &mut Script<'_>, setting: Setting) {
        for index in 0..self.waiting.len() {
            let landed = script.byte();
            self.land(index, landed);
        }
        self.setting = setting;
        self.engine = engine_of(&self.files[0], &self.chain, setting);
        self.buffers.clear();
        self.bounces.clear();
        self.waiting.clear();
        self.answers.clear();
        self.poisoned = false;
    }

    fn check_rest(&self) {
        assert!(
            self.engine.is_idle(),
            "the engine still has something under way"
        );
        assert!(
            self.bounces.is_empty(),
            "bounce buffers are not freed: {:?}",
            self.bounces.keys()
        );
        assert!(
            self.buffers.is_empty(),
            "requests are not finished: {:?}",
            self.buffers.keys()
        );
    }
}

/// The engine of an image, opened as production opens it.
fn engine_of(file: &[u8], chain: &Chain, setting: Setting) -> Engine {
    let slot = |at: usize| <&SlotBytes>::try_from(&file[at..at + 4096]).expect("a slot");
    let (header, slot) = header::select(slot(0), slot(4096)).expect("the image has a header");
    let layout = header.layout;
    assert!(
        layout.file_len() <= file.len() as u64,
        "the file is too short for its header"
    );
    let mut bitmap = Bitmap::empty(&layout).unwrap();
    let at = in_memory(layout.bitmap_offset().0);
    bitmap.load(0, &file[at..at + in_memory(layout.bitmap_used_len())]);
    assert_eq!(
        bitmap.bit_past_end(),
        None,
        "a bit for a block that does not exist"
    );
    if let header::State::Clean { bitmap_crc } = header.state {
        assert_eq!(
            bitmap.crc(),
            bitmap_crc,
            "the checksum of a clean image's bitmap"
        );
    }
    let parents = Parents::new(chain.below.iter().map(crate::chain::Below::layer).collect());
    let options = Options {
        io_alignment: setting.io_alignment,
        on_no_space: setting.on_no_space,
    };
    Engine::new(header, slot, bitmap, parents, setting.mode, options)
}

fn op_of(action: &Action) -> OpId {
    match action {
        Action::Read { op, .. }
        | Action::WriteData { op, .. }
        | Action::ZeroData { op, .. }
        | Action::SetLen { op, .. }
        | Action::WriteBitmap { op, .. }
        | Action::WriteHeader { op, .. }
        | Action::Sync { op } => *op,
        other => panic!("{other:?} does not wait"),
    }
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("images of cases are small")
}
