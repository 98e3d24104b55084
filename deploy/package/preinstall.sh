#!/bin/sh
# Before the files are unpacked, some of which belong to this user.
set -e
systemd-sysusers --inline 'u sessapi - "sessapi service" /var/lib/sessapi'
