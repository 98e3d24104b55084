package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// serverBinary returns the program of a row that is a server.
func serverBinary(row string) (string, bool) {
	switch row {
	case redis:
		return "redis-server", true
	case memcached:
		return "memcached", true
	}
	return "", false
}

// server is a cache in a process of its own, on a Unix socket.
type server struct {
	args []string
	// write sends the command that stores a session.
	write func(w *bufio.Writer, id *sessionID, data []byte)
	// stored is the answer to it.
	stored string
	// count asks for the number of sessions; countPrefix starts the line of the
	// answer that has it.
	count, countPrefix string
}

func newRedis(socket string, n int) server {
	return server{
		args: []string{
			"--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no",
			"--maxmemory", strconv.Itoa(2 * n * 512), "--maxmemory-policy", "allkeys-lru",
		},
		write: func(w *bufio.Writer, id *sessionID, data []byte) {
			fmt.Fprintf(w, "*5\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n$2\r\nEX\r\n$4\r\n%d\r\n",
				len(id), id[:], len(data), data, int(ttl.Seconds()))
		},
		stored: "+OK\r\n",
		count:  "DBSIZE\r\n", countPrefix: ":",
	}
}

func newMemcached(socket string, n int) (server, error) {
	// As root, memcached starts only when it is told a user, root or other.
	self, err := user.Current()
	if err != nil {
		return server{}, err
	}
	return server{
		args: []string{"-s", socket, "-m", strconv.Itoa(64 + n*512>>20), "-u", self.Username},
		write: func(w *bufio.Writer, id *sessionID, data []byte) {
			// The flag b has the server decode the key: it stores 32 bytes.
			fmt.Fprintf(w, "ms %s %d b T%d\r\n%s\r\n",
				base64.StdEncoding.EncodeToString(id[:]), len(data), int(ttl.Seconds()), data)
		},
		stored: "HD\r\n",
		count:  "stats\r\n", countPrefix: "STAT curr_items ",
	}, nil
}

// serverMemory starts the named server, stores n sessions, and returns what one
// takes of the server's resident memory.
func serverMemory(ctx context.Context, name string, n int) (_ figures, err error) {
	dir, err := os.MkdirTemp("", "cachebench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	socket := filepath.Join(dir, "s")
	s := newRedis(socket, n)
	if name == memcached {
		if s, err = newMemcached(socket, n); err != nil {
			return nil, err
		}
	}
	ctx, stop := context.WithCancel(ctx)
	binary, _ := serverBinary(name)
	cmd := exec.CommandContext(ctx, binary, s.args...)
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		stop()
		return nil, err
	}
	defer func() {
		stop()
		_ = cmd.Wait() // it was killed, and says so
	}()

	conn, err := dial(socket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // nothing is left to be sent
	before, err := settled(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	held, err := s.fill(conn, n)
	if err != nil {
		return nil, err
	}
	if held < n {
		return nil, fmt.Errorf("holds %d of %d sessions", held, n)
	}
	after, err := settled(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	return figures{"bytes": float64(after-before) / float64(held)}, nil
}

// dial connects to a server that was just started.
func dial(socket string) (net.Conn, error) {
	var conn net.Conn
	var err error
	for range 100 {
		if conn, err = net.Dial("unix", socket); err == nil {
			return conn, conn.SetDeadline(time.Now().Add(childTimeout))
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, err
}

// settled returns the resident memory of a process, once it stands still: both
// servers move to a larger hash table in the background.
func settled(pid int) (int64, error) {
	last := int64(-1)
	for range 100 {
		now, err := resident(pid)
		if err != nil || now == last {
			return now, err
		}
		last = now
		time.Sleep(200 * time.Millisecond)
	}
	return 0, errors.New("its resident memory does not come to rest")
}

// fill stores n sessions in one pipeline, and returns how many the server then
// says it has.
func (s *server) fill(conn net.Conn, n int) (int, error) {
	sent := make(chan error, 1)
	go func() {
		w := bufio.NewWriterSize(conn, 64<<10)
		data := newData()
		var id sessionID
		for i := range uint64(n) {
			id.set(i)
			s.write(w, &id, data)
		}
		_, err := io.WriteString(w, s.count)
		sent <- errors.Join(err, w.Flush())
	}()
	answers := bufio.NewReader(conn)
	for range n {
		line, err := answers.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if line != s.stored {
			return 0, fmt.Errorf("the server answers %q", line)
		}
	}
	for {
		line, err := answers.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if count, ok := strings.CutPrefix(line, s.countPrefix); ok {
			held, err := strconv.Atoi(strings.TrimSpace(count))
			return held, errors.Join(err, <-sent)
		}
	}
}
