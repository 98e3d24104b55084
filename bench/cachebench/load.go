package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
)

// sessionSize is what OpenSSL stores for a session without client certificate.
const sessionSize = 160

// The operations per goroutine of a timed loop, and before it to warm up.
const (
	gets     = 1 << 20
	puts     = 512 << 10
	warmGets = 256 << 10
)

// figures are the results of one process by the key of their column.
type figures map[string]float64

// set makes id the i-th of a sequence of random IDs that do not repeat. It
// costs a few nanoseconds, and far less memory traffic than a table of IDs.
func (id *sessionID) set(i uint64) {
	for lane := range uint64(4) {
		// The output function of splitmix64, on four streams.
		z := (i<<2 | lane) * 0x9e3779b97f4a7c15
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(id[8*lane:], z^z>>31)
	}
}

// newData returns the bytes of a session: not zero, as memory is by itself.
func newData() []byte { return bytes.Repeat([]byte{0x5a}, sessionSize) }

// inParallel runs f in the given number of goroutines, tells each which one it
// is, and returns how long all of them took.
func inParallel(goroutines int, f func(worker int) error) (time.Duration, error) {
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	start := time.Now()
	for worker := range goroutines {
		wg.Go(func() { errs[worker] = f(worker) })
	}
	wg.Wait()
	took := time.Since(start)
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return took, nil
}

// fill stores the sessions first to first+n-1 with two goroutines.
func fill(s store, first uint64, n int) (time.Duration, error) {
	return inParallel(2, func(worker int) error {
		data := newData()
		var id sessionID
		for i := first + uint64(worker); i < first+uint64(n); i += 2 {
			id.set(i)
			if err := s.put(&id, data); err != nil {
				return err
			}
		}
		return nil
	})
}

// openFilled returns the named cache with n sessions in it.
func openFilled(name string, n int) (store, error) {
	s, err := open(name, n)
	if err != nil {
		return nil, err
	}
	if _, err := fill(s, 0, n); err != nil {
		return nil, err
	}
	if held := s.len(); held < n*98/100 {
		return nil, fmt.Errorf("holds %d of %d sessions", held, n)
	}
	return s, nil
}

// counted runs f and returns, with its duration, the allocations of the process
// meanwhile.
func counted(f func() (time.Duration, error)) (took time.Duration, mallocs uint64, err error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	took, err = f()
	runtime.ReadMemStats(&after)
	return took, after.Mallocs - before.Mallocs, err
}

// perOperation returns time and allocations per operation, and the rate: by the
// wall time and the operations of all goroutines.
func perOperation(took time.Duration, mallocs uint64, operations int) figures {
	return figures{
		"ns":     float64(took) / float64(operations),
		"allocs": float64(mallocs) / float64(operations),
		"rate":   float64(operations) / float64(took.Microseconds()), // millions a second
	}
}

// runGet reads every session in random order, over and over, with two
// goroutines.
func runGet(_ context.Context, name string, n int) (figures, error) {
	return get(name, n, 2)
}

// runScaling is runGet of sessapi with as many goroutines as the row says.
func runScaling(_ context.Context, row string, n int) (figures, error) {
	if row == oneGoroutine {
		return get(sessapi, n, 1)
	}
	return get(sessapi, n, 2)
}

// get is runGet with any number of goroutines, and threads that run them.
func get(name string, n, goroutines int) (figures, error) {
	runtime.GOMAXPROCS(goroutines)
	s, err := openFilled(name, n)
	if err != nil {
		return nil, err
	}
	order := make([]uint32, n)
	for i := range order {
		order[i] = uint32(i)
	}
	rand.Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })

	var found atomic.Int64
	read := func(operations int) (time.Duration, error) {
		return inParallel(goroutines, func(worker int) error {
			dst := make([]byte, 0, sessionSize)
			hits := 0
			var id sessionID
			next := worker * (n / goroutines)
			for range operations {
				id.set(uint64(order[next]))
				if data, ok := s.get(&id, dst); ok && len(data) == sessionSize {
					hits++
				}
				if next++; next == n {
					next = 0
				}
			}
			found.Add(int64(hits))
			return nil
		})
	}
	if _, err := read(warmGets); err != nil {
		return nil, err
	}
	found.Store(0)
	took, mallocs, err := counted(func() (time.Duration, error) { return read(gets) })
	if err != nil {
		return nil, err
	}
	operations := gets * goroutines
	if hits := int(found.Load()); hits < operations*98/100 {
		return nil, fmt.Errorf("found %d of %d sessions", hits, operations)
	}
	return perOperation(took, mallocs, operations), nil
}

