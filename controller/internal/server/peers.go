package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/limiquantix/limiquantix/controller/internal/pki"
)

// peerPort takes those connections off the agent port that came with a controller's certificate, and serves HTTP/2 on them.
type peerPort struct {
	cluster string
	http    *http.Server
	conns   chan net.Conn
	closed  chan struct{}
	close   func()
	addr    net.Addr
}

func newPeerPort(cluster string, h http.Handler, log *slog.Logger) *peerPort {
	p := &peerPort{cluster: cluster, conns: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	p.http = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		Protocols:         new(http.Protocols),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 512, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	p.http.Protocols.SetUnencryptedHTTP2(true) // TLS was done by the agent port
	return p
}

// serve returns after stop.
func (p *peerPort) serve(addr net.Addr) {
	p.addr = addr
	_ = p.http.Serve(p) // always http.ErrServerClosed: Accept fails for no other reason
}

// stop waits for calls under way until ctx ends, and then cuts them off.
func (p *peerPort) stop(ctx context.Context) {
	if p.http.Shutdown(ctx) != nil {
		_ = p.http.Close()
	}
	p.close() // also when it never served
}

// Accept implements net.Listener.
func (p *peerPort) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *peerPort) Close() error { p.close(); return nil }

// Addr implements net.Listener.
func (p *peerPort) Addr() net.Addr { return p.addr }

// take hands a connection over.
func (p *peerPort) take(c net.Conn) {
	_ = c.SetDeadline(time.Time{}) // the handshake's
	select {
	case p.conns <- c:
	case <-p.closed:
		_ = c.Close()
	}
}

// portCredentials are the agent port's: TLS, and controllers' connections go to peers instead of gRPC.
type portCredentials struct {
	credentials.TransportCredentials
	peers *peerPort
}

func newPortCredentials(conf *tls.Config, peers *peerPort) credentials.TransportCredentials {
	return portCredentials{credentials.NewTLS(conf), peers}
}

// ServerHandshake implements credentials.TransportCredentials.
func (c portCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil || c.peers == nil {
		return conn, info, err
	}
	if t, ok := info.(credentials.TLSInfo); ok && len(t.State.VerifiedChains) > 0 {
		if _, err := pki.ControllerIDFromCert(t.State.VerifiedChains[0][0], c.peers.cluster); err == nil {
			c.peers.take(plainConn{conn})
			return nil, nil, credentials.ErrConnDispatched
		}
	}
	return conn, info, nil
}

// Clone implements credentials.TransportCredentials.
func (c portCredentials) Clone() credentials.TransportCredentials {
	return portCredentials{c.TransportCredentials.Clone(), c.peers}
}

// plainConn hides that it is TLS, which net/http would look into.
type plainConn struct{ net.Conn }
