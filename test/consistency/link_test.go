package consistency

import (
	"net"
	"sync"
	"testing"
	"time"
)

// way is what a link does with what goes in one direction.
type way int

const (
	pass    way = iota
	hold        // it waits, as behind a cable that is pulled
	swallow     // it is gone, and the connection is of no use any more
)

// link is a proxy between a node and Redis.
type link struct {
	listener net.Listener
	to       string
	all      sync.WaitGroup

	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	ways    [2]way // to Redis, and from it
	delays  [2]time.Duration
	conns   map[net.Conn]bool
	closed  bool
}

func newLink(t testing.TB, to string) *link {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: listener, to: to, conns: make(map[net.Conn]bool)}
	l.changed = sync.NewCond(&l.mu)
	l.all.Go(l.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.set([2]way{}, [2]time.Duration{})
		l.reset()
		l.all.Wait()
	})
	return l
}

// set changes what the link does from now on.
func (l *link) set(ways [2]way, delays [2]time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ways, l.delays = ways, delays
	l.changed.Broadcast()
}

// heal has everything pass again, over new connections where something was lost.
func (l *link) heal() {
	l.mu.Lock()
	lost := l.ways[0] == swallow || l.ways[1] == swallow
	l.mu.Unlock()
	l.set([2]way{}, [2]time.Duration{})
	if lost {
		l.reset()
	}
}

// reset ends all connections.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		_ = c.Close()
	}
}

func (l *link) accept() {
	for {
		from, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.all.Go(func() { l.serve(from) })
	}
}

// keep notes a connection, or closes it when the link is closed.
func (l *link) keep(c net.Conn, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if open && !l.closed {
		l.conns[c] = true
		return
	}
	delete(l.conns, c)
	_ = c.Close()
}

func (l *link) serve(from net.Conn) {
	l.keep(from, true)
	defer l.keep(from, false)
	if l.wait(0) == swallow {
		return
	}
	to, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	l.keep(to, true)
	defer l.keep(to, false)
	var both sync.WaitGroup
	both.Go(func() { l.copy(0, to, from) })
	both.Go(func() { l.copy(1, from, to) })
	both.Wait()
}

// wait waits while a direction holds, and returns what it does then.
func (l *link) wait(direction int) way {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.ways[direction] == hold {
		l.changed.Wait()
	}
	return l.ways[direction]
}

func (l *link) copy(direction int, to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		delay := l.delays[direction]
		l.mu.Unlock()
		time.Sleep(delay)
		if l.wait(direction) != swallow {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
