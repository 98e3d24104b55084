module github.com/sessapi/sessapi/bench

go 1.26.0

require (
	github.com/Yiling-J/theine-go v0.6.3
	github.com/coocood/freecache v1.2.7
	github.com/hashicorp/golang-lru/v2 v2.0.7
	github.com/maypok86/otter/v2 v2.4.0
	github.com/sessapi/sessapi v0.0.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/klauspost/cpuid/v2 v2.0.9 // indirect
	github.com/zeebo/xxh3 v1.0.2 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/sessapi/sessapi => ../