// runPut stores new sessions in a full cache with two goroutines.
func runPut(_ context.Context, name string, n int) (figures, error) {
	runtime.GOMAXPROCS(2)
	s, err := open(name, n)
	if err != nil {
		return nil, err
	}
	// A quarter more than fits, so that the last part of it is full too.
	full := n + n/4
	if _, err := fill(s, 0, full); err != nil {
		return nil, err
	}
	const operations = 2 * puts
	took, mallocs, err := counted(func() (time.Duration, error) {
		return fill(s, uint64(full), operations)
	})
	if err != nil {
		return nil, err
	}
	if held := s.len(); held > n*110/100 {
		return nil, fmt.Errorf("holds %d sessions and was to evict at %d", held, n)
	}
	return perOperation(took, mallocs, operations), nil
}

// runMemory returns what a session takes of the resident memory.
func runMemory(ctx context.Context, name string, n int) (figures, error) {
	if _, ok := serverBinary(name); ok {
		return serverMemory(ctx, name, n)
	}
	debug.FreeOSMemory()
	before, err := resident(os.Getpid())
	if err != nil {
		return nil, err
	}
	s, err := openFilled(name, n)
	if err != nil {
		return nil, err
	}
	held := s.len()
	// A collection, and what it freed back to the system: garbage is not counted.
	debug.FreeOSMemory()
	after, err := resident(os.Getpid())
	if err != nil {
		return nil, err
	}
	runtime.KeepAlive(s)
	return figures{"bytes": float64(after-before) / float64(held)}, nil
}

