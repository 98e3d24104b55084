#!/bin/sh
# Before the files are removed, but not on an upgrade. Debian names what it does, RPM
# counts the versions that stay.
set -e
case $1 in
remove | 0)
	[ ! -d /run/systemd/system ] || systemctl stop sessapi.service sessapi-agent.service
	[ ! -x /usr/bin/systemctl ] || systemctl --quiet disable sessapi.service sessapi-agent.service
	;;
esac
