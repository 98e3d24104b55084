#!/bin/sh
# Builds a release: for each platform an archive and an SBOM, for Linux also .deb and .rpm,
# and the checksums of all. The version is the one that Go stamps from git. The same commit
# gives the same bytes.
# Usage: tools/dist.sh DIRECTORY PLATFORM..., as in tools/dist.sh dist linux/amd64
set -eu
umask 022
mkdir -p "$1"
dist=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH LC_ALL=C CGO_ENABLED=0 GOFLAGS=-trimpath

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The tools run in other directories, so it is their files that are needed.
nfpm=$(go tool -modfile="$PWD/tools/nfpm/go.mod" -n nfpm)
cyclonedx=$(go tool -modfile="$PWD/tools/cyclonedx-gomod/go.mod" -n cyclonedx-gomod)

go test -count=1 -run '^TestManPages$' ./cmd/sessapi -manual "$work"
gzip -9n "$work"/man/*

for platform; do
	export GOOS="${platform%/*}" GOARCH="${platform#*/}"
	binary=sessapi
	[ "$GOOS" != windows ] || binary=sessapi.exe
	go build -buildvcs=true -ldflags='-s -w' -o "$work/$binary" ./cmd/sessapi
	VERSION=$(go version -m "$work/$binary" | awk '$1 == "mod" { print substr($3, 2) }')
	export VERSION ARCH="$GOARCH"
	unset GOOS GOARCH

	name=sessapi_${VERSION}_$(echo "$platform" | tr / _)
	tree=$work/$name
	install -d "$tree"
	install -m 755 "$work/$binary" "$tree"
	install -m 644 LICENSE THIRD_PARTY_NOTICES README.md CHANGELOG.md "$tree"
	case $platform in windows/*) ;; *)
		install -d "$tree/man" "$tree/completions"
		install -m 644 "$work"/man/* "$tree/man"
		install -m 644 "$work"/completions/* "$tree/completions"
		;;
	esac
	case $platform in linux/*)
		install -d "$tree/systemd" "$tree/package"
		install -m 644 deploy/systemd/*.service "$tree/systemd"
		install -m 644 deploy/package/* "$tree/package"
		for packager in deb rpm; do
			(cd "$tree" && "$nfpm" package --config package/nfpm.yaml --packager $packager --target "$dist" >/dev/null)
		done
		find "$tree/package" -type f ! -name '*.yaml' -delete
		rm "$tree/package/nfpm.yaml"
		mv "$tree/package" "$tree/etc"
		;;
	esac
	tar --create --directory "$work" --sort=name --format=ustar --owner=0 --group=0 --numeric-owner \
		--mtime="@$SOURCE_DATE_EPOCH" "$name" | gzip -9n >"$dist/$name.tar.gz"
	"$cyclonedx" bin -json -noserial -notimestamp -std -version "v$VERSION" \
		-output "$dist/$name.cdx.json" "$tree/$binary"
done

cd "$dist"
sha256sum -- * >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" .
