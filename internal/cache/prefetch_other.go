//go:build !amd64 && !arm64

package cache

import "unsafe"

func prefetchLine(unsafe.Pointer) {}

func prefetchRecord(unsafe.Pointer) {}
