// Package assign follows the desired stream: it keeps which set this agent knows, so that a reconnect costs nothing, and hands every change on.
package assign

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/agent/internal/link"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

const maxRetry = 2 * time.Second

// Sink takes what is wanted. No method waits for long: the stream does meanwhile.
type Sink interface {
	// Upsert and Remove change what is wanted; Synced says that all up to here was told.
	Upsert(*agentv1.DesiredObject)
	Remove(*agentv1.DesiredKey)
	Synced()
	// OpenTunnel asks for a tunnel.
	OpenTunnel(*agentv1.OpenTunnel)
	// Connected says that a stream was opened: the controller may know nothing of what was reported before.
	Connected()
}

// Watcher follows the stream.
type Watcher struct {
	link    *link.Link
	session string
	sink    Sink
	log     *slog.Logger
	set     set
	up      atomic.Bool
}

// New makes a watcher. known is what the agent has from an earlier run: it is wanted until a snapshot says otherwise.
func New(l *link.Link, sessionID string, known []*agentv1.DesiredKey, sink Sink, log *slog.Logger) *Watcher {
	return &Watcher{link: l, session: sessionID, sink: sink, log: log, set: newSet(known)}
}

// Connected reports whether a stream is open.
func (w *Watcher) Connected() bool { return w.up.Load() }

// Run follows the stream, and opens it again when it breaks, until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		begin := time.Now()
		err := w.follow(ctx)
		w.up.Store(false)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > maxRetry {
			failures = 0
		}
		failures++
		if failures == 1 || failures%20 == 0 {
			w.log.Warn("no controller tells what is wanted; what is known goes on", "controller", w.link.Endpoint(), "error", err)
		}
		if !link.Sleep(ctx, link.Backoff(failures, maxRetry, rand.Float64())) {
			return
		}
	}
}

func (w *Watcher) follow(ctx context.Context) error {
	conn, err := w.link.Conn()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = w.stream(ctx, conn)
	if ctx.Err() == nil {
		w.link.Failed(conn, err)
	}
	return err
}

func (w *Watcher) stream(ctx context.Context, conn *grpc.ClientConn) error {
	revision, digest := w.set.known()
	s, err := agentv1.NewAgentServiceClient(conn).WatchDesired(ctx, &agentv1.WatchDesiredRequest{
		SessionId: w.session, KnownRevision: revision, KnownDigest: digest,
	})
	if err != nil {
		return err
	}
	w.set.restart()
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the controller ended the stream")
		} else if err != nil {
			return fault.From(err)
		}
		if !w.up.Swap(true) {
			w.log.Info("connected to the controller", "controller", w.link.Endpoint(), "known_revision", revision)
			w.sink.Connected()
		}
		w.take(m)
	}
}

func (w *Watcher) take(m *agentv1.WatchDesiredResponse) {
	switch m := m.GetMessage().(type) {
	case *agentv1.WatchDesiredResponse_Snapshot:
		w.set.snapshot()
	case *agentv1.WatchDesiredResponse_Upsert:
		w.set.upsert(m.Upsert.GetKey())
		w.sink.Upsert(m.Upsert)
	case *agentv1.WatchDesiredResponse_Remove:
		w.set.remove(m.Remove)
		w.sink.Remove(m.Remove)
	case *agentv1.WatchDesiredResponse_Sync:
		for _, k := range w.set.sync(m.Sync.GetRevision(), m.Sync.GetDigest()) {
			w.sink.Remove(k)
		}
		w.sink.Synced()
	case *agentv1.WatchDesiredResponse_OpenTunnel:
		w.sink.OpenTunnel(m.OpenTunnel)
	}
}
