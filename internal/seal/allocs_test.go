//go:build !race

// Under the race detector a pool drops some of what it is given.

package seal_test

import "testing"

func TestNoAllocations(t *testing.T) {
	k := newKeys(t)
	plain, sealed, opened := make([]byte, 160), make([]byte, 0, 300), make([]byte, 0, 300)
	if n := testing.AllocsPerRun(1000, func() {
		s := k.Seal(sealed, plain, binding)
		if _, err := k.Open(opened, s, binding); err != nil {
			t.Error(err)
		}
	}); n >= 1 {
		t.Errorf("%v allocations", n)
	}
}
