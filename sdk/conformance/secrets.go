package conformance

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// minSecret is the length below which a secret may well occur by chance, bytes.
const minSecret = 8

// watch looks for secrets in what a plugin tells the world.
type watch struct {
	secrets [][]byte

	mu    sync.Mutex
	found []string
}

// newWatch looks for the values, as they are and as they are usually written.
func newWatch(values ...[]byte) *watch {
	w := &watch{}
	for _, v := range values {
		if len(v) < minSecret {
			continue
		}
		w.secrets = append(w.secrets, v, []byte(hex.EncodeToString(v)), []byte(base64.StdEncoding.EncodeToString(v)), []byte(strings.Trim(strconv.Quote(string(v)), `"`)))
	}
	return w
}

func (w *watch) has(text []byte) bool {
	return slices.ContainsFunc(w.secrets, func(s []byte) bool { return bytes.Contains(text, s) })
}

// look notes where a secret was seen; the secret itself is not repeated.
func (w *watch) look(where, text string) {
	if !w.has([]byte(text)) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.found, where) {
		w.found = append(w.found, where)
	}
}

func (w *watch) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.found)
}

// process looks at the arguments and environments of a process and of its children.
func (w *watch) process(pid int) (where []string) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	for _, f := range []string{"cmdline", "environ"} {
		if text, err := os.ReadFile(filepath.Clean(dir + f)); err == nil && w.has(text) {
			where = append(where, dir+f)
		}
	}
	tasks, _ := filepath.Glob(dir + "task/*/children")
	for _, task := range tasks {
		text, err := os.ReadFile(filepath.Clean(task))
		if err != nil {
			continue
		}
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				where = append(where, w.process(n)...)
			}
		}
	}
	return where
}

// handler is a log handler that looks at each line and passes it on.
type handler struct {
	slog.Handler
	w *watch
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	h.w.look("a log line", r.Message)
	r.Attrs(func(a slog.Attr) bool {
		h.w.look("a log line", a.Key+"="+a.Value.String())
		return true
	})
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(a []slog.Attr) slog.Handler { return handler{h.Handler.WithAttrs(a), h.w} }
func (h handler) WithGroup(n string) slog.Handler      { return handler{h.Handler.WithGroup(n), h.w} }

// conn is a connection that looks at the errors of calls.
type conn struct {
	grpc.ClientConnInterface
	w *watch
}

func (c conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	err := c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	if err != nil {
		c.w.look("an error of "+method, err.Error()+status.Convert(err).Proto().String())
	}
	return err
}
