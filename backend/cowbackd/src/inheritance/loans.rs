//! Images that went from one device to another, since their guest moves from domain to domain.
//!
//! While the new domain is being made ready the old one is suspended, and may go on after all if something fails. So what the
//! next daemon would need for the old device's rings is kept, and a note says who has the image meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use xenstore_glue::DeviceId;

/// The folder of the notes in the runtime directory.
const FOLDER: &str = "lent";

/// The notes.
pub(super) struct Loans {
    folder: PathBuf,
}

/// A note, for whoever has the image.
#[derive(Debug)]
pub(crate) struct Loan {
    path: PathBuf,
    borrower: DeviceId,
}

/// What a note says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// Who has the image, or had it.
    pub(super) borrower: DeviceId,
    /// The generation in which that has closed it, if it has changed nothing.
    pub(super) unchanged: Option<u64>,
}

impl Loans {
    pub(super) fn in_dir(runtime_dir: &Path) -> io::Result<Self> {
        let folder = runtime_dir.join(FOLDER);
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    fn path(&self, lender: DeviceId) -> PathBuf {
        self.folder.join(lender.bus_name())
    }

    pub(super) fn note(&self, lender: DeviceId, borrower: DeviceId) -> io::Result<()> {
        let note = Note {
            borrower,
            unchanged: None,
        };
        note.write(&self.path(lender))
    }

    /// What was noted of a device that has lent its image.
    pub(super) fn of(&self, lender: DeviceId) -> Option<Note> {
        Note::read(&self.path(lender))
    }

    pub(super) fn forget(&self, lender: DeviceId) {
        // There need not be one.
        let _ = fs::remove_file(self.path(lender));
    }

    /// What a device has borrowed.
    pub(super) fn to(&self, borrower: DeviceId) -> Vec<Loan> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| Note::read(path).is_some_and(|note| note.borrower == borrower))
            .map(|path| Loan { path, borrower })
            .collect()
    }
}

impl Loan {
    /// The image went on to another device.
    pub(super) fn pass_on(&self, borrower: DeviceId) {
        let note = Note {
            borrower,
            unchanged: None,
        };
        if let Err(error) = note.write(&self.path) {
            tracing::error!("{}: {error}", self.path.display());
        }
    }

    /// The image was changed, and its guest cannot go on where it was.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// The image was closed in this generation, and is as it was when it was lent.
    pub(crate) fn returned_unchanged(&self, generation: u64) {
        let note = Note {
            borrower: self.borrower,
            unchanged: Some(generation),
        };
        let is_ours = Note::read(&self.path).is_some_and(|note| note.borrower == self.borrower);
        if is_ours && let Err(error) = note.write(&self.path) {
            tracing::error!(
                "{}: {error}; its guest cannot go on if its move fails",
                self.path.display()
            );
        }
    }
}

impl Note {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut words = text.split_whitespace();
        let borrower = words.next()?.parse().ok()?;
        let unchanged = words.next().and_then(|generation| generation.parse().ok());
        Some(Self {
            borrower,
            unchanged,
        })
    }

    /// Whole or not at all, since the daemon may be killed meanwhile.
    fn write(self, path: &Path) -> io::Result<()> {
        let Self {
            borrower,
            unchanged,
        } = self;
        let generation = unchanged.map(|generation| generation.to_string());
        let text = format!("{borrower} {}\n", generation.unwrap_or_default());
        let new = path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_who_has_the_image_and_whether_it_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let loans = Loans::in_dir(folder.path()).unwrap();
        let device = |domid: u16| {
            format!("backend/vbd3/{domid}/51712")
                .parse::<DeviceId>()
                .unwrap()
        };
        assert_eq!(loans.of(device(1)), None);
        loans.note(device(1), device(2)).unwrap();
        loans.note(device(3), device(4)).unwrap();
        let noted = loans.of(device(1)).unwrap();
        assert_eq!((noted.borrower, noted.unchanged), (device(2), None));
        let lent = loans.to(device(2));
        assert_eq!(lent.len(), 1);
        lent[0].returned_unchanged(7);
        assert_eq!(loans.of(device(1)).unwrap().unchanged, Some(7));
        assert_eq!(loans.of(device(3)).unwrap().unchanged, None);
        loans.forget(device(1));
        lent[0].returned_unchanged(8);
        assert_eq!(
            loans.of(device(1)),
            None,
            "a note that is gone does not come back"
        );
    }
}
