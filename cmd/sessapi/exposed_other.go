//go:build !linux

package main

// exposed is unknown on this system.
func exposed() bool { return false }
