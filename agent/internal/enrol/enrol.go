package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/agent/internal/link"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

// Enrol trades a join token for an identity and keeps it in dir. Repeating it with the same token and dir answers the same node. An answer that is not by
// the CA of the token is refused before the token is sent.
func Enrol(ctx context.Context, dir, controller string, token Token) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	key, err := ensureKey(dir)
	if err != nil {
		return nil, err
	}
	csr, err := request(key)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	conn, err := link.Dial(controller, pinned(token))
	if err != nil {
		return nil, fmt.Errorf("enrol: controller %s: %w", controller, err)
	}
	defer conn.Close() //nolint:errcheck // one call was made
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	r, err := agentv1.NewAgentServiceClient(conn).Enrol(ctx, &agentv1.EnrolRequest{Token: token.text, CertificateRequest: csr})
	if err != nil {
		return nil, fmt.Errorf("enrol with %s: %w", controller, fault.From(err))
	}
	if sha256.Sum256(r.GetCaCertificate()) != token.CAHash {
		return nil, errors.New("enrol: the controller answered with another CA than the token's")
	}
	id := &Identity{dir: dir, key: key, Facts: Facts{NodeID: r.GetNodeId(), NodeName: r.GetNodeName(), ClusterID: r.GetClusterId()}}
	if err := id.use(r.GetCertificate(), r.GetCaCertificate()); err != nil {
		return nil, err
	}
	return id, id.save()
}

// pinned trusts exactly the CA whose hash the token carries.
func pinned(token Token) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: ServerName,
		InsecureSkipVerify: true, //nolint:gosec // verified below, against the one CA that the token names
		VerifyConnection: func(s tls.ConnectionState) error {
			return verifyPinned(s.PeerCertificates, token.CAHash)
		},
	}
}

func verifyPinned(chain []*x509.Certificate, hash [sha256.Size]byte) error {
	for _, ca := range chain {
		if sha256.Sum256(ca.Raw) != hash {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err
	}
	return errors.New("the server does not show the CA certificate that the join token names: wrong address, or somebody in between")
}

// Renew trades the certificate for a new one.
func (id *Identity) Renew(ctx context.Context, conn *grpc.ClientConn) error {
	csr, err := request(id.key)
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	r, err := agentv1.NewAgentServiceClient(conn).Renew(ctx, &agentv1.RenewRequest{CertificateRequest: csr})
	if err != nil {
		return fault.From(err)
	}
	if err := id.use(r.GetCertificate(), r.GetCaCertificate()); err != nil {
		return err
	}
	return id.save()
}

// KeepRenewed renews the certificate at two thirds of its life, again and again, until ctx ends.
func (id *Identity) KeepRenewed(ctx context.Context, l *link.Link, log *slog.Logger) {
	failures := 0
	for {
		wait := time.Until(id.RenewAt())
		if failures > 0 {
			wait = link.Backoff(failures, 5*time.Minute, rand.Float64())
		}
		// A timer stands still while the host sleeps; look now and then.
		if !link.Sleep(ctx, min(max(wait, 10*time.Millisecond), time.Hour)) {
			return
		}
		if failures == 0 && time.Until(id.RenewAt()) > 0 {
			continue
		}
		err := l.Call(ctx, 15*time.Second, id.Renew)
		switch {
		case err == nil:
			failures = 0
			log.Info("certificate renewed", "expires", id.Expires())
			l.Refresh()
		case ctx.Err() == nil:
			failures++
			log.Warn("certificate was not renewed; it is tried again", "expires", id.Expires(), "error", err)
		}
	}
}
