package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk is a directory on a disk of 4 MiB, and what fills it and frees it again.
func smallDisk(t *testing.T) (dir string, fill, free func()) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mounting needs root: %v", err)
		}
		t.Skipf("mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(dir, "filler")
	fill = func() {
		t.Helper()
		file, err := os.OpenFile(filler, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for err == nil {
			_, err = file.Write(make([]byte, 4096))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	free = func() {
		t.Helper()
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	return dir, fill, free
}

var (
	revoke = Event{Operation: "DELETE /ticket-keys/{name}", Outcome: Applied, RequestID: "x", Detail: strings.Repeat("x", 1000)}
	policy = Event{Operation: "policy", Outcome: Applied, Detail: strings.Repeat("x", 1000)}
)

// A full disk keeps no key from being revoked, and no number of changes that are
// requested keeps a policy from being reloaded. What can be repeated at will has no
// part of the reserve.
func TestReserve(t *testing.T) {
	dir, fill, free := smallDisk(t)
	path := filepath.Join(dir, "audit.log")
	log, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	fill()
	for range 1000 { // more than fits in what the file's last page has left
		if err = log.Record(Event{Outcome: Denied, Detail: strings.Repeat("x", 1000)}); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("denials on a full disk: %v", err)
	}
	if err := log.Export(Event{RequestID: "x", After: &Keys{}}, "edge"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("an export on a full disk: %v", err)
	}
	for i := range 500 {
		if err := log.Record(revoke); err != nil {
			t.Fatalf("revoke %d: %v", i, err)
		}
	}
	for err = nil; err == nil; {
		err = log.Record(revoke)
	}
	for i := range 100 {
		if err := log.Record(policy); err != nil {
			t.Fatalf("policy %d after all changes that are allowed: %v", i, err)
		}
	}
	free()
	for _, e := range []Event{{Outcome: Denied}, revoke, policy} {
		if err := log.Record(e); err != nil {
			t.Errorf("%s once there is room: %v", e.Outcome, err)
		}
	}
	lines(t, path) // each is whole
	fill()
	if err := log.Record(revoke); err != nil {
		t.Errorf("a revoke when the disk is full again: %v", err)
	}
}

// The reserve goes from a log that is moved away or truncated to the one that is
// written to, and is given back in the end.
func TestReserveOfRotatedLog(t *testing.T) {
	dir, fill, _ := smallDisk(t)
	path := filepath.Join(dir, "audit.log")
	log, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	blocks := func(path string) int64 {
		t.Helper()
		var stat syscall.Stat_t
		if err := syscall.Stat(path, &stat); err != nil {
			t.Fatal(err)
		}
		return stat.Blocks * 512
	}
	record := func() {
		t.Helper()
		for _, e := range []Event{revoke, policy} {
			if err := log.Record(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	record()
	fill()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	record()
	const most = reserve * 3 / 4 // what is left beside the lines of the one that was moved
	if moved, current := blocks(path+".1"), blocks(path); moved > reserve/4 || current < most {
		t.Errorf("the log that was moved has %d bytes of the disk, the one that is written to %d", moved, current)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	record()
	if got := blocks(path); got < most {
		t.Errorf("a log that was truncated has %d bytes of the disk", got)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if got := blocks(path); got > reserve/4 {
		t.Errorf("a log that is closed has %d bytes of the disk", got)
	}
}
