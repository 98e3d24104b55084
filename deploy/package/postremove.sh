#!/bin/sh
# After the files are removed. RPM knows no purge: configuration, state and user stay.
set -e
if [ "$1" = purge ]; then
	rm -rf /etc/sessapi /var/lib/sessapi /var/log/sessapi
	! getent passwd sessapi >/dev/null || userdel sessapi
	! getent group sessapi >/dev/null || groupdel sessapi
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload
