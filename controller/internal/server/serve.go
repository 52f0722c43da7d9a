package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// NewHTTP is the public port's server: HTTP/1.1 and HTTP/2, the latter also without TLS. certificate nil = no TLS.
func NewHTTP(h http.Handler, certificate *tls.Certificate, log *slog.Logger) *http.Server {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		Protocols:         new(http.Protocols),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 512, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	srv.Protocols.SetHTTP1(true)
	if certificate == nil {
		srv.Protocols.SetUnencryptedHTTP2(true)
		return srv
	}
	srv.Protocols.SetHTTP2(true)
	srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12}
	return srv
}

// ServeHTTP serves until Shutdown; nil then.
func ServeHTTP(srv *http.Server, l net.Listener) error {
	var err error
	if srv.TLSConfig != nil {
		err = srv.ServeTLS(l, "", "")
	} else {
		err = srv.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("public port: %w", err)
}

// StopHTTP accepts nothing new, ends streams, waits for calls under way until ctx ends, and then cuts them off.
func StopHTTP(ctx context.Context, srv *http.Server, p *Public) error {
	p.Drain()
	if err := srv.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("calls were cut off: %w", err), srv.Close())
	}
	return nil
}
