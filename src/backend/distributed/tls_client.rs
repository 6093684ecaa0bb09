//! Connections with TLS of our own making. The clients of Redis, Kafka and MySQL make theirs.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::tls::read;
use crate::config::TlsFiles;

/// Lets a connection to `address` (`host:port`) speak TLS.
///
/// # Errors
/// When a file is not what it should be, or the server is not who it should be.
pub async fn encrypted(
    files: TlsFiles<'_>,
    address: &str,
    tcp: TcpStream,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let client = TlsConnector::from(Arc::new(client(files)?));
    Ok(client.connect(host, tcp).await?)
}

fn client(files: TlsFiles<'_>) -> anyhow::Result<ClientConfig> {
    let pems = read(files)?;
    let wrong = || format!("a file of TLS in [{}]", files.section);
    let mut roots = RootCertStore::empty();
    match &pems.ca {
        Some(ca) => {
            for certificate in CertificateDer::pem_slice_iter(ca) {
                roots.add(certificate.with_context(wrong)?).with_context(wrong)?;
            }
        }
        // What cannot be read of them is no authority.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match &pems.own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(key).with_context(wrong)?;
            let chain = chain.with_context(wrong)?;
            builder.with_client_auth_cert(chain, key).with_context(wrong)?
        }
    })
}
