//! Runs a workload on an image through the production path, and keeps the journal of it.

use std::path::PathBuf;

use blockio::disk::{DiskOptions, Finished};
use blockio::executor::{Executor, PoolExecutor, open_executor};
use blockio::image::{self, CreateOptions, Image, ImageAccess};
use dscow::engine::{Request, Token};
use dscow::layout::Layout;
use dscow::units::{BlockSize, DiskRange};

use crate::content::{SECTOR, WriteId, filled};
use crate::error::{Error, IoContext};
use crate::journal::{Event, Journal};
use crate::mark::Marks;
use crate::plan::{self, BASE_SECTORS, DISK_SECTORS, ExecutorKind, Sectors, Session, Step};
use crate::session::{OpenImage, succeed};

/// Requests of the thread pool that run at the same time.
const THREADS: usize = 4;
/// The first number of a write by the workload; those below are in the middle image.
const FIRST_ID: u32 = 1000;
/// How many requests end between two marks, when no flush does.
const REQUESTS_PER_MARK: u32 = 4;

/// What the image is an overlay of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Chain {
    /// A raw file.
    Raw,
    /// A dscow image over a raw file.
    Dscow,
}

/// Where everything of a workload is, and what it is like.
#[derive(Clone, Debug, clap::Args)]
pub struct Setting {
    /// The folder of the bases, and of the image unless it is on a device.
    #[arg(long)]
    pub dir: PathBuf,
    /// The block device that is the image.
    #[arg(long)]
    pub device: Option<PathBuf>,
    /// The image is there before logging begins.
    #[arg(long)]
    pub existing: bool,
    /// What the image is an overlay of.
    #[arg(long, value_enum, default_value = "raw")]
    pub chain: Chain,
    /// Size of the image's blocks in bytes.
    #[arg(long, default_value_t = 4096)]
    pub block_size: u64,
    /// What everything random follows from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The journal.
    #[arg(long)]
    pub journal: PathBuf,
}

impl Setting {
    /// The image.
    pub fn image(&self) -> PathBuf {
        match &self.device {
            Some(device) => device.clone(),
            None => self.dir.join("disk.cow"),
        }
    }

    fn base(&self) -> PathBuf {
        match self.chain {
            Chain::Raw => self.raw_base(),
            Chain::Dscow => self.dir.join("middle.cow"),
        }
    }

    fn raw_base(&self) -> PathBuf {
        self.dir.join("base.img")
    }

    fn block_size(&self) -> Result<BlockSize, Error> {
        BlockSize::from_bytes(self.block_size).ok_or_else(|| {
            Error::Usage(format!("no image has blocks of {} bytes", self.block_size))
        })
    }

    fn block_sectors(&self) -> u64 {
        self.block_size / SECTOR as u64
    }
}

/// Makes what is there before logging begins: the bases, and the image if that is asked for.
///
/// # Errors
/// If any of it cannot be made.
pub fn prepare(setting: &Setting) -> Result<(), Error> {
    let mut journal = Journal::create(&setting.journal)?;
    journal.record(Event::Disk {
        sectors: DISK_SECTORS,
    })?;
    let path = setting.raw_base();
    let id = WriteId(0);
    let bytes = filled(id, 0, BASE_SECTORS);
    std::fs::write(&path, bytes).context(&path, "write")?;
    record_durable(&mut journal, &[(id, whole_base())])?;
    if setting.chain == Chain::Dscow {
        make_middle(setting, &mut journal)?;
    }
    if setting.existing {
        create_image(setting, &mut journal)?;
    }
    journal.record(Event::Prepared)?;
    journal.finish()
}

fn create_image(setting: &Setting, journal: &mut Journal) -> Result<(), Error> {
    let options = CreateOptions {
        base: Some(setting.base()),
        size: Some(DISK_SECTORS * SECTOR as u64),
        block_size: setting.block_size()?,
        ..CreateOptions::default()
    };
    journal.record(Event::Creating)?;
    image::create(&setting.image(), &options)?;
    journal.record(Event::Created)
}

fn whole_base() -> Sectors {
    Sectors {
        first: 0,
        count: BASE_SECTORS,
    }
}

