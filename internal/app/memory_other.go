//go:build !linux

package app

// memoryLimit is unknown on this system.
func memoryLimit(string) (most uint64, of string) { return 0, "" }
