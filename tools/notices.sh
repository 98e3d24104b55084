#!/bin/sh
# Writes the licences of all that is in the binaries to standard output: of Go, of the
# packages that are linked, as they are in the module cache, and of the scripts of the
# console and of the reference page.
# Usage: tools/notices.sh >THIRD_PARTY_NOTICES
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C CGO_ENABLED=0

line=$(printf '%080d' 0 | tr 0 -)

# part NAME is the heading of one component; its licences follow.
part() { printf '\n%s\n%s\n%s\n' "$line" "$1" "$line"; }

# licence FILE... is one after the other.
licence() {
	for file; do
		printf '\n'
		cat "$file"
	done
}

echo "The sessapi binaries contain the following third-party software. Generated; run make generate."
part "The Go standard library and runtime (https://go.dev)"
licence "$(go env GOROOT)/LICENSE"

packages=$(for platform in linux/amd64 linux/arm64 darwin/arm64; do
	GOOS=${platform%/*} GOARCH=${platform#*/} go list -deps -tags envoysds,otlp \
		-f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}} {{$.Dir}}{{end}}{{end}}' ./cmd/sessapi
done)
# A directory between a package and the root of its module may have a licence of its own.
licences=$(echo "$packages" | sort -u | sed '/^$/d' |
	while read -r path version root dir; do
		found=
		while :; do
			for file in "$dir"/LICEN[CS]E* "$dir"/COPYING* "$dir"/NOTICE*; do
				[ -f "$file" ] || continue
				found=1
				echo "$path${dir#"$root"} $version $file"
			done
			[ "$dir" != "$root" ] || break
			dir=${dir%/*}
		done
		if [ -z "$found" ]; then
			echo "$path $version has no licence" >&2
			exit 1
		fi
	done)
last=
echo "$licences" | sort -u |
	while read -r path version file; do
		[ "$path" = "$last" ] || part "$path $version"
		last=$path
		licence "$file"
	done

for package in preact uplot; do # the dependencies in web/package.json
	part "$package $(sed -n 's/.*"'$package'": "\(.*\)".*/\1/p' web/package.json) (https://www.npmjs.com/package/$package)"
	licence "web/node_modules/$package/LICENSE"
done

docs=internal/handlers/docs
part "Redoc $(sed -n 's/.*"redoc": "\(.*\)".*/\1/p' tools/redoc/package.json) (https://github.com/Redocly/redoc)"
licence "$docs/redoc.LICENSE.txt" "$docs/redoc.standalone.js.LICENSE.txt"
