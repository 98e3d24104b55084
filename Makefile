# The modules that hold the project's code; the others under tools/ only pin tools.
MODULES := . $(patsubst %/go.mod,%,$(wildcard test/go.mod bench/go.mod tools/grafana-dashboard/go.mod))
ALL_MODULES := $(sort $(MODULES) $(patsubst %/go.mod,%,$(wildcard tools/*/go.mod)))

# What `make generate` writes.
GENERATED := internal/api internal/console/dist internal/handlers/docs deploy/grafana test/deploy/testdata THIRD_PARTY_NOTICES

# Go builds a tool once and keeps it in its build cache.
GOLANGCI_LINT := go tool -modfile=$(CURDIR)/tools/golangci-lint/go.mod golangci-lint
# Prints the path of the program.
KUBE_APISERVER := go tool -modfile=$(CURDIR)/tools/kube-apiserver/go.mod -n kube-apiserver

# Parts of a build that are not in each: envoysds is kind envoy-sds of the agent.
TAGS ?=

# The cache of go test does not see the programs that tests build. Most tests wait for servers.
GO_TEST := go test -race -count=1 -timeout 30m -parallel 8

FUZZTIME ?= 30s
HISTORIES ?= 200
ROTATIONS ?= 20
SEED ?= 0
VERSION = $(shell git describe --tags --always --dirty)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: run
run: build ## Build and run the service; needs Go alone.
	@[ ! -t 0 ] || set -m; bin/sessapi serve; exit $$? # Ctrl-C is for the service alone, or make would fail

.PHONY: build
build: ## Build the static binary bin/sessapi, its version stamped from git; TAGS=envoysds adds that kind of target.
	CGO_ENABLED=0 go build -tags '$(TAGS)' -trimpath -buildvcs=auto -ldflags='-s -w' -o bin/sessapi ./cmd/sessapi

# Systems beside Linux on amd64. On Windows only the commands that speak to a service work.
PLATFORMS := linux/arm64 darwin/arm64 freebsd/amd64 windows/amd64

.PHONY: cross
cross: ## Compile for the other systems that are supported.
	set -e; for platform in $(PLATFORMS); do \
		echo $$platform; \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} go build -o /dev/null ./cmd/sessapi; \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} go build -tags envoysds -o /dev/null ./cmd/sessapi; \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} go build ./client/...; \
	done

# What a release has binaries for.
RELEASED := linux/amd64 $(PLATFORMS)

.PHONY: dist
dist: ## Build a release into dist/: archives, packages, SBOMs, checksums.
	rm -rf dist
	tools/dist.sh dist $(RELEASED)

.PHONY: release-check
release-check: ## Build the release of HEAD twice, in two places, and compare.
	tools/release-check.sh $(RELEASED)

.PHONY: test-packages
test-packages: ## Install the .deb in a new Debian, upgrade, remove and purge it; needs root and debootstrap.
	tools/test-deps.sh debootstrap rpm systemd-analyze=systemd
	tools/test-packages.sh

.PHONY: test
test: web/node_modules ## Vet and test all modules under the race detector.
	tools/test-deps.sh
	set -e; for module in $(MODULES); do (cd $$module && go vet ./...); done
	go vet -tags envoysds ./internal/agent/... ./cmd/...
	set -e; for module in $(MODULES); do (cd $$module && $(GO_TEST) ./...); done
	$(GO_TEST) -tags envoysds ./internal/agent
	go test -run Allocations ./internal/handlers ./internal/seal ./internal/tracing # which the race detector changes
	go test -tags otlp -run Allocations ./internal/handlers ./internal/tracing

.PHONY: test-consistency
test-consistency: ## Run HISTORIES (200) fault histories of fleets from SEED on (0 is any) and check them.
	tools/test-deps.sh
	cd test && go test -count=1 -timeout 24h ./consistency -parallel 12 -histories $(HISTORIES) -seed $(SEED)

.PHONY: test-agent
test-agent: ## Run agents with real servers through ROTATIONS (20) and all faults in the order of SEED (0 is any).
	tools/test-deps.sh
	cd test && go test -count=1 -timeout 2h -v -run TestAgent ./e2e -rotations $(ROTATIONS) -faults 100 -fault-seed $(SEED)

.PHONY: test-console
test-console: web/node_modules ## Test the console alone, in Chromium.
	tools/test-deps.sh
	cd test && go test -count=1 -v -run TestConsole ./e2e

.PHONY: test-kubernetes
test-kubernetes: ## Run agents with a real API server of Kubernetes; building it takes 10 minutes, once.
	tools/test-deps.sh etcd=etcd-server kubectl=kubernetes-client
	server=$$($(KUBE_APISERVER)) && cd test && go test -count=1 -timeout 30m -run TestKubernetes ./e2e -kube-apiserver $$server

.PHONY: lint
lint: tools/openapi-lint/node_modules web/node_modules ## Lint the code, the modules, the console's types and openapi.yaml.
	cd web && npm run --silent check
	set -e; for module in $(MODULES); do (cd $$module && $(GOLANGCI_LINT) run ./...); done
	$(GOLANGCI_LINT) run --build-tags envoysds ./internal/agent/...
	$(GOLANGCI_LINT) run --build-tags otlp ./internal/tracing
	set -e; for module in $(ALL_MODULES); do (cd $$module && go mod tidy -diff); done
	REDOCLY_SUPPRESS_UPDATE_NOTICE=true \
		$</.bin/redocly lint --config tools/openapi-lint/redocly.yaml openapi.yaml

.PHONY: vulncheck
vulncheck: ## Look for known vulnerabilities in what is called; asks vuln.go.dev.
	set -e; for module in $(MODULES); do (cd $$module && go tool -modfile=$(CURDIR)/tools/govulncheck/go.mod govulncheck ./...); done

.PHONY: fmt
fmt: ## Format the code.
	set -e; for module in $(MODULES); do (cd $$module && $(GOLANGCI_LINT) fmt ./...); done

.PHONY: bench
bench: ## Run the benchmarks.
	go test -run '^$$' -bench . -benchmem -timeout 30m ./internal/...

.PHONY: bench-cache
bench-cache: ## Compare the session cache with others; installs Redis and memcached as root on Debian.
	tools/test-deps.sh memcached
	cd bench && go run ./cachebench

.PHONY: bench-hitratio
bench-hitratio: ## Compare eviction policies by their hits; takes some minutes.
	cd bench && go run ./hitratio

.PHONY: bench-http
bench-http: ## Compare the service over HTTP with others; installs them as root on Debian.
	tools/test-deps.sh wrk webdis memcached etcd=etcd-server h2load=nghttp2-client
	cd bench && go run ./httpbench -svg ../docs/performance-http.svg

.PHONY: bench-watchers
bench-watchers: ## Measure clients that wait for new ticket keys.
	cd bench && go run ./watchers -n 10000 && go run ./watchers -n 10000 -http2 -streams 16 && go run ./watchers -n 10000 -http2

.PHONY: dashboard-picture
dashboard-picture: ## Draw docs/dashboard.png from eight minutes of a real fleet.
	tools/test-deps.sh
	cd test && go test -count=1 -timeout 30m -run TestDashboard ./e2e -dashboard-picture $(CURDIR)/docs/dashboard.png

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME (30s).
	tools/fuzz.sh $(FUZZTIME)

.PHONY: generate
generate: tools/redoc/node_modules web/node_modules ## Generate internal/api, the dashboard and THIRD_PARTY_NOTICES, build the console, and copy schemas and the reference page's renderer.
	go generate ./...
	cd test && go generate ./...
	cd web && npm run --silent build
	cd tools/grafana-dashboard && go run . >../../deploy/grafana/sessapi.json
	sed 's|https://cdn.redoc.ly/redoc/logo-mini.svg|data:,|' $</redoc/bundles/redoc.standalone.js \
		> internal/handlers/docs/redoc.standalone.js # which would ask for its logo elsewhere
	cp $</redoc/bundles/redoc.standalone.js.LICENSE.txt internal/handlers/docs/
	cp $</redoc/LICENSE internal/handlers/docs/redoc.LICENSE.txt
	tools/notices.sh >THIRD_PARTY_NOTICES

.PHONY: generate-check
generate-check: generate ## Fail when what is committed is not what is generated.
	git diff HEAD --exit-code -- $(GENERATED)
	test -z "$$(git ls-files --others --exclude-standard -- $(GENERATED) | tee /dev/stderr)"

# The engine that builds the image. buildah takes bin/sessapi for the Dockerfile's stage
# "build", so it pulls nothing.
ENGINE ?= $(shell docker info >/dev/null 2>&1 && echo docker || echo buildah)
IMAGE ?= sessapi:latest
IMAGE_LABELS = --label org.opencontainers.image.version=$(VERSION) \
	--label org.opencontainers.image.revision=$$(git rev-parse HEAD)

.PHONY: image
image: ## Build the container image IMAGE (sessapi:latest) with docker, or without network with buildah.
	case $(ENGINE) in \
	docker) docker build --tag $(IMAGE) --build-arg TAGS='$(TAGS)' $(IMAGE_LABELS) $(IMAGE_FLAGS) . ;; \
	buildah) $(MAKE) build && buildah build --format docker --build-context build=. --tag $(IMAGE) $(IMAGE_LABELS) $(IMAGE_FLAGS) . ;; \
	*) echo "ENGINE is docker or buildah" >&2; exit 2 ;; \
	esac

.PHONY: freeze
freeze: ## Make the samples of the previous version's state file and Redis records, for later versions to open.
	cd test && FREEZE=true go test -count=1 -timeout 1h -v -run TestFreeze ./e2e

%/node_modules: %/package-lock.json
	cd $* && npm ci
	@touch $@
