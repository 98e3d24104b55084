#!/bin/sh
# Builds the packages of this machine's architecture and installs the .deb in a new Debian:
# files, modes, user, units; the service starts with the configuration that is shipped;
# an upgrade keeps configuration and state; purge leaves nothing. The .rpm must have the
# same files. Debian comes from the mirror of this machine.
set -eu
cd "$(dirname "$0")/.."

for program in debootstrap rpm systemd-analyze; do
	command -v $program >/dev/null && [ "$(id -u)" -eq 0 ] && continue
	echo "the packages are not tested: this needs root and $program" >&2
	[ "${CI:-}" != true ] || exit 1
	exit 0
done

fail() {
	echo "test-packages: $*" >&2
	exit 1
}

work=$(mktemp -d)
root=$work/root
service=
cleanup() {
	[ -z "$service" ] || { kill "$service" && wait "$service"; } 2>/dev/null || true # else it writes while rm removes
	umount "$root/proc" 2>/dev/null || true
	rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

arch=$(dpkg --print-architecture)
tools/dist.sh "$work/dist" "linux/$arch"

codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' 'Component: main' |
	awk -v codename="$codename" '$1 == codename { print $2; exit }')
[ -n "$mirror" ] || fail "apt has no source for $codename"
timeout 900 debootstrap --variant=minbase --include=systemd,procps "$codename" "$root" "$mirror" >"$work/debootstrap.log" ||
	fail "debootstrap: $(tail -n 3 "$work/debootstrap.log")"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"

inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"; }

# everything lists what is in the root beside what dpkg and the tools for users write of
# each change.
everything() {
	inside find / -xdev ! -path '/proc/*' ! -path '/run/*' ! -path '/var/log/*' ! -path '/var/lib/dpkg/*-old' ! -path '/etc/*-' \
		! -name .pwd.lock ! -name '.updated' | sort
	cat "$root/etc/passwd" "$root/etc/group"
}
everything >"$work/before"

# The files, beside the man pages.
want='750 root:sessapi /etc/sessapi
600 root:root /etc/sessapi/agent.yaml
640 root:sessapi /etc/sessapi/sessapi.yaml
755 root:root /usr/bin/sessapi
644 root:root /usr/lib/systemd/system/sessapi-agent.service
644 root:root /usr/lib/systemd/system/sessapi.service
644 root:root /usr/share/bash-completion/completions/sessapi
644 root:root /usr/share/doc/sessapi/CHANGELOG.md
644 root:root /usr/share/doc/sessapi/README.md
644 root:root /usr/share/doc/sessapi/THIRD_PARTY_NOTICES
644 root:root /usr/share/doc/sessapi/copyright
644 root:root /usr/share/fish/vendor_completions.d/sessapi.fish
644 root:root /usr/share/zsh/vendor-completions/_sessapi
700 sessapi:sessapi /var/lib/sessapi'
# same TITLE compares its input with this list.
same() {
	grep -v ' /usr/share/man/man1/sessapi' | sort -k 3 >"$work/files"
	echo "$want" | diff - "$work/files" || fail "$1: other files"
}

deb=$(echo "$work"/dist/*.deb)
cp "$deb" "$root/old.deb"
inside dpkg --install /old.deb
inside rm /old.deb

echo "# the files"
# Of the folders, only those of the package.
inside dpkg --listfiles sessapi | while read -r path; do
	case $path in */sessapi*) ;; *) [ ! -d "$root/$path" ] || continue ;; esac
	case $path in */share/doc/sessapi) ;; *) inside stat --format '%a %U:%G %n' "$path" ;; esac
done | same .deb
rpm --query --package --queryformat '[%{FILEMODES:octal} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]' "$work"/dist/*.rpm |
	sed 's/^[0-9]*\(...\) /\1 /; s|zsh/site-functions|zsh/vendor-completions|' | same .rpm
for command in "" $(inside sessapi --help | sed -n 's/^  \([a-z][a-z -]*[a-z]\) .*\[flags\]$/\1/p; s/^  \([a-z-]*\) <.*/\1/p' |
	sed 's/ --.*//; s/ /-/g'); do
	page=/usr/share/man/man1/sessapi${command:+-$command}.1.gz
	[ "$(inside stat --format %a "$page")" = 644 ] || fail "$page"
