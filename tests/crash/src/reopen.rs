//! Opening an image as production does, and reading it through the engine.

use dscow::bitmap::Bitmap;
use dscow::engine::{Action, Engine, Memory, Mode, Options, Request, Token};
use dscow::header::{self, SlotBytes, State};
use dscow::parents::{LayerIndex, ParentLayer, Parents};
use dscow::units::{BlockIndex, FileOffset};
use uuid::Uuid;

use crate::content::{ContentId, Pool, SECTOR, index};
use crate::geometry::{BLOCK_SECTORS, Geometry, Value};

const OPEN: Token = Token(0);
const READ: Token = Token(1);

/// What an image turned out to hold.
pub(crate) struct Found {
    pub(crate) clean: bool,
    pub(crate) generation: u64,
    pub(crate) values: Vec<Value>,
}

/// The engine of the image that these sectors hold, not opened yet.
pub(crate) fn load(
    geometry: &Geometry,
    pool: &Pool,
    sectors: &[ContentId],
) -> Result<Engine, String> {
    let (a, b) = (slot(pool, &sectors[..8]), slot(pool, &sectors[8..16]));
    let (header, slot) = header::select(&a, &b).map_err(|error| error.to_string())?;
    let mut bitmap = Bitmap::empty(&header.layout);
    let first = geometry.bitmap_sector();
    let end = first + geometry.bitmap_sectors();
    for (i, sector) in sectors[first..end].iter().enumerate() {
        bitmap.load((i * SECTOR) as u64, pool.get(*sector));
    }
    verify_bitmap(geometry, &bitmap, &header.state)?;
    verify_past_end(geometry, pool, sectors, &bitmap)?;
    let size = geometry.parent_size();
    let parents = Parents::new(vec![ParentLayer::Raw { size }]);
    let owner = Uuid::from_u128(header.sequence.into());
    let mode = Mode::Writable { owner };
    Ok(Engine::new(
        header,
        slot,
        bitmap,
        parents,
        mode,
        Options::default(),
    ))
}

fn slot(pool: &Pool, sectors: &[ContentId]) -> SlotBytes {
    let mut bytes = [0; SECTOR * BLOCK_SECTORS];
    for (bytes, sector) in bytes.as_chunks_mut::<SECTOR>().0.iter_mut().zip(sectors) {
        *bytes = *pool.get(*sector);
    }
    bytes
}

/// What production refuses, and bits for blocks that no workload writes.
fn verify_bitmap(geometry: &Geometry, bitmap: &Bitmap, state: &State) -> Result<(), String> {
    if let Some(block) = bitmap.bit_past_end() {
        return Err(format!("the bitmap has a bit for block {block}"));
    }
    if let State::Clean { bitmap_crc } = *state
        && bitmap.crc() != bitmap_crc
    {
        return Err("the image is clean and its bitmap is not what it was".into());
    }
    let used = geometry.blocks().iter();
    let used = used.filter(|block| bitmap.is_set(BlockIndex(**block)));
    if used.count() as u64 != bitmap.count_set() {
        return Err("the bitmap has a bit for a block that was never written".into());
    }
    Ok(())
}

/// The format: what lies past the end of the disk in a last block that is stored is zero.
fn verify_past_end(
    geometry: &Geometry,
    pool: &Pool,
    sectors: &[ContentId],
    bitmap: &Bitmap,
) -> Result<(), String> {
    let last = BlockIndex(bitmap.block_count() - 1);
    let past_end = &sectors[sectors.len() - geometry.sectors_past_end()..];
    if bitmap.is_set(last) && past_end.iter().any(|id| *pool.get(*id) != [0; SECTOR]) {
        return Err("what is past the end of the disk in its last block is not zero".into());
    }
    Ok(())
}

/// Opens the image that these sectors hold, and reads all used blocks.
pub(crate) fn read_all(
    geometry: &Geometry,
    pool: &Pool,
    sectors: &[ContentId],
) -> Result<Found, String> {
    let mut engine = load(geometry, pool, sectors)?;
    let generation = engine.header().generation;
    let clean = matches!(engine.header().state, State::Clean { .. });
    let mut reader = Reader {
        geometry,
        pool,
        sectors,
        buffer: [0; SECTOR * BLOCK_SECTORS],
    };
    engine.open(OPEN);
    reader.run(&mut engine, OPEN)?;
    let mut values = vec![0; geometry.data_sectors()];
    for position in 0..geometry.blocks().len() {
        let range = geometry.range(position, 0, BLOCK_SECTORS as u64);
        reader.buffer.fill(0xee);
        engine.submit(READ, Request::Read(range));
        reader.run(&mut engine, READ)?;
        for (i, sector) in geometry.data_sectors_of(range).enumerate() {
            let bytes = &reader.buffer[i * SECTOR..][..SECTOR];
            let on_disk = range.start.0 + (i * SECTOR) as u64;
            values[sector] = geometry.value_of(on_disk, bytes).ok_or_else(|| {
                format!(
                    "data sector {sector} holds what was never written there: {:02x?}...",
                    &bytes[..8]
                )
            })?;
        }
    }
    Ok(Found {
        clean,
        generation,
        values,
    })
}

/// Performs an engine's actions on a state that is only read: what is written goes nowhere.
struct Reader<'a> {
    geometry: &'a Geometry,
    pool: &'a Pool,
    sectors: &'a [ContentId],
    buffer: [u8; SECTOR * BLOCK_SECTORS],
}

impl Reader<'_> {
    fn run(&mut self, engine: &mut Engine, until: Token) -> Result<(), String> {
        while let Some(action) = engine.next_action() {
            match action {
                Action::Read {
                    op,
                    layer,
                    offset,
                    memory,
                    len,
                } => {
                    let bytes = self.target(memory, len);
                    let range = bytes;
                    read_layer(
                        self.geometry,
                        self.pool,
                        self.sectors,
                        (layer, offset),
                        &mut self.buffer[range],
                    );
                    engine.complete(op, Ok(()));
                }
                Action::FillZero { memory, len } => {
                    let range = self.target(memory, len);
                    self.buffer[range].fill(0);
                }
                Action::WriteHeader { op, .. } | Action::Sync { op } => {
                    engine.complete(op, Ok(()));
                }
                Action::Finish { token, result } if token == until => {
                    return result.map_err(|errno| format!("{token:?} failed with {errno:?}"));
                }
                other => return Err(format!("{other:?} is not a part of opening or reading")),
            }
        }
        Err(format!("{until:?} did not finish"))
    }

    fn target(&self, memory: Memory, len: u64) -> std::ops::Range<usize> {
        let Memory::Request { offset, .. } = memory else {
            panic!("a read goes to the request's buffer");
        };
        index(offset)..index(offset + len)
    }
}

/// Reads from the image or from its base.
pub(crate) fn read_layer(
    geometry: &Geometry,
    pool: &Pool,
    sectors: &[ContentId],
    (layer, offset): (LayerIndex, FileOffset),
    buffer: &mut [u8],
) {
    for (i, bytes) in buffer.as_chunks_mut::<SECTOR>().0.iter_mut().enumerate() {
        let at = FileOffset(offset.0 + (i * SECTOR) as u64);
        *bytes = if layer == LayerIndex::TOP {
            *pool.get(sectors[geometry.sector_at(at)])
        } else {
            assert!(at.0 < geometry.parent_size(), "the base ends before {at:?}");
            geometry.content(at.0, 0)
        };
    }
}
