package state

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sessapi/sessapi/internal/cache"
	"github.com/sessapi/sessapi/internal/files"
	"github.com/sessapi/sessapi/internal/seal"
)

// asSaver makes this binary the process of [TestKilledWhileSaving] that saves, in
// its working directory.
const asSaver = "STATE_TEST_SAVER"

func TestMain(m *testing.M) {
	if os.Getenv(asSaver) != "" {
		fmt.Println(saver())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

const (
	saverSessions = 400
	saverState    = "state"
	saverSealKey  = "seal.key"
)

// numbered is the session that is stored under id at its number-th time: the number
// and up to 3000 bytes that follow from both.
func numbered(id cache.ID, number uint64) []byte {
	head := binary.BigEndian.AppendUint64(nil, number)
	source := rand.NewChaCha8(sha256.Sum256(append(head[:8:8], id.Bytes()...)))
	session := append(head, make([]byte, source.Uint64()%3000)...)
	_, _ = source.Read(session[8:]) // never fails
	return session
}

// sessionsOf returns the numbers of the sessions in the file, each of which must be
// as it was stored.
func sessionsOf(f *File, c *cache.Cache) (map[cache.ID]uint64, error) {
	if _, err := f.RestoreSessions(c, maxTTL); err != nil {
		return nil, err
	}
	numbers := make(map[cache.ID]uint64)
	page, _ := c.List(cache.ID{}, cache.MaxPage)
	for _, listed := range page {
		session, _, _ := c.Peek(nil, listed.ID)
		if len(session) < 8 || !bytes.Equal(session, numbered(listed.ID, binary.BigEndian.Uint64(session))) {
			return nil, fmt.Errorf("session %v is not as it was stored", listed.ID)
		}
		numbers[listed.ID] = binary.BigEndian.Uint64(session)
	}
	return numbers, nil
}

// saver saves and stores sessions, each again and again, until it is killed.
func saver() error {
	sealKeys, _, err := seal.ReadKeys(saverSealKey)
	if err != nil {
		return err
	}
	f, err := Open(saverState, sealKeys, discard)
	if err != nil {
		return err
	}
	c, err := cache.New(cache.Config{Memory: 64 << 20, MaxSessionBytes: cache.MaxSize}) // so much that none is evicted
	if err != nil {
		return err
	}
	numbers, err := sessionsOf(f, c)
	if err != nil {
		return err
	}
	put := func(n int, number uint64) error {
		id := sessionID(n)
		_, err := c.Put(id, numbered(id, numbers[id]+number), cache.PutOptions{ExpiresAt: time.Now().Add(time.Hour)})
		return err
	}
	for n := range saverSessions {
		if err := put(n, 1); err != nil {
			return err
		}
	}
	failed := make(chan error, 3)
	for writer := range 2 {
		go func() {
			for number := uint64(2); ; number++ {
				for n := writer; n < saverSessions; n += 2 {
					if err := put(n, number); err != nil {
						failed <- err
						return
					}
				}
			}
		}()
	}
	go func() {
		for {
			if err := f.SaveSessions(context.Background(), c); err != nil {
				failed <- err
				return
			}
		}
	}()
	fmt.Println("saving")
	return <-failed
}

// A process that does nothing but save is killed again and again while sessions
// are replaced. What is in the file is all of the sessions, each as it was stored
// at some time, and never one from before the file that was there.
func TestKilledWhileSaving(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	path, sealKey := filepath.Join(dir, saverState), filepath.Join(dir, saverSealKey)
	if err := os.WriteFile(sealKey, seal.GenerateKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	sealKeys, _, err := seal.ReadKeys(sealKey)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var last map[cache.ID]uint64
	newer := 0
	for round := 0; round < rounds || newer == 0 || newer == round; round++ {
		if round == 100*rounds {
			t.Fatal("the kills do not fall where they should")
		}
		process := exec.CommandContext(t.Context(), program)
		process.Dir, process.Env = dir, append(os.Environ(), asSaver+"=1")
		output, err := process.StdoutPipe()
		if err == nil {
			err = process.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(output).ReadString('\n')
		if line != "saving\n" {
			t.Fatalf("round %d: %q %v", round, line, err)
		}
		time.Sleep(time.Duration(random.IntN(40_000)) * time.Microsecond) // a crash comes at any time
		if err := process.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = process.Wait() // it was killed
		f := openState(t, path, sealKeys, files.OS{})
		numbers, err := sessionsOf(f, newCache(t))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if len(numbers) != saverSessions && (len(numbers) > 0 || len(last) > 0) {
			t.Fatalf("round %d: %d sessions", round, len(numbers))
		}
		for id, number := range last {
			if numbers[id] < number {
				t.Fatalf("round %d: session %v is from before", round, id)
			}
		}
		if last[sessionID(0)] < numbers[sessionID(0)] {
			newer++
		}
		last = numbers
		_ = f.Close()
	}
	t.Logf("%d kills behind a save", newer) // the others in the middle of one: it does nothing else
}

// FuzzReadSessions reads what was in a stream that opened. It is refused, or it is
// sessions that can be written and read again.
func FuzzReadSessions(f *testing.F) {
	c, again := newCache(f), newCache(f)
	never := func() error { return nil }
	future := time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC) // seeds do not expire
	for n := range 3 {
		id := sessionID(n)
		o := cache.PutOptions{StoredAt: future, ExpiresAt: future.Add(time.Hour), Mark: uint8(n % 2)}
		if _, err := c.Put(id, make([]byte, 1+n), o); err != nil {
			f.Fatal(err)
		}
		var stream bytes.Buffer
		if err := writeSessions(&stream, c, never); err != nil {
			f.Fatal(err)
		}
		f.Add(stream.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c.Flush()
		again.Flush()
		n, err := readSessions(bytes.NewReader(data), c, maxTTL)
		if err != nil {
			if n != 0 || !errors.Is(err, seal.ErrCorrupt) && !errors.Is(err, seal.ErrVersion) {
				t.Error(n, err)
			}
			return
		}
		page, _ := c.List(cache.ID{}, cache.MaxPage)
		if len(page) > n || n > 0 && len(page) == 0 {
			t.Errorf("%d restored, %d there", n, len(page))
		}
		for _, e := range page {
			if left := e.ExpiresAt.UTC().Sub(e.StoredAt.UTC()); left > maxTTL {
				t.Errorf("a session that lives for %v", left)
			}
		}
		var stream bytes.Buffer
		if err := writeSessions(&stream, c, never); err != nil {
			t.Fatal(err)
		}
		if n, err = readSessions(&stream, again, maxTTL); err != nil || n != len(page) {
			t.Fatalf("%d of %d come back: %v", n, len(page), err)
		}
		for _, listed := range page {
			want, _, _ := c.Peek(nil, listed.ID)
			got, e, ok := again.Peek(nil, listed.ID)
			if !ok || e != listed.Entry || !bytes.Equal(got, want) {
				t.Errorf("%v: %+v, want %+v", listed.ID, e, listed.Entry)
			}
		}
	})
}
