#!/bin/sh
# Makes sure that the programs are there that the tests run beside Go: a C
# compiler for the race detector, the peers that sessions come from (OpenSSL,
# Node.js), curl as a client, and Chromium for the reference page. As root on
# Debian it installs what is missing; elsewhere it says what that is, and fails in
# CI (CI=true). Arguments are programs that are needed besides.
set -eu

# Node.js 18 is the first with fetch.
node_major() { node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/'; }

missing=
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
command -v openssl >/dev/null || missing="$missing openssl"
command -v curl >/dev/null || missing="$missing curl"
command -v chromium >/dev/null || missing="$missing chromium"
[ "$(node_major || true)" -ge 18 ] 2>/dev/null || missing="$missing nodejs"

for program; do
	command -v "$program" >/dev/null || missing="$missing $program"
done

[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "what needs these Debian packages, or the like, is skipped: $missing" >&2
	[ "${CI:-}" != true ] || exit 1
	exit 0
fi

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
# shellcheck disable=SC2086 # a list of packages
apt-get -q install -y --no-install-recommends $missing
