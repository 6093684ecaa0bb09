//! Reads the files of connections with TLS, and says what to do when such a connection cannot be made.

use std::path::Path;

use crate::config::TlsFiles;
use crate::ports::{Effect, StoreError, StoreResult};

/// The contents of the files of a section, each a PEM text. There is a key in it, so it cannot be printed.
pub struct Pems {
    /// The authorities of the server's certificate; `None` for those of this machine.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate and its private key.
    pub own: Option<(Vec<u8>, Vec<u8>)>,
}

const CERTIFICATE: &str =
    "the server asks for a certificate that it trusts: set {}.cert_file and {}.key_file";
const NO_TLS: &str =
    "the server speaks no TLS at this port: turn TLS off in [{}], or name the port that has it";

/// What the client libraries say of a connection that could not be made, and what to do about it. `{}` stands for the
/// section of the configuration.
const FIXES: [(&str, &str); 11] = [
    ("UnknownIssuer", "name the authority of the server's certificate in {}.ca_file"),
    (
        "certificate expired",
        "the server's certificate has expired: give it a new one, or set this machine's clock",
    ),
    ("certificate not valid yet", "the server's certificate is not valid yet: set the clocks"),
    ("certificate not valid for name", "call the server by a name that its certificate has"),
    ("alert: CertificateRequired", CERTIFICATE),
    // Java says this when there is none.
    ("alert: BadCertificate", CERTIFICATE),
    ("InvalidContentType", NO_TLS),
    ("tls handshake eof", NO_TLS),
    ("does not take kafka.sasl_user", "name a user of the brokers, with its password and its mechanism"),
    ("speaks TLS at this port", "turn TLS on in [{}], or name the port without it"),
    ("server does not support TLS", "the server has no TLS: give it a certificate, or turn TLS off in [{}]"),
];

/// Reads the files.
///
/// # Errors
/// When one cannot be read, or does not hold what it should.
pub fn read(files: TlsFiles<'_>) -> StoreResult<Pems> {
    let read = |path: &Path, key: &str, holds: &str| {
        let fault = |problem: String| StoreError {
            effect: Effect::NotApplied,
            ..StoreError::broken(
                "read a file of TLS",
                format!("{}.{key} {}: {problem}", files.section, path.display()),
            )
        };
        let text = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        // Each block begins with a line that says what it is, such as "-----BEGIN EC PRIVATE KEY-----".
        let begins = text.split(|byte| *byte == b'\n').any(|line| {
            // Nobody is there to be asked for the password of a key.
            line.starts_with(b"-----BEGIN ")
                && !line.starts_with(b"-----BEGIN ENCRYPTED ")
                && line.trim_ascii_end().ends_with(format!("{holds}-----").as_bytes())
        });
        if begins { Ok(text) } else { Err(fault(format!("it holds no {holds} in PEM, or an encrypted one"))) }
    };
    let own = match (files.cert, files.key) {
        (Some(cert), Some(key)) => {
            Some((read(cert, "cert_file", "CERTIFICATE")?, read(key, "key_file", "PRIVATE KEY")?))
        }
        _ => None,
    };
    Ok(Pems { ca: files.ca.map(|ca| read(ca, "ca_file", "CERTIFICATE")).transpose()?, own })
}

/// Says what to do about a connection that could not be made, from what was said of it; `otherwise` when TLS has no
/// part in it.
pub fn fix(said: &str, section: &str, otherwise: impl Into<String>) -> String {
    let known = FIXES.iter().find(|(words, _)| said.contains(words));
    known.map_or_else(|| otherwise.into(), |(_, fix)| fix.replace("{}", section))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_what_it_should_be_is_named_with_its_key() {
        let folder = std::env::temp_dir().join(format!("seckill-tls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let put = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).expect("a file");
            folder.join(name)
        };
        let cert =
            put("cert", "a word\r\n-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----END CERTIFICATE-----\r\n");
        let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let locked = put("locked", locked);
        let key = put("key", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n");
        let files = TlsFiles { section: "redis", ca: Some(&cert), cert: Some(&cert), key: Some(&key) };
        let pems = read(files).expect("both are what they should be");
        assert!(pems.ca.is_some() && pems.own.is_some());
        for (files, words) in [
            (TlsFiles { ca: Some(&key), ..files }, ["redis.ca_file", "no CERTIFICATE"]),
            (TlsFiles { cert: Some(&key), ..files }, ["redis.cert_file", "no CERTIFICATE"]),
            (TlsFiles { key: Some(&cert), ..files }, ["redis.key_file", "no PRIVATE KEY"]),
            (TlsFiles { key: Some(&locked), ..files }, ["redis.key_file", "encrypted"]),
            (TlsFiles { ca: Some(&folder), ..files }, ["redis.ca_file", "directory"]),
        ] {
            let said = read(files).err().expect("it is not").to_string();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        }
        std::fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn a_fix_names_the_key_of_the_section() {
        let said = "invalid peer certificate: UnknownIssuer";
        assert_eq!(
            fix(said, "mysql", "look"),
            "name the authority of the server's certificate in mysql.ca_file"
        );
        assert_eq!(fix("connection refused", "mysql", "look"), "look");
    }
}
