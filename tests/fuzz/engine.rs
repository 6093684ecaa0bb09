//! Drives one target. It runs the corpus first, then made and mutated inputs until the time is up.
//!
//! An input that shows something new (a signature not seen before) joins the pool from which mutations start. This is a
//! cheap substitute for coverage. Memory is bounded: there is one input per signature, and both have a bound.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::mutation::mutated;

const SECONDS_DEFAULT: u64 = 3;
/// A run of at least this length keeps the inputs that it found new.
const LONG_RUN_S: u64 = 60;
/// The most inputs of one target that are kept, and the size of the largest.
const FOUND_MAX: usize = 60;
const FOUND_BYTES_MAX: usize = 2048;
const SIGNATURES_MAX: usize = 4096;
/// The most runs in which a failing input is made smaller.
const SHRINK_RUNS_MAX: usize = 3000;
/// How often an input must be slow before it counts as slow. Other processes share this machine.
const SLOW_TRIES: usize = 5;

/// One parser, and the properties that it must have.
pub struct Target<'a> {
    pub name: &'static str,
    /// Checks the properties on an input, and panics when one breaks. Returns what the input showed: its signature, of
    /// which there are few.
    pub check: &'a dyn Fn(&[u8]) -> String,
    /// Makes an input that is valid, or nearly.
    pub generate: &'a dyn Fn(&mut StdRng) -> Vec<u8>,
    pub bytes_max: usize,
    /// The longest time that an input may take.
    pub slowest: Duration,
}

/// The smallest input of each signature.
#[derive(Default)]
struct Pool {
    inputs: BTreeMap<String, Vec<u8>>,
    order: Vec<String>,
}

impl Pool {
    fn note(&mut self, signature: String, input: &[u8]) {
        match self.inputs.get_mut(&signature) {
            Some(kept) if kept.len() > input.len() => *kept = input.to_vec(),
            Some(_) => {}
            None if self.order.len() < SIGNATURES_MAX => {
                self.order.push(signature.clone());
                self.inputs.insert(signature, input.to_vec());
            }
            None => {}
        }
    }

    fn any(&self, rng: &mut StdRng) -> &[u8] {
        let signature = self.order.get(rng.random_range(0..self.order.len().max(1)));
        signature.and_then(|signature| self.inputs.get(signature)).map_or(&[], Vec::as_slice)
    }
}

/// Runs a target, and returns the signatures that it saw.
///
/// # Panics
/// When a property breaks: with the property, the input as text, and the file it was kept in.
pub fn run(target: &Target) -> HashSet<String> {
    listen_for_panics();
    let seconds = number_of("SECKILL_FUZZ_SECONDS").unwrap_or(SECONDS_DEFAULT);
    let seed = number_of("SECKILL_FUZZ_SEED").unwrap_or_else(rand::random);
    eprintln!("fuzz {}: SECKILL_FUZZ_SECONDS={seconds} SECKILL_FUZZ_SEED={seed}", target.name);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pool = Pool::default();
    let mut executed: u64 = 0;
    let corpus = corpus(target.name);
    assert!(corpus.len() >= 20, "the corpus of {} has {} files", target.name, corpus.len());
    let mut failures = Vec::new();
    for (path, input) in &corpus {
        match attempt(target, input) {
            Ok(signature) => pool.note(signature, input),
            Err(property) => {
                failures.push(format!("{}: {property}\ninput: {}", path.display(), escaped(input)))
            }
        }
        executed += 1;
    }
    assert!(failures.is_empty(), "{} of the corpus fail:\n{}", failures.len(), failures.join("\n"));
    let of_corpus: HashSet<String> = pool.order.iter().cloned().collect();
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < deadline {
        for _ in 0..16 {
            let mut input = if rng.random_bool(0.5) {
                (target.generate)(&mut rng)
            } else {
                let (base, other) = (pool.any(&mut rng).to_vec(), pool.any(&mut rng));
                mutated(base, other, &mut rng)
            };
            input.truncate(target.bytes_max);
            match attempt(target, &input) {
                Ok(signature) => pool.note(signature, &input),
                Err(property) => fail(target, input, &property, seed),
            }
            executed += 1;
        }
    }
    let new = pool.order.len() - of_corpus.len();
    eprintln!("fuzz {}: {executed} inputs, {} signatures, {new} new", target.name, pool.order.len());
    if seconds >= LONG_RUN_S {
        keep_found(target.name, &pool, &of_corpus);
    }
    pool.order.into_iter().collect()
}

