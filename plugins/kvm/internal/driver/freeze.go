package driver

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	defaultFrozen = 10 * time.Second
	mostFrozen    = 5 * time.Minute
	thawLimit     = 30 * time.Second
)

// frozen holds the timers that thaw guests. The zero value is ready.
type frozen struct {
	mu     sync.Mutex
	timers map[string]*time.Timer
}

// set makes thaw run after a time, instead of what was set before.
func (f *frozen) set(id string, after time.Duration, thaw func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timers == nil {
		f.timers = map[string]*time.Timer{}
	}
	if t := f.timers[id]; t != nil {
		t.Stop()
	}
	f.timers[id] = time.AfterFunc(after, thaw)
}

// forget drops a timer and says whether there was one.
func (f *frozen) forget(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.timers[id]
	if t != nil {
		t.Stop()
	}
	delete(f.timers, id)
	return t != nil
}

func (f *frozen) all() (ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.timers {
		ids = append(ids, id)
	}
	return ids
}

// QuiesceDomain freezes the guest's file systems. A file on the node says so before it happens: a plugin that is killed meanwhile thaws when it is back.
func (d *Driver) QuiesceDomain(ctx context.Context, req *driverv1.QuiesceDomainRequest) (*driverv1.QuiesceDomainResponse, error) {
	id := req.GetDomainId()
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	most := defaultFrozen
	if t := req.GetMaxFrozen(); t != nil {
		most = t.AsDuration()
	}
	if most <= 0 || most > mostFrozen {
		return nil, fault.Invalid(fault.Violation{Field: "max_frozen", Description: "must be above 0 and at most " + mostFrozen.String()})
	}
	have, err := s.withAgent(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.files(id).Frozen, nil, 0o600); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "quiesce domain %s: %w", id, err)
	}
	d.frozen.set(id, most, func() { d.thawSoon(id) })
	n, err := connection.Alone(ctx, s.conn, "quiesce domain "+id, func(l *libvirt.Libvirt) (int32, error) {
		return l.DomainFsfreeze(have.lv, nil, 0)
	})
	if err != nil {
		return nil, err // frozen in part, perhaps: the timer thaws
	}
	return &driverv1.QuiesceDomainResponse{FrozenCount: n}, nil
}

// ThawDomain thaws the guest's file systems.
func (d *Driver) ThawDomain(ctx context.Context, req *driverv1.ThawDomainRequest) (*driverv1.ThawDomainResponse, error) {
	s, unlock, err := d.begin(req.GetDomainId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	n, err := d.thaw(ctx, s, req.GetDomainId())
	if err != nil {
		return nil, err
	}
	return &driverv1.ThawDomainResponse{ThawedCount: n}, nil
}

func (d *Driver) thaw(ctx context.Context, s setting, id string) (int32, error) {
	have, err := s.withAgent(ctx, id)
	if err != nil {
		return 0, err
	}
	n, err := connection.Alone(ctx, s.conn, "thaw domain "+id, func(l *libvirt.Libvirt) (int32, error) {
		return l.DomainFsthaw(have.lv, nil, 0)
	})
	if err != nil {
		return 0, err
	}
	d.frozen.forget(id)
	_ = os.Remove(s.files(id).Frozen)
	return n, nil
}

// thawSoon thaws when time is up, and tries again until the guest has thawed or is off.
func (d *Driver) thawSoon(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), thawLimit)
	defer cancel()
	s := d.setting()
	have, err := s.find(ctx, id)
	if fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) || err == nil && !running(have.GetState()) { // nobody is left to be frozen
		d.frozen.forget(id)
		_ = os.Remove(s.files(id).Frozen)
		return
	}
	if err == nil {
		_, err = d.thaw(ctx, s, id)
	}
	if err != nil {
		slog.Warn("thaw guest", "domain", id, "error", err)
		d.frozen.set(id, defaultFrozen, func() { d.thawSoon(id) })
	}
}

// thawLeft thaws what an earlier process of this plugin left frozen.
func (d *Driver) thawLeft() {
	s, mine := d.setting(), map[string]bool{}
	for _, id := range d.frozen.all() {
		mine[id] = true
	}
	for _, dir := range s.domainDirs() {
		id := dir.Name()
		if _, err := os.Stat(s.files(id).Frozen); err == nil && !mine[id] && uuid.MatchString(id) {
			d.thawSoon(id)
		}
	}
}

// thawAll thaws what this process froze, before it ends.
func (d *Driver) thawAll() {
	for _, id := range d.frozen.all() {
		ctx, cancel := context.WithTimeout(context.Background(), agentSeconds*time.Second)
		if _, err := d.thaw(ctx, d.setting(), id); err != nil {
			slog.Warn("thaw guest", "domain", id, "error", err)
		}
		cancel()
		d.frozen.forget(id)
	}
}