/// Records writes that were done before anything is logged.
fn record_durable(journal: &mut Journal, writes: &[(WriteId, Sectors)]) -> Result<(), Error> {
    for (id, Sectors { first, count }) in writes.iter().copied() {
        journal.record(Event::Write { id, first, count })?;
        journal.record(Event::Written { id })?;
    }
    // Numbers of the workload's flushes begin at 1.
    journal.record(Event::Flush { id: 0 })?;
    journal.record(Event::Flushed { id: 0 })
}

fn make_middle(setting: &Setting, journal: &mut Journal) -> Result<(), Error> {
    let path = setting.base();
    let options = CreateOptions {
        base: Some(setting.raw_base()),
        size: Some(DISK_SECTORS * SECTOR as u64),
        ..CreateOptions::default()
    };
    image::create(&path, &options)?;
    let image = Image::open(&path, ImageAccess::Writable)?;
    let mut executor = open_chosen()?;
    let mut middle = OpenImage::open(image, DiskOptions::default(), executor.as_mut())?;
    let writes: Vec<(WriteId, Sectors)> = (1..)
        .map(WriteId)
        .zip(plan::middle_writes(setting.seed, setting.block_sectors()))
        .collect();
    for (id, sectors) in &writes {
        let data = filled(*id, sectors.first, sectors.count);
        middle.submit(Token(0), Request::Write(range(*sectors)), &data);
        succeed(&middle.wait()?, "writing the middle image")?;
    }
    middle.close()?;
    record_durable(journal, &writes)
}

/// Puts something between the engine and what really does the I/O of this image.
pub type Wrap<'a> = &'a dyn Fn(Box<dyn Executor>, &Image) -> Box<dyn Executor>;

/// Runs the workload. Returns the names of the executors that did it.
///
/// # Errors
/// If any request fails, or the journal or a mark cannot be written.
pub fn run(
    setting: &Setting,
    operations: u64,
    marks: &Marks,
    wrap: Wrap<'_>,
) -> Result<Vec<&'static str>, Error> {
    let (journal, _) = Journal::append(&setting.journal)?;
    let mut workload = Workload {
        journal,
        marks,
        last_id: FIRST_ID,
        flushes: 0,
        since_mark: 0,
    };
    workload.mark()?;
    if !setting.existing {
        create_image(setting, &mut workload.journal)?;
        workload.mark()?;
    }
    let mut names = Vec::new();
    for session in plan::sessions(setting.seed, operations, setting.block_sectors()) {
        let image = Image::open(&setting.image(), ImageAccess::Writable)?;
        let executor = match session.executor {
            ExecutorKind::Chosen => open_chosen()?,
            ExecutorKind::Threads => Box::new(PoolExecutor::new(THREADS).map_err(Error::Executor)?),
        };
        names.push(executor.name());
        let mut executor = wrap(executor, &image);
        workload.session(&session, image, executor.as_mut())?;
    }
    workload.journal.finish()?;
    Ok(names)
}

fn open_chosen() -> Result<Box<dyn Executor>, Error> {
    open_executor().map_err(Error::Executor)
}

fn range(sectors: Sectors) -> DiskRange {
    let bytes = SECTOR as u64;
    DiskRange::new(sectors.first * bytes, sectors.count * bytes)
}

/// The blocks that a discard of these sectors covers whole; it leaves the rest as it is. The last block of the disk is
/// whole if it is covered up to the disk's end.
fn whole_blocks(sectors: Sectors, layout: &Layout) -> Sectors {
    let block = layout.block_size().bytes() / SECTOR as u64;
    let end = sectors.first + sectors.count;
    let at_end = end * SECTOR as u64 == layout.virtual_size();
    let end = if at_end { end } else { end - end % block };
    let first = sectors.first.next_multiple_of(block).min(end);
    Sectors {
        first,
        count: end - first,
    }
}

/// A workload under way.
struct Workload<'a> {
    journal: Journal,
    marks: &'a Marks,
    last_id: u32,
    flushes: u32,
    since_mark: u32,
}

/// What a token names.
enum Submitted {
    Write(WriteId),
    Flush(u32),
}

impl Submitted {
    fn token(&self) -> Token {
        match self {
            Self::Write(id) => Token(u64::from(id.0)),
            Self::Flush(id) => Token(1 << 32 | u64::from(*id)),
        }
    }

    fn of_token(token: Token) -> Self {
        let id = u32::try_from(token.0 & u64::from(u32::MAX)).expect("32 bits are left");
        match token.0 >> 32 {
            0 => Self::Write(WriteId(id)),
            _ => Self::Flush(id),
        }
    }
}

