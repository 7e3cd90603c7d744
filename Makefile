# Everything that is done with this repository. `make help` lists the targets.

GOLANGCI_LINT_VERSION := v2.15.0
SQLC_VERSION          := v1.31.1
BENCHSTAT_VERSION     := v0.0.0-20260908200009-22c9c6c9d4da
TOOLS                 := $(CURDIR)/bin/tools
GOLANGCI_LINT         := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
SQLC                  := $(TOOLS)/sqlc-$(SQLC_VERSION)
VERSION               ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS               := -s -w -X main.version=$(VERSION)
FUZZTIME              ?= 20s
# The agent's few requests are as well off with HTTP/1.1, and 0.36 MB smaller.
AGENT_TAGS            := nethttpomithttp2

PORTAL_SOURCES        := $(shell find portal/src portal/public -type f) portal/index.html portal/vite.config.ts portal/tsconfig.json

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := build

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

build: portal ## build the portal and both programs into bin/
	@$(MAKE) --no-print-directory go-build

go-build: ## build both programs into bin/ with the portal as it was built last; needs only Go
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/socketxp-gateway
	go build -trimpath -tags '$(AGENT_TAGS)' -ldflags '$(LDFLAGS)' -o bin/ ./cmd/socketxp

portal: portal/dist/index.html ## build the portal into the gateway's code; needs Node.js

portal/dist/index.html: $(PORTAL_SOURCES) portal/node_modules/.package-lock.json
	cd portal && npm run --silent build -- --logLevel warn

portal/node_modules/.package-lock.json: portal/package.json portal/package-lock.json
	@command -v npm >/dev/null || (echo "npm is not installed" >&2; echo "hint: install Node.js 20.19 or later (nodejs.org), or make go-build for a gateway without its portal" >&2; exit 1)
	cd portal && npm ci --no-audit --no-fund
	@touch $@

portal-check: portal/node_modules/.package-lock.json ## types, lint and unit tests of the portal, and that its types are those of the API
	cd portal && npm run --silent types && npm run --silent lint && npm test --silent
	@git diff --exit-code -- portal/src/api/schema.gen.ts || (echo "portal/src/api/schema.gen.ts is stale: commit what npm run types made" >&2; exit 1)

portal-e2e: build ## the portal in a real browser against a real gateway; screenshots in portal/shots
	cd portal && npm run --silent e2e

run: build ## start the gateway on localhost, with this machine as a demo device
	@./scripts/run.sh

test: ## all that CI runs: lint, generated files, unit, store suite, end to end
	@./scripts/test.sh

check: lint generate-check ## what can be said without running tests

lint: $(GOLANGCI_LINT) ## golangci-lint with zero issues
	$(GOLANGCI_LINT) run ./...

generate: $(SQLC) ## make all generated files again
	cd internal/store && $(SQLC) generate
	go generate ./...

generate-check: generate ## fail if a generated file is not fresh
	@git diff --exit-code -- internal docs cmd || (echo "generated files are stale: commit what make generate made" >&2; exit 1)

man: ## make the manual in docs/man again from the commands
	go test -run '^TestManPages$$' ./cmd/socketxp ./cmd/socketxp-gateway -update

e2e: ## scripts a user could have typed, against real programs
	CGO_ENABLED=1 go test -race -count=1 -timeout 20m ./e2e/...

crash: ## 200 rounds of kill -9 under load (CRASH_ROUNDS=n for another number)
	CGO_ENABLED=1 CRASH_ROUNDS=$${CRASH_ROUNDS:-200} go test -count=1 -timeout 80m -run TestCrash -v ./e2e/...

storm: ## 1,000 agents lose their gateway at once (STORM_AGENTS=n for another number)
	STORM_AGENTS=$${STORM_AGENTS:-1000} go test -count=1 -timeout 5m -run TestStorm -v ./e2e/...

soak: ## everything comes and goes, and all must be given back (SOAK=30m for longer than 90s)
	SOAK=$${SOAK:-90s} go test -count=1 -timeout 2h -run TestSoak -v ./e2e/...

fuzz: ## every fuzz target for FUZZTIME each
	@./scripts/fuzz.sh $(FUZZTIME)

bench: go-build ## every way to a device side by side, into docs/reports/performance.md: 15 minutes
	go build -o bin/bench ./bench
	@mkdir -p docs/reports
	bin/bench links -out docs/reports/performance.md

bench-quick: ## the ratios that matter most, one a line, in 45 s
	@$(MAKE) -s go-build >&2
	@go build -o bin/bench ./bench
	@bin/bench quick

bench-micro: ## micro-benchmarks, six rounds, for benchstat
	go test -run '^$$' -bench . -count 6 ./internal/...

bench-lists: ## every list of the API with 100,000 devices, 99.9% online: p99 within 50 ms each
	SOCKETXP_BENCH_LISTS=1 go test -count=1 -timeout 20m -v -run TestLists ./internal/gateway | grep -E 'p99|^(ok|FAIL|---)'

bench-terminal: ## a program's output to a terminal in a browser: MB/s, and CPU of the gateway and the agent per GB
	go test -run '^$$' -bench Terminal ./e2e

swarm-quick: ## 2,000 idle devices at one gateway: its memory, processor and a restart, one figure a line, in 50 s
	@$(MAKE) -s go-build >&2
	@go build -o bin/bench ./bench
	@bin/bench swarm -quick

swarm: go-build ## the same with 10,000, connections measured meanwhile, and a report in docs/reports
	go build -o bin/bench ./bench
	bin/bench swarm -out docs/reports

$(GOLANGCI_LINT):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv $(TOOLS)/golangci-lint $@

$(SQLC):
	@mkdir -p $(TOOLS)
	CGO_ENABLED=1 GOBIN=$(TOOLS) go install github.com/sqlc-dev/sqlc/cmd/sqlc@$(SQLC_VERSION)
	@mv $(TOOLS)/sqlc $@

.PHONY: help build go-build portal portal-check portal-e2e run test check lint generate generate-check man e2e crash storm soak fuzz bench bench-quick bench-micro bench-lists bench-terminal swarm-quick swarm
