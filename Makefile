# What one can do with this tree; `make` alone lists it. CI runs `make ci` and nothing else.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export MUSTER_TOOLS_DIR ?= $(CURDIR)/.tools
# Where tests and scripts find the binaries of this build, and (first on PATH) the pinned tools.
export MUSTER_BIN_DIR := $(CARGO_TARGET_DIR)/debug
export PATH := $(MUSTER_TOOLS_DIR)/bin:$(PATH)

# What release binaries are for. x86_64-unknown-linux-musl is for every Linux, and better for images; it wants a C compiler for musl.
DIST_TARGET ?= $$(rustc --print host-tuple)

# What builds images: docker, podman or buildah.
IMAGE_BUILDER ?= docker
IMAGE_FLAGS = --file deploy/Dockerfile --build-arg "REVISION=$$(git rev-parse HEAD)"

.PHONY: run test test-cluster check advisories bench fuzz sbom dist charts image ci tools tools-cluster clean help

run: ## build, start musterd and three demo agents, load examples/, say what to try; Ctrl-C stops all
	deploy/tools.sh nats-server
	cargo build --workspace --bins
	exec deploy/demo.sh

test: ## every test, live ones against a real nats-server included
	deploy/tools.sh nats-server oidc-provider
	cargo build --workspace --bins
	cargo test --workspace --exclude cluster

test-cluster: tools-cluster ## the chart with Helm and a real Kubernetes control plane
	deploy/tools.sh nats-server
	cargo build --workspace --bins
	cargo test --package cluster

check: ## format, lints, house rules, licences and sources of dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --package offline --lib --test house
	deploy/tools.sh cargo-deny
	cargo deny --locked check licenses bans sources

advisories: ## known vulnerabilities of dependencies (fetches the advisory database)
	deploy/tools.sh cargo-deny
	cargo deny --locked check advisories

bench: ## measure against the floors and write docs/benchmarks.md (ARGS="--quick w2" for less)
	deploy/tools.sh nats-server
	cargo build --release --workspace --bins
	cargo run --release --package bench -- $(ARGS)
	cargo bench --package bench --bench parts -- --quick

fuzz: ## give each target of tests/fuzz random bytes for a minute (ARGS="join 600" for one, longer)
	deploy/fuzz.sh $(ARGS)

sbom: ## what each binary is made of, in target/sbom (CycloneDX)
	deploy/tools.sh cargo-cyclonedx
	deploy/sbom.sh

dist: ## static release binaries of muster, muster-agent and musterd, in target/<host>/release (or DIST_TARGET)
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --package cli --package agent \
		--package server --target "$(DIST_TARGET)"

charts: ## both charts as archives in target/charts, the same bytes for the same commit (wants Go for Helm)
	tests/cluster/tools/install.sh helm
	deploy/charts.sh

image: dist ## the images muster/muster and muster/muster-all (wants docker; IMAGE_BUILDER=podman or buildah)
	deploy/tools.sh nats-server
	mkdir -p "$(CARGO_TARGET_DIR)/image/data"
	cp "$(CARGO_TARGET_DIR)/$(DIST_TARGET)/release/"{musterd,muster,muster-agent} "$(MUSTER_TOOLS_DIR)/bin/nats-server" "$(CARGO_TARGET_DIR)/image"
	$(IMAGE_BUILDER) build $(IMAGE_FLAGS) --tag muster/muster:0.1.0 "$(CARGO_TARGET_DIR)/image"
	$(IMAGE_BUILDER) build $(IMAGE_FLAGS) --target all --tag muster/muster-all:0.1.0 "$(CARGO_TARGET_DIR)/image"

ci: check test test-cluster ## all of CI

tools: ## install the tools of deploy/tools.txt into .tools/ (or $MUSTER_TOOLS_DIR)
	deploy/tools.sh

tools-cluster: ## build what test-cluster needs (wants Go; half an hour on two cores, once)
	tests/cluster/tools/install.sh

clean: ## remove build products, tools and the demo's data
	rm -rf "$(CARGO_TARGET_DIR)" "$(MUSTER_TOOLS_DIR)" .demo

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' Makefile | expand -t 16