impl Workload<'_> {
    fn session(
        &mut self,
        session: &Session,
        image: Image,
        executor: &mut dyn Executor,
    ) -> Result<(), Error> {
        self.journal.record(Event::Opening)?;
        let options = DiskOptions {
            detect_zeroes: session.detect_zeroes,
            ..DiskOptions::default()
        };
        let mut image = OpenImage::open(image, options, executor)?;
        self.mark()?;
        for step in &session.steps {
            match *step {
                Step::Write(sectors) => self.write(&mut image, sectors)?,
                Step::WriteZeroData(sectors) => {
                    let zeros =
                        vec![0; usize::try_from(range(sectors).len).expect("it is held in memory")];
                    self.zero(&mut image, sectors, Request::Write(range(sectors)), &zeros)?;
                }
                Step::WriteZeroes(sectors) => {
                    self.zero(
                        &mut image,
                        sectors,
                        Request::WriteZeroes(range(sectors)),
                        &[],
                    )?;
                }
                Step::Discard(sectors) => {
                    let whole = whole_blocks(sectors, image.layout());
                    self.zero(&mut image, whole, Request::Discard(range(sectors)), &[])?;
                }
                Step::Barrier(sectors) => self.barrier(&mut image, sectors)?,
                Step::Flush => self.flush(&mut image)?,
                Step::CommitIdle => image.commit_idle(),
                Step::Drain => self.wait_until(&mut image, 0)?,
            }
            self.wait_until(&mut image, session.depth - 1)?;
        }
        self.wait_until(&mut image, 0)?;
        self.journal.record(Event::Closing)?;
        image.close()?;
        self.journal.record(Event::Closed)?;
        self.mark()
    }

    fn next_id(&mut self) -> WriteId {
        self.last_id += 1;
        WriteId(self.last_id)
    }

    /// Submits a request that makes `zeroed` zeros.
    fn zero(
        &mut self,
        image: &mut OpenImage<'_>,
        zeroed: Sectors,
        request: Request,
        data: &[u8],
    ) -> Result<(), Error> {
        let id = self.next_id();
        let Sectors { first, count } = zeroed;
        self.journal.record(Event::Zero { id, first, count })?;
        image.submit(Submitted::Write(id).token(), request, data);
        Ok(())
    }

    fn barrier(&mut self, image: &mut OpenImage<'_>, sectors: Sectors) -> Result<(), Error> {
        let id = self.next_id();
        let Sectors { first, count } = sectors;
        self.journal.record(Event::Barrier { id, first, count })?;
        let token = Submitted::Write(id).token();
        image.submit(
            token,
            Request::Barrier(range(sectors)),
            &filled(id, first, count),
        );
        Ok(())
    }

    fn write(&mut self, image: &mut OpenImage<'_>, sectors: Sectors) -> Result<(), Error> {
        let id = self.next_id();
        let Sectors { first, count } = sectors;
        self.journal.record(Event::Write { id, first, count })?;
        let token = Submitted::Write(id).token();
        image.submit(
            token,
            Request::Write(range(sectors)),
            &filled(id, first, count),
        );
        Ok(())
    }

    fn flush(&mut self, image: &mut OpenImage<'_>) -> Result<(), Error> {
        self.flushes += 1;
        let id = self.flushes;
        self.journal.record(Event::Flush { id })?;
        image.submit(Submitted::Flush(id).token(), Request::Flush, &[]);
        Ok(())
    }

    fn wait_until(&mut self, image: &mut OpenImage<'_>, under_way: usize) -> Result<(), Error> {
        while image.under_way() > under_way {
            let finished = image.wait()?;
            self.note(&finished)?;
        }
        Ok(())
    }

    fn note(&mut self, finished: &Finished) -> Result<(), Error> {
        self.since_mark += 1;
        match Submitted::of_token(finished.token) {
            Submitted::Write(id) => {
                succeed(finished, &format!("write {}", id.0))?;
                self.journal.record(Event::Written { id })?;
            }
            Submitted::Flush(id) => {
                succeed(finished, &format!("flush {id}"))?;
                self.journal.record(Event::Flushed { id })?;
                self.mark()?;
            }
        }
        if self.since_mark >= REQUESTS_PER_MARK {
            self.mark()?;
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<(), Error> {
        self.since_mark = 0;
        self.marks.set(self.journal.events())
    }
}
