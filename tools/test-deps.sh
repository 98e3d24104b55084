#!/bin/sh
# Makes sure that the programs are there that the tests run beside Go: a C
# compiler for the race detector, the peers that sessions come from and that take
# ticket keys (OpenSSL, Node.js, nginx, HAProxy, Apache httpd, H2O, Traffic
# Server, lighttpd, nghttpx, dnsdist), socat for HAProxy's socket, Redis for the fleet,
# Prometheus for the alerts and the dashboard, buildah and runc for the image, curl as a
# client, gdb to dump the memory, the Python client of Prometheus for its strict parser,
# Chromium for the console and the reference page, groff for the man pages, and zsh and fish
# for their completions. As root on Debian it installs what is missing, and starts no
# service; elsewhere it says what that is, and fails in CI (CI=true).
# Arguments are programs that are needed besides, PROGRAM=PACKAGE where the package
# has another name.
set -eu
PATH=$PATH:/usr/sbin # where Debian has servers

# The tests of the console need Node.js 20.
node_major() { node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/'; }

missing=
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
command -v openssl >/dev/null || missing="$missing openssl"
command -v curl >/dev/null || missing="$missing curl"
command -v chromium >/dev/null || missing="$missing chromium"
command -v nginx >/dev/null || missing="$missing nginx"
command -v haproxy >/dev/null || missing="$missing haproxy"
command -v socat >/dev/null || missing="$missing socat"
command -v apache2 >/dev/null || missing="$missing apache2"
command -v h2o >/dev/null || missing="$missing h2o"
command -v lighttpd >/dev/null || missing="$missing lighttpd lighttpd-mod-openssl"
command -v nghttpx >/dev/null || missing="$missing nghttp2-proxy"
command -v dnsdist >/dev/null || missing="$missing dnsdist"
command -v groff >/dev/null || missing="$missing groff"
command -v zsh >/dev/null || missing="$missing zsh"
command -v fish >/dev/null || missing="$missing fish"
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v prometheus >/dev/null || missing="$missing prometheus"
command -v buildah >/dev/null || missing="$missing buildah"
command -v runc >/dev/null || missing="$missing runc"
command -v gcore >/dev/null || missing="$missing gdb"
command -v traffic_manager >/dev/null || missing="$missing trafficserver"
/usr/bin/python3 -c 'import prometheus_client' 2>/dev/null || missing="$missing python3-prometheus-client"
[ "$(node_major || true)" -ge 20 ] 2>/dev/null || missing="$missing nodejs"

for program; do
	command -v "${program%%=*}" >/dev/null || missing="$missing ${program#*=}"
done

[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "what needs these Debian packages, or the like, is skipped: $missing" >&2
	[ "${CI:-}" != true ] || exit 1
	exit 0
fi

# Debian starts a server as it installs it, unless this file says no.
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
# shellcheck disable=SC2086 # a list of packages
apt-get -q install -y --no-install-recommends $missing
