package leader

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// patience is how long a client asks again before that counts as a hang.
const patience = 2 * time.Minute

// made is one VM whose creation was acknowledged.
type made struct{ name, id string }

// ledger is what clients were told: every acknowledged creation and deletion, by name and by id.
type ledger struct {
	k *cluster

	mu      sync.Mutex
	live    map[string]made // by name; nobody has asked to delete them
	deleted []made
	ids     map[string]string // every id that was ever given -> name
	calls   int
	wrong   []string // answers that must not be

	stop context.CancelFunc
	all  sync.WaitGroup
}

// load starts clients that create and delete VMs through whichever controller answers, until halt.
func load(t *testing.T, k *cluster, clients int, seed uint64) *ledger {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &ledger{k: k, live: map[string]made{}, ids: map[string]string{}, stop: stop}
	for i := range clients {
		r := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // a seed that can be given
		l.all.Go(func() { l.client(ctx, fmt.Sprintf("w%d", i), r) })
	}
	return l
}

func (l *ledger) halt() {
	l.stop()
	l.all.Wait()
}

func (l *ledger) client(ctx context.Context, name string, r *rand.Rand) {
	var own []made
	tick := time.NewTicker(60 * time.Millisecond) // the load, not a wait
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if len(own) < 3 || len(own) < 12 && r.IntN(2) == 0 {
			if m, ok := l.create(fmt.Sprintf("%s-%d", name, n), r.IntN(2)); ok {
				own = append(own, m)
			}
			continue
		}
		i := r.IntN(len(own))
		l.remove(own[i], r.IntN(2))
		own = slices.Delete(own, i, i+1)
	}
}

// retry asks the controllers in turn, with the same request, until one answers.
func (l *ledger) retry(what string, first int, call func(ctx context.Context, m *controller) error) bool {
	began := time.Now()
	for try := first; ; try++ {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		err := call(ctx, l.k.members[try%len(l.k.members)])
		cancel()
		switch connect.CodeOf(err) {
		case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeAborted:
			if err != nil && time.Since(began) < patience {
				continue
			}
		default:
			if err == nil {
				return true
			}
		}
		l.mu.Lock()
		l.wrong = append(l.wrong, fmt.Sprintf("%s, after %v and %d tries: %v", what, time.Since(began), try-first+1, err))
		l.mu.Unlock()
		return false
	}
}

func createRequest(name string) *computev1.CreateVMRequest {
	req := &computev1.CreateVMRequest{RequestId: "create-" + name, Vm: &computev1.VM{Spec: &computev1.VMSpec{MemoryBytes: 16 << 20}}}
	req.Vm.Meta = meta(name)
	return req
}

func (l *ledger) create(name string, first int) (m made, ok bool) {
	ok = l.retry("create "+name, first, func(ctx context.Context, c *controller) error {
		res, err := c.vms.CreateVM(ctx, connect.NewRequest(createRequest(name)))
		if err == nil {
			m = made{name, res.Msg.GetVm().GetMeta().GetId()}
		}
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok {
		return m, false
	}
	l.calls++
	if other, twice := l.ids[m.id]; twice {
		l.wrong = append(l.wrong, fmt.Sprintf("id %s was given to %s and to %s", m.id, other, name))
	}
	l.ids[m.id] = name
	l.live[name] = m
	return m, true
}

func (l *ledger) remove(m made, first int) {
	l.mu.Lock()
	delete(l.live, m.name)
	l.mu.Unlock()
	ok := l.retry("delete "+m.name, first, func(ctx context.Context, c *controller) error {
		_, err := c.vms.DeleteVM(ctx, connect.NewRequest(&computev1.DeleteVMRequest{Id: m.id, RequestId: "delete-" + m.name}))
		return err
	})
	if ok {
		l.mu.Lock()
		l.calls++
		l.deleted = append(l.deleted, m)
		l.mu.Unlock()
	}
}

// known is what must be there and what must not, as of now.
func (l *ledger) known() (live []made, deleted []made) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.live {
		live = append(live, m)
	}
	return live, slices.Clone(l.deleted)
}

// check compares what clients were told with the store, read at one revision, while the load goes on.
func (l *ledger) check(t *testing.T, round string) {
	t.Helper()
	live, deleted := l.known()
	s := l.k.snapshot(t)
	// What was live before and is so after is not being deleted by anybody in between.
	still := map[string]bool{}
	after, _ := l.known()
	for _, m := range after {
		still[m.id] = true
	}
	for _, m := range live {
		vm := s.vms[m.id]
		switch {
		case !still[m.id]:
		case vm == nil:
			t.Errorf("%s: %s (%s) was acknowledged and is lost", round, m.name, m.id)
		case vm.GetVm().GetMeta().GetName() != m.name || vm.GetVm().GetMeta().GetDeleteTime() != nil:
			t.Errorf("%s: %s (%s) is %v", round, m.name, m.id, vm.GetVm().GetMeta())
		}
	}
	for _, m := range deleted {
		if vm := s.vms[m.id]; vm != nil && vm.GetVm().GetMeta().GetDeleteTime() == nil {
			t.Errorf("%s: the deletion of %s (%s) was acknowledged and is undone", round, m.name, m.id)
		}
	}
	s.consistent(t, round)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.wrong {
		t.Errorf("%s: %s", round, w)
	}
	l.wrong = nil
}

// repeat sends requests of before once more: each must have the answer that it had.
func (l *ledger) repeat(t *testing.T, some int) {
	t.Helper()
	live, deleted := l.known()
	for _, m := range append(live, deleted[max(0, len(deleted)-some):]...) {
		for _, c := range l.k.members {
			res, err := c.vms.CreateVM(t.Context(), connect.NewRequest(createRequest(m.name)))
			if err != nil || res.Msg.GetVm().GetMeta().GetId() != m.id {
				t.Fatalf("the request that made %s (%s) is answered with %v, %v", m.name, m.id, res, err)
			}
		}
	}
}
