package enrol

import (
	"context"

	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

type serialKey struct{}

// WithSerial says with which certificate the calling node came.
func WithSerial(ctx context.Context, serial pki.Serial) context.Context {
	return context.WithValue(ctx, serialKey{}, serial)
}

// Renew gives the calling node its next certificate. The one it came with stays good until it ends or the new one was itself renewed, so that a
// lost answer is asked for again.
func (s *Service) Renew(ctx context.Context, in *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	id := caller.Node(ctx)
	serial, _ := ctx.Value(serialKey{}).(pki.Serial)
	if id == "" || serial == "" {
		return nil, fault.New(metav1.Reason_REASON_UNAUTHENTICATED, "only a node with a certificate can renew it")
	}
	req, err := pki.ParseRequest(in.GetCertificateRequest())
	if err != nil {
		return nil, fault.Invalid(fault.Violation{Field: "certificate_request", Description: err.Error()})
	}
	for range maxTries {
		g := &granted{}
		if err := s.load(ctx, g, id); err != nil {
			return nil, err
		}
		onRecord := pki.Serial(g.node.GetCertificateSerial())
		if !g.node.GetEnrolled() || !onRecord.Accepts(serial) {
			return nil, fault.New(metav1.Reason_REASON_UNAUTHENTICATED, "the certificate was replaced by a newer one")
		}
		g.node.PublicKeySha256 = req.KeySHA256
		err := s.issue(g, req, func(old pki.Serial) pki.Serial {
			if old == serial {
				return old.After()
			}
			return old.Instead()
		})
		if err != nil {
			return nil, err
		}
		done, err := s.commit(ctx, g)
		if err != nil {
			return nil, err
		}
		if done {
			s.Log.InfoContext(ctx, "node certificate renewed", "node_id", id, "certificate_serial", string(g.issued.Serial))
			return &agentv1.RenewResponse{Certificate: g.issued.DER, CaCertificate: s.CA.CertificateDER()}, nil
		}
	}
	return nil, busy()
}
