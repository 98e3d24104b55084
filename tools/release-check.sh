#!/bin/sh
# Builds the release of HEAD in two clones, the second time from nothing, without the build
# cache of the first, and fails when a file differs.
# Usage: tools/release-check.sh PLATFORM...
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

git clone --quiet . "$work/first"
git clone --quiet . "$work/another-path"
"$work/first/tools/dist.sh" "$work/dist-1" "$@"
(umask 077 && GOCACHE="$work/cache" "$work/another-path/tools/dist.sh" "$work/dist-2" "$@")
diff -r "$work/dist-1" "$work/dist-2"
cat "$work/dist-1/SHA256SUMS"
