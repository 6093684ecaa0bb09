//! Starts the simulated payment provider.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use anyhow::Context as _;

use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::Secret;
use crate::http::simulator::{Simulator, routes};
use crate::provider::simulator::{Books, Events};
use crate::shutdown::Tasks;

use super::servers::CannotListen;

/// A started simulator, which sends no events yet.
pub struct RunningSimulator {
    /// Where it listens.
    pub address: SocketAddr,
    books: Arc<Books>,
    server: ServerHandle,
    clock: Clock,
}

impl RunningSimulator {
    /// Starts the listener as a task of `tasks`. Port 0 binds a free port. `books` is a file that keeps the books;
    /// without one they are forgotten with the process.
    ///
    /// # Errors
    /// When the address is taken, or the file cannot be used.
    pub fn start(
        (bind, key): (SocketAddr, &'static str),
        books: Option<&Path>,
        api_key: &Secret,
        clock: Clock,
        tasks: &Tasks,
    ) -> anyhow::Result<Self> {
        let refused = |source| CannotListen { address: bind, key, source };
        let listener = std::net::TcpListener::bind(bind).map_err(refused)?;
        let address = listener.local_addr()?;
        let file = books.map_or_else(String::new, |file| file.display().to_string());
        let books = Books::open(books, &format!("http://{address}"), clock.clone())
            .with_context(|| format!("cannot use the books {file}"))?;
        let books = Arc::new(books);
        let shared =
            web::Data::new(Simulator { books: books.clone(), api_key: api_key.expose().as_bytes().to_vec() });
        let build = move || App::new().app_data(shared.clone()).configure(routes);
        let server = HttpServer::new(build).disable_signals().workers(1).shutdown_timeout(1);
        let server = server.listen(listener)?.run();
        let handle = server.handle();
        tasks.spawn(server);
        Ok(Self { address, books, server: handle, clock })
    }

    /// Makes the sender of events to `url`, signed with `secret`. [`Events::run`] sends them.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn events(&self, url: &str, secret: &Secret) -> anyhow::Result<Events> {
        Events::new(self.books.clone(), (url, secret), self.clock.clone(), Chance::System)
    }

    /// Answers the books.
    pub fn books(&self) -> &Arc<Books> {
        &self.books
    }

    /// Ends the listener.
    pub async fn stop(self) {
        self.server.stop(true).await;
    }
}
