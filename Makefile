# Each target is a line that a person could type. `make demo` needs Rust and a C compiler; `make test` also a C++
# compiler, Java and Go.

.PHONY: demo rush demo-distributed test test-mariadb test-rolling bench lint stack-up stack-down

# A first build compiles less without what only later builds use.
demo rush: export CARGO_INCREMENTAL = 0

demo: ## one process and one folder: a sale of 100 units that opens in 15 s, lines to paste
	cargo run --no-default-features --features embedded -- demo

rush: ## the same with 20,000 buyers, a progress bar and the audit's verdict
	cargo run --no-default-features --features embedded -- demo --rush

demo-distributed: ## the real stack, a sale of 500 units, 20,000 buyers, the audit
	scripts/demo-distributed

test: ## everything, on the real stack
	scripts/test

test-mariadb: ## the tests of stores, migration and whole purchases again, on MariaDB
	scripts/test-mariadb

test-rolling: ## this version and a newer one side by side under load; needs the stack up
	scripts/test-rolling

bench: ## the paired figures of docs/benchmarks.md
	benches/run

lint:
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings

stack-up:
	scripts/stack up

stack-down:
	scripts/stack down
