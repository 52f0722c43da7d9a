package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// WatchDesired streams what the calling node shall realise. A second stream of a node ends the first.
func (s *Service) WatchDesired(req *agentv1.WatchDesiredRequest, stream agentv1.AgentService_WatchDesiredServer) error {
	return s.watch(stream.Context(), req, stream.Send)
}

func (s *Service) watch(ctx context.Context, req *agentv1.WatchDesiredRequest, send func(*agentv1.WatchDesiredResponse) error) error {
	if _, err := s.cfg.Leader.Fence(); err != nil {
		return err
	}
	nodeID := caller.Node(ctx)
	s.began(nodeID, req.GetSessionId())
	ss := s.open(nodeID)
	defer s.close(nodeID, ss)
	st := &desiredStream{s: s, node: nodeID, send: send, sent: map[key]string{}}
	if err := st.begin(ctx, req); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return request.Fault(ctx.Err())
		case <-ss.over:
			return fault.New(metav1.Reason_REASON_BUSY, "a newer stream of node %s took the place of this one", nodeID)
		case <-ss.wake:
		}
		if err := st.pass(ctx, ss.take()); err != nil {
			return err
		}
	}
}

func (s *Service) open(nodeID string) *session {
	ss := newSession()
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.sessions[nodeID]; old != nil {
		close(old.over)
	}
	s.sessions[nodeID] = ss
	t := s.toldBy(nodeID)
	t.since = s.cfg.Now()
	clear(t.progress) // the agent tells all again to whom it connects
	return ss
}

func (s *Service) close(nodeID string, ss *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[nodeID] == ss {
		delete(s.sessions, nodeID)
		s.toldBy(nodeID).since = s.cfg.Now()
	}
}

// Connected reports whether a node follows its desired stream.
func (s *Service) Connected(nodeID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[nodeID] != nil
}

// desiredStream is the sending side of one stream.
type desiredStream struct {
	s        *Service
	node     string
	send     func(*agentv1.WatchDesiredResponse) error
	sent     map[key]string // versions that the agent has
	digest   [sha256.Size]byte
	revision int64
}

// begin sends a snapshot, or, when the agent has just that set, nothing but the word that it is current.
func (d *desiredStream) begin(ctx context.Context, req *agentv1.WatchDesiredRequest) error {
	d.revision = d.s.cfg.Cache.Revision()
	var objects []*agentv1.DesiredObject
	for _, k := range d.s.keysOf(d.node) {
		if o := d.s.render(ctx, d.node, k); o != nil {
			objects = append(objects, o)
			d.note(k, o.GetVersion())
		}
	}
	if req.GetKnownRevision() == 0 || !bytes.Equal(req.GetKnownDigest(), d.digest[:]) {
		snapshot := &agentv1.WatchDesiredResponse_Snapshot{Snapshot: &agentv1.DesiredSnapshot{Revision: d.revision}}
		if err := d.send(&agentv1.WatchDesiredResponse{Message: snapshot}); err != nil {
			return err
		}
		for _, o := range objects {
			if err := d.upsert(o); err != nil {
				return err
			}
		}
	}
	return d.sync()
}

// pass sends what changed.
func (d *desiredStream) pass(ctx context.Context, w work) error {
	for _, t := range w.tunnels {
		if err := d.send(&agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_OpenTunnel{OpenTunnel: t}}); err != nil {
			return err
		}
	}
	if w.all {
		w.revision = max(w.revision, d.s.cfg.Cache.Revision())
		for _, k := range d.s.keysOf(d.node) {
			w.dirty[k] = struct{}{}
		}
		for k := range d.sent {
			w.dirty[k] = struct{}{}
		}
	}
	changed := false
	for k := range w.dirty {
		did, err := d.update(ctx, k)
		if err != nil {
			return err
		}
		changed = changed || did
	}
	if !changed {
		return nil
	}
	d.revision = max(d.revision, w.revision)
	return d.sync()
}

// update sends one object if the agent has another version of it.
func (d *desiredStream) update(ctx context.Context, k key) (bool, error) {
	had, has := d.sent[k]
	o := d.s.render(ctx, d.node, k)
	switch {
	case o != nil && has && had == o.GetVersion(), o == nil && !has:
		return false, nil
	case o == nil:
		d.note(k, "")
		return true, d.send(&agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_Remove{
			Remove: &agentv1.DesiredKey{Kind: k.kind, Id: k.id},
		}})
	}
	d.note(k, o.GetVersion())
	return true, d.upsert(o)
}

func (d *desiredStream) upsert(o *agentv1.DesiredObject) error {
	return d.send(&agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_Upsert{Upsert: o}})
}

func (d *desiredStream) sync() error {
	return d.send(&agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_Sync{
		Sync: &agentv1.DesiredSync{Revision: d.revision, Digest: bytes.Clone(d.digest[:])},
	}})
}

// note keeps the digest in step with what the agent has; version "" = no longer.
func (d *desiredStream) note(k key, version string) {
	if old, ok := d.sent[k]; ok {
		d.fold(k, old)
		delete(d.sent, k)
	}
	if version != "" {
		d.fold(k, version)
		d.sent[k] = version
	}
}

func (d *desiredStream) fold(k key, version string) {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%s/%s/%s", k.kind, k.id, version)))
	for i := range d.digest {
		d.digest[i] ^= sum[i]
	}
}

// keysOf are the objects that a node may have to realise.
func (s *Service) keysOf(nodeID string) []key {
	var out []key
	for _, p := range s.cfg.Cache.Find(state.Query{Kind: state.KindPool}).Rows {
		out = append(out, key{kindPool, p.ID})
	}
	for _, row := range s.cfg.Cache.Find(state.Query{Kind: state.KindImage, Node: nodeID}).Rows {
		out = append(out, imageKeys(row)...)
	}
	for _, of := range []struct {
		kind state.Kind
		as   agentv1.DesiredKind
	}{{state.KindVolume, kindVolume}, {state.KindSnapshot, kindSnap}, {state.KindVM, kindVM}} {
		for _, row := range s.cfg.Cache.Find(state.Query{Kind: of.kind, Node: nodeID}).Rows {
			out = append(out, key{of.as, row.ID})
		}
	}
	out = append(out, s.networkKeys(nodeID)...)
	for _, o := range removalsOf(s.cfg.Cache.Row(state.KindNode, nodeID)) {
		out = append(out, orphanKey(o.GetOrphan()))
	}
	return out
}