done
[ "$(inside stat --format '%a %U' /etc/sessapi/seal.key)" = "400 sessapi" ] || fail "seal.key"
tar --list --verbose --file "$(echo "$work"/dist/*.tar.gz)" | grep -vE '^(drwxr-xr-x|-rw-r--r--) 0/0|^-rwxr-xr-x 0/0 .*/sessapi$' &&
	fail "modes in the archive"

echo "# the user"
case $(inside getent passwd sessapi) in
sessapi:*:/var/lib/sessapi:/usr/sbin/nologin) ;;
*) fail "passwd: $(inside getent passwd sessapi)" ;;
esac

echo "# the units"
for unit in sessapi.service sessapi-agent.service; do
	path=/usr/lib/systemd/system/$unit
	inside systemd-analyze verify --man=no "$path" >"$work/verify" 2>&1 || fail "$unit: $(cat "$work/verify")"
	! grep sessapi "$work/verify" || fail "$unit has warnings"
	[ "$(inside systemctl is-enabled $unit)" = disabled ] || fail "$unit is enabled"
done
# The agent is root, with the capabilities that it needs for servers of other users.
exposure() {
	inside systemd-analyze security --offline=true "--threshold=$2" "$1" >"$work/exposure" || fail "$(cat "$work/exposure")"
	tail -n 1 "$work/exposure"
}
exposure sessapi.service 20
exposure sessapi-agent.service 30

# start runs the service with the configuration of the package, but on a socket: another
# process may have its port.
listen=unix:/var/lib/sessapi/socket
as_service="setpriv --reuid=sessapi --regid=sessapi --clear-groups env SESSAPI_LISTEN=$listen"
settings=/etc/sessapi/sessapi.yaml
start() {
	# shellcheck disable=SC2086 # a command
	(exec chroot "$root" $as_service /usr/bin/sessapi serve --config $settings) >"$work/log" 2>&1 &
	service=$!
	tries=0
	until inside env SESSAPI_LISTEN=$listen sessapi healthcheck --config $settings >/dev/null 2>&1; do
		tries=$((tries + 1))
		kill -0 "$service" 2>/dev/null && [ $tries -lt 120 ] || fail "serve: $(cat "$work/log")"
		sleep 0.5
	done
}
stop() {
	kill "$service"
	wait "$service" || fail "serve: exit code $?: $(cat "$work/log")"
	service=
}
key_names() { inside sessapi keys list --server $listen; }

echo "# the service"
# shellcheck disable=SC2086 # a command
inside $as_service sessapi check-config --config $settings
start
! grep -i -e '"level":"warn"' -e '"level":"error"' "$work/log" || fail "the shipped configuration has warnings"
key_names >"$work/keys"
stop

echo "# an upgrade"
echo 'rotate-every: 6h' >>"$root/etc/sessapi/sessapi.yaml"
cp "$root/etc/sessapi/sessapi.yaml" "$root/etc/sessapi/seal.key" "$work"
cp "$deb" "$root/old.deb"
inside sh -ec 'dpkg-deb --raw-extract /old.deb /new && cd /new
	sed -i "s/^Version: .*/Version: 9999/" DEBIAN/control
	echo "# new" >>etc/sessapi/sessapi.yaml && echo "# new" >>etc/sessapi/agent.yaml
	dpkg-deb --build . /new.deb && rm -r /new'
inside dpkg --force-confold --install /new.deb
inside rm /old.deb /new.deb
cmp "$work/sessapi.yaml" "$root/etc/sessapi/sessapi.yaml"
cmp "$work/seal.key" "$root/etc/sessapi/seal.key"
grep -q '^# new' "$root/etc/sessapi/agent.yaml" || fail "a file that nobody changed is not upgraded"
inside dpkg --status sessapi | grep '^Version: 9999'
start
key_names | diff "$work/keys" - || fail "other keys after the upgrade"
stop

echo "# removal"
inside dpkg --remove sessapi
[ ! -e "$root/usr/bin/sessapi" ] || fail "the binary is still there"
cmp "$work/sessapi.yaml" "$root/etc/sessapi/sessapi.yaml"
[ -e "$root/var/lib/sessapi/state" ] || fail "the state is gone"
inside dpkg --purge sessapi
everything | diff "$work/before" - || fail "something is left"
echo "the packages are good"
