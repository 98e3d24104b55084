package main

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A figure of a cache that does not give back what was put would be worthless.
func TestStores(t *testing.T) {
	const n = 10_000
	for _, name := range goCaches {
		t.Run(name, func(t *testing.T) {
			s, err := open(name, n)
			if err != nil {
				t.Fatal(err)
			}
			data := newData()
			dst := make([]byte, 0, sessionSize)
			var id sessionID
			for i := range uint64(n) {
				id.set(i)
				data[0] = byte(i)
				if err := s.put(&id, data); err != nil {
					t.Fatal(err)
				}
				got, ok := s.get(&id, dst)
				if !ok || !bytes.Equal(got, data) {
					t.Fatalf("session %d: got %x, %t", i, got, ok)
				}
			}
			if _, err := fill(s, n, 2*n); err != nil {
				t.Fatal(err)
			}
			if held := s.len(); held < n*9/10 || held > n*11/10 {
				t.Errorf("holds %d sessions, want about %d", held, n)
			}
			id.set(1 << 40)
			if _, ok := s.get(&id, dst); ok {
				t.Error("has a session that was never put")
			}
		})
	}
}

func TestSessionIDsDiffer(t *testing.T) {
	seen := make(map[sessionID]bool)
	for i := range uint64(100_000) {
		var id sessionID
		if id.set(i); seen[id] {
			t.Fatalf("ID %d came before", i)
		}
		seen[id] = true
	}
}

func TestHistogram(t *testing.T) {
	for bucket := range len(histogram{}.buckets) {
		bound := uint64(upperBound(bucket))
		if got := bucketOf(bound); got != bucket {
			t.Fatalf("the upper bound of bucket %d is in %d", bucket, got)
		}
		if next := bucket + 1; next < len(histogram{}.buckets) && bucketOf(bound+1) != next {
			t.Fatalf("what follows bucket %d is in %d", bucket, bucketOf(bound+1))
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var h histogram
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(random.ExpFloat64() * 1e6)
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.99, 0.9999, 1} {
		exact := all[max(0, int(q*float64(len(all)))-1)]
		if got := h.quantile(q); got < exact || got > exact+exact/subBuckets {
			t.Errorf("quantile %v is %v, want %v or at most a part in %d more", q, got, exact, subBuckets)
		}
	}
}
