package rbdpool

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// helloTimeout bounds the look at one monitor; all are looked at together.
const helloTimeout = time.Second

// monitorHosts is the list of monitors as the library wants it, each with the protocol that it speaks. Without that the library tries both, and with a wrong key
// goes on trying the one that nobody answers, so that wrong credentials look like a dead cluster.
func monitorHosts(ctx context.Context, monitors []string) string {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	hosts := make([]string, len(monitors))
	var wg sync.WaitGroup
	for i, m := range monitors {
		wg.Go(func() { hosts[i] = protocol(ctx, m) + m })
	}
	wg.Wait()
	return strings.Join(hosts, ",")
}

// protocol is "v1:" or "v2:", by what a monitor says first; empty if it says nothing.
//
// Source: Ceph's doc/dev/msgr2.rst, "banner", and doc/dev/network-protocol.rst.
func protocol(ctx context.Context, monitor string) string {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", monitor)
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	if t, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(t) // of a fresh connection
	}
	hello := make([]byte, 8)
	if _, err := io.ReadFull(conn, hello); err != nil {
		return ""
	}
	switch {
	case string(hello) == "ceph v2\n":
		return "v2:"
	case strings.HasPrefix(string(hello), "ceph v0"):
		return "v1:"
	}
	return ""
}
