#!/bin/sh
# Writes ticket keys into a file for Envoy's secret discovery service (SDS):
#
#     ticket-keys.sh FILE KEY...
#
# FILE is the path in sds_config. Each KEY is a key file of --format envoy. FILE holds the
# keys themselves: if it held only the names of the key files, it would not change at a
# rotation, and Envoy would keep the old keys.
set -eu
umask 077
file=$1
shift
{
	cat <<-END
	resources:
	  - "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
	    name: ticket-keys
	    session_ticket_keys:
	      keys:
	END
	for key; do
		printf '        - inline_bytes: '
		base64 -w 0 "$key"
		echo
	done
} >"$file.new"
mv "$file.new" "$file" # Envoy reloads a file that is moved into place
