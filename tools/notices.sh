#!/bin/sh
# Writes the licences of all that is in the binary to standard output: of Go and of
# the modules that are linked, as they are in the module cache, and of the script of
# the reference page.
# Usage: tools/notices.sh >THIRD_PARTY_NOTICES
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C GOOS=linux GOARCH=amd64 CGO_ENABLED=0

line=$(printf '%080d' 0 | tr 0 -)

# part NAME FILE... is the part of one component.
part() {
	printf '\n%s\n%s\n%s\n' "$line" "$1" "$line"
	shift
	for file; do
		printf '\n'
		cat "$file"
	done
}

echo "The sessapi binary contains the following third-party software. Generated; run make generate."
part "The Go standard library and runtime (https://go.dev)" "$(go env GOROOT)/LICENSE"
modules=$(go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/sessapi)
echo "$modules" | sort -u | sed '/^$/d' |
	while read -r path version dir; do
		set --
		for file in "$dir"/LICEN[CS]E* "$dir"/COPYING* "$dir"/NOTICE*; do
			[ ! -f "$file" ] || set -- "$@" "$file"
		done
		if [ $# -eq 0 ]; then
			echo "$path $version has no licence" >&2
			exit 1
		fi
		part "$path $version" "$@"
	done
docs=internal/handlers/docs
part "Redoc $(sed -n 's/.*"redoc": "\(.*\)".*/\1/p' tools/redoc/package.json) (https://github.com/Redocly/redoc)" \
	"$docs/redoc.LICENSE.txt" "$docs/redoc.standalone.js.LICENSE.txt"
