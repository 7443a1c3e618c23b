//! Creating a file so that it is there completely or not at all, also after a crash of the host.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
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

/// A file that is being made under a temporary name beside its place. [`NewFile::publish`] puts it there; if it is
/// dropped instead, the temporary file is removed. A crash leaves at most the temporary file.
#[derive(Debug)]
pub struct NewFile {
    file: Arc<BlockFile>,
    temporary: TemporaryName,
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
        let path = path.as_ref();
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
        let (file, temporary) = create_temporary(directory)
            .map_err(|errno| failed(path, "making a temporary file beside it", errno))?;
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
        match self.temporary.move_to(&self.final_name) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(CreateError::Exists(self.path)),
            Err(errno) => return Err(failed(&self.path, "giving it its name", errno)),
        }
        rustix::fs::fsync(&self.temporary.directory)
            .map_err(|errno| failed(&self.path, "syncing its directory", errno))?;
        Ok(self.file)
    }
}

/// A name in a directory that is removed again when this value is dropped.
#[derive(Debug)]
struct TemporaryName {
    directory: OwnedFd,
    /// `None` once the file has its own name.
    name: Option<String>,
}

impl TemporaryName {
    /// Gives the file another name in the same directory, unless something has that name.
    fn move_to(&mut self, final_name: &Path) -> Result<(), Errno> {
        let Some(name) = &self.name else {
            return Ok(());
        };
        let directory = &self.directory;
        match rustix::fs::renameat_with(
            directory,
            name,
            directory,
            final_name,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => self.name = None,
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

impl Drop for TemporaryName {
    fn drop(&mut self) {
        if let Some(name) = &self.name
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

/// Makes a file that nobody had before.
fn create_temporary(directory: OwnedFd) -> Result<(File, TemporaryName), Errno> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut result = Err(Errno::EXIST);
    for _ in 0..NAMES_MAX {
        let name = format!(
            ".new-{}-{}.tmp",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        );
        result = rustix::fs::openat(&directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map(|file| (file, name));
        if !matches!(result, Err(Errno::EXIST)) {
            break;
        }
    }
    let (file, name) = result?;
    Ok((
        File::from(file),
        TemporaryName {
            directory,
            name: Some(name),
        },
    ))
}

fn failed(path: &Path, step: &'static str, cause: impl Into<io::Error>) -> CreateError {
    CreateError::Step {
        path: path.to_owned(),
        step,
        cause: cause.into(),
    }
}
