package enrol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const (
	nodeSchema = 1
	maxTries   = 16
	// usedPrefix is where a used token's record lies until it would have expired, so that an agent that never saw the answer can ask again.
	usedPrefix = "jointokenused/"
)

// Service holds what enrolment needs.
type Service struct {
	Store  store.Store
	Cache  *state.Cache
	Leader *state.Leader
	CA     *pki.CA
	Log    *slog.Logger
	Now    func() time.Time
}

// Enrol makes the token's node an enrolled one, with a certificate for the request's key. The token is used up by it; the same token and key answer
// the same node until the token's end. JOIN_TOKEN_REFUSED says nothing of which part was wrong to who has no secret.
func (s *Service) Enrol(ctx context.Context, in *agentv1.EnrolRequest) (*agentv1.EnrolResponse, error) {
	token, err := pki.ParseJoinToken(in.GetToken())
	if err != nil {
		return nil, refused("this is no join token")
	}
	if token.CAHash != s.CA.Hash() {
		return nil, refused("the token was made by another cluster")
	}
	req, err := pki.ParseRequest(in.GetCertificateRequest())
	if err != nil {
		return nil, fault.Invalid(fault.Violation{Field: "certificate_request", Description: err.Error()})
	}
	for range maxTries {
		g, err := s.grant(ctx, token, req)
		if err != nil {
			return nil, err
		}
		done, err := s.commit(ctx, g)
		if err != nil {
			return nil, err
		}
		if done {
			s.Log.InfoContext(ctx, "node enrolled", "node_id", g.nodeID(), "node_name", g.node.GetNode().GetMeta().GetName(),
				"certificate_serial", string(g.issued.Serial), "join_token", token.ID)
			return &agentv1.EnrolResponse{
				NodeId: g.nodeID(), NodeName: g.node.GetNode().GetMeta().GetName(), ClusterId: s.CA.ClusterID(),
				Certificate: g.issued.DER, CaCertificate: s.CA.CertificateDER(),
			}, nil
		}
	}
	return nil, busy()
}

func refused(format string, args ...any) error {
	return fault.New(metav1.Reason_REASON_JOIN_TOKEN_REFUSED, format, args...).
		WithRemedy("make a new token: lqctl node token NAME")
}

func busy() error {
	return fault.New(metav1.Reason_REASON_BUSY, "the node's record changed again and again").WithRemedy("try again")
}

// granted is a certificate and the commit that makes it count.
type granted struct {
	node   *statev1.NodeRecord
	issued pki.Issued
	txn    store.Txn
	// used is the record to keep of the token until its end; nil when it is kept already.
	used *statev1.JoinTokenRecord
}

func (g *granted) nodeID() string { return g.node.GetNode().GetMeta().GetId() }

// grant checks the token, finds or makes the node, and issues the certificate.
func (s *Service) grant(ctx context.Context, token pki.JoinToken, req *pki.Request) (*granted, error) {
	rec, kv, err := s.token(ctx, state.Key(state.KindJoinToken, token.ID))
	fresh := err == nil
	if errors.Is(err, store.ErrNotFound) {
		rec, _, err = s.token(ctx, usedPrefix+token.ID)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, refused("the token is unknown, was used or was revoked")
	case err != nil:
		return nil, request.Fault(err)
	case !token.Matches(rec.GetSecretSha256()):
		return nil, refused("the token is unknown, was used or was revoked")
	case !s.Now().Before(rec.GetExpireTime().AsTime()):
		return nil, refused("the token expired at %s", rec.GetExpireTime().AsTime().Format(time.RFC3339))
	}
	g := &granted{}
	if fresh {
		g.used = rec
		g.txn.Conditions = append(g.txn.Conditions, store.ModRevisionEquals(kv.Key, kv.ModRevision))
		g.txn.Ops = append(g.txn.Ops, store.Delete(kv.Key))
	}
	if err := s.settleNode(ctx, g, rec.GetNodeName(), req.KeySHA256, fresh); err != nil {
		return nil, err
	}
	return g, s.issue(g, req, func(old pki.Serial) pki.Serial {
		if old == "" {
			return pki.FirstSerial()
		}
		return old.Reenrolled()
	})
}

func (s *Service) token(ctx context.Context, key string) (*statev1.JoinTokenRecord, store.KV, error) {
	kv, err := s.Store.Get(ctx, key)
	if err != nil {
		return nil, kv, err
	}
	rec := &statev1.JoinTokenRecord{}
	if err := proto.Unmarshal(kv.Value, rec); err != nil {
		return nil, kv, fmt.Errorf("join token record %s: %w", key, err)
	}
	return rec, kv, nil
}

