// Package link keeps the way to the controller that leads: it dials the endpoints it knows, follows NOT_LEADER, and goes on to the next endpoint when one
// does not answer. It carries no meaning; who uses it retries.
package link

import (
	"context"
	"crypto/tls"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// MaxMessage caps messages in both directions.
const MaxMessage = 16 << 20

// Link is the way to the leader. All methods may be called at once.
type Link struct {
	endpoints []string
	tls       func() *tls.Config
	log       *slog.Logger

	mu      sync.Mutex
	current string
	conn    *grpc.ClientConn
	next    int
	closed  bool
}

// New makes a link over the given endpoints (host:port); tls gives the configuration for each new connection.
func New(endpoints []string, tls func() *tls.Config, log *slog.Logger) *Link {
	return &Link{endpoints: slices.Clone(endpoints), tls: tls, log: log}
}

// Conn is the connection to use now. It is made if there is none and connects when it is first used.
func (l *Link) Conn() (*grpc.ClientConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fault.New(metav1.Reason_REASON_CANCELLED, "the agent is being stopped")
	}
	if l.conn != nil {
		return l.conn, nil
	}
	if l.current == "" {
		l.current = l.endpoints[l.next%len(l.endpoints)]
	}
	conn, err := Dial(l.current, l.tls())
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_INVALID_FIELD, "controller %s: %w", l.current, err)
	}
	l.conn = conn
	return conn, nil
}

// Dial makes a connection to one controller.
func Dial(endpoint string, conf *tls.Config) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+endpoint,
		grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 5 * time.Second}, MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDisableServiceConfig())
}

// Endpoint is where Conn leads, for people.
func (l *Link) Endpoint() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// Failed says that a call on conn ended with err. When that means that another controller should be asked, later calls of Conn lead there.
func (l *Link) Failed(conn *grpc.ClientConn, err error) {
	f := fault.From(err)
	leader := ""
	switch {
	case f == nil:
		return
	case f.Reason == metav1.Reason_REASON_NOT_LEADER:
		leader = f.Metadata["leader"]
	case f.Code == codes.Unavailable, f.Code == codes.DeadlineExceeded, f.Code == codes.Unauthenticated:
	default:
		return
	}
	l.move(conn, leader, f.Message)
}

// Drop closes conn if it is the one in use; the next one is made to the same endpoint, with present credentials.
func (l *Link) Drop(conn *grpc.ClientConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn && conn != nil {
		l.conn = nil
		_ = conn.Close()
	}
}

// Refresh drops the connection in use, so that the next one is made with new credentials.
func (l *Link) Refresh() {
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	l.Drop(conn)
}

func (l *Link) move(conn *grpc.ClientConn, leader, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != conn || conn == nil {
		return // somebody else has moved on already
	}
	old := l.current
	if leader != "" && leader != old {
		l.current = leader
	} else {
		l.next++
		l.current = l.endpoints[l.next%len(l.endpoints)]
	}
	l.conn = nil
	_ = conn.Close()
	if l.current != old {
		l.log.Info("asking another controller", "from", old, "to", l.current, "because", why)
	}
}

// Close ends the link.
func (l *Link) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.conn != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
}

// Call runs f on the connection and tells the link how it went. The deadline is the call's.
func (l *Link) Call(ctx context.Context, deadline time.Duration, f func(context.Context, *grpc.ClientConn) error) error {
	conn, err := l.Conn()
	if err != nil {
		return err
	}
	callCtx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	if err = f(callCtx, conn); err != nil && ctx.Err() == nil {
		l.Failed(conn, err)
	}
	return err
}

// Backoff is the wait after the n-th failure in a row, 1 being the first; jitter is in [0,1).
func Backoff(n int, most time.Duration, jitter float64) time.Duration {
	d := 200 * time.Millisecond
	for i := 1; i < n && d < most; i++ {
		d *= 2
	}
	d = min(d, most)
	return d - time.Duration(jitter*0.3*float64(d))
}

// Sleep waits for d or until ctx ends; false when ctx ended.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
