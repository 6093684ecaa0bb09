//! Profiles: where a process spends its CPU time.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{Scope, operator};
use crate::http::contract::For;
use crate::http::operation::{Operation, Verb, operation};
use crate::http::problem::{Code, Problem};
use crate::http::{Context, NoProfile, ProfileForm};

/// The longest profile, in seconds.
const SECONDS_MAX: u32 = 60;

/// The query string of a profile.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ProfileQuery {
    /// For how long it is taken: 1 to 60, 10 without it.
    #[param(minimum = 1, maximum = 60)]
    seconds: Option<u32>,
    /// In which form it is answered: `pprof` without it.
    format: Option<Format>,
}

/// A form of a profile.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ProfileFormat)]
enum Format {
    /// Protocol buffers, for `go tool pprof`.
    Pprof,
    /// A flame graph, as SVG.
    Svg,
}

/// Lists the operations of this file.
pub fn operations() -> Vec<Operation> {
    vec![operation(Verb::Get, "/debug/pprof/profile", profile, |it| {
        it.names(
            "platform",
            "take_profile",
            "Where this process spends its CPU time, for some seconds from now on.",
        )
        .is_for(For::Operator(Scope::Debug))
        .about("Only where `debug.profiles` is set, and one at a time.")
        .query::<ProfileQuery>()
        .refuses(&[Code::StateConflict])
        .answers_text(200, "The profile.", "application/octet-stream")
        .answers_also_text(200, "image/svg+xml");
    })]
}

/// Answers `GET /debug/pprof/profile`. The profile is given up when the client goes away.
///
/// # Errors
/// `validation_failed`; `state_conflict` where profiles are turned off, and while another one is taken.
pub async fn profile(
    request: HttpRequest,
    query: web::Query<ProfileQuery>,
    context: web::Data<Context>,
) -> Result<HttpResponse, Problem> {
    operator(&request, &context, Scope::Debug).await?;
    let Some(take) = &context.take_profile else {
        let detail = "Profiles are turned off: set debug.profiles to true and start the process anew.";
        return Err(Problem::new(Code::StateConflict).detail(detail));
    };
    let seconds = query.seconds.unwrap_or(10);
    if !(1..=SECONDS_MAX).contains(&seconds) {
        return Err(Problem::invalid("/seconds", format!("must be 1 to {SECONDS_MAX}")));
    }
    let (form, media_type, name) = match query.format {
        Some(Format::Svg) => (ProfileForm::FlameGraph, "image/svg+xml", "profile.svg"),
        Some(Format::Pprof) | None => (ProfileForm::Pprof, "application/octet-stream", "profile.pb"),
    };
    let bytes = take(seconds, form).await.map_err(|why| match why {
        NoProfile::OneIsTaken => Problem::new(Code::StateConflict).detail("Another profile is being taken."),
        NoProfile::Failed(why) => {
            tracing::warn!(why, "no profile was taken");
            Problem::new(Code::Internal)
        }
    })?;
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CACHE_CONTROL, "no-store"));
    answer.insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")));
    Ok(answer.content_type(media_type).body(bytes))
}
