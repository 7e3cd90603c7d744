#!/usr/bin/env bash
# All that must hold before a change lands, in the order in which it fails fastest.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "shell scripts"
if command -v shellcheck >/dev/null; then
	shellcheck scripts/*.sh .ci/run
elif [[ -n ${CI:-} ]]; then
	echo "shellcheck is missing" >&2
	exit 1
else
	echo "skipped: shellcheck is not installed"
fi

step "lint"
make --no-print-directory lint

step "the portal: types, lint, unit tests, build"
make --no-print-directory portal-check portal

step "generated files are fresh"
make --no-print-directory generate-check

step "the agent on other systems"
for os in windows darwin; do
	GOOS=$os CGO_ENABLED=0 go vet ./cmd/socketxp ./internal/agent
done

step "tests, with the race detector"
# One package's tests at a time beside e2e would starve them of their deadlines on
# two cores, so e2e comes by itself.
mapfile -t units < <(go list ./... | grep -v '/e2e')
CGO_ENABLED=1 go test -race -timeout 25m "${units[@]}"

step "fuzz targets, 20,000 inputs each beyond their corpora"
# A number, not a time: with a time, a slow input at its end fails the run with
# "context deadline exceeded" (go.dev/issue/75804).
./scripts/fuzz.sh "${FUZZTIME:-20000x}"

step "end to end"
# They wait more than they compute: four at a time are done in two thirds of the
# time that one for each core takes, 481 s in place of 828.
CGO_ENABLED=1 go test -race -timeout 20m -parallel 4 ./e2e/...

step "the portal in a browser"
make --no-print-directory portal-e2e
