package fault

import (
	"io"
	"net"
	"sync"
)

// cut says which way a network carries nothing.
type cut int

const (
	cutNone cut = iota
	cutUp       // from agent to controller
	cutDown     // from controller to agent
	cutBoth
)

// proxy stands between an agent and the controller. What it does not carry it holds, as a network does that drops packets: nobody is told.
type proxy struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	free  *sync.Cond
	state cut
	conns map[net.Conn]struct{}
	done  bool
	all   sync.WaitGroup
}

func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, conns: map[net.Conn]struct{}{}}
	p.free = sync.NewCond(&p.mu)
	p.all.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// set changes what is carried. Connections that were made before go on when it heals.
func (p *proxy) set(c cut) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = c
	p.free.Broadcast()
}

// sever breaks every connection.
func (p *proxy) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) close() {
	p.mu.Lock()
	p.done = true
	p.free.Broadcast()
	p.mu.Unlock()
	_ = p.listener.Close()
	p.sever()
	p.all.Wait()
}

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.all.Go(func() { p.carry(in) })
	}
}

func (p *proxy) carry(in net.Conn) {
	defer func() { _ = in.Close() }()
	if !p.keep(in) || !p.pass(cutUp) { // nobody answers who is cut off
		return
	}
	defer p.drop(in)
	out, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	if !p.keep(out) {
		return
	}
	defer p.drop(out)
	var both sync.WaitGroup
	both.Go(func() { p.pump(out, in, cutUp) })
	both.Go(func() { p.pump(in, out, cutDown) })
	both.Wait()
}

func (p *proxy) pump(dst, src net.Conn, way cut) {
	defer func() {
		_ = dst.Close()
		_ = src.Close()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if !p.pass(way) {
				return
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				return
			}
			_ = p.pass(way) // the end, too, arrives only when it heals
			return
		}
	}
}

// pass waits until a way is open; false when the proxy ends.
func (p *proxy) pass(way cut) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.done && (p.state == cutBoth || p.state == way) {
		p.free.Wait()
	}
	return !p.done
}

func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}
