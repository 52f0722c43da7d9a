// Package report tells the controller what is so, in batches: the last word on each object, until it was taken, and all of it again to a controller that may
// not know it.
package report

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/link"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

const (
	// window is the least time between two batches; the first word after a silence goes out at once.
	window   = 50 * time.Millisecond
	maxBatch = 500
	// eventsKept bounds events that were not taken yet; the oldest are dropped.
	eventsKept = 1000
	maxRetry   = 2 * time.Second
)

type key struct{ kind, id string }

// portStats are the counters of a port, beside what is said of it.
const portStats = "port_stats"

// Reporter keeps and sends reports. All methods may be called at once and return at once, but Run.
type Reporter struct {
	link    *link.Link
	session string
	log     *slog.Logger
	wake    chan struct{}

	mu      sync.Mutex
	last    map[key]proto.Message // the last word on each object
	dirty   map[key]bool          // not taken yet
	events  []*agentv1.EventReport
	dropped int
	drivers []*computev1.DriverStatus
	orphans []*computev1.Orphan
	details []*agentv1.OrphanDetail
	known   bool // orphans holds the list
	sendDrv bool
	sendOrp bool
	seq     int64
}

// New makes a reporter.
func New(l *link.Link, sessionID string, log *slog.Logger) *Reporter {
	return &Reporter{link: l, session: sessionID, log: log, wake: make(chan struct{}, 1), last: map[key]proto.Message{}, dirty: map[key]bool{}}
}

func (r *Reporter) put(k key, m proto.Message) {
	r.mu.Lock()
	if old := r.last[k]; old != nil && proto.Equal(old, m) {
		r.mu.Unlock()
		return
	}
	r.last[k] = m
	r.dirty[k] = true
	r.mu.Unlock()
	r.poke()
}

func (r *Reporter) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// VM reports on a VM.
func (r *Reporter) VM(m *agentv1.VMReport) { r.put(key{"vm", m.GetVmId()}, m) }

// Volume reports on a volume.
func (r *Reporter) Volume(m *agentv1.VolumeReport) { r.put(key{"volume", m.GetVolumeId()}, m) }

// Snapshot reports how a snapshot of a volume is.
func (r *Reporter) Snapshot(m *agentv1.VolumeSnapshotReport) {
	r.put(key{"snapshot", m.GetSnapshotId()}, m)
}

// Pool reports on a pool.
func (r *Reporter) Pool(m *agentv1.PoolReport) { r.put(key{"pool", m.GetPoolId()}, m) }

// Image reports on an image copy.
func (r *Reporter) Image(m *agentv1.ImageCopyReport) {
	r.put(key{"image", m.GetImageId() + "/" + m.GetPoolId()}, m)
}

// Network reports on a network.
func (r *Reporter) Network(m *agentv1.NetworkReport) { r.put(key{"network", m.GetNetworkId()}, m) }

// Port reports on a port.
func (r *Reporter) Port(m *agentv1.PortReport) { r.put(key{"port", m.GetPortId()}, m) }

// RuleSet reports whether a rule set is in force.
func (r *Reporter) RuleSet(m *agentv1.RuleSetReport) { r.put(key{"rule_set", m.GetRuleSetId()}, m) }

// PortStats reports the counters of a port.
func (r *Reporter) PortStats(m *agentv1.PortStats) { r.put(key{portStats, m.GetPortId()}, m) }

// Progress reports what is being done about an object; without progress, that nothing is.
func (r *Reporter) Progress(m *agentv1.ObjectProgress) {
	k := key{"progress", m.GetKey().GetKind().String() + "/" + m.GetKey().GetId()}
	r.mu.Lock()
	unknown := m.GetProgress() == nil && r.last[k] == nil
	r.mu.Unlock()
	if !unknown {
		r.put(k, m)
	}
}

// Drivers reports all drivers.
func (r *Reporter) Drivers(list []*computev1.DriverStatus) {
	r.mu.Lock()
	if sameList(r.drivers, list) {
		r.mu.Unlock()
		return
	}
	r.drivers, r.sendDrv = list, true
	r.mu.Unlock()
	r.poke()
}

// Orphans reports all orphans there are.
func (r *Reporter) Orphans(list []*computev1.Orphan, details []*agentv1.OrphanDetail) {
	r.mu.Lock()
	r.orphans, r.details, r.known, r.sendOrp = list, details, true, true
	r.mu.Unlock()
	r.poke()
}

// Event reports that something happened.
func (r *Reporter) Event(vmID, typ, reason, message string) {
	r.mu.Lock()
	if len(r.events) >= eventsKept {
		r.events = r.events[1:]
		r.dropped++
	}
	r.events = append(r.events, &agentv1.EventReport{VmId: vmID, Time: timestamppb.Now(), Type: typ, Reason: reason, Message: message})
	r.mu.Unlock()
	r.poke()
}

