// Package failpoint is what calls go through in binaries that are built to be tested. The directory that LIMIQUANTIX_FAILPOINTS names tells it what to do:
// each visit of a point is a line of its file visits; a file armed/POINT, the point's id with "/" as "+", holds an action, is renamed into fired/ by the
// first visit, and the action is done. A number before the action says the how many-th visit from then on it is. Without the variable nothing is.
package failpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// delay is how long the action of that name takes.
const delay = 2 * time.Second

// during is how far into a call the action of that name kills: where a program has begun and not ended.
const during = 5 * time.Millisecond

var dir = os.Getenv("LIMIQUANTIX_FAILPOINTS")

var visits struct {
	mu   sync.Mutex
	file *os.File
}

// Shot is what is to be done about one call.
type Shot struct {
	id, kind, action string
}

// Before notes the visit and does what comes before the call; an error: the call is not to be made.
func Before(id, kind string) (Shot, error) {
	if dir == "" {
		return Shot{}, nil
	}
	note(id)
	s := Shot{id: id, kind: kind, action: take(id)}
	switch s.action {
	case "kill-before":
		die()
	case "fail":
		return s, s.failure("was not made")
	case "delay":
		time.Sleep(delay)
	case "kill-during":
		time.AfterFunc(during, die)
	}
	return s, nil
}

// After does what comes after the call; an error: its results are lost.
func (s Shot) After() error {
	switch s.action {
	case "kill-after":
		die()
	case "lose":
		return s.failure("was made, and its reply lost")
	}
	return nil
}

// failure is an error as the call itself gives it when what is beneath fails.
func (s Shot) failure(what string) error {
	what = fmt.Sprintf("failpoint %s: the call %s", s.id, what)
	switch s.kind {
	case "write":
		return &os.PathError{Op: what, Path: "(failpoint)", Err: syscall.EIO}
	case "program":
		return errors.New(what)
	case "driver":
		return fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "%s", what)
	}
	return &fault.Error{Code: codes.Unavailable, Reason: metav1.Reason_REASON_STORE_UNAVAILABLE, Message: what}
}

func note(id string) {
	visits.mu.Lock()
	defer visits.mu.Unlock()
	if visits.file == nil {
		f, err := os.OpenFile(filepath.Join(dir, "visits"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		visits.file = f
	}
	if _, err := visits.file.WriteString(id + "\n"); err != nil {
		panic(err)
	}
}

// take gives the action that the point is armed with, once.
func take(id string) string {
	name := strings.ReplaceAll(id, "/", "+")
	if later(filepath.Join(dir, "armed", name)) {
		return ""
	}
	fired := filepath.Join(dir, "fired", name)
	if err := os.Rename(filepath.Join(dir, "armed", name), fired); errors.Is(err, os.ErrNotExist) {
		return ""
	} else if err != nil {
		panic(err)
	}
	action, err := os.ReadFile(fired)
	if err != nil {
		panic(err)
	}
	_, text, counted := strings.Cut(strings.TrimSpace(string(action)), " ")
	if !counted {
		return strings.TrimSpace(string(action))
	}
	return text
}

// later counts a visit down that is not yet the one; only one process visits a point that is armed so.
func later(armed string) bool {
	visits.mu.Lock()
	defer visits.mu.Unlock()
	b, err := os.ReadFile(armed)
	if err != nil {
		return false
	}
	number, action, _ := strings.Cut(string(b), " ")
	n, err := strconv.Atoi(number)
	if err != nil || n < 2 {
		return false
	}
	if err := os.WriteFile(armed, fmt.Appendf(nil, "%d %s", n-1, action), 0o600); err != nil {
		panic(err)
	}
	return true
}

// Asked reports whether the test asks for something that no API can.
func Asked(what string) bool {
	if dir == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(dir, "ask", what))
	return err == nil
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
