package main

import (
	"math"
	"math/rand/v2"
	"sort"
)

// load is a sequence of accesses to keys below keys.
type load struct {
	name      string
	accesses  []uint32
	keys      int // keys are below that
	footprint int // how many different keys are accessed
	ttl       int // accesses until an entry expires; 0 for never
	capacity  int // the only capacity to run it at; 0 for shares of the footprint
}

const (
	seed     = 1
	clients  = 500_000
	accesses = 3_000_000
)

// source makes the keys of a load, the i-th at a time.
type source func(i int) uint32

func newLoad(name string, ttl, capacity int, next source) load {
	l := load{name: name, ttl: ttl, capacity: capacity, accesses: make([]uint32, accesses)}
	for i := range l.accesses {
		l.accesses[i] = next(i)
		l.keys = max(l.keys, int(l.accesses[i])+1)
	}
	seen := make([]bool, l.keys)
	for _, key := range l.accesses {
		if !seen[key] {
			seen[key] = true
			l.footprint++
		}
	}
	return l
}

// zipf returns keys below clients, key k with a probability proportional to
// 1/(k+1)^s.
func zipf(s float64) source {
	rnd := rand.New(rand.NewPCG(seed, 0))
	sums := make([]float64, clients)
	sum := 0.0
	for k := range sums {
		sum += math.Pow(float64(k+1), -s)
		sums[k] = sum
	}
	return func(int) uint32 {
		return uint32(min(sort.SearchFloat64s(sums, rnd.Float64()*sum), clients-1))
	}
}

// mixed takes a key from a with the given probability, else from b.
func mixed(share float64, a, b source) source {
	rnd := rand.New(rand.NewPCG(seed, 1))
	return func(i int) uint32 {
		if rnd.Float64() < share {
			return a(i)
		}
		return b(i)
	}
}

// loop returns keys from..from+n-1 in turn, over and over.
func loop(from, n int) source {
	i := -1
	return func(int) uint32 {
		i++
		return uint32(from + i%n)
	}
}

// scans interrupts src every period accesses for a loop over n keys.
func scans(src source, period, n int) source {
	scan := loop(clients, n)
	return func(i int) uint32 {
		if i%(period+n) >= period {
			return scan(i)
		}
		return src(i)
	}
}

// shifting moves the keys of src, which are below clients, by a tenth of them
// every period accesses, so that others are the popular ones.
func shifting(src source, period int) source {
	return func(i int) uint32 {
		return (src(i) + uint32(i/period*(clients/10))) % clients
	}
}

// loads returns makers of all loads: they are big, and made when needed.
func loads() []func() load {
	tls := func(name string, s float64) func() load {
		return func() load {
			return newLoad(name, 500_000, 0, mixed(0.6, loop(clients, accesses), zipf(s)))
		}
	}
	loopOf := func(name string, n int) func() load {
		return func() load { return newLoad(name, 0, 50_000, loop(0, n)) }
	}
	return []func() load{
		tls("tls, zipf 0.9", 0.9),
		tls("tls, zipf 1.0", 1.0),
		func() load {
			return newLoad("scans, zipf 0.9", 0, 0, scans(zipf(0.9), 300_000, 200_000))
		},
		func() load {
			return newLoad("shifting, zipf 1.0", 0, 0, shifting(zipf(1.0), 250_000))
		},
		func() load { return newLoad("zipf 0.8", 0, 0, zipf(0.8)) },
		func() load { return newLoad("zipf 1.0", 0, 0, zipf(1.0)) },
		func() load {
			return newLoad("loop and zipf 0.9", 0, 0, mixed(0.5, loop(clients, 200_000), zipf(0.9)))
		},
		loopOf("loop of 1.2 × capacity", 60_000),
		loopOf("loop of 2 × capacity", 100_000),
		loopOf("loop of 5 × capacity", 250_000),
		loopOf("loop of 10 × capacity", 500_000),
	}
}
