package main

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// clientPair is a connection of a clientListener, with its client.
func clientPair(t *testing.T, turns *turns) (server net.Conn, client *net.TCPConn) {
	t.Helper()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := clientListener{Listener: plain, turns: turns}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server, conn.(*net.TCPConn)
}

// crowd is more busy connections than there are processors.
const crowd = 1 << 10

// A client that waits for answers need not pause, however long they take, and also
// when what it asks is there before it is read.
func TestRequestsDoNotPause(t *testing.T) {
	turns := newTestTurns(t)
	turns.busy.Store(crowd)
	server, client := clientPair(t, turns)
	var b [1]byte
	for i := range byte(5) {
		if _, err := client.Write([]byte{i}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // most often it is there then
		if _, err := server.Read(b[:]); err != nil || b[0] != i {
			t.Fatalf("read %d, %v, want %d", b[0], err, i)
		}
		time.Sleep(2 * turn) // the answer takes that long
		_ = server.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := server.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("with nothing to read: %v", err)
		}
		_ = server.SetReadDeadline(time.Time{})
	}
	// A request that is there as a whole, but read a little at a time, by who has to
	// wait for a processor.
	if _, err := client.Write(make([]byte, 1<<10)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond)
	for range 16 {
		if _, err := io.ReadFull(server, make([]byte, 1<<10/16)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(turn)
	}
	if n := turns.pauses.Load(); n > 0 {
		t.Errorf("it pauses %d times", n)
	}
}

// A client that sends without end has to pause where there are others, and loses
// nothing by it; one alone has not.
func TestFloodsPause(t *testing.T) {
	turns := newTestTurns(t)
	server, client := clientPair(t, turns)
	go func() {
		flood := make([]byte, 64<<10)
		for {
			for i := range flood {
				flood[i] = byte(i)
			}
			if _, err := client.Write(flood); err != nil {
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(io.Discard, client) }()
	next := byte(0)
	read := func() {
		t.Helper()
		_, _ = server.Write([]byte{0}) // an answer
		var b [1]byte
		if _, err := io.ReadFull(server, b[:]); err != nil || b[0] != next {
			t.Fatalf("read %d, %v, want %d", b[0], err, next)
		}
		next++
	}
	for range 10_000 { // more than a turn
		read()
	}
	if n := turns.pauses.Load(); n > 0 {
		t.Errorf("it pauses %d times without others", n)
	}
	// What comes, and how much of it.
	readMany := func() (n int) {
		t.Helper()
		_, _ = server.Write([]byte{0})
		b := make([]byte, 4<<10)
		n, err := server.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range b[:n] {
			if got != next {
				t.Fatalf("read %d, want %d", got, next)
			}
			next++
		}
		return n
	}
	for readMany() <= crowdedRead {
	}
	turns.busy.Add(crowd)
	for turns.pauses.Load() < 3 {
		if n := readMany(); n > crowdedRead {
			t.Errorf("%d bytes are read at a time", n)
		}
	}
	const delay = 30 * time.Millisecond
	server.(*clientConn).Delay(delay)
	before, began := turns.pauses.Load(), time.Now()
	for turns.pauses.Load() == before {
		read()
	}
	if took := time.Since(began); took < delay {
		t.Errorf("it pauses for %v, with a delay of %v", took, delay)
	}
	_ = server.Close()
	if left := turns.busy.Load(); left != crowd {
		t.Errorf("%d are busy once it is closed, want %d", left, crowd)
	}
}

// The errors are those of a connection of package net: net/http tells by them a
// client that went away from one that broke the protocol.
func TestClientConnErrors(t *testing.T) {
	turns := newTestTurns(t)
	read := func(conn net.Conn) error {
		n, err := conn.Read(make([]byte, 1))
		if n != 0 {
			t.Errorf("%d bytes are read", n)
		}
		return err
	}
	server, client := clientPair(t, turns)
	_ = server.SetReadDeadline(time.Now().Add(time.Millisecond))
	if err := read(server); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after its deadline: %v", err)
	}
	_ = server.SetReadDeadline(time.Time{})
	_ = client.CloseWrite()
	if err := read(server); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	_ = server.Close()
	if err := read(server); !errors.Is(err, net.ErrClosed) {
		t.Errorf("when it is closed: %v", err)
	}

	server, client = clientPair(t, turns)
	_ = client.SetLinger(0)
	_ = client.Close()
	err := read(server)
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "read" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
}

// net/http closes a connection that it does not read to the end for writing first,
// where it can: the client has its answer at once, and no reset takes that away.
func TestCloseWrite(t *testing.T) {
	turns := newTestTurns(t)
	server, client := clientPair(t, turns)
	half, ok := server.(interface{ CloseWrite() error })
	if !ok {
		t.Fatal("it cannot be closed for writing")
	}
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := client.Read(b[:]); err != io.EOF {
		t.Errorf("the client reads %v", err)
	}
	if _, err := client.Write(b[:]); err != nil {
		t.Error(err)
	}
	if _, err := server.Read(b[:]); err != nil {
		t.Error(err)
	}
}

// What others send is noticed, also with one processor, while a client always has
// something more, or while many connect.
func TestOthersAreNoticed(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var b [1]byte
	for name, serve := range map[string]func(net.Listener, net.Conn) error{
		"reads":       func(_ net.Listener, busy net.Conn) error { _, err := busy.Read(b[:]); return err },
		"writes":      func(_ net.Listener, busy net.Conn) error { _, err := busy.Write(b[:]); return err },
		"connections": func(listener net.Listener, _ net.Conn) error { _, err := listener.Accept(); return err },
	} {
		t.Run(name, func(t *testing.T) {
			for range 5 { // the system may take the processor away
				if isNoticed(t, serve) {
					return
				}
			}
			t.Error("nobody notices")
		})
	}
}

// isNoticed reports whether what a client sends is noticed while serve is called. There
// are enough connections to accept, and to read from.
func isNoticed(t *testing.T, serve func(net.Listener, net.Conn) error) bool {
	t.Helper()
	turns := newTestTurns(t)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := clientListener{Listener: plain, turns: turns}
	defer listener.Close()
	const waiting = 500
	for range waiting {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	busy, client := clientPair(t, turns)
	if _, err := client.Write(make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond) // all of it is there then
	if _, err := io.ReadFull(busy, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	other, otherClient := clientPair(t, turns)
	var noticed atomic.Bool
	go func() {
		_, _ = other.Read(make([]byte, 1))
		noticed.Store(true)
	}()
	time.Sleep(time.Millisecond) // it waits then
	if _, err := otherClient.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	// For less than the 10 ms after which Go looks by itself.
	start := time.Now()
	for n := 0; n < waiting && !noticed.Load() && time.Since(start) < 8*time.Millisecond; n++ {
		if err := serve(listener, busy); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); time.Since(began) < turn/50; { // it costs something
		}
	}
	return noticed.Load()
}

// No more wait for a look than is of use: with much to do it takes long.
func TestFewLook(t *testing.T) {
	turns := newTestTurns(t)
	turns.looking.Store(maxLooking)
	looked := make(chan struct{})
	err := turns.in.Read(func(uintptr) bool { // as one of those who look
		go func() {
			defer close(looked)
			turns.look(time.Now().Add(turn))
		}()
		select {
		case <-looked:
		case <-time.After(10 * time.Second):
			t.Error("it waits for them")
		}
		return true
	})
	if err != nil || turns.looking.Load() != maxLooking {
		t.Errorf("%v, %d look", err, turns.looking.Load())
	}
}

func newTestTurns(tb testing.TB) *turns {
	tb.Helper()
	turns, err := newTurns()
	if err != nil {
		tb.Fatal(err)
	}
	return turns
}
