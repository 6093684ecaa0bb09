//! The talk with the script: a line in, a line of JSON out. Between the two lines of a slice's end and the
//! next one's beginning the process is idle, so that CPU times read there belong to slices only.

use std::io::{BufRead, Write};

use anyhow::Context as _;
use serde_json::Value;
use tokio::runtime::Runtime;

/// The kind of runtime that `seckill serve` has.
pub fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

pub fn say(value: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

/// Answers each line with `answer(word, argument)` until the input ends.
pub fn serve(mut answer: impl FnMut(&str, &str) -> anyhow::Result<Value>) -> anyhow::Result<()> {
    say(&serde_json::json!({ "ready": true }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (word, argument) = line.split_once(' ').unwrap_or((&line, ""));
        say(&answer(word, argument).with_context(|| line.clone())?)?;
    }
    Ok(())
}
