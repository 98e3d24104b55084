package files

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// Socket is a Unix socket that this process listens at.
type Socket struct {
	*net.UnixListener
	attributes Attributes
	info       fs.FileInfo
}

// Listen listens at a Unix socket with these attributes. It replaces a socket that a dead
// process left behind, and not one that a live process listens at.
func Listen(path string, a Attributes) (*Socket, error) {
	address := &net.UnixAddr{Name: path, Net: "unix"}
	listener, err := net.ListenUnix("unix", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := CheckSocket(path); err != nil {
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		listener, err = net.ListenUnix("unix", address)
	}
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // Close knows whether the path is still this socket
	s := &Socket{UnixListener: listener, attributes: a}
	// Connecting needs write permission, which the umask gives to nobody else before.
	err = errors.Join(os.Chown(path, a.UID, a.GID), os.Chmod(path, a.Mode))
	if err == nil {
		s.info, err = os.Lstat(path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(path), listener.Close())
	}
	return s, nil
}

// Intact reports whether the path is still this socket, and has its attributes.
func (s *Socket) Intact() bool {
	info, err := os.Lstat(s.Addr().String())
	a := s.attributes
	a.Mode |= fs.ModeSocket
	return err == nil && os.SameFile(info, s.info) && has(info, a)
}

// Close stops listening, and removes the socket unless something else is at its path.
func (s *Socket) Close() error {
	path := s.Addr().String()
	if info, err := os.Lstat(path); err == nil && os.SameFile(info, s.info) {
		_ = os.Remove(path) // the next process replaces it
	}
	return s.UnixListener.Close()
}

// CheckSocket returns nil for a socket that nobody listens at, which [Listen] replaces.
// Else it says what is in the way: [syscall.EADDRINUSE] is a socket of a live process.
func CheckSocket(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE)
}