// settleNode finds the node of a name, or makes it. An enrolled one belongs to the key that enrolled.
func (s *Service) settleNode(ctx context.Context, g *granted, name, keySHA256 string, fresh bool) error {
	nameKey := state.NameKey("", state.KindNode, name)
	named, err := s.Store.Get(ctx, nameKey)
	if errors.Is(err, store.ErrNotFound) {
		if !fresh {
			return refused("the token was used, and its node %s is gone", name)
		}
		g.node = newNode(domain.NewID(s.Now()), name, s.Now())
		g.node.Enrolled, g.node.PublicKeySha256 = true, keySHA256
		g.txn.Conditions = append(g.txn.Conditions, store.KeyAbsent(nameKey), store.KeyAbsent(g.key()))
		g.txn.Ops = append(g.txn.Ops, store.Put(nameKey, []byte(g.nodeID())))
		return nil
	}
	if err != nil {
		return request.Fault(err)
	}
	if err := s.load(ctx, g, string(named.Value)); err != nil {
		return err
	}
	switch n := g.node.GetNode(); {
	case n.GetMeta().GetDeleteTime() != nil:
		return fault.New(metav1.Reason_REASON_BEING_DELETED, "node %s is being deleted", name).WithRemedy("wait until it is gone")
	case g.node.GetEnrolled() && g.node.GetPublicKeySha256() != keySHA256 && !fresh:
		return refused("the token was used by another key")
	case g.node.GetEnrolled() && g.node.GetPublicKeySha256() != keySHA256:
		return fault.New(metav1.Reason_REASON_NAME_TAKEN, "node %s has enrolled already, with another key", name).
			WithRemedy("if the host was installed anew, delete the node first: lqctl node delete %s", name)
	case !g.node.GetEnrolled() && !fresh:
		return refused("the token was used, and its node %s is gone", name)
	}
	g.node.Enrolled, g.node.PublicKeySha256 = true, keySHA256
	g.txn.Conditions = append(g.txn.Conditions, store.ModRevisionEquals(nameKey, named.ModRevision))
	return nil
}

func (g *granted) key() string { return state.Key(state.KindNode, g.nodeID()) }

// load reads a node's record and makes the commit conditional on it.
func (s *Service) load(ctx context.Context, g *granted, id string) error {
	kv, err := s.Store.Get(ctx, state.Key(state.KindNode, id))
	if errors.Is(err, store.ErrNotFound) {
		return fault.New(metav1.Reason_REASON_NOT_FOUND, "node %s does not exist", id)
	}
	if err != nil {
		return request.Fault(err)
	}
	g.node = &statev1.NodeRecord{}
	if err := proto.Unmarshal(kv.Value, g.node); err != nil {
		return fmt.Errorf("node record %s: %w", kv.Key, err)
	}
	g.txn.Conditions = append(g.txn.Conditions, store.ModRevisionEquals(kv.Key, kv.ModRevision))
	return nil
}

func newNode(id, name string, now time.Time) *statev1.NodeRecord {
	return &statev1.NodeRecord{
		SchemaVersion: nodeSchema,
		Node: &computev1.Node{
			Meta: &metav1.ObjectMeta{
				Id: id, Name: name, Generation: 1, CreateTime: timestamppb.New(now), UpdateTime: timestamppb.New(now),
			},
			Spec: &computev1.NodeSpec{}, Status: &computev1.NodeStatus{},
		},
	}
}

// issue makes the certificate and writes it into the record.
func (s *Service) issue(g *granted, req *pki.Request, next func(pki.Serial) pki.Serial) error {
	issued, err := s.CA.IssueNode(req, g.nodeID(), next(pki.Serial(g.node.GetCertificateSerial())))
	if err != nil {
		return err
	}
	g.issued = issued
	g.node.CertificateSerial = string(issued.Serial)
	if g.node.GetNode().GetStatus() == nil {
		g.node.Node.Status = &computev1.NodeStatus{}
	}
	st := g.node.GetNode().GetStatus()
	st.CertificateExpireTime = timestamppb.New(issued.Expires)
	if p := st.GetPhase(); p == computev1.NodePhase_NODE_PHASE_UNSPECIFIED || p == computev1.NodePhase_NODE_PHASE_REGISTERED {
		st.Phase, st.Reason, st.Message = domain.NodePhase(g.node, true)
	}
	value, err := proto.Marshal(g.node)
	if err != nil {
		return fmt.Errorf("encode node %s: %w", g.nodeID(), err)
	}
	g.txn.Ops = append(g.txn.Ops, store.Put(g.key(), value))
	return nil
}

// commit writes a grant under the leader's fence. False: something changed meanwhile, work it out anew.
func (s *Service) commit(ctx context.Context, g *granted) (bool, error) {
	fence, err := s.Leader.Fence()
	if err != nil {
		return false, err
	}
	txn := g.txn
	txn.Conditions = append([]store.Condition{fence}, txn.Conditions...)
	var lease store.Lease
	if g.used != nil {
		lease, err = s.Store.Grant(ctx, max(g.used.GetExpireTime().AsTime().Sub(s.Now()), time.Minute))
		if err != nil {
			return false, request.Fault(err)
		}
		value, err := proto.Marshal(g.used)
		if err != nil {
			return false, fmt.Errorf("encode join token %s: %w", g.used.GetId(), err)
		}
		txn.Ops = append(txn.Ops, store.PutLeased(usedPrefix+g.used.GetId(), value, lease.ID))
	}
	res, err := s.Store.Commit(ctx, []store.Txn{txn})
	if err == nil && res[0].Succeeded {
		return true, request.Fault(s.Cache.Wait(ctx, res[0].Revision))
	}
	if err == nil && lease.ID != 0 {
		err = s.Store.Revoke(ctx, lease.ID) // nothing hangs on it; unknown outcomes keep it, and it runs out
	}
	if err != nil {
		return false, request.Fault(err)
	}
	for _, c := range res[0].Unmet() {
		if c.Condition.Key == fence.Key {
			return false, fault.New(metav1.Reason_REASON_NOT_LEADER, "this controller is no longer the leader").WithRemedy("ask the leader")
		}
	}
	return false, nil
}
