package reconcile

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// longEnough is how long a driver call is under way before it is told.
	longEnough = time.Second
	// progressLook is how often calls are looked at for that.
	progressLook = 500 * time.Millisecond
)

// kindNode is what calls belong to that are about no object: lists, figures.
const kindNode = "node"

// progress is what is being done about objects, to be told to whoever asks why one is not as wanted. It decides nothing.
type progress struct {
	tell func(k realised.Key, p *computev1.Progress)
	now  func() time.Time
	node realised.Key

	mu      sync.Mutex
	objects map[realised.Key]*attempt
}

// attempt is what is being done about one object.
type attempt struct {
	doing string
	calls map[*driverCall]bool
	last  *computev1.Failure
	tries int32
	next  time.Time
	waits string
	told  bool
}

// driverCall is one call under way.
type driverCall struct {
	driver, method  string
	begun, deadline time.Time
	queued          bool
}

func newProgress(node string, now func() time.Time, tell func(realised.Key, *computev1.Progress)) *progress {
	return &progress{tell: tell, now: now, node: realised.Key{Kind: kindNode, ID: node}, objects: map[realised.Key]*attempt{}}
}

type objectKey struct{}

// about says which object the calls made with a context are about.
func about(ctx context.Context, k realised.Key) context.Context {
	return context.WithValue(ctx, objectKey{}, k)
}

// of is the attempt of an object; mu is held.
func (p *progress) of(k realised.Key) *attempt {
	a := p.objects[k]
	if a == nil {
		a = &attempt{calls: map[*driverCall]bool{}}
		p.objects[k] = a
	}
	return a
}

// begin notes that a worker runs.
func (p *progress) begin(k realised.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.objects[k]; a != nil {
		a.next = time.Time{}
	}
}

// doing notes what a worker is at.
func (p *progress) doing(k realised.Key, words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(k).doing = words
}

// call notes a call; entered says that it has its place, done that it is over.
func (p *progress) call(ctx context.Context, driver, method string) (entered, done func()) {
	k, ok := ctx.Value(objectKey{}).(realised.Key)
	if !ok {
		k = p.node
	}
	c := &driverCall{driver: driver, method: method, begun: p.now(), queued: true}
	if at, ok := ctx.Deadline(); ok {
		c.deadline = at
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.of(k)
	a.calls[c] = true
	return func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			c.queued = false
		}, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(a.calls, c)
		}
}

// failed notes a failure and when it is tried next; a negative after says that it is not.
func (p *progress) failed(k realised.Key, doing string, err error, tries int, after time.Duration) {
	f, now := fault.From(err), p.now()
	p.mu.Lock()
	a := p.of(k)
	a.doing, a.tries, a.waits, a.next = doing, int32(min(tries, 1<<30)), waitsFor(f), time.Time{}
	a.last = &computev1.Failure{
		Code: codeName(f.Code), Reason: reasonOf(f), Message: f.Message, Remedy: f.Remedy, Time: timestamppb.New(now),
	}
	if after >= 0 {
		a.next = now.Add(after)
	} else {
		a.waits = "a change of what is wanted"
	}
	p.mu.Unlock()
	p.look(k)
}

// waiting notes that an object waits for something that has no error.
func (p *progress) waiting(k realised.Key, words string, after time.Duration) {
	p.mu.Lock()
	a := p.of(k)
	a.doing, a.last, a.tries, a.waits, a.next = "", nil, 0, words, time.Time{}
	if after > 0 {
		a.next = p.now().Add(after)
	}
	p.mu.Unlock()
	p.look(k)
}

// settled notes that an object is as wanted, or wanted no longer.
func (p *progress) settled(k realised.Key) {
	p.mu.Lock()
	a := p.objects[k]
	if a != nil {
		a.doing, a.last, a.tries, a.waits, a.next = "", nil, 0, "", time.Time{}
	}
	p.mu.Unlock()
	if a != nil {
		p.look(k)
	}
}

// lookAll tells of all objects what is news.
func (p *progress) lookAll() {
	p.mu.Lock()
	keys := make([]realised.Key, 0, len(p.objects))
	for k := range p.objects {
		keys = append(keys, k)
	}
	p.mu.Unlock()
	for _, k := range keys {
		p.look(k)
	}
}

