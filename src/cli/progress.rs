//! Shows on a terminal how far long work is.

use std::io::{IsTerminal, Write};

/// A line on stderr that is written over and over, and is gone when the work ends. Without a terminal there is none.
#[derive(Default)]
pub struct Progress {
    is_shown: bool,
}

impl Progress {
    /// Shows a line in place of the one before.
    pub fn show(&mut self, line: &str) {
        let mut stderr = std::io::stderr();
        if stderr.is_terminal() {
            self.is_shown = true;
            drop(write!(stderr, "\r\x1b[2K{line}"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            drop(write!(std::io::stderr(), "\r\x1b[2K"));
        }
    }
}
