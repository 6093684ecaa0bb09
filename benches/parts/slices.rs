//! The exchange with the script: a line comes in, and a line of JSON goes out. The process is idle between the end of a
//! slice and the beginning of the next one. So the CPU times that are read there belong to slices only.

use std::io::{BufRead, Write};

use anyhow::Context as _;
use serde_json::Value;
use tokio::runtime::Runtime;

/// Makes a runtime of the kind that `seckill serve` has.
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
