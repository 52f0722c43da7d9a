package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Config is what the service needs.
type Config struct {
	Store   store.Store
	Cache   *state.Cache
	Leader  *state.Leader
	History *state.History
	Seen    *state.Sightings // what nodes say of VMs, placed there or not; nil: nobody wants to know
	Sealer  seam.Sealer      // nil: VMs with secret user-data are not sent
	Now     func() time.Time
	Log     *slog.Logger
}

// Service serves WatchDesired and ReportStatus, and passes on requests for tunnels.
type Service struct {
	cfg Config

	mu       sync.Mutex
	sessions map[string]*session  // by node id: the newest stream of each
	reports  map[string]*reported // by node id: how far its reports are
	told     map[string]*told     // by node id: what is not stored

	memo  *memo
	facts *factBook
}

var _ seam.TunnelAsker = (*Service)(nil)

// New makes the service. Run must run for streams to follow changes.
func New(cfg Config) *Service {
	return &Service{cfg: cfg, sessions: map[string]*session{}, reports: map[string]*reported{}, told: map[string]*told{}, memo: newMemo(), facts: newFactBook()}
}

// AskTunnel implements seam.TunnelAsker.
func (s *Service) AskTunnel(nodeID string, open *agentv1.OpenTunnel) error {
	s.mu.Lock()
	ss := s.sessions[nodeID]
	s.mu.Unlock()
	if ss == nil {
		name := nodeID
		if row := s.cfg.Cache.Row(state.KindNode, nodeID); row != nil {
			name = row.Name
		}
		return fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "node %s is not connected now", name).
			WithRemedy("try again when its agent is back")
	}
	ss.ask(open)
	return nil
}

// Run passes changes on to the streams that they concern, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		sub, err := s.cfg.Cache.Subscribe(s.cfg.Cache.Revision())
		if err != nil {
			continue // the cache was reloaded in between
		}
		s.memo.reset()
		s.eachSession((*session).resync)
		for {
			changes, revision, err := sub.Next(ctx)
			if err != nil {
				break
			}
			s.dispatch(changes, revision)
		}
	}
	return ctx.Err()
}

func (s *Service) eachSession(do func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ss := range s.sessions {
		do(ss)
	}
}

// mark says that an object of a node may be desired otherwise.
func (s *Service) mark(nodeID string, k key, revision int64) {
	s.mu.Lock()
	ss := s.sessions[nodeID]
	s.mu.Unlock()
	if ss != nil {
		ss.mark(k, revision)
	}
}
