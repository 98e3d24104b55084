//go:build !linux

package main

// exposed is not known here.
func exposed() bool { return false }