// Forget drops what was to be said of an object that the controller no longer asks for.
func (r *Reporter) Forget(k *agentv1.DesiredKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kind := map[agentv1.DesiredKind]string{
		agentv1.DesiredKind_DESIRED_KIND_VM: "vm", agentv1.DesiredKind_DESIRED_KIND_VOLUME: "volume", agentv1.DesiredKind_DESIRED_KIND_POOL: "pool",
		agentv1.DesiredKind_DESIRED_KIND_VOLUME_SNAPSHOT: "snapshot", agentv1.DesiredKind_DESIRED_KIND_NETWORK: "network",
		agentv1.DesiredKind_DESIRED_KIND_PORT: "port", agentv1.DesiredKind_DESIRED_KIND_RULE_SET: "rule_set",
	}[k.GetKind()]
	kinds := []string{kind}
	if kind == "port" {
		kinds = append(kinds, portStats)
	}
	for _, kind := range kinds {
		delete(r.last, key{kind, k.GetId()})
		delete(r.dirty, key{kind, k.GetId()})
	}
}

// Again says everything again: a controller that may not know it listens.
func (r *Reporter) Again() {
	r.mu.Lock()
	for k := range r.last {
		r.dirty[k] = true
	}
	r.sendDrv = len(r.drivers) > 0
	r.sendOrp = r.known
	r.mu.Unlock()
	r.poke()
}

// Pending is how many objects and events were not taken yet.
func (r *Reporter) Pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.dirty) + len(r.events)
}

// Run sends until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		for ctx.Err() == nil {
			b := r.batch()
			if b == nil {
				break
			}
			if err := r.send(ctx, b); err != nil {
				r.giveBack(b)
				failures++
				if failures == 1 && ctx.Err() == nil {
					r.log.Warn("report failed; it is sent again", "controller", r.link.Endpoint(), "error", err)
				}
				link.Sleep(ctx, link.Backoff(failures, maxRetry, rand.Float64()))
				continue
			}
			failures = 0
			link.Sleep(ctx, window)
		}
	}
}

// batch is what is sent at once.
type batch struct {
	req  *agentv1.ReportStatusRequest
	sent map[key]proto.Message
}

// batch takes what waits; nil when nothing does.
func (r *Reporter) batch() *batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	b := &batch{req: &agentv1.ReportStatusRequest{SessionId: r.session, Sequence: r.seq}, sent: map[key]proto.Message{}}
	for k := range r.dirty {
		if len(b.sent) >= maxBatch {
			break
		}
		delete(r.dirty, k)
		b.sent[k] = r.last[k]
		switch m := r.last[k].(type) {
		case *agentv1.VMReport:
			b.req.Vms = append(b.req.Vms, m)
		case *agentv1.VolumeReport:
			b.req.Volumes = append(b.req.Volumes, m)
		case *agentv1.VolumeSnapshotReport:
			b.req.VolumeSnapshots = append(b.req.VolumeSnapshots, m)
		case *agentv1.PoolReport:
			b.req.Pools = append(b.req.Pools, m)
		case *agentv1.ImageCopyReport:
			b.req.Images = append(b.req.Images, m)
		case *agentv1.NetworkReport:
			b.req.Networks = append(b.req.Networks, m)
		case *agentv1.PortReport:
			b.req.Ports = append(b.req.Ports, m)
		case *agentv1.RuleSetReport:
			b.req.RuleSets = append(b.req.RuleSets, m)
		case *agentv1.PortStats:
			b.req.PortStats = append(b.req.PortStats, m)
		case *agentv1.ObjectProgress:
			b.req.Progress = append(b.req.Progress, m)
			if m.GetProgress() == nil { // nothing to be said again, unless this is not taken
				delete(r.last, k)
			}
		}
	}
	if r.sendDrv {
		b.req.Drivers, r.sendDrv = r.drivers, false
	}
	if r.sendOrp {
		b.req.Orphans, b.req.OrphanDetails, b.req.OrphansKnown, r.sendOrp = r.orphans, r.details, true, false
	}
	n := min(len(r.events), maxBatch)
	b.req.Events = r.events[:n:n]
	r.events = r.events[n:]
	if len(b.sent)+len(b.req.Drivers)+n == 0 && !b.req.OrphansKnown {
		r.seq--
		return nil
	}
	if r.dropped > 0 {
		r.log.Warn("events were dropped: no controller took them", "count", r.dropped)
		r.dropped = 0
	}
	return b
}

// giveBack puts a batch that was not taken back, unless something newer was said meanwhile.
func (r *Reporter) giveBack(b *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, m := range b.sent {
		if p, ok := m.(*agentv1.ObjectProgress); ok && p.GetProgress() == nil && r.last[k] == nil {
			r.last[k] = m
		}
		if r.last[k] != nil {
			r.dirty[k] = true
		}
	}
	r.sendDrv = r.sendDrv || len(b.req.GetDrivers()) > 0
	r.sendOrp = r.sendOrp || b.req.GetOrphansKnown()
	r.events = append(b.req.GetEvents(), r.events...)
}

func (r *Reporter) send(ctx context.Context, b *batch) error {
	return r.link.Call(ctx, 10*time.Second, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := agentv1.NewAgentServiceClient(conn).ReportStatus(ctx, b.req)
		return err
	})
}

func sameList(a, b []*computev1.DriverStatus) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !proto.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}
