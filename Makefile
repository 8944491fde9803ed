# Everything a developer and CI run. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help deps deps-e2e deps-bench build release demo test lint fmt doc deny proto bench e2e fuzz

# Outside the checkout, so that a fresh clone finds what an earlier one installed; tests look there too.
export CACHECTL_TOOLS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cachectl-tools
FUZZ_SECONDS ?= 60
# Speed is part of what e2e tests check.
PROFILE ?= release
# What of the tools of `make e2e` is installed: servers, clients, builders, linters; all of them if empty.
TOOLS ?=

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what `make test` and `make lint` need (no compiling)
	@tests/tools/install test
	@cargo fetch --locked --quiet

deps-e2e: deps ## build what only `make e2e` needs: MinIO, distribution v3, BuildKit, skopeo and its kin (TOOLS=clients for a part)
	@tests/tools/install e2e $(TOOLS)

deps-bench: deps-e2e ## install the rivals of `make bench`: restic, rclone
	@tests/tools/install bench

build: ## build the binaries, optimised
	cargo build --release --locked

release: build ## the same: what `build` makes is what is released

demo: ## carry a real Go project's caches to a second node, and show both build times
	@examples/demo.sh

test: deps ## unit and integration tests, with SeaweedFS and Debian's docker-registry
	cargo test --locked --no-fail-fast

lint: deps ## formatting, clippy, API documentation, dependency rules: warnings are errors
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	@$(MAKE) --no-print-directory doc deny

fmt: ## format the code
	cargo fmt

doc: ## build the API documentation; broken links are errors
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --no-deps --locked --document-private-items

deny: deps ## check licences, bans and sources of the dependencies, offline
	"$$CACHECTL_TOOLS/bin/cargo-deny" --offline --locked check --hide-inclusion-graph bans licenses sources

proto: ## make src/proto/ anew from the control API's schema
	cd proto/generate && cargo run --locked

bench: deps-bench build ## measure against tar+zstd, cp, restic, rclone, two registries: Markdown tables (ARGS='--inputs small --rows restore,door')
	python3 tests/bench/bench.py $(ARGS)

# CACHECTL_REGISTRY=distribution-v3 shows whether a failure at the registry door is the door's.
e2e: deps-e2e ## real Go projects, builders and clients through every store, kills, damage (E2E=heal for a part, PROFILE=dev)
	CACHECTL_E2E=1 cargo test --profile $(PROFILE) --locked --test main e2e::$(E2E)

fuzz: ## long fuzz runs, in process (FUZZ_SECONDS=60 each)
	CACHECTL_FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --release --locked fuzz_
