package cache_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

// resident is the memory of the process that is in RAM, in bytes.
func resident(t *testing.T) (bytes int64) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "\nVmRSS:")
	if _, err := fmt.Sscanf(line, "%d kB", &bytes); err != nil {
		t.Fatal(err)
	}
	return bytes << 10
}

// TestResidentMemory stores ten times what fits. The process never takes more
// than the bound and what it needs besides; and nothing is left behind.
func TestResidentMemory(t *testing.T) {
	const memory = 32 << 20
	before := resident(t)
	c := newCache(t, cache.Config{Memory: memory, MaxSessionBytes: cache.MaxSize})
	c.Flush()
	c.Sweep()
	if grown := resident(t) - before; grown > 4<<20 {
		t.Errorf("an empty cache takes %d bytes", grown)
	}
	end := time.Now().Add(time.Hour)
	for i, size := range []int{160, 20, 4000, 160, cache.MaxSize} {
		data := filled(size, 1)
		for n := range uint64(2 * memory / (size + 100)) {
			mustPut(t, c, numbered(uint64(i)<<32|n), data, end)
		}
		if grown := resident(t) - before; grown > memory*105/100+48<<20 {
			t.Errorf("sessions of %d bytes: the process has grown by %d MiB, the bound is %d", size, grown>>20, memory>>20)
		}
	}
	c.Close()
	if left := resident(t) - before; left > memory/4 {
		t.Errorf("%d MiB are left after Close", left>>20)
	}
}
