// Package ports finds TCP ports for servers that a test starts, kills and starts again on the same port.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// All ports are below those that the kernel gives to whoever names none (from 32768, see ip(7)): while a server is down, no client and no server of another test is given its port.
const (
	first = 15000
	last  = 31999
)

var given struct {
	sync.Mutex
	ports map[int]bool
}

// Free returns n neighbouring ports of 127.0.0.1 that nobody listens on; a process is given none of them twice.
func Free(n int) (out []int, err error) {
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	for range 200 {
		base := first + rand.IntN(last-first-n) //nolint:gosec // no secret
		if err = take(base, n); err == nil {
			for p := base; p < base+n; p++ {
				given.ports[p] = true
				out = append(out, p)
			}
			return out, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports: %w", n, err)
}

func take(base, n int) (err error) {
	for p := base; p < base+n; p++ {
		if given.ports[p] {
			return errors.New("given before")
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", p)) //nolint:noctx // at once
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
	}
	return nil
}
