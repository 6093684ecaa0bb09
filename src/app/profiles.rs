//! Takes profiles of this process, where the configuration allows it.

#[cfg(feature = "profiles")]
use std::sync::Arc;
#[cfg(feature = "profiles")]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(feature = "profiles")]
use std::time::Duration;

use crate::clock::Clock;
use crate::config::DebugConfig;
use crate::http::TakeProfile;
#[cfg(feature = "profiles")]
use crate::http::{NoProfile, ProfileForm};

/// Samples for each second of CPU time. It is no divisor of the periods of our tasks, which would be met always or
/// never.
#[cfg(feature = "profiles")]
const PER_SECOND: i32 = 99;
/// Libraries whose frames are not followed: a signal in the middle of them could wait for itself. Source: the README of
/// pprof.
#[cfg(feature = "profiles")]
const NOT_FOLLOWED: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Makes what takes profiles; nothing where none may be taken.
///
/// # Errors
/// When profiles are wanted and this program was built without them.
#[cfg(feature = "profiles")]
pub fn profiles(config: &DebugConfig, clock: &Clock) -> anyhow::Result<Option<TakeProfile>> {
    if !config.profiles {
        return Ok(None);
    }
    let (clock, is_taken) = (clock.clone(), Arc::new(AtomicBool::new(false)));
    Ok(Some(Arc::new(move |seconds, form| {
        let (clock, is_taken) = (clock.clone(), is_taken.clone());
        Box::pin(async move {
            let Some(_turn) = Turn::take(&is_taken) else { return Err(NoProfile::OneIsTaken) };
            take(&clock, Duration::from_secs(seconds.into()), form).await.map_err(NoProfile::Failed)
        })
    })))
}

/// Refuses a configuration that wants profiles.
///
/// # Errors
/// When it does.
#[cfg(not(feature = "profiles"))]
pub fn profiles(config: &DebugConfig, _: &Clock) -> anyhow::Result<Option<TakeProfile>> {
    anyhow::ensure!(
        !config.profiles,
        "this program was built without profiles: build it with `--features profiles`, or unset debug.profiles"
    );
    Ok(None)
}

/// The right to take the only profile. It ends with this value, also when the client goes away.
#[cfg(feature = "profiles")]
struct Turn(Arc<AtomicBool>);

#[cfg(feature = "profiles")]
impl Turn {
    fn take(is_taken: &Arc<AtomicBool>) -> Option<Self> {
        (!is_taken.swap(true, Ordering::AcqRel)).then(|| Self(is_taken.clone()))
    }
}

#[cfg(feature = "profiles")]
impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(feature = "profiles")]
async fn take(clock: &Clock, time: Duration, form: ProfileForm) -> Result<Vec<u8>, String> {
    let builder = pprof::ProfilerGuardBuilder::default().frequency(PER_SECOND).blocklist(&NOT_FOLLOWED);
    let guard = builder.build().map_err(|error| error.to_string())?;
    clock.sleep(time).await;
    // To name the functions of a release build takes a second of a core.
    let written = tokio::task::spawn_blocking(move || write(&guard, form)).await;
    written.map_err(|error| error.to_string())?
}

#[cfg(feature = "profiles")]
fn write(guard: &pprof::ProfilerGuard<'_>, form: ProfileForm) -> Result<Vec<u8>, String> {
    use pprof::protos::Message as _;

    let report = guard.report().build().map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    match form {
        ProfileForm::Pprof => {
            let profile = report.pprof().map_err(|error| error.to_string())?;
            profile.encode(&mut bytes).map_err(|error| error.to_string())?;
        }
        ProfileForm::FlameGraph => report.flamegraph(&mut bytes).map_err(|error| error.to_string())?,
    }
    Ok(bytes)
}
