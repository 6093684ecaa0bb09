//! A connection to a broker, for the few requests that the client of the producer and the readers does not make.

use anyhow::Context as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{
    RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{
    Decodable as _, HeaderVersion as _, Request, StrBytes, encode_request_header_into_buffer,
};
use rsasl::config::SASLConfig;
use rsasl::mechname::Mechname;
use rsasl::prelude::{MessageSent, SASLClient, State};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[cfg(feature = "tls")]
use super::tls_client;
use crate::config::{KafkaConfig, SaslMechanism};

/// Most bytes of an answer. That of a Metadata request has one topic, whose partitions are some thirty bytes each.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What helps when no broker can be asked and nothing more is known.
pub const FIX: &str =
    "are the brokers running, is kafka.brokers right, and do they want a login (kafka.sasl_mechanism)?";

/// The most rounds of hashing that a login may cost, half a second. Kafka's users have 4,096 unless somebody sets more.
const SCRAM_ROUNDS_MAX: u64 = 1_000_000;

/// How an alert of TLS begins, where a size would stand (RFC 8446, 5.1).
const TLS_ALERT: i32 = 0x1503;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to a broker. One request is under way at a time.
pub struct KafkaConnection {
    stream: Box<dyn Stream>,
}

/// Answers the host and port of a broker, which the client also takes with a protocol and without a port.
pub fn address_of(broker: &str) -> String {
    let broker = broker.trim();
    let address = broker.split_once("://").map_or(broker, |(_, address)| address);
    if address.contains(':') { address.to_owned() } else { format!("{address}:9092") }
}

impl KafkaConnection {
    /// Connects to a broker as the configuration says, and logs in.
    ///
    /// # Errors
    /// When it cannot be reached, TLS fails, or the broker does not take the user.
    pub async fn open(config: &KafkaConfig, address: &str) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        let stream: Box<dyn Stream> = match config.tls {
            #[cfg(feature = "tls")]
            true => Box::new(tls_client::encrypted(config.tls_files(), address, tcp).await?),
            // Without the feature the configuration has refused TLS.
            _ => Box::new(tcp),
        };
        let mut connection = Self { stream };
        connection.log_in(config).await?;
        Ok(connection)
    }

    /// Sends a request, and waits for its answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer cannot be read.
    pub async fn ask<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<R::Response> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(StrBytes::from_static_str("seckill")));
        let mut body = BytesMut::new();
        encode_request_header_into_buffer(&mut body, &header)?;
        request.encode(&mut body, version)?;
        let mut framed = BytesMut::with_capacity(body.len() + 4);
        framed.put_i32(i32::try_from(body.len())?);
        framed.extend_from_slice(&body);
        self.stream.write_all(&framed).await?;
        self.stream.flush().await?;
        let size = self.stream.read_i32().await?;
        anyhow::ensure!(size >> 16 != TLS_ALERT, "the broker speaks TLS at this port");
        let size = usize::try_from(size)?;
        anyhow::ensure!(size <= ANSWER_BYTES_MAX, "an answer of {size} bytes");
        let mut answer = vec![0; size];
        self.stream.read_exact(&mut answer).await?;
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
        R::Response::decode(&mut answer, version)
    }

    /// Logs in by SASL, when the configuration names a mechanism.
    async fn log_in(&mut self, config: &KafkaConfig) -> anyhow::Result<()> {
        let mechanism = config.sasl_mechanism.name();
        if config.sasl_mechanism == SaslMechanism::None {
            return Ok(());
        }
        let wish = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = self.ask(1, &wish).await?;
        let offered = answer.mechanisms.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        anyhow::ensure!(answer.error_code == 0, "the broker takes no {mechanism}, but {offered}");
        let (user, password) = (config.sasl_user.clone(), config.sasl_password.expose().to_owned());
        let client = SASLClient::new(SASLConfig::with_credentials(None, user, password)?);
        let mut session = client.start_suggested_iter([Mechname::parse(mechanism.as_bytes())?])?;
        let mut heard: Option<Bytes> = None;
        loop {
            let mut says = Vec::new();
            let state = session.step(heard.as_deref(), &mut says).context("log in to Kafka")?;
            let State::Finished(sent) = state else {
                let said = self.authenticate(says).await?;
                refuse_long_work(&said)?;
                heard = Some(said);
                continue;
            };
            if sent == MessageSent::Yes {
                self.authenticate(says).await?;
            }
            return Ok(());
        }
    }

    async fn authenticate(&mut self, says: Vec<u8>) -> anyhow::Result<Bytes> {
        let answer = self.ask(1, &SaslAuthenticateRequest::default().with_auth_bytes(says.into())).await?;
        let said = answer.error_message.as_deref().unwrap_or("without a reason");
        anyhow::ensure!(
            answer.error_code == 0,
            "the broker does not take kafka.sasl_user with kafka.sasl_password: {said}"
        );
        Ok(answer.auth_bytes)
    }
}

/// Refuses a server that asks for more rounds of hashing than any real one (RFC 5802, `i=`): no time limit would end
/// them.
fn refuse_long_work(said: &[u8]) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(said);
    let rounds = said.split(',').find_map(|part| part.strip_prefix("i="));
    let is_much =
        rounds.is_some_and(|rounds| rounds.parse().is_ok_and(|rounds: u64| rounds > SCRAM_ROUNDS_MAX));
    anyhow::ensure!(!is_much, "the broker asks for too much work for a login");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_costs_a_bounded_time() {
        assert!(refuse_long_work(b"r=nonce,s=c2FsdA==,i=4096").is_ok());
        assert!(refuse_long_work(b"r=nonce,s=c2FsdA==,i=4294967295").is_err());
        assert!(refuse_long_work(b"v=proof").is_ok());
    }

    #[test]
    fn a_broker_is_called_at_its_port() {
        assert_eq!(address_of(" kafka-1.shop.example"), "kafka-1.shop.example:9092");
        assert_eq!(address_of("PLAINTEXT://127.0.0.1:19092"), "127.0.0.1:19092");
    }
}
