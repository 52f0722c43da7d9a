# Tasks of limiquantix. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION := $(shell cat VERSION)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
export CGO_ENABLED ?= 0
# `sudo make` loses Go from PATH.
export PATH := $(PATH):/usr/local/go/bin
PLUGINS := kvm local nfs lvm ceph bridge ovs

# The ceph plugin is linked with Ceph's own libraries; nothing else needs a C compiler.
CEPH_HEADERS := $(wildcard /usr/include/rados/librados.h) $(wildcard /usr/include/rbd/librbd.h)
CEPH_ENV     := CGO_ENABLED=1 GOFLAGS=-tags=pacific
CEPH_MISSING := the ceph plugin is left out: install librados-dev, librbd-dev, gcc and libc6-dev

.PHONY: help
help: ## List the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | column -t -s "$$(printf '\t')" 2>/dev/null || grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build every binary into bin/ and bin/plugins/
	@mkdir -p bin/plugins
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./controller/cmd/limiquantix-controller ./agent/cmd/limiquantix-agent ./cli/cmd/lqctl
	@for p in $(PLUGINS); do \
	  env=; if [ $$p = ceph ]; then env="$(CEPH_ENV)"; [ $(words $(CEPH_HEADERS)) = 2 ] || { echo "$(CEPH_MISSING)"; continue; }; fi; \
	  mkdir -p bin/plugins/$$p && \
	  env $$env go build -trimpath -ldflags '$(LDFLAGS)' -o bin/plugins/$$p/ ./plugins/$$p/cmd/limiquantix-plugin-$$p && \
	  go run ./sdk/cmd/plugin-manifest bin/plugins/$$p/limiquantix-plugin-$$p || exit 1; \
	done
	@echo $(COMMIT) > bin/.built

# Builds when a source or the commit has changed since the last build, so that whoever removes a binary sees what is said without it.
.PHONY: build-changed
build-changed:
	@if [ "$$(cat bin/.built 2>/dev/null)" != $(COMMIT) ] || [ -n "$$(find agent cli controller plugins proto sdk go.work VERSION -newer bin/.built -type f -print -quit)" ]; then $(MAKE) -s build; fi

.PHONY: generate
generate: ## Generate Go from proto/
	@cd tools && GOWORK=off GOBIN=$(CURDIR)/.cache/tools go install tool
	@cd tools/buf && GOWORK=off GOBIN=$(CURDIR)/.cache/tools go install tool
	@cd proto && PATH="$(CURDIR)/.cache/tools:$$PATH" buf generate

.PHONY: lint
lint: ## Check formatting, vet, and the proto contracts
	@cd tools && GOWORK=off GOBIN=$(CURDIR)/.cache/tools go install tool
	@cd tools/buf && GOWORK=off GOBIN=$(CURDIR)/.cache/tools go install tool
	@out=$$(git ls-files '*.go' | grep -v '^proto/gen/' | xargs .cache/tools/gofumpt -l); if [ -n "$$out" ]; then echo "gofumpt would change:"; echo "$$out"; exit 1; fi
	@cd proto && ../.cache/tools/buf lint
	@for m in $$(go list -m -f '{{.Dir}}'); do \
	  env=; if [ $${m##*/} = ceph ]; then env="$(CEPH_ENV)"; [ $(words $(CEPH_HEADERS)) = 2 ] || { echo "$(CEPH_MISSING)"; continue; }; fi; \
	  (cd $$m && env $$env go vet ./...) || exit 1; \
	done

.PHONY: demo
demo: ## Boot a guest through the whole path, on this machine, beside whatever runs here
	@v=$$(cd / && go version 2>/dev/null | cut -d' ' -f3); printf 'go1.26\n%s\n' "$${v:-go0}" | sort -VC || \
	  { echo "demo: this machine is not ready: Go is $${v:-missing}: install Go 1.26 or newer from https://go.dev/dl and put it on PATH"; exit 1; }
	@go run ./test/cmd/demo check
	@$(MAKE) -s build-changed
	@go run ./test/cmd/demo up

.PHONY: demo-down
demo-down: ## End the demo and remove all of it
	@go run ./test/cmd/demo down

.PHONY: test
test: ## Run every test of every module against real backends
	@go run ./test/cmd/lab packages
	@go run ./test/cmd/runtests

.PHONY: bench
bench: ## Measure the built binaries against the goals in bench.yaml
	@go run ./test/cmd/lab packages
	@go run ./test/bench

.PHONY: fresh
fresh: ## Run CI's script on a bare Debian 12 that holds only Go, git and make
	@test/fresh/fresh.sh

.PHONY: soak
soak: ## Run a suite at its full counts and write docs/evidence/SUITE.md: make soak SUITE=fault
	@go run ./test/cmd/lab packages
	@go run ./test/cmd/soak $(SUITE)

.PHONY: mutate
mutate: ## Break code that holds an invariant, line by line, and want a named test to turn red
	@cd test && go run ./cmd/mutate

.PHONY: fixture
fixture: ## Write test/testdata/state-VERSION.tar.gz, once per released version
	@go run ./test/cmd/fixture
