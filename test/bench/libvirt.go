package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Procedures of libvirt's remote protocol (src/remote/remote_protocol.x) that make and start a domain, and the two kinds of message that matter.
const (
	procDomainCreateWithFlags = 196
	procDomainDefineXMLFlags  = 350

	messageCall  = 0
	messageReply = 1

	headerBytes  = 28 // length, program, version, procedure, type, serial, status: four bytes each
	longestBytes = 32 << 20
)

// stopwatch stands before libvirtd's socket, passes everything on, and measures how long libvirt itself takes to define and start domains: from the
// call's last byte to the answer's first.
type stopwatch struct {
	listener net.Listener
	libvirtd string
	conns    sync.WaitGroup

	mu    sync.Mutex
	open  map[net.Conn]bool
	took  time.Duration // since reset
	calls int
}

// listenBefore starts a stopwatch at path.
func listenBefore(libvirtd, path string) (*stopwatch, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	w := &stopwatch{listener: l, libvirtd: libvirtd, open: map[net.Conn]bool{}}
	w.conns.Go(w.accept)
	return w, nil
}

// close ends it and all connections through it.
func (w *stopwatch) close() {
	_ = w.listener.Close()
	w.mu.Lock()
	for c := range w.open {
		_ = c.Close()
	}
	w.mu.Unlock()
	w.conns.Wait()
}

// reset forgets what was measured.
func (w *stopwatch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took, w.calls = 0, 0
}

// read returns libvirt's time since the last reset; one definition and one start are expected in it.
func (w *stopwatch) read() (time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls != 2 {
		return 0, fmt.Errorf("saw %d calls that define or start a domain, want 2", w.calls)
	}
	return w.took, nil
}

func (w *stopwatch) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", w.libvirtd)
		if err != nil {
			_ = client.Close()
			continue
		}
		w.mu.Lock()
		w.open[client], w.open[server] = true, true
		w.mu.Unlock()
		began := &sync.Map{} // serial of a call under way -> time
		end := func() { _ = client.Close(); _ = server.Close() }
		w.conns.Go(func() {
			defer end()
			_ = pass(server, client, func(procedure, kind, serial uint32) {
				if kind == messageCall && (procedure == procDomainCreateWithFlags || procedure == procDomainDefineXMLFlags) {
					began.Store(serial, time.Now())
				}
			})
		})
		w.conns.Go(func() {
			defer end()
			_ = pass(client, server, func(_, kind, serial uint32) {
				if at, ok := began.LoadAndDelete(serial); ok && kind == messageReply {
					w.mu.Lock()
					w.took += time.Since(at.(time.Time))
					w.calls++
					w.mu.Unlock()
				}
			})
		})
	}
}

// pass copies messages and tells of each before it is handed on.
func pass(to io.Writer, from io.Reader, tell func(procedure, kind, serial uint32)) error {
	for {
		var header [headerBytes]byte
		if _, err := io.ReadFull(from, header[:]); err != nil {
			return err
		}
		length := binary.BigEndian.Uint32(header[:])
		if length < headerBytes || length > longestBytes {
			return errors.New("not libvirt's protocol")
		}
		message := make([]byte, length)
		copy(message, header[:])
		if _, err := io.ReadFull(from, message[headerBytes:]); err != nil {
			return err
		}
		tell(binary.BigEndian.Uint32(header[12:]), binary.BigEndian.Uint32(header[16:]), binary.BigEndian.Uint32(header[20:]))
		if _, err := to.Write(message); err != nil {
			return err
		}
	}
}
