package keys

import (
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sessapi/sessapi/internal/logtest"
)

// consumers are the consumers of a ring that waits for them.
type consumers struct {
	mu      sync.Mutex
	behind  []string
	unknown bool
}

func (c *consumers) set(behind ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.behind, c.unknown = behind, false
}

func (c *consumers) ask(Description) ([]string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.behind, !c.unknown
}

// A due rotation waits for consumers, but no longer than the timeout.
func TestActivateAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Buffer
		c := &consumers{}
		r := NewRing(time.Now, twiceADay)
		const timeout = time.Hour
		r.ActivateAfter(c.ask, timeout, slog.New(slog.NewTextHandler(&log, nil)))
		go r.RotateWhenDue(t.Context(), slog.New(slog.DiscardHandler), nil)
		next := func() Name { return r.Description().Keys[1].Name }
		current := func() Name { return r.Description().Keys[0].Name }
		pass := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}

		first := next()
		pass(twiceADay.RotateEvery + time.Second)
		if current() != first || r.Activation().Waiting != nil {
			t.Fatal("a rotation waits for nobody")
		}

		first = next()
		c.set("edge/web", "edge/api")
		due := r.Description().NextRotationAt
		pass(time.Until(due) + timeout/2)
		if current() == first {
			t.Fatal("a key encrypts that consumers do not have")
		}
		if w := r.Activation().Waiting; w == nil || len(w.Behind) != 2 || !w.Until.Equal(due.Add(timeout)) {
			t.Errorf("%+v", w)
		}
		c.set()
		pass(2 * time.Second)
		if a := r.Activation(); current() != first || a.Waiting != nil || a.Timeouts != 0 {
			t.Fatalf("no rotation behind consumers that are not: %+v", a)
		}

		first = next()
		c.set("edge/web")
		pass(time.Until(r.Description().NextRotationAt) + timeout - time.Second)
		if current() == first {
			t.Fatal("it did not wait for as long as it may")
		}
		pass(2 * time.Second)
		if a := r.Activation(); current() != first || a.Waiting != nil || a.Timeouts != 1 {
			t.Fatalf("it waits for longer than it may: %+v", a)
		}
		if text := log.String(); strings.Count(text, "a rotation of the ticket keys waits") != 2 ||
			strings.Count(text, "without waiting any longer") != 1 || !strings.Contains(text, "edge/web") {
			t.Errorf("the log is %s", text)
		}
	})
}

// A manual rotation is rejected while it must wait. A revocation is made at once.
func TestActivateAfterByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &consumers{unknown: true}
		r := NewRing(time.Now, Lifecycle{})
		r.ActivateAfter(c.ask, time.Hour, slog.New(slog.DiscardHandler))
		before := r.Description()
		refused := func() *HeldError {
			t.Helper()
			_, err := r.Rotate(t.Context(), Update{})
			held, ok := errors.AsType[*HeldError](err)
			if !ok || !errors.Is(err, ErrHeld) || r.Generation() != before.Generation {
				t.Fatalf("%v, generation %d, was %d", err, r.Generation(), before.Generation)
			}
			return held
		}
		until := refused().Until
		c.set("edge/web")
		time.Sleep(time.Minute)
		if held := refused(); !held.Until.Equal(until) || len(held.Behind) != 1 {
			t.Errorf("%+v, at first %v", held, until)
		}
		c.set()
		d, err := r.Rotate(t.Context(), Update{})
		if err != nil || d.Keys[0].Name != before.Keys[1].Name {
			t.Fatal(err)
		}
		before = d

		c.set("edge/web")
		until = refused().Until
		if time.Until(until) != time.Hour {
			t.Errorf("another key has the time of the last one: %v", until)
		}
		time.Sleep(time.Hour)
		if d, err = r.Rotate(t.Context(), Update{}); err != nil || d.Keys[0].Name != before.Keys[1].Name || r.Activation().Timeouts != 1 {
			t.Errorf("%v %+v", err, r.Activation())
		}
		if d, err := r.Revoke(t.Context(), d.Keys[0].Name, Update{}); err != nil || d.Keys[0].Name != r.Description().Keys[0].Name {
			t.Error(err)
		}
		if _, err := r.Replace(t.Context(), Generate(256, 1), Update{}); err != nil {
			t.Error(err)
		}
		if _, err := r.Rotate(t.Context(), Update{}); err != nil { // adds a next
			t.Error(err)
		}
		if _, err := r.Rotate(t.Context(), Update{}); !errors.Is(err, ErrHeld) {
			t.Error(err)
		}
	})
}

func TestHeldErrorIsBounded(t *testing.T) {
	e := &HeldError{Behind: make([]string, 4096)}
	for i := range e.Behind {
		e.Behind[i] = strings.Repeat("x", 129)
	}
	if text := e.Error(); len(text) > 2000 || !strings.Contains(text, "4086 more") {
		t.Error(text)
	}
}

// A rotation after the timeout is counted and logged once, however often storing it is
// retried.
func TestActivateAfterTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Buffer
		c := &consumers{}
		c.set("edge/web")
		r := NewRing(time.Now, Lifecycle{})
		r.ActivateAfter(c.ask, time.Hour, slog.New(slog.NewTextHandler(&log, nil)))
		step := func(u Update, want error) {
			t.Helper()
			if _, err := r.Rotate(t.Context(), u); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		full := errors.New("the disk is full")
		failing := Update{Record: func(Description, Description, error) error { return full }}
		for range 2 {
			count := r.Activation().Timeouts
			step(failing, ErrHeld)
			time.Sleep(time.Hour)
			for range 3 {
				step(failing, full)
			}
			step(Update{}, nil)
			if got := r.Activation().Timeouts; got != count+1 {
				t.Errorf("%d timeouts, want %d", got, count+1)
			}
		}
		if n := strings.Count(log.String(), "without waiting any longer"); n != 2 {
			t.Errorf("%d lines: %s", n, &log)
		}
	})
}
