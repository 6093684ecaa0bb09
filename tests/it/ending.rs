//! The runtime of a test, as `#[tokio::test]` asks for one. Its end is waited for only so long, as that of a process is
//! (`seckill::cli`): a thread that never ends is shown, and holds up no other test.

pub use tokio::pin;

pub mod runtime {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    /// Far above what the end of a runtime takes.
    const END_MAX: Duration = Duration::from_secs(20);

    pub struct Builder(tokio::runtime::Builder);

    impl Builder {
        pub fn new_multi_thread() -> Self {
            Self(tokio::runtime::Builder::new_multi_thread())
        }

        pub fn enable_all(&mut self) -> &mut Self {
            self.0.enable_all();
            self
        }

        pub fn build(&mut self) -> std::io::Result<Runtime> {
            self.0.build().map(|runtime| Runtime(Some(runtime)))
        }
    }

    pub struct Runtime(Option<tokio::runtime::Runtime>);

    impl Runtime {
        pub fn block_on<F: Future>(&self, test: F) -> F::Output {
            self.0.as_ref().expect("it has not ended").block_on(test)
        }
    }

    impl Drop for Runtime {
        fn drop(&mut self) {
            let begun = Instant::now();
            if let Some(runtime) = self.0.take() {
                runtime.shutdown_timeout(END_MAX);
            }
            if begun.elapsed() >= END_MAX {
                show_threads();
            }
        }
    }

    /// Shows what all threads of this process do, past the capture of what tests print.
    fn show_threads() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let said = writeln!(std::io::stderr(), "the runtime of {test} has not ended in {END_MAX:?}:");
        said.expect("standard error is open");
        let mut gdb = Command::new("gdb");
        gdb.args(["-batch", "-ex", "thread apply all backtrace 40", "-p"])
            .arg(std::process::id().to_string());
        if let Err(error) = gdb.stdin(Stdio::null()).stdout(std::io::stderr()).status() {
            writeln!(std::io::stderr(), "gdb: {error}").expect("standard error is open");
        }
    }
}
