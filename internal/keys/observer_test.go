package keys

import (
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"time"
)

// The observer is told of what Stats counts, with the active set as it is then.
func TestObserver(t *testing.T) {
	r := NewRing(time.Now, Lifecycle{RotateEvery: time.Hour})
	var told []string
	r.Observe(Observer{
		Updated: func(d Description) {
			told = append(told, string(d.Source))
			if d.Generation == 0 || len(d.Keys) == 0 || d.Source == SourceRotation && d.NextRotationAt.IsZero() {
				t.Errorf("%+v", d)
			}
		},
		Rejected: func(rejection Rejection) {
			told = append(told, string(rejection.Source)+" "+rejection.Reason())
		},
	})
	must := func(_ Description, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fails := func(_ Description, err error) {
		t.Helper()
		if err == nil {
			t.Fatal("no error")
		}
	}
	must(r.Rotate(t.Context(), Update{}))
	fails(r.Load(t.Context(), ATS, make([]byte, 47), Update{Source: SourceFile}))
	fails(r.Rotate(t.Context(), Update{If: func(uint64) bool { return false }}))
	set := make([]byte, 48)
	_, _ = rand.Read(set)
	must(r.Load(t.Context(), ATS, set, Update{Source: SourceAPI}))
	must(r.Load(t.Context(), ATS, set, Update{Source: SourceAPI})) // nothing changes
	set[47]++
	fails(r.Load(t.Context(), ATS, set, Update{Source: SourceAPI}))
	must(r.Revoke(t.Context(), r.Description().Keys[0].Name, Update{}))
	fails(r.Load(t.Context(), ATS, set, Update{Source: SourceAPI, Record: func(Description, Description, error) error { return errors.New("no") }}))
	if want := []string{"rotation", "file length", "rotation precondition", "api", "api conflicting_secrets", "api"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if at := r.Stats().NextRotationAt; !at.IsZero() {
		t.Errorf("a pushed set rotates at %v", at)
	}
}
