package node

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const (
	defaultTTL = time.Hour
	maxTTL     = 7 * 24 * time.Hour
)

// CreateJoinToken makes a token; only the hash of its secret is kept.
func (s *Service) CreateJoinToken(ctx context.Context, req *connect.Request[computev1.CreateJoinTokenRequest]) (*connect.Response[computev1.CreateJoinTokenResponse], error) {
	m := req.Msg
	var v domain.Violations
	domain.CheckName(&v, "node_name", m.GetNodeName())
	ttl := defaultTTL
	if m.GetTtl() != nil {
		if ttl = m.GetTtl().AsDuration(); m.GetTtl().CheckValid() != nil || ttl < time.Second || ttl > maxTTL {
			v.Add("ttl", "must be from 1s to 604800s (7 days)")
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	if s.cfg.CA == nil {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "this controller has no certificate authority, so agents cannot enrol").
			WithRemedy("enable its agent API")
	}
	now := s.cfg.Now()
	ca := sha256.Sum256(s.cfg.CA.CertificateDER())
	token := pki.NewJoinToken(tokenID(), hex.EncodeToString(ca[:]))
	rec := &statev1.JoinTokenRecord{
		SchemaVersion: 1, Id: token.ID, SecretSha256: token.SecretSHA256(), NodeName: m.GetNodeName(),
		ExpireTime: timestamppb.New(now.Add(ttl)), CreateTime: timestamppb.New(now),
	}
	call := request.Call{Method: computev1connect.NodeServiceCreateJoinTokenProcedure, Body: m, RequestID: m.GetRequestId(), Secret: true}
	return respond(request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*computev1.CreateJoinTokenResponse], error) {
		var w state.Writer
		w.Put(state.Key(state.KindJoinToken, rec.GetId()), rec)
		txn, err := w.Txn()
		return &request.Plan[*computev1.CreateJoinTokenResponse]{Txn: txn, ObjectID: rec.GetId(), Response: &computev1.CreateJoinTokenResponse{
			JoinToken: publicToken(rec), Token: token.String(),
		}}, request.Fault(err)
	}))
}

// ListJoinTokens lists the tokens that are good now.
func (s *Service) ListJoinTokens(context.Context, *connect.Request[computev1.ListJoinTokensRequest]) (*connect.Response[computev1.ListJoinTokensResponse], error) {
	resp := &computev1.ListJoinTokensResponse{}
	for _, row := range s.cfg.Cache.Find(state.Query{Kind: state.KindJoinToken}).Rows {
		if rec := row.JoinToken(); s.cfg.Now().Before(rec.GetExpireTime().AsTime()) {
			resp.JoinTokens = append(resp.JoinTokens, publicToken(rec))
		}
	}
	return connect.NewResponse(resp), nil
}

// DeleteJoinToken revokes a token.
func (s *Service) DeleteJoinToken(ctx context.Context, req *connect.Request[computev1.DeleteJoinTokenRequest]) (*connect.Response[computev1.DeleteJoinTokenResponse], error) {
	call := request.Call{Method: computev1connect.NodeServiceDeleteJoinTokenProcedure, Body: req.Msg}
	return respond(request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*computev1.DeleteJoinTokenResponse], error) {
		plan := &request.Plan[*computev1.DeleteJoinTokenResponse]{Response: &computev1.DeleteJoinTokenResponse{}}
		if row := s.cfg.Cache.Row(state.KindJoinToken, req.Msg.GetId()); row != nil {
			var w state.Writer
			w.Delete(state.Key(state.KindJoinToken, row.ID))
			plan.Txn, _ = w.Txn()
		}
		return plan, nil
	}))
}

func publicToken(rec *statev1.JoinTokenRecord) *computev1.JoinToken {
	return &computev1.JoinToken{Id: rec.GetId(), NodeName: rec.GetNodeName(), ExpireTime: rec.GetExpireTime(), CreateTime: rec.GetCreateTime()}
}

// tokenID names a token; it is not secret.
func tokenID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails, says its documentation
	return hex.EncodeToString(b)
}
