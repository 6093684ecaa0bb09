//! Bounds what a newcomer's first build compiles, which is `make demo` from nothing.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::root;

/// The most units that cargo compiles or runs: each package once, its build script twice (compiled and run), and the
/// program. `cargo build --timings` counts the same. A change that raises the number says so in an ADR.
const UNITS_MAX: usize = 320;

fn answer(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).current_dir(root()).output().expect("it runs");
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

fn cargo(args: &[&str]) -> String {
    answer(env!("CARGO"), args)
}

/// Returns the platform of this machine. What others need, a first build does not fetch, and it may not be here.
fn host() -> String {
    let rustc = answer("rustc", &["-vV"]);
    rustc.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host").to_owned()
}

#[test]
fn the_demo_compiles_at_most_320_units() {
    let demo = ["--no-default-features", "--features", "embedded", "--offline"];
    let tree = [&["tree", "-p", "seckill", "-e", "normal,build", "--prefix", "none", "-f", "{p}"][..], &demo]
        .concat();
    let tree = cargo(&tree);
    // A line is `name v1.2.3 (path)`, and ends with `(*)` when the package was printed before.
    let name_and_version = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let used: BTreeSet<String> = tree.lines().filter(|line| !line.is_empty()).map(name_and_version).collect();
    let host = host();
    let metadata = [&["metadata", "--format-version", "1", "--filter-platform", &host][..], &demo].concat();
    let metadata: Value = serde_json::from_str(&cargo(&metadata)).expect("JSON");
    let has_script = |package: &&Value| {
        let name = format!(
            "{} v{}",
            package["name"].as_str().unwrap_or(""),
            package["version"].as_str().unwrap_or("")
        );
        let targets = package["targets"].as_array().expect("targets");
        used.contains(&name) && targets.iter().any(|target| target["kind"][0] == "custom-build")
    };
    let scripts = metadata["packages"].as_array().expect("packages").iter().filter(has_script).count();
    let units = used.len() + 2 * scripts + 1;
    assert!(
        used.len() > 100 && scripts > 5,
        "{} packages, {scripts} build scripts: not the demo",
        used.len()
    );
    assert!(units <= UNITS_MAX, "{units} units: {} packages, {scripts} build scripts", used.len());
}
