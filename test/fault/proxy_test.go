package fault

import (
	"io"
	"net"
	"sync"
	"time"
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
	late  time.Duration // how long whatever is carried takes, each way
	shut  bool          // connections are refused
	conns map[net.Conn]struct{}
	done  bool
	ended chan struct{}
	all   sync.WaitGroup
}

func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, conns: map[net.Conn]struct{}{}, ended: make(chan struct{})}
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

// slow makes everything that is carried from now on late.
func (p *proxy) slow(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = by
}

// refuse lets no new connection in, and tells so: as a host does on which nobody listens. Those that are there stay.
func (p *proxy) refuse(shut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = shut
}

// heal makes it a good network again.
func (p *proxy) heal() {
	p.set(cutNone)
	p.slow(0)
	p.refuse(false)
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
	close(p.ended)
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
	if p.refuses() {
		if c, ok := in.(*net.TCPConn); ok {
			_ = c.SetLinger(0) // a reset
		}
		return
	}
	if !p.keep(in) {
		return
	}
	defer p.drop(in)
	if !p.pass(cutUp) { // nobody answers who is cut off
		return
	}
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
			if !p.delay() || !p.pass(way) {
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

func (p *proxy) refuses() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shut
}

// delay holds what is carried for as long as the network is slow; false when the proxy ends.
func (p *proxy) delay() bool {
	p.mu.Lock()
	late := p.late
	p.mu.Unlock()
	if late > 0 {
		select {
		case <-time.After(late):
		case <-p.ended:
			return false
		}
	}
	return true
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
