//! Creating a file so that it is there completely or not at all, also after a crash of the host.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::{Access, BlockFile, Caching, OpenError};

/// How many temporary names are tried. Each is taken only if a process with our number left it behind.
const NAMES_MAX: u32 = 100;

/// Why a file cannot be created.
#[derive(Debug, Error)]
pub enum CreateError {
    /// Something is there already; it has not been touched.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
    /// The path has no file name at its end.
    #[error("{}: is not the path of a file", .0.display())]
    NotAFileName(PathBuf),
    /// The directory that it is to be in cannot be opened.
    #[error("{}: cannot be created: its directory cannot be opened: {cause}", path.display())]
    Directory {
        /// The path of the new file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
    /// The new file, under its temporary name, cannot be opened as an image.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Creating, syncing or renaming failed.
    #[error("{}: cannot be created: {step}: {cause}", path.display())]
    Step {
        /// The path of the new file.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
}

/// A file that is being made without a name, or under a temporary one beside its place where the file system has no files
/// without names. [`NewFile::publish`] puts it there; if it is dropped instead, nothing is left. Nor after a crash,
/// except of a file with a temporary name.
#[derive(Debug)]
pub struct NewFile {
    file: Arc<BlockFile>,
    temporary: Temporary,
    final_name: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// Begins a new file that is to be at `path`, readable and writable by its owner only. It is open for reading and
    /// writing, and empty.
    ///
    /// # Errors
    ///
    /// If something is at `path` already, or the directory cannot take a new file.
    pub fn create(path: impl AsRef<Path>, caching: Caching) -> Result<Self, CreateError> {
        Self::create_by(path.as_ref(), caching, |directory| {
            create_nameless(directory).or_else(|_| create_named(directory))
        })
    }

    /// As [`NewFile::create`], where `make` makes the file in the directory.
    pub(super) fn create_by(
        path: &Path,
        caching: Caching,
        make: impl FnOnce(&OwnedFd) -> Result<(File, TemporaryName), Errno>,
    ) -> Result<Self, CreateError> {
        let final_name = path
            .file_name()
            .ok_or_else(|| CreateError::NotAFileName(path.to_owned()))?;
        let directory = open_directory_of(path).map_err(|errno| CreateError::Directory {
            path: path.to_owned(),
            cause: errno.into(),
        })?;
        // Only to fail early: `publish` is what decides.
        if rustix::fs::statat(&directory, final_name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(CreateError::Exists(path.to_owned()));
        }
        let (file, name) = make(&directory)
            .map_err(|errno| failed(path, "making a temporary file beside it", errno))?;
        let temporary = Temporary { directory, name };
        let file = BlockFile::adopt(file, path, Access::ReadWrite, caching)?;
        Ok(Self {
            file: Arc::new(file),
            temporary,
            final_name: final_name.into(),
            path: path.to_owned(),
        })
    }

    /// The file, to be filled (and locked, if it must be locked from the start). Its path is the final one.
    pub fn file(&self) -> &Arc<BlockFile> {
        &self.file
    }

    /// Makes the contents durable, puts the file in its place, and makes that durable too. Never replaces anything.
    ///
    /// # Errors
    ///
    /// [`CreateError::Exists`] if something has come to be there meanwhile. On any error before the file is in its
    /// place, the temporary file is removed. If the very last step fails, syncing the directory, the file is in its
    /// place but may be gone after a crash of the host.
    pub fn publish(mut self) -> Result<Arc<BlockFile>, CreateError> {
        // First the contents, then the name: the other way round, a crash could leave the name with no contents.
        self.file
            .sync_all()
            .map_err(|cause| failed(&self.path, "syncing it", cause))?;
        match self.temporary.move_to(&self.file, &self.final_name) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(CreateError::Exists(self.path)),
            Err(errno) => return Err(failed(&self.path, "giving it its name", errno)),
        }
        // The file once more, since its first name is news about the file too.
        rustix::fs::fsync(&*self.file)
            .and_then(|()| rustix::fs::fsync(&self.temporary.directory))
            .map_err(|errno| failed(&self.path, "syncing its directory", errno))?;
        Ok(self.file)
    }
}

/// What a new file is called until it has its own name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TemporaryName {
    /// Nothing: it goes with its last descriptor.
    Nameless,
    /// So.
    Named(String),
    /// It has its own name.
    Final,
}

/// A new file's place in its directory; a temporary name is removed when this value is dropped.
#[derive(Debug)]
struct Temporary {
    directory: OwnedFd,
    name: TemporaryName,
}

impl Temporary {
    /// Gives the file its own name, unless something has that name.
    fn move_to(&mut self, file: &BlockFile, final_name: &Path) -> Result<(), Errno> {
        let directory = &self.directory;
        let name = match &self.name {
            TemporaryName::Final => return Ok(()),
            TemporaryName::Nameless => {
                let (from, flags) = (path_of(file.as_fd()), AtFlags::SYMLINK_FOLLOW);
                rustix::fs::linkat(CWD, from, directory, final_name, flags)?;
                self.name = TemporaryName::Final;
                return Ok(());
            }
            TemporaryName::Named(name) => name,
        };
        match rustix::fs::renameat_with(
            directory,
            name,
            directory,
            final_name,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => self.name = TemporaryName::Final,
            // Not every file system can rename without replacing. A link never replaces; the drop removes the
            // temporary name.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(directory, name, directory, final_name, AtFlags::empty())?;
            }
            Err(errno) => return Err(errno),
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let TemporaryName::Named(name) = &self.name
            && let Err(cause) = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())
        {
            tracing::warn!("the temporary file {name} is left behind: {cause}");
        }
    }
}

fn open_directory_of(path: &Path) -> Result<OwnedFd, Errno> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    rustix::fs::open(
        parent,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The path by which an open file can be linked.
fn path_of(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Makes a file without a name, after making sure that it can be given one.
pub(super) fn create_nameless(directory: &OwnedFd) -> Result<(File, TemporaryName), Errno> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, ".", flags, Mode::RUSR | Mode::WUSR)?;
    // Without /proc it could not be linked, which would be noticed only when all the work is done.
    rustix::fs::statat(CWD, path_of(file.as_fd()), AtFlags::empty())?;
    Ok((File::from(file), TemporaryName::Nameless))
}

/// Makes a file under a name that nobody had before.
pub(super) fn create_named(directory: &OwnedFd) -> Result<(File, TemporaryName), Errno> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut result = Err(Errno::EXIST);
    for _ in 0..NAMES_MAX {
        let name = format!(
            ".new-{}-{}.tmp",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        );
        result = rustix::fs::openat(directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map(|file| (file, name));
        if !matches!(result, Err(Errno::EXIST)) {
            break;
        }
    }
    let (file, name) = result?;
    Ok((File::from(file), TemporaryName::Named(name)))
}

fn failed(path: &Path, step: &'static str, cause: impl Into<io::Error>) -> CreateError {
    CreateError::Step {
        path: path.to_owned(),
        step,
        cause: cause.into(),
    }
}