// resident returns the resident memory of a process in bytes. Of the files that
// tell it only smaps_rollup is exact (proc(5)).
func resident(pid int) (int64, error) {
	file := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if kib, ok := strings.CutPrefix(lines.Text(), "Rss:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(kib, "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no Rss", file)
}

// runGC returns how long a forced garbage collection takes.
func runGC(_ context.Context, name string, n int) (figures, error) {
	runtime.GOMAXPROCS(2)
	s, err := openFilled(name, n)
	if err != nil {
		return nil, err
	}
	runtime.GC() // takes the garbage of the filling
	took := make([]float64, 5)
	for i := range took {
		start := time.Now()
		runtime.GC()
		took[i] = float64(time.Since(start)) / float64(time.Millisecond)
	}
	runtime.KeepAlive(s)
	slices.Sort(took)
	return figures{"ms": took[len(took)/2]}, nil
}

// The stall measure: for stallTime one goroutine reads and one stores new
// sessions in a full cache. A twentieth of the sessions that are there at the
// start end in that time, evenly spread, and a quarter of the new ones 1 to 4
// seconds after they were stored.
const (
	stallTime  = 10 * time.Second
	emptyCache = "nothing: the machine alone"
)

// runStall returns how long single Gets take, as quantiles and the longest, in
// microseconds. With emptyCache there is no cache: what is left is what the
// machine and the clock add.
func runStall(_ context.Context, row string, n int) (figures, error) {
	runtime.GOMAXPROCS(2)
	if row == emptyCache {
		h, err := stall(func(*sessionID) {}, func(*sessionID, time.Time) error { return nil }, n)
		return h.figures(), err
	}
	c, err := openSessapi(memoryFor(n))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	dst, data := make([]byte, 0, sessionSize), newData()
	read := func(id *sessionID) { sessapiStore{c: c}.get(id, dst) }
	write := func(id *sessionID, end time.Time) error {
		err := sessapiStore{c, end}.put(id, data)
		if errors.Is(err, cache.ErrExpired) {
			return nil // on a busy machine a writer may stand still past the end
		}
		return err
	}

	start := time.Now()
	lasting := n - n/20
	var id sessionID
	for i := range lasting {
		id.set(uint64(i))
		if err := write(&id, start.Add(ttl)); err != nil {
			return nil, err
		}
	}
	// The others take a nineteenth of that time, or more on a busy machine. They
	// are not to end before the cache is full.
	full := time.Now().Add(time.Since(start)/10 + time.Second)
	for i := lasting; i < n; i++ {
		if time.Until(full) < time.Second {
			full = full.Add(time.Second)
		}
		id.set(uint64(i))
		if err := write(&id, full.Add(rand.N(stallTime))); err != nil {
			return nil, err
		}
	}
	runtime.GC()
	time.Sleep(time.Until(full))

	before := c.Stats()
	h, err := stall(read, write, n)
	after := c.Stats()
	f := h.figures()
	perSecond := func(after, before uint64) float64 { return float64(after-before) / stallTime.Seconds() }
	f["gets"] = float64(h.count) / stallTime.Seconds()
	f["hits"] = 100 * float64(after.Hits-before.Hits) / float64(h.count)
	f["puts"] = perSecond(after.Stored, before.Stored)
	f["evicted"] = perSecond(after.Evicted.Memory, before.Evicted.Memory)
	f["expired"] = perSecond(after.Expired, before.Expired)
	return f, err
}

// runSweep has all sessions end at once and waits until none is left.
func runSweep(_ context.Context, _ string, n int) (figures, error) {
	runtime.GOMAXPROCS(2)
	c, err := openSessapi(memoryFor(n))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	// About three times as long as the filling takes on an idle machine.
	end := time.Now().Add(time.Second + time.Duration(n)*2*time.Microsecond)
	s := sessapiStore{c, end}
	if _, err := fill(s, 0, n); err != nil {
		return nil, err
	}
	runtime.GC()
	time.Sleep(time.Until(end))

	h := new(histogram)
	dst := make([]byte, 0, sessionSize)
	var id sessionID
	const givenUp = time.Minute
	for reads := 0; ; reads++ {
		if reads%1024 == 0 { // Stats locks all shards
			if c.Stats().Entries == 0 {
				break
			}
			if time.Since(end) > givenUp {
				return nil, errors.New("the sessions are not swept")
			}
		}
		id.set(rand.Uint64N(uint64(n)))
		start := time.Now()
		s.get(&id, dst)
		h.add(time.Since(start))
	}
	f := h.figures()
	f["wiped"] = time.Since(end).Seconds()
	return f, nil
}

// stall counts how long each call of read takes in stallTime, while write is
// called too. Both go by the sequence of IDs: write from n on, and read one of
// the latest n.
func stall(read func(*sessionID), write func(*sessionID, time.Time) error, n int) (*histogram, error) {
	h := new(histogram)
	var next atomic.Uint64 // to be written
	next.Store(uint64(n))
	deadline := time.Now().Add(stallTime)
	_, err := inParallel(2, func(worker int) error {
		var id sessionID
		now := time.Now()
		if worker == 0 {
			for now.Before(deadline) {
				id.set(next.Load() - 1 - rand.Uint64N(uint64(n)))
				start := time.Now()
				read(&id)
				now = time.Now()
				h.add(now.Sub(start))
			}
			return nil
		}
		for ; now.Before(deadline); now = time.Now() {
			i := next.Load()
			id.set(i)
			end := now.Add(ttl)
			if i%4 == 0 {
				end = now.Add(time.Second + rand.N(3*time.Second))
			}
			if err := write(&id, end); err != nil {
				return err
			}
			next.Store(i + 1)
		}
		return nil
	})
	return h, err
}