#[expect(clippy::disallowed_methods, reason = "how long to run is no configuration of the product")]
fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// Reads the corpus of a target, ascending by name, so that a run with a seed can be repeated.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder(target)).expect("a corpus folder");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

thread_local! {
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Catches the panics of a check. They are reported once, and not printed at every try.
fn listen_for_panics() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let printing = take_hook();
        set_hook(Box::new(move |info| {
            if IS_WATCHED.get() {
                LAST_PANIC.set(info.to_string());
            } else {
                printing(info);
            }
        }));
    });
}

/// Runs the check. Returns the signature, or the property that broke.
fn attempt(target: &Target, input: &[u8]) -> Result<String, String> {
    let mut fastest = Duration::MAX;
    for _ in 0..SLOW_TRIES {
        let began = Instant::now();
        IS_WATCHED.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
        IS_WATCHED.set(false);
        fastest = fastest.min(began.elapsed());
        match outcome {
            Ok(signature) if fastest <= target.slowest => return Ok(signature),
            Ok(_) => {}
            Err(_) => return Err(LAST_PANIC.take()),
        }
    }
    Err(format!("took {fastest:?} at least, {SLOW_TRIES} times; allowed are {:?}", target.slowest))
}

fn fail(target: &Target, input: Vec<u8>, property: &str, seed: u64) -> ! {
    let smaller = shrunk(target, input);
    let property = attempt(target, &smaller).err().unwrap_or_else(|| property.to_owned());
    let path = folder(target.name).join(format!("failure-{}", hash(&smaller)));
    let kept = match fs::write(&path, &smaller) {
        Ok(()) => format!("kept in {}", path.display()),
        Err(error) => format!("not kept: {}: {error}", path.display()),
    };
    panic!("{property}\ninput: {}\n{kept}; seed {seed}", escaped(&smaller));
}

/// Makes a failing input smaller: it removes the parts that the failure does not need.
fn shrunk(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut runs = 0;
    let mut chunk = input.len() / 2;
    while chunk > 0 && runs < SHRINK_RUNS_MAX {
        let (mut at, mut has_shrunk) = (0, false);
        while at < input.len() && runs < SHRINK_RUNS_MAX {
            let mut candidate = input.clone();
            candidate.drain(at..(at + chunk).min(input.len()));
            runs += 1;
            if attempt(target, &candidate).is_err() {
                input = candidate;
                has_shrunk = true;
            } else {
                at += chunk;
            }
        }
        if !has_shrunk {
            chunk /= 2;
        }
    }
    input
}

fn keep_found(target: &str, pool: &Pool, of_corpus: &HashSet<String>) {
    let is_found = |path: &Path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("found-"));
    let before = corpus(target).iter().filter(|(path, _)| is_found(path)).count();
    let mut found: Vec<(&String, &Vec<u8>)> = pool
        .inputs
        .iter()
        .filter(|(signature, input)| !of_corpus.contains(*signature) && input.len() <= FOUND_BYTES_MAX)
        .collect();
    // The hash makes this a draw, because the smallest inputs resemble each other.
    found.sort_by_cached_key(|(signature, _)| hash(signature.as_bytes()));
    for (_, input) in found.into_iter().take(FOUND_MAX.saturating_sub(before)) {
        let path = folder(target).join(format!("found-{}", hash(input)));
        fs::write(&path, input).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn hash(input: &[u8]) -> String {
    Sha256::digest(input).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

pub fn escaped(input: &[u8]) -> String {
    let shown = &input[..input.len().min(4096)];
    shown.escape_ascii().to_string()
}
