package agent

import (
	"context"
	"slices"

	"github.com/limiquantix/limiquantix/controller/internal/service/request"
)

// pastSessions is how many runs of an agent that are over are remembered.
const pastSessions = 8

// reported is how far the reports of a node are. A network may deliver late, twice and in another order, and a call that its sender gave up may still
// be under way here: reports of a node are taken one at a time, none that is older than one that was taken, and none of a run of the agent that is over.
type reported struct {
	turn     chan struct{} // holds a token while nobody takes a report
	session  string
	sequence int64
	past     []string // sessions that are over, newest last
}

func (s *Service) progress(nodeID string) *reported {
	r := s.reports[nodeID]
	if r == nil {
		r = &reported{turn: make(chan struct{}, 1)}
		r.turn <- struct{}{}
		s.reports[nodeID] = r
	}
	return r
}

// turn waits until no other report of the node is being taken. Call done afterwards.
func (s *Service) turn(ctx context.Context, nodeID string) (done func(), err error) {
	s.mu.Lock()
	turn := s.progress(nodeID).turn
	s.mu.Unlock()
	select {
	case <-turn:
		return func() { turn <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, request.Fault(ctx.Err())
	}
}

func (s *Service) isNews(nodeID, session string, sequence int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.progress(nodeID)
	if r.session == session {
		return sequence > r.sequence
	}
	return !slices.Contains(r.past, session)
}

// taken notes that a report was written.
func (s *Service) taken(nodeID, session string, sequence int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.progress(nodeID)
	if slices.Contains(r.past, session) {
		return // a newer run of the agent began meanwhile
	}
	r.begin(session)
	r.sequence = max(r.sequence, sequence)
}

// began notes that a run of the agent opened its stream: the runs before it are over.
func (s *Service) began(nodeID, session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress(nodeID).begin(session)
}

func (r *reported) begin(session string) {
	if r.session == session {
		return
	}
	if r.session != "" {
		r.past = append(r.past, r.session)
		r.past = r.past[max(0, len(r.past)-pastSessions):]
	}
	r.session, r.sequence = session, 0
	r.past = slices.DeleteFunc(r.past, func(p string) bool { return p == session })
}
