package together_test

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

var errNoReply = errors.New("no reply came")

// link is what lies between an agent and the controller: a network that loses, delays, repeats and reorders. Like a real agent's reporter it says the
// last word on each object until it was taken.
type link struct {
	wake chan struct{}
	late sync.WaitGroup // messages on their way whose sender gave them up

	mu    sync.Mutex
	draw  *rand.Rand
	words map[string]*agentv1.ReportStatusRequest // not taken yet, by object
}

func newLink(seed uint64) *link {
	return &link{wake: make(chan struct{}, 1), draw: rand.New(rand.NewPCG(seed, 1)), words: map[string]*agentv1.ReportStatusRequest{}}
}

func (l *link) chance() (fate, ms int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.draw.IntN(100), l.draw.IntN(40)
}

// call delivers a message, or does not, or twice, or late; an error is what the sender sees. A nil link delivers at once.
func (l *link) call(ctx context.Context, deliver func() error) error {
	if l == nil {
		return deliver()
	}
	fate, ms := l.chance()
	pause := time.Duration(ms) * time.Millisecond
	later := func() {
		l.late.Go(func() {
			if rest(ctx, pause) {
				_ = deliver()
			}
		})
	}
	switch {
	case fate < 15: // lost
		return errNoReply
	case fate < 30: // the reply is lost
		_ = deliver()
		return errNoReply
	case fate < 45: // late: the sender has given it up by then, and says it again meanwhile
		later()
		return errNoReply
	case fate < 60: // repeated later, after others
		later()
		return deliver()
	case fate < 75:
		rest(ctx, pause)
	}
	return deliver()
}

func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// say keeps the last word on an object until it is taken.
func (l *link) say(rep *agentv1.ReportStatusRequest) {
	var object string
	switch {
	case len(rep.GetVms()) > 0:
		object = rep.GetVms()[0].GetVmId()
	case len(rep.GetVolumes()) > 0:
		object = rep.GetVolumes()[0].GetVolumeId()
	case len(rep.GetPools()) > 0:
		object = rep.GetPools()[0].GetPoolId()
	case len(rep.GetImages()) > 0:
		object = rep.GetImages()[0].GetImageId()
	}
	l.mu.Lock()
	l.words[object] = rep
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run sends what was said until it is taken, and until ctx ends.
func (l *link) run(ctx context.Context, a *fakeAgent) {
	defer l.late.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		for {
			l.mu.Lock()
			words := maps.Clone(l.words)
			l.mu.Unlock()
			if len(words) == 0 {
				break
			}
			batch := &agentv1.ReportStatusRequest{}
			for _, w := range words {
				proto.Merge(batch, w)
			}
			a.mu.Lock()
			a.seq++
			batch.SessionId, batch.Sequence = a.session, a.seq
			a.mu.Unlock()
			err := l.call(ctx, func() error {
				_, err := a.r.Agent.ReportStatus(ctx, proto.CloneOf(batch))
				return err
			})
			if err != nil {
				if !rest(ctx, time.Millisecond) {
					return
				}
				continue
			}
			l.mu.Lock()
			for k, w := range words {
				if l.words[k] == w {
					delete(l.words, k)
				}
			}
			l.mu.Unlock()
		}
	}
}
