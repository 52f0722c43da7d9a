package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// diagnoseTimeout bounds the look at one endpoint.
const diagnoseTimeout = 2 * time.Second

// diagnose says in an operator's words why a cluster cannot be used, where the client only says that time ran out. nil is no idea.
func diagnose(ctx context.Context, cfg ExternalConfig, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return fmt.Errorf("etcd knows no user %q with this password", cfg.Username)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return errors.New("etcd asks for a user: set store.user and store.password_file")
	case errors.Is(err, rpctypes.ErrPermissionDenied) && cfg.Username == "":
		return fmt.Errorf("etcd asks for a user, and the certificate's name is none that may read and write below %q: set store.user and store.password_file", cfg.Prefix)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("etcd's user %q may not read and write below %q: grant it a role that may", cfg.Username, cfg.Prefix)
	}
	var found []error
	for _, endpoint := range cfg.Endpoints {
		if err := knock(ctx, cfg.TLS, endpoint); err != nil {
			found = append(found, fmt.Errorf("%s: %w", endpoint, err))
		}
	}
	return errors.Join(found...)
}

// knock connects to an endpoint, and waits for its first word: with TLS 1.3 a server refuses a client's certificate only after the client holds the handshake for done.
func knock(ctx context.Context, config *tls.Config, endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	var dialer interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if u.Scheme == "https" {
		config = config.Clone()
		config.NextProtos = []string{"h2"}
		dialer = &tls.Dialer{Config: config}
	}
	conn, err := dialer.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	// The preface of HTTP/2 and empty settings, to which a server answers with its own.
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("it ends the connection: %w", err)
	}
	return nil
}
