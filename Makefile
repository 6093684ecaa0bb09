# Each target is a line that a person could type. `make demo` and `make test` need Rust, a C++ compiler and Java.

.PHONY: demo test test-mariadb bench lint stack-up stack-down

demo: ## the stack, a sale of 500 units, 20,000 buyers, the audit
	scripts/demo

test: ## everything, on the real stack
	scripts/test

test-mariadb: ## the tests of stores, migration and whole purchases again, on MariaDB
	scripts/test-mariadb

bench: ## the paired figures of docs/benchmarks.md
	benches/run

lint:
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings

stack-up:
	scripts/stack up

stack-down:
	scripts/stack down
