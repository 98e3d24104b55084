#!/bin/sh
# Gives a running HAProxy the keys of its tls-ticket-keys file, without a reload:
#
#     set-tls-keys.sh FILE SOCKET
#
# FILE is the path in the bind line. SOCKET is a stats socket of level admin.
#
# HAProxy holds three keys. `set ssl tls-key` drops the first one and appends a new one.
# The script sends the last three lines of the file in order, and so replaces all three
# keys: no revoked key stays. If HAProxy already holds them, the script sends nothing.
set -eu
file=$1
socket=$2

ask() { # sends $1 on standard input: arguments would show the keys to other processes
	printf '%s\n' "$1" | socat -t 5 - "UNIX-CONNECT:$socket"
}

held() { ask "show tls-keys $file" | sed -n 's/^[0-9]*\.[0-2] //p'; }

want=$(tail -n 3 "$file")
if [ "$(held)" = "$want" ]; then
	exit 0
fi
ask "$(printf '%s\n' "$want" | sed "s|^|set ssl tls-key $file |" | paste -s -d ';' -)" >/dev/null
if [ "$(held)" != "$want" ]; then
	echo "HAProxy does not hold the keys of $file; keys of another size need a reload" >&2
	exit 1
fi
