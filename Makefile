# Every command that a person or a machine needs is a target here; the scripts behind them stand in ci/.
# `make` alone prints this list.

# The programs that are installed, and the architectures that they are built for.
PROGRAMS := $(wildcard cmd/syd cmd/syd-tor)
ARCHES   := amd64 386 arm64 arm riscv64

# Static, without paths of the building machine, and the same bytes from a clone as from a source archive.
# Symbols stay: the audit of the finished binary reads them.
GOBUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false
HOST    := $(shell go env GOARCH)
# Not go run, which dies of a SIGTERM and leaves what it runs behind.
TOOL    := CGO_ENABLED=0 go build -o out/tools

.DEFAULT_GOAL := help
.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(addprefix build-,$(ARCHES)) ## build syd and syd-tor for every architecture into out/GOARCH/

.PHONY: $(addprefix build-,$(ARCHES))
$(addprefix build-,$(ARCHES)): build-%:
	GOOS=linux GOARCH=$* GOARM=7 $(GOBUILD) -o out/$*/ $(addprefix ./,$(PROGRAMS))

.PHONY: native
native: build-$(HOST) ## build for this machine alone

# For packages: DESTDIR=, PREFIX=, and ARCH= as a GOARCH.
PREFIX ?= /usr/local

.PHONY: install
install: build-$(or $(ARCH),$(HOST)) ## install the programs and their manual pages below PREFIX (/usr/local)
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/share/man/man1"
	install -m 755 $(PROGRAMS:cmd/%=out/$(or $(ARCH),$(HOST))/%) "$(DESTDIR)$(PREFIX)/bin"
	install -m 644 $(PROGRAMS:cmd/%=docs/man/%.1) "$(DESTDIR)$(PREFIX)/share/man/man1"

.PHONY: demo
demo: native ## show that a sandboxed program reaches a page through the proxy, and not without it
	$(GOBUILD) -o out/$(HOST)/ ./cmd/demo
	out/$(HOST)/demo

.PHONY: lint
lint: ## check format, vet, staticcheck, shell scripts and generated files
	ci/deps lint generate
	ARCHES="$(ARCHES)" ci/lint

.PHONY: generate
generate: ## compile the seccomp policy into internal/policy/programs/; lint checks that nothing changes
	ci/deps generate
	CGO_ENABLED=1 go generate ./internal/policy

.PHONY: audit
audit: build ## hold the built syd-tor of every architecture against the tables of build/audit
	go run ./build/audit $(ARCHES:%=out/%/syd-tor)

.PHONY: test
test: audit ## install what the tests need, then run all of them: amd64 and 386 natively, the others emulated
	ci/deps test
	$(TOOL)/suite ./ci/suite
	exec out/tools/suite

# ARCH is a GOARCH, KERNEL a name or a series of testvm/kernel/kernels.txt; empty means all.
.PHONY: test-vm
test-vm: ## boot the guests that match ARCH= and KERNEL= (386 and 6.12, say) and run every suite in them
	ci/deps vm
	$(TOOL)/testvm ./testvm
	exec out/tools/testvm -arch "$(ARCH)" -kernel "$(KERNEL)"

.PHONY: test-vm-matrix
test-vm-matrix: ## every architecture, kernel and variant; writes docs/matrix.md
	ci/deps vm
	$(TOOL)/testvm ./testvm
	exec out/tools/testvm -markdown docs/matrix.md

.PHONY: test-vm-selftest
test-vm-selftest: ## prove that the bed turns red: guests that fail, panic, hang, lie or die, and broken source
	ci/deps vm generate
	CGO_ENABLED=0 go test -tags testvm -count=1 -timeout 30m ./testvm/selftest

.PHONY: test-vm-smoke
test-vm-smoke: ## one guest per architecture with the newest stable kernel, the quick suites
	ci/deps vm
	$(TOOL)/testvm ./testvm
	exec out/tools/testvm -smoke

.PHONY: bench
bench: native ## measure against other forwarders: FULL=1 for the long run, OUT=docs to refresh the figures there
	-ci/deps bench # what stays missing is measured without, and named
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -o out/bench/bench ./internal/bench/cmd/bench
	out/bench/bench -syd-tor out/$(HOST)/syd-tor -out $(or $(OUT),out/bench) $(if $(FULL),-full)

.PHONY: clean
clean: ## remove what was built
	rm -rf out
