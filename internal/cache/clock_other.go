//go:build !linux || !amd64

package cache

import "time"

// wallClock is the wall time in milliseconds.
func wallClock() int64 { return milliseconds(time.Now()) }
