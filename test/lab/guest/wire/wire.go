// Package wire is what the host and the agent in the lab guest say to each other: one yamux session over a serial port, one stream per command or
// connection. A stream begins with a Request; then frames go both ways (exec) or, after a Reply, plain bytes (dial).
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// PortName names the serial port in the guest.
const PortName = "lab.agent"

// Request begins a stream: Argv, Address or Files is set.
type Request struct {
	// Argv is a command to run. The stream's end kills it.
	Argv []string `json:"argv,omitempty"`
	Env  []string `json:"env,omitempty"` // whole environment; empty = the agent's
	Dir  string   `json:"dir,omitempty"`
	// TempDir is made for the command and removed after it.
	TempDir string `json:"temp_dir,omitempty"`
	// Alone says that a kill is for the process alone, as a plugin's host does it, and not for all that it started.
	Alone bool `json:"alone,omitempty"`

	// Network and Address are of a connection to make in the guest, as for net.Dial.
	Network string `json:"network,omitempty"`
	Address string `json:"address,omitempty"`

	// Files makes the stream one of net/rpc to FileService.
	Files bool `json:"files,omitempty"`
}

// Reply answers a dial.
type Reply struct {
	Error string `json:"error,omitempty"`
}

// Exit is how a command ended.
type Exit struct {
	Code   int    `json:"code"`             // -1 when a signal ended it
	Signal int    `json:"signal,omitempty"` // that signal
	Error  string `json:"error,omitempty"`  // it could not be started
}

// Kind is what a frame holds.
type Kind byte

// The kinds; Stdin (an empty one ends it) and Signal (one byte) go to the guest, the others come from it.
const (
	Stdin Kind = iota
	Signal
	Stdout
	Stderr
	Ended // an Exit; the last frame
)

// maxPart bounds what one message may claim.
const maxPart = 1 << 20

// Config is yamux's: the guest is slow at times, and nobody but us ends the session.
func Config(log io.Writer) *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout, c.StreamOpenTimeout = 10*time.Minute, 10*time.Minute
	c.MaxStreamWindowSize = 1 << 20
	c.LogOutput = log
	return c
}

// WriteJSON writes a message with its length.
func WriteJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)) //nolint:gosec // small
	return err
}

// ReadJSON reads what WriteJSON wrote.
func ReadJSON(r io.Reader, v any) error {
	b, err := readPart(r)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func readPart(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxPart {
		return nil, fmt.Errorf("a part of %d bytes", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// Frames writes frames; its methods may be called at once.
type Frames struct {
	mu sync.Mutex
	w  io.Writer
}

// NewFrames writes to w.
func NewFrames(w io.Writer) *Frames { return &Frames{w: w} }

// Send writes one frame.
func (f *Frames) Send(k Kind, b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{byte(k)}, uint32(len(b))) //nolint:gosec // bounded by its callers
	_, err := f.w.Write(append(head, b...))
	return err
}

// Writer makes frames of one kind of what is written.
func (f *Frames) Writer(k Kind) io.Writer { return frameWriter{f, k} }

type frameWriter struct {
	f *Frames
	k Kind
}

func (w frameWriter) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		n := min(len(b)-done, 64<<10)
		if err := w.f.Send(w.k, b[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(b), nil
}

// ReadFrame reads one frame.
func ReadFrame(r io.Reader) (Kind, []byte, error) {
	var k [1]byte
	if _, err := io.ReadFull(r, k[:]); err != nil {
		return 0, nil, err
	}
	b, err := readPart(r)
	return Kind(k[0]), b, err
}

// Pipe copies both ways until both have ended, and closes both.
func Pipe(a, b net.Conn) {
	var wg sync.WaitGroup
	one := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if err != nil { // whoever cannot be written to, or read, is gone
			_, _ = a.Close(), b.Close()
			return
		}
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		} else {
			_ = to.Close() // a yamux stream: what comes back is still read
		}
	}
	wg.Go(func() { one(a, b) })
	wg.Go(func() { one(b, a) })
	wg.Wait()
	_, _ = a.Close(), b.Close()
}
