#!/bin/sh
# Writes the file of Envoy's secret discovery service (SDS) with ticket keys in it:
#
#     ticket-keys.sh FILE KEY...
#
# FILE is the path of the sds_config; each KEY is a key file of --format envoy. The keys
# themselves are in FILE: when it only names their files, Envoy finds it unchanged after a
# rotation and keeps the old keys.
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
mv "$file.new" "$file" # Envoy looks when a file is moved into place
