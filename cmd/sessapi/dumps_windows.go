package main

// preventDumps does nothing: Windows writes core dumps only if configured to.
func preventDumps() error { return nil }
