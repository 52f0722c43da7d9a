// Package progress shows how far something is: a line that is redrawn on a terminal, plain lines elsewhere.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Reporter shows one thing at a time. Its methods are safe for concurrent use.
type Reporter interface {
	// Update replaces what is shown. The same text again shows nothing new.
	Update(text string)
	// Close removes what is in the way of further output. Updates after it show nothing.
	Close()
}

// Mode is how progress is shown.
type Mode int

// The modes.
const (
	Quiet Mode = iota // not at all
	Lines             // a line for each change
	TTY               // one line, redrawn
)

// New makes a reporter that writes to w.
func New(w io.Writer, mode Mode) Reporter {
	switch mode {
	case TTY:
		return newSpinner(w, 120*time.Millisecond)
	case Lines:
		return &lines{w: w}
	}
	return silent{}
}

type silent struct{}

func (silent) Update(string) {}
func (silent) Close()        {}

type lines struct {
	mu     sync.Mutex
	w      io.Writer
	last   string
	closed bool
}

func (l *lines) Update(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text == l.last || l.closed {
		return
	}
	l.last = text
	fmt.Fprintln(l.w, text)
}

func (l *lines) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

type spinner struct {
	mu    sync.Mutex
	w     io.Writer
	text  string
	frame int
	stop  chan struct{}
	gone  sync.WaitGroup
	once  sync.Once
}

var frames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// clearLine returns to the line's begin and empties it (ECMA-48 EL).
const clearLine = "\r\x1b[K"

func newSpinner(w io.Writer, every time.Duration) *spinner {
	s := &spinner{w: w, stop: make(chan struct{})}
	s.gone.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
				s.draw(true)
			}
		}
	})
	return s
}

func (s *spinner) Update(text string) {
	s.mu.Lock()
	s.text = text
	s.mu.Unlock()
	s.draw(false)
}

func (s *spinner) draw(turn bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.stop:
		return
	default:
	}
	if s.text == "" {
		return
	}
	if turn {
		s.frame = (s.frame + 1) % len(frames)
	}
	fmt.Fprintf(s.w, "%s%s %s", clearLine, frames[s.frame], s.text)
}

func (s *spinner) Close() {
	s.once.Do(func() {
		s.mu.Lock()
		close(s.stop)
		if s.text != "" {
			fmt.Fprint(s.w, clearLine)
		}
		s.mu.Unlock()
	})
	s.gone.Wait()
}