// look tells what there is to tell of an object, and forgets it when that is nothing.
func (p *progress) look(k realised.Key) {
	p.mu.Lock()
	defer p.mu.Unlock() // also while telling, so that what is told last is what is so last
	a := p.objects[k]
	if a == nil {
		return
	}
	out := a.words(p.now())
	if out == nil && len(a.calls) == 0 {
		delete(p.objects, k)
	}
	if out != nil || a.told {
		a.told = out != nil
		p.tell(k, out)
	}
}

// words is what there is to tell; nil when that is nothing.
func (a *attempt) words(now time.Time) *computev1.Progress {
	out := &computev1.Progress{Doing: a.doing, LastError: a.last, Tries: a.tries, WaitsFor: a.waits}
	for c := range a.calls {
		if now.Sub(c.begun) < longEnough {
			continue
		}
		call := &computev1.DriverCall{Driver: c.driver, Method: c.method, StartTime: timestamppb.New(c.begun), Queued: c.queued}
		if !c.deadline.IsZero() {
			call.Deadline = timestamppb.New(c.deadline)
		}
		out.Calls = append(out.Calls, call)
	}
	if a.last == nil && a.waits == "" && len(out.Calls) == 0 {
		return nil
	}
	if !a.next.IsZero() {
		out.NextTryTime = timestamppb.New(a.next)
	}
	return out
}

// waitsFor names whom an error says to wait for; "" when it is nobody else.
func waitsFor(f *fault.Error) string {
	switch f.Reason {
	case metav1.Reason_REASON_PLUGIN_UNAVAILABLE, metav1.Reason_REASON_PLUGIN_QUARANTINED, metav1.Reason_REASON_PLUGIN_MISSING, metav1.Reason_REASON_PLUGIN_INVALID:
		return strings.TrimSpace("plugin " + f.Metadata["plugin"])
	case metav1.Reason_REASON_BACKEND_UNAVAILABLE, metav1.Reason_REASON_BACKEND_TIMEOUT:
		return "the driver's backend"
	case metav1.Reason_REASON_IMAGE_NOT_FOUND:
		return "an image copy on this node"
	case metav1.Reason_REASON_POOL_NOT_FOUND:
		return "its pool on this node"
	case metav1.Reason_REASON_NETWORK_NOT_FOUND:
		return "its network on this node"
	case metav1.Reason_REASON_BUSY:
		return "another call on the same object"
	case metav1.Reason_REASON_NO_SPACE:
		return "room"
	}
	return ""
}

// codeName is a code as the API writes it: DEADLINE_EXCEEDED.
func codeName(c codes.Code) string {
	var b strings.Builder
	for i, r := range c.String() {
		if i > 0 && unicode.IsUpper(r) && c != codes.OK {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// progressLoop tells of calls that take long.
func (e *Engine) progressLoop(ctx context.Context) {
	t := time.NewTicker(progressLook)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			e.progress.lookAll()
		}
	}
}

// desiredKey is the key as the controller knows it.
func desiredKey(k realised.Key) *agentv1.DesiredKey {
	kinds := map[string]agentv1.DesiredKind{
		realised.KindVM: agentv1.DesiredKind_DESIRED_KIND_VM, realised.KindVolume: agentv1.DesiredKind_DESIRED_KIND_VOLUME,
		realised.KindPool: agentv1.DesiredKind_DESIRED_KIND_POOL, realised.KindImage: agentv1.DesiredKind_DESIRED_KIND_IMAGE,
		realised.KindSnapshot: agentv1.DesiredKind_DESIRED_KIND_VOLUME_SNAPSHOT, realised.KindNetwork: agentv1.DesiredKind_DESIRED_KIND_NETWORK,
		realised.KindPort: agentv1.DesiredKind_DESIRED_KIND_PORT, realised.KindRuleSet: agentv1.DesiredKind_DESIRED_KIND_RULE_SET,
		realised.KindAddressSet: agentv1.DesiredKind_DESIRED_KIND_ADDRESS_SET,
	}
	return &agentv1.DesiredKey{Kind: kinds[k.Kind], Id: k.ID}
}
