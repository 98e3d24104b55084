package main

import (
	"net"
	"net/http"
	"testing"
	"time"
)

// What is open beyond the bound is closed at once and counted; what goes away
// makes room.
func TestConnectionsAreBounded(t *testing.T) {
	var c connections
	c.open.Store(maxConnections - 1)
	for i, refused := range []bool{false, true} {
		client, server := net.Pipe()
		defer client.Close()
		c.changed(server, http.StateNew)
		err := server.SetDeadline(time.Time{}) // fails when it is closed
		if closed := err != nil; closed != refused {
			t.Errorf("connection %d is closed: %t", i, closed)
		}
		if refused {
			c.changed(server, http.StateClosed)
		}
	}
	if open, refused := c.open.Load(), c.refused.Load(); open != maxConnections || refused != 1 {
		t.Errorf("%d are open, %d were refused", open, refused)
	}
}
