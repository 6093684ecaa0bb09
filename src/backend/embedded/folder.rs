//! Makes the data folder when it is absent. One process at a time uses it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::failures::{broken, unavailable};
use crate::ports::{Effect, ErrorKind, StoreError, StoreResult};

/// Says that another process uses the folder.
#[derive(Debug, thiserror::Error)]
#[error("{} is in use by {owner}", folder.display())]
pub struct InUse {
    /// The folder that is in use.
    pub folder: PathBuf,
    /// `process` and its number, or `another process` when it has not written its number yet.
    pub owner: String,
}

/// The name of the database in its folder.
pub const DATABASE: &str = "seckill.db";

/// Tells whether somebody has made a shop in the folder at `path`.
pub fn holds_shop(path: &Path) -> bool {
    path.join(DATABASE).exists()
}

/// Holds a data folder locked. The lock ends with this value, also when the process is killed.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if need be, for its owner alone, and locks it.
    ///
    /// # Errors
    /// When the folder cannot be made, written or locked, or when another process uses it.
    pub fn lock(path: &Path) -> StoreResult<Self> {
        let shown = path.display();
        let context = "open data folder";
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| unavailable(context, format!("cannot make {shown}: {error}")))?;
        let open = |name: &str| {
            let mut own = OpenOptions::new();
            own.read(true).write(true).create(true).truncate(false).mode(0o600);
            own.open(path.join(name))
                .map_err(|error| unavailable(context, format!("cannot write in {shown}: {error}")))
        };
        let file = open("lock")?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let source = Box::new(InUse { folder: path.to_owned(), owner: owner(&file) });
                return Err(StoreError {
                    kind: ErrorKind::Unavailable,
                    effect: Effect::NotApplied,
                    context,
                    source,
                });
            }
            Err(TryLockError::Error(error)) => {
                return Err(broken(context, format!("cannot lock {shown}: {error}")));
            }
        }
        // The number is only for people. A full disk must not keep anybody from looking at what is on it.
        note_owner(&file).ok();
        // SQLite gives its other files the rights of this one.
        open(DATABASE)?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// Answers the path of the database in the folder.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }
}

fn note_owner(mut file: &File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Reads who owns the folder. This is best effort, because the owner may just be writing its number.
fn owner(mut file: &File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_owner_and_says_who_it_is() {
        let path = std::env::temp_dir().join(format!("seckill-folder-{}", std::process::id()));
        let folder = Folder::lock(&path).expect("a fresh folder");
        let refused = Folder::lock(&path).expect_err("locked").to_string();
        assert!(refused.contains(&format!("in use by process {}", std::process::id())), "{refused}");
        drop(folder);
        drop(Folder::lock(&path).expect("free again"));
        std::fs::remove_dir_all(&path).expect("removed");
    }
}
