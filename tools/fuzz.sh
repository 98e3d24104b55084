#!/bin/sh
# Runs each fuzz target of the module in the working directory for the given
# time, one after another: go test takes one target at a time.
# Usage: tools/fuzz.sh FUZZTIME
set -eu

for package in $(go list ./...); do
	targets=$(go test -list '^Fuzz' "$package")
	for target in $(echo "$targets" | grep '^Fuzz' || true); do
		echo "== $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$package"
	done
done
