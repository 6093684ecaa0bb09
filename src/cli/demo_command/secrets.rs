//! The demo's secret for tokens and its operator's key. They stay in the folder, so that what the demo printed before a
//! restart works after it.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use crate::http::auth::new_api_key;

/// The names of the files. They stand in the folder beside the database, and only their owner can read them.
const TOKEN_SECRET: &str = "token-secret";
const API_KEY: &str = "api-key";
const PROVIDER_KEY: &str = "provider-key";
const WEBHOOK_SECRET: &str = "webhook-secret";

/// The secrets of a demo.
pub struct Secrets {
    /// Signs shoppers' tokens (HS256).
    pub token_secret: String,
    /// The operator's key.
    pub api_key: String,
    /// The shop's key at the simulated payment provider.
    pub provider_key: String,
    /// Signs the provider's events.
    pub webhook_secret: String,
}

impl Secrets {
    /// Reads the secrets of a folder, or makes them when the folder holds no sale. The folder must be locked.
    ///
    /// # Errors
    /// When the folder holds a shop that no demo made, a secret is damaged, or the folder cannot be written.
    pub fn of(folder: &Path, sales: i64) -> anyhow::Result<Self> {
        let is_foreign = sales > 0 && !folder.join(TOKEN_SECRET).exists();
        // A real shop must not get a key that is printed, or a secret that nobody chose.
        ensure!(
            !is_foreign,
            "{} holds a shop that no demo made: `seckill serve --mode embedded --data` serves it",
            folder.display()
        );
        let kept = |name| kept(&folder.join(name));
        Ok(Self {
            token_secret: kept(TOKEN_SECRET)?,
            api_key: kept(API_KEY)?,
            provider_key: kept(PROVIDER_KEY)?,
            webhook_secret: kept(WEBHOOK_SECRET)?,
        })
    }
}

fn kept(path: &Path) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().len() >= 32 => Ok(text.trim().to_owned()),
        Ok(_) => bail!("{} is damaged: remove it, and a new one is made", path.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let made = new_api_key();
            write(path, &made).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(made)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file. Its name appears with the whole text or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let half = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(half, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_kept_for_their_owner_and_not_made_for_a_foreign_shop() {
        let folder = std::env::temp_dir().join(format!("seckill-secrets-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        assert!(Secrets::of(&folder, 1).is_err(), "a shop without a demo's secret");
        let made = Secrets::of(&folder, 0).expect("made");
        assert!(made.token_secret.len() >= 32 && made.api_key.starts_with("sk_"));
        assert_ne!(made.token_secret, made.api_key);
        let again = Secrets::of(&folder, 1).expect("kept");
        assert_eq!((again.token_secret, again.api_key), (made.token_secret, made.api_key));
        let mode = fs::metadata(folder.join(TOKEN_SECRET)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(folder.join(API_KEY), "").expect("damaged");
        assert!(Secrets::of(&folder, 1).is_err());
        fs::remove_dir_all(&folder).expect("removed");
    }
}
