#!/bin/sh
# After the files are unpacked. Neither unit is enabled or started before the operator
# says so; those that run are restarted, with the new binary.
set -e
if ! [ -e /etc/sessapi/seal.key ]; then
	sessapi seal-key new --out /etc/sessapi/seal.key
	chown sessapi:sessapi /etc/sessapi/seal.key
	chmod 0400 /etc/sessapi/seal.key
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# Files are unpacked whether or not a unit starts again; systemctl and the log say why.
	systemctl try-restart sessapi.service sessapi-agent.service || true
fi
