#!/usr/bin/env bash
# Runs each fuzz target for the given time, or the given number of inputs (as in
# 20000x); 20s by default.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-20s}
grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -hoE '^func (Fuzz[A-Za-z0-9_]+)' "$dir"/*_test.go | awk '{print $2}' | sort -u | while read -r target; do
		echo "$dir $target"
		CGO_ENABLED=0 go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$dir" >/tmp/fuzz.$$ 2>&1 || {
			cat /tmp/fuzz.$$ >&2
			rm -f /tmp/fuzz.$$
			exit 1
		}
		rm -f /tmp/fuzz.$$
	done
done
