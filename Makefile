# Everything a developer or an operator of one machine types. `make help` lists it.
MODULES := auctioneer bbs cfdot deploy executor inigo locket proto rep route-emitter router servicekit
BINARIES := locket bbs auctioneer rep route-emitter router cfdot garden-init garden-logger container-proxy sample local
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X diego.internal/servicekit/config.Version=$(VERSION)
PACKAGES := $(MODULES:%=./%/...)
# Processes and containers of the tests share the machine; more at a time than it has cores only makes them slower.
TESTFLAGS ?= -timeout 15m
FOLDER ?= .run
SUITE ?= all
# Size of `make scale`.
CELLS ?= 1000
INSTANCES ?= 250000
STEADY ?= 3m

export GOFLAGS := -buildvcs=false
# Binaries are static, and tests built the same way share what was compiled for them.
export CGO_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help setup build run smoke stop env test unit inigo scale race bench lint fmt generate verify tidy clean

help: ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install missing Debian packages (root, once)
	@tools/install-packages.sh

build: ## static binaries in bin/
	@echo "building (minutes the first time, seconds later)" >&2; mkdir -p bin
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./locket/cmd/... ./bbs/cmd/... ./auctioneer/cmd/... ./rep/cmd/... ./executor/cmd/... ./route-emitter/cmd/... ./router/cmd/... ./cfdot/cmd/... ./deploy/cmd/...
	@cd deploy && GOWORK=off go build -ldflags '-s -w' -o ../bin/nats-server github.com/nats-io/nats-server/v2

run: setup build ## start everything on this machine with a sample application; Ctrl-C stops it
	@bin/local run -folder $(FOLDER)

smoke: setup build ## start everything, check the answers, stop, check that nothing is left
	@bin/local smoke -folder $(FOLDER)-smoke

stop: build ## stop what `make run` started in another terminal
	@bin/local stop -folder $(FOLDER)

test: setup build unit inigo ## every test, with all that they need

unit: setup ## the tests of the modules
	@tools/consul-server.sh >/dev/null
	@go test $(TESTFLAGS) $(filter-out ./inigo/...,$(PACKAGES))

inigo: setup build ## the end-to-end tests: real processes, real containers
	@cd inigo && go test -count=1 -p 1 -timeout 30m ./... -args -ginkgo.v=false

scale: setup build ## 250,000 instances on 1,000 simulated cells; table and picture in .run-scale (CELLS=, INSTANCES=, STEADY=)
	@CGO_ENABLED=0 go build -trimpath -o bin/scale ./inigo/scale
	@bin/scale -cells $(CELLS) -instances $(INSTANCES) -steady $(STEADY) -folder $(FOLDER)-scale

race: setup ## the tests of the modules with the race detector
	@CGO_ENABLED=1 go test -race $(TESTFLAGS) $(filter-out ./inigo/...,$(PACKAGES))

bench: setup build ## measure: SUITE=bbs N=5000, SUITE=auction, …; rows "name n value unit" on standard output
	@tools/bench.sh $(SUITE)

lint: ## golangci-lint over all modules
	@tools/lint.sh

fmt: ## format Go and proto files
	@tools/buf.sh format
	@tools/lint.sh fmt

generate: ## generated Go of the contract
	@tools/buf.sh generate

verify: ## the contract is clean and compatible, generated code fits, go.mod files are tidy
	@tools/verify.sh

tidy: ## go mod tidy in every module
	@for module in $(MODULES); do (cd $$module && GOWORK=off go mod tidy) || exit 1; done

clean: stop ## remove what was built and run
	@rm -rf bin $(FOLDER) $(FOLDER)-smoke $(FOLDER)-scale
