package auth

import (
	"net"

	"golang.org/x/sys/unix"
)

// uidOf asks the kernel for the peer's user (SO_PEERCRED, unix(7)): the effective uid
// when it connected, in this process's user namespace.
func uidOf(conn *net.UnixConn) (uid uint32, ok bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false
	}
	var peer *unix.Ucred
	var optErr error
	err = raw.Control(func(fd uintptr) {
		peer, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || optErr != nil {
		return 0, false
	}
	return peer.Uid, true
}
