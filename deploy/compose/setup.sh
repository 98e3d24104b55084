#!/bin/sh
# Makes what the demonstration needs in a folder, unless it is there: a certificate for
# nginx, and a seal key as `sessapi seal-key new` makes it.
set -eu
cd "$1"
umask 077
[ -e tls.crt ] || {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=localhost \
		-addext subjectAltName=DNS:localhost,DNS:nginx-1,DNS:nginx-2 -keyout tls.key -out tls.crt
	chown 101 tls.key
	chmod 644 tls.crt
}
[ -e seal.key ] || {
	echo "sessapi-seal-key-v1:$(openssl rand -base64 32)" >seal.key
	chown 65532 seal.key
}
