#!/bin/sh
# Gives a running HAProxy the keys of its tls-ticket-keys file, without a reload:
#
#     set-tls-keys.sh FILE SOCKET
#
# FILE is named as the bind line names it; SOCKET is a stats socket of level admin.
#
# HAProxy holds three keys, and `set ssl tls-key` drops the first and appends one. Only
# the last three lines of the file, in order, replace all of them: after changes that
# were missed, and when a key was revoked. Nothing is sent when HAProxy holds them.
set -eu
file=$1
socket=$2

ask() { # the keys in $1 go to standard input, where no list of processes shows them
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
