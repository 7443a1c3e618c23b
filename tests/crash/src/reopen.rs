//! Opening an image as production does, and reading it through the engine.

use dscow::bitmap::Bitmap;
use dscow::engine::{Action, Engine, Memory, Mode, OnNoSpace, Options, Request, Token};
use dscow::header::{self, Header, SlotBytes, State};
use dscow::parents::LayerIndex;
use dscow::units::{BlockIndex, FileOffset};
use uuid::Uuid;

use crate::buffers::Buffers;
use crate::content::{ContentId, Pool, SECTOR, index};
use crate::geometry::{ABSENT, Geometry, PAGE_SECTORS, Value};

const OPEN: Token = Token(0);
const READ: Token = Token(1);

/// What an image turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) clean: bool,
    pub(crate) generation: u64,
    /// Size of the disk in bytes.
    pub(crate) size: u64,
    /// For each data sector of the geometry.
    pub(crate) values: Vec<Value>,
}

/// The engine of the image that these sectors hold, not opened yet.
pub(crate) fn load(
    geometry: &Geometry,
    pool: &Pool,
    sectors: &[ContentId],
) -> Result<Engine, String> {
    let (a, b) = sectors.split_at(PAGE_SECTORS);
    let (a, b) = (slot(pool, a), slot(pool, b));
    let (header, slot) = header::select(&a, &b).map_err(|error| error.to_string())?;
    verify_shape(geometry, pool, sectors, &header)?;
    let mut bitmap = Bitmap::empty(&header.layout).unwrap();
    let first = geometry.bitmap_sector();
    let end = first + geometry.bitmap_sectors();
    for (i, sector) in sectors[first..end].iter().enumerate() {
        bitmap.load((i * SECTOR) as u64, pool.get(*sector));
    }
    verify_bitmap(geometry, &bitmap, &header.state)?;
    verify_past_end(geometry, pool, sectors, (&header, &bitmap))?;
    let owner = Uuid::from_u128(header.sequence.into());
    let mode = Mode::Writable { owner };
    let options = Options {
        io_alignment: geometry.io_alignment(),
        on_no_space: OnNoSpace::Pause,
    };
    let parents = geometry.base().parents();
    Ok(Engine::new(header, slot, bitmap, parents, mode, options))
}

fn slot(pool: &Pool, sectors: &[ContentId]) -> SlotBytes {
    let mut bytes = [0; SECTOR * PAGE_SECTORS];
    for (bytes, sector) in bytes.as_chunks_mut::<SECTOR>().0.iter_mut().zip(sectors) {
        *bytes = *pool.get(*sector);
    }
    bytes
}

/// What production refuses, and shapes that the disk was never to have.
fn verify_shape(
    geometry: &Geometry,
    pool: &Pool,
    sectors: &[ContentId],
    header: &Header,
) -> Result<(), String> {
    if !geometry.has_shape(&header.layout) {
        return Err(format!("the image has another shape: {:?}", header.layout));
    }
    let (len, needed) = (file_len(geometry, pool, sectors), header.layout.file_len());
    if len < needed {
        return Err(format!("the file has {len} bytes and needs {needed}"));
    }
    Ok(())
}

/// How long the file is.
pub(crate) fn file_len(geometry: &Geometry, pool: &Pool, sectors: &[ContentId]) -> u64 {
    let sector = pool.get(sectors[geometry.length_sector()]);
    u64::from_le_bytes(*sector.first_chunk().expect("a sector has 8 bytes"))
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
    let used = used.filter(|block| **block < bitmap.block_count());
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
    (header, bitmap): (&Header, &Bitmap),
) -> Result<(), String> {
    let last = BlockIndex(bitmap.block_count() - 1);
    let past_end = &sectors[geometry.sectors_past_end(&header.layout)];
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
    let size = engine.layout().virtual_size();
    let mut found = Found {
        clean: matches!(engine.header().state, State::Clean { .. }),
        generation: engine.header().generation,
        size,
        values: vec![ABSENT; geometry.data_sectors()],
    };
    let mut reader = Reader {
        geometry,
        pool,
        sectors,
        buffers: Buffers::default(),
    };
    engine.open(OPEN);
    reader.run(&mut engine, OPEN)?;
    let whole = (0, geometry.block_sectors());
    for position in 0..geometry.blocks().len() {
        let Some(range) = geometry.range(position, whole, size) else {
            continue;
        };
        reader.buffers.insert(READ, vec![0xee; index(range.len)]);
        engine.submit(READ, Request::Read(range));
        reader.run(&mut engine, READ)?;
        let bytes = reader.buffers.remove(READ).expect("it was put there");
        let contents = bytes.as_chunks::<SECTOR>().0;
        for (sector, content) in geometry.data_sectors_of(range).zip(contents) {
            let value = geometry.value_of(geometry.on_disk(sector), content);
            found.values[sector] = value.ok_or_else(|| {
                let start = &content[..8];
                format!("data sector {sector} holds what was never written there: {start:02x?}...")
            })?;
        }
    }
    Ok(found)
}

/// Performs an engine's actions on a state that is only read: what is written goes nowhere.
struct Reader<'a> {
    geometry: &'a Geometry,
    pool: &'a Pool,
    sectors: &'a [ContentId],
    buffers: Buffers,
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
                    self.read((layer, offset), memory, len);
                    engine.complete(op, Ok(()));
                }
                Action::FillZero { memory, len } => self.buffers.get(memory, len).fill(0),
                Action::AllocBounce { bounce, len } => self.buffers.alloc(bounce, len),
                Action::Copy { from, to, len } => self.buffers.copy(from, to, len, true),
                Action::FreeBounce { bounce } => self.buffers.free(bounce),
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

    fn read(&mut self, from: (LayerIndex, FileOffset), memory: Memory, len: u64) {
        let (geometry, pool, sectors) = (self.geometry, self.pool, self.sectors);
        let buffer = self.buffers.get(memory, len);
        read_layer(geometry, pool, sectors, from, buffer);
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
    if layer == LayerIndex::TOP {
        assert_aligned(geometry, offset, buffer.len());
    }
    for (i, bytes) in buffer.as_chunks_mut::<SECTOR>().0.iter_mut().enumerate() {
        let at = FileOffset(offset.0 + (i * SECTOR) as u64);
        *bytes = if layer == LayerIndex::TOP {
            *pool.get(sectors[geometry.sector_at(at)])
        } else {
            geometry.base().read(layer, at)
        };
    }
}

/// What the file does not take, the engine may not ask for.
pub(crate) fn assert_aligned(geometry: &Geometry, offset: FileOffset, len: usize) {
    let bits = offset.0 | len as u64;
    let aligned = bits.is_multiple_of(geometry.io_alignment().into());
    assert!(aligned, "{len} bytes at {offset:?} are not aligned");
}
