//! One operation of an API: its route, and what the contract says of it. Routers and OpenAPI documents are made of the
//! same operations, so there is no route that the contract does not have.

use actix_web::guard::{Any, Get, Head};
use actix_web::web::{self, ServiceConfig, resource};
use actix_web::{FromRequest, Handler, HttpResponse, Responder, Route};

use super::contract::Description;
use super::problem::Problem;

/// What a client wants of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// To read. It is also answered as HEAD, without the body.
    Get,
    /// To have something done.
    Post,
    /// To put something in place.
    Put,
    /// To change some of it.
    Patch,
    /// To take it away.
    Delete,
}

impl Verb {
    /// Answers its methods, as the header `Allow` lists them.
    fn methods(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Answers its word in an OpenAPI document.
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }

    fn route(self) -> Route {
        match self {
            // The framework sends no body in answer to a HEAD.
            Self::Get => web::route().guard(Any(Get()).or(Head())),
            Self::Post => web::post(),
            Self::Put => web::put(),
            Self::Patch => web::patch(),
            Self::Delete => web::delete(),
        }
    }
}

/// Says what the contract has of an operation.
pub type Describe = fn(&mut Description);

/// One operation.
pub struct Operation {
    /// What is wanted.
    pub verb: Verb,
    /// The path, with its parameters in braces.
    pub path: &'static str,
    route: Route,
    /// Says what the contract has of it.
    pub describe: Describe,
}

/// Makes an operation.
pub fn operation<F, Args>(verb: Verb, path: &'static str, handler: F, describe: Describe) -> Operation
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Operation { verb, path, route: verb.route().to(handler), describe }
}

/// Registers operations. Those of one path stand beside each other, and a fixed path before a pattern that also fits.
/// Any other method than theirs is answered with the list of them.
pub fn register(app: &mut ServiceConfig, operations: Vec<Operation>) {
    let mut operations = operations.into_iter().peekable();
    while let Some(first) = operations.next() {
        let mut methods = first.verb.methods().to_owned();
        let mut found = resource(first.path).route(first.route);
        while let Some(next) = operations.next_if(|next| next.path == first.path) {
            methods = format!("{methods}, {}", next.verb.methods());
            found = found.route(next.route);
        }
        let other = move || {
            let problem = Problem::method_not_allowed(&methods);
            async move { Err::<HttpResponse, _>(problem) }
        };
        app.service(found.default_service(web::to(other)));
    }
}
