package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/proto/fault"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// leaderOnly are the methods that need the streams of agents or what they told, which the leader alone has. Other controllers pass them on to it.
var leaderOnly = map[string]bool{
	computev1connect.VMServiceOpenConsoleProcedure:      true,
	computev1connect.VMServiceGetConsoleLogProcedure:    true,
	computev1connect.VMServiceListVMEventsProcedure:     true,
	storagev1connect.ImageServiceUploadImageProcedure:   true,
	storagev1connect.VolumeServiceExportVolumeProcedure: true,
	networkv1connect.PortServiceGetPortStatsProcedure:   true,
}

const (
	// revisionHeader tells the leader how much its caller knows already, so that a client finds through one controller what it made there.
	revisionHeader = "X-Limiquantix-Revision"
	// peerDialTime bounds the way to another controller; peerSilence, twice, how long one may be silent on an open connection.
	peerDialTime = 3 * time.Second
	peerSilence  = 5 * time.Second
)

// Forwarding is what a controller needs to pass calls on to the leader, and to take them from others.
type Forwarding struct {
	Leadership Leadership
	CA         *pki.CA
	// Certificate is this controller's own, see pki.CA.IssueController.
	Certificate tls.Certificate
	// Revision is what this controller knows; Await waits until it knows as much.
	Revision func() int64
	Await    func(ctx context.Context, revision int64) error
}

type (
	leaderKey  struct{}
	unblockKey struct{}
)

// newProxy passes HTTP requests on to the agent port of the leader that their context names. Both ends authenticate each other with the cluster's CA;
// the client's own token travels with the request, and the leader checks it as if it had come to it first.
func (p *Public) newProxy(f *Forwarding) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "https"
			r.Out.URL.Host, _ = r.In.Context().Value(leaderKey{}).(string)
			r.Out.Host = pki.ServerName
			r.Out.Header.Set("X-Request-Id", RequestID(r.In.Context()))
			r.Out.Header.Set(revisionHeader, strconv.FormatInt(f.Revision(), 10))
		},
		Transport: unblocking{&http.Transport{
			DialContext:         (&net.Dialer{Timeout: peerDialTime}).DialContext,
			TLSHandshakeTimeout: peerDialTime,
			TLSClientConfig: &tls.Config{
				Certificates: []tls.Certificate{f.Certificate}, RootCAs: f.CA.Pool(), ServerName: pki.ServerName, MinVersion: tls.VersionTLS13,
			},
			ForceAttemptHTTP2:  true,
			DisableCompression: true, // the ends negotiate that
			IdleConnTimeout:    time.Minute,
			HTTP2:              &http.HTTP2Config{SendPingTimeout: peerSilence, PingTimeout: peerSilence},
		}},
		FlushInterval: -1,
		ModifyResponse: func(r *http.Response) error {
			r.Header.Del("X-Request-Id") // ours stands there already
			end(r)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			p.refuse(w, r, unreached(r, err))
		},
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
}

func unreached(r *http.Request, err error) error {
	if errors.Is(context.Cause(r.Context()), errDraining) {
		return errDraining
	}
	address, _ := r.Context().Value(leaderKey{}).(string)
	f := fault.New(metav1.Reason_REASON_NOT_LEADER, "the leader at %s, which alone can serve this call, cannot be reached: %w", address, err).
		WithRemedy("try again: another controller leads soon if that one is gone; else see whether controllers reach one another's agent_address").
		WithMetadata("leader", address)
	f.Code = codes.Unavailable
	return f
}

// forwards reports whether the call is the leader's and we are not that.
func (p *Public) forwards(r *http.Request) bool {
	if p.forwarding == nil || !leaderOnly[r.URL.Path] || p.forwarding.Leadership.Leading() {
		return false
	}
	if r.URL.Path == computev1connect.VMServiceOpenConsoleProcedure && r.ProtoMajor < 2 {
		return false // our own handler says that it needs HTTP/2
	}
	_, err := p.tokens.principal(r.Header)
	return err == nil // our own handler refuses it
}

// forward passes a call on to the leader.
func (p *Public) forward(w http.ResponseWriter, r *http.Request) {
	callOf(r.Context()).principal, _ = p.tokens.principal(r.Header)
	leader := p.forwarding.Leadership.Leader()
	if leader.Address == "" {
		p.refuse(w, r, leaderless())
		return
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), leaderKey{}, leader.Address))
	defer cancel(nil)
	client := http.NewResponseController(w)
	ctx = context.WithValue(ctx, unblockKey{}, func() { _ = client.SetReadDeadline(time.Now()) })
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-p.draining:
			cancel(errDraining)
		case <-stop:
		}
	}()
	defer func() {
		if v := recover(); v != nil { // the leader went away in the middle; the client sees a broken stream
			c := callOf(r.Context())
			c.code, c.err = codeName(codes.Unavailable), fmt.Errorf("the call to the leader at %s broke", leader.Address)
			panic(v)
		}
	}()
	p.proxy.ServeHTTP(w, r.WithContext(ctx))
}

func leaderless() error {
	f := fault.New(metav1.Reason_REASON_NOT_LEADER, "no controller leads at the moment, and this call needs the one that does").
		WithRemedy("try again: one will within seconds")
	f.Code = codes.Unavailable
	return f
}

// refuse ends a call with an error in the client's protocol.
func (p *Public) refuse(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	c.err, c.code = err, codeName(faultOf(r.Context(), err).Code)
	_ = p.errors.Write(w, r, connectError(r.Context(), err)) // the client may have gone
}

// Peers serves the calls that other controllers pass on: those alone, and only while this one leads. The client's token counts, as on the public port.
func (p *Public) Peers() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := p.forwarding
		if f == nil || !leaderOnly[r.URL.Path] {
			p.notFound(w, r)
			return
		}
		if !f.Leadership.Leading() {
			// Never passed on a second time: two that take each other for the leader would do so for ever.
			p.refuse(w, r, leaderless())
			return
		}
		if revision, err := strconv.ParseInt(r.Header.Get(revisionHeader), 10, 64); err == nil {
			wait, cancel := context.WithTimeout(r.Context(), peerSilence)
			_ = f.Await(wait, revision) // the call itself says what is missing
			cancel()
		}
		p.observed(w, r, p.mux.ServeHTTP)
	})
}
