package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestFollow(t *testing.T) {
	broken := errors.New("broken")
	f, err := Follow(slog.New(slog.DiscardHandler), "test", func() (bool, error) { return false, broken })
	if f != nil || !errors.Is(err, broken) {
		t.Errorf("%v %v", f, err)
	}
}

// Whatever happens to files, they are taken within a second, and a failure is
// tried again until it ends.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var takes atomic.Int64
		f, err := Follow(slog.New(slog.DiscardHandler), "test", func() (bool, error) {
			if n := takes.Add(1); n > 2 && n < 6 {
				return false, errors.New("broken")
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { f.Watch(ctx); close(ended) }()
		synctest.Wait()
		if got := takes.Load(); got != 2 {
			t.Errorf("taken %d times at the start", got)
		}
		for n := int64(3); n < 10; n++ {
			time.Sleep(time.Second)
			synctest.Wait()
			if got := takes.Load(); got != n {
				t.Errorf("taken %d times, want %d", got, n)
			}
			if got := f.Status(); (got.LastError != "") != (n < 6) || got.Failures != 1 || got.FailedAt.IsZero() != (n >= 6) {
				t.Errorf("status %+v after %d", got, n)
			}
		}
		cancel()
		<-ended
	})
}

// A failure that goes on is counted and logged once, and again for who asks.
func TestReload(t *testing.T) {
	var log strings.Builder
	var changed bool
	var failure error
	f, err := Follow(slog.New(slog.NewTextHandler(&log, nil)), "test file", func() (bool, error) { return changed, failure })
	if err != nil {
		t.Fatal(err)
	}
	one, two, later := errors.New("one"), errors.New("two"), fmt.Errorf("%w: later", ErrPostponed)
	for i, step := range []struct {
		do      func()
		changed bool
		failure error
		logged  string
		counted uint64
	}{
		{f.Check, true, nil, "", 0},
		{f.Check, false, nil, "", 0},
		{f.Reload, true, nil, "", 0},
		{f.Reload, false, nil, `msg=unchanged name="test file"`, 0},
		{f.Check, false, one, "error=one", 1},
		{f.Check, false, one, "", 1},
		{f.Check, false, two, "error=two", 2},
		{f.Reload, false, two, "error=two", 3},
		{f.Check, false, two, "", 3},
		{f.Check, false, nil, `msg="reload works again" name="test file"`, 3},
		{f.Check, false, nil, "", 3},
		{f.Check, false, two, "error=two", 4},
		{f.Check, false, later, `level=WARN msg="reload postponed`, 4},
		{f.Check, false, later, "", 4},
		{f.Reload, false, later, `level=WARN msg="reload postponed`, 4},
		{f.Check, true, nil, `msg="reload works again" name="test file"`, 4},
	} {
		log.Reset()
		changed, failure = step.changed, step.failure
		step.do()
		if got := log.String(); !strings.Contains(got, step.logged) || step.logged == "" && got != "" {
			t.Errorf("step %d logged %q", i, got)
		}
		if got, want := f.Status(), fmt.Sprint(step.failure); got.Failures != step.counted || got.LastError != want && step.failure != nil {
			t.Errorf("step %d: %+v", i, got)
		}
	}
}
