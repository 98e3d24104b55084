//go:build !race

package metrics

import (
	"net/http"
	"testing"
	"time"
)

// TestRequestAllocations: to count a request allocates nothing.
func TestRequestAllocations(t *testing.T) {
	m := New("test")
	got := testing.AllocsPerRun(100, func() {
		m.Request("/sessions/{id}", http.MethodGet, http.StatusNotFound, time.Millisecond)
		m.Problem("session_not_found")
	})
	if got > 0 {
		t.Errorf("%v allocations", got)
	}
}
