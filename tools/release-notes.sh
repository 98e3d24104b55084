#!/bin/sh
# Prints the section of CHANGELOG.md about a version, and fails without one.
# Usage: tools/release-notes.sh VERSION
set -eu
cd "$(dirname "$0")/.."
awk -v title="## [$1] " '
	/^## / || /^\[/ { on = 0 }
	on { print; lines += NF > 0 }
	index($0, title) == 1 { on = 1 }
	END { if (!lines) { print "CHANGELOG.md has no section [" version "]" >"/dev/stderr"; exit 1 } }
' version="$1" CHANGELOG.md
