// Package console shares one connection to each domain's serial console, on which QEMU takes only one client, among all who look.
package console

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialLimit  = 5 * time.Second
	writeLimit = 10 * time.Second // a guest that takes no input for so long gets none
	chunk      = 32 << 10
	behindMost = 256 // chunks that a session may be behind
)

// ErrBehind ends a session that does not keep up: the guest waits for nobody, and to leave out what it printed would mislead.
var ErrBehind = errors.New("more was printed than was taken; open the console again, or read its log")

// Mux holds the connections. The zero value is ready.
type Mux struct {
	mu      sync.Mutex
	open    map[string]*line
	pumping sync.WaitGroup
}

// line is one connection with its sessions.
type line struct {
	conn    net.Conn
	writing sync.Mutex

	mu       sync.Mutex
	sessions map[*Session]struct{} // nil = ended
}

// Session is one who looks.
type Session struct {
	mux    *Mux
	key    string
	line   *line
	out    chan []byte
	behind atomic.Bool
}

// Open connects to a domain's console, or shares the connection that is there.
func (m *Mux) Open(ctx context.Context, key, socket string) (*Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.open[key]
	if l == nil {
		conn, err := (&net.Dialer{Timeout: dialLimit}).DialContext(ctx, "unix", socket) // at once or not at all: the socket is local
		if err != nil {
			return nil, fmt.Errorf("connect to console: %w", err)
		}
		l = &line{conn: conn, sessions: map[*Session]struct{}{}}
		if m.open == nil {
			m.open = map[string]*line{}
		}
		m.open[key] = l
		m.pumping.Go(func() { m.pump(key, l) })
	}
	s := &Session{mux: m, key: key, line: l, out: make(chan []byte, behindMost)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions == nil {
		return nil, errors.New("connect to console: the connection just ended")
	}
	l.sessions[s] = struct{}{}
	return s, nil
}

// pump hands what the guest prints to all sessions until the connection ends.
func (m *Mux) pump(key string, l *line) {
	buf := make([]byte, chunk)
	for {
		n, err := l.conn.Read(buf)
		l.mu.Lock()
		for s := range l.sessions {
			if n > 0 {
				select {
				case s.out <- append([]byte(nil), buf[:n]...):
				default:
					s.behind.Store(true)
					delete(l.sessions, s)
					close(s.out)
				}
			}
		}
		if err != nil {
			for s := range l.sessions {
				close(s.out)
			}
			l.sessions = nil
		}
		l.mu.Unlock()
		if err != nil {
			m.forget(key, l)
			return
		}
	}
}

func (m *Mux) forget(key string, l *line) {
	_ = l.conn.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open[key] == l {
		delete(m.open, key)
	}
}

// Output is what the guest prints from now on; closed when the session ends.
func (s *Session) Output() <-chan []byte { return s.out }

// Err says why Output was closed; nil = the domain ended, or was told to.
func (s *Session) Err() error {
	if s.behind.Load() {
		return ErrBehind
	}
	return nil
}

// Write types into the guest's console.
func (s *Session) Write(b []byte) (int, error) {
	s.line.writing.Lock()
	defer s.line.writing.Unlock()
	_ = s.line.conn.SetWriteDeadline(time.Now().Add(writeLimit))
	n, err := s.line.conn.Write(b)
	if err != nil {
		return n, fmt.Errorf("type into console: %w", err)
	}
	return n, nil
}

// Close ends the session; the last one ends the connection.
func (s *Session) Close() {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	s.line.mu.Lock()
	defer s.line.mu.Unlock()
	if _, ok := s.line.sessions[s]; ok {
		delete(s.line.sessions, s)
		close(s.out)
	}
	if len(s.line.sessions) == 0 {
		_ = s.line.conn.Close()
		if s.mux.open[s.key] == s.line {
			delete(s.mux.open, s.key)
		}
	}
}

// Drop ends a domain's connection and its sessions.
func (m *Mux) Drop(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.open[key]; l != nil {
		_ = l.conn.Close()
		delete(m.open, key)
	}
}

// Close ends all connections and waits until nothing of them runs.
func (m *Mux) Close() {
	m.mu.Lock()
	for _, l := range m.open {
		_ = l.conn.Close()
	}
	m.mu.Unlock()
	m.pumping.Wait()
}
