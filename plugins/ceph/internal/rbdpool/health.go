package rbdpool

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// health is what the last look at the pool found. The zero reason means that it works.
type health struct {
	reason         metav1.Reason
	message        string
	full           bool
	fenced         bool
	capacity, used int64     // bytes; 0 = the cluster does not say
	began          time.Time // of the look under way; zero = none
}

// watch looks at the pool again and again.
func (p *Pool) watch(ctx context.Context) {
	t := time.NewTicker(p.limits.Probe)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			p.probe(p.current())
		}
	}
}

// probe asks a monitor for capacity and an OSD for the index: neither answers for the other.
func (p *Pool) probe(c *conn) {
	p.mu.Lock()
	if p.conn != c { // replaced, and perhaps closed
		p.mu.Unlock()
		return
	}
	p.health.began = time.Now()
	c.users.Add(1)
	p.mu.Unlock()
	defer c.users.Done()
	capacity, used, err := c.usage()
	if err != nil {
		err = fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "no monitor of %s answers: %w", c.params, err).WithRemedy("look at the cluster's health")
	} else if _, err = c.io.Stat(p.index(c).oid); is(err, syscall.ENOENT) {
		err = p.index(c).gone(err)
	} else if err != nil {
		err = backend(err, "pool %s does not answer", c.params.Pool)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != c {
		return
	}
	h := health{capacity: p.health.capacity, used: p.health.used, fenced: fenced(err)}
	if err != nil {
		h.reason, h.message = fault.From(err).Reason, err.Error()
	} else {
		h.capacity, h.used = capacity, used
		h.full = capacity > 0 && float64(used) > 0.95*float64(capacity)
	}
	p.health = h
}

// usage is the room in the Ceph pool, replication counted: what is stored, and that plus what still can be. A quota bounds it.
func (c *conn) usage() (capacity, used int64, err error) {
	out, _, err := c.rados.MonCommand([]byte(`{"prefix":"df","detail":"detail","format":"json"}`))
	if err != nil {
		return 0, 0, err //nolint:wrapcheck // the caller does
	}
	var df struct {
		Pools []struct {
			Name  string `json:"name"`
			Stats struct {
				Stored   int64 `json:"stored"`
				MaxAvail int64 `json:"max_avail"`
				Quota    int64 `json:"quota_bytes"`
			} `json:"stats"`
		} `json:"pools"`
	}
	if err := json.Unmarshal(out, &df); err != nil {
		return 0, 0, fmt.Errorf("read the monitor's answer: %w", err)
	}
	for _, p := range df.Pools {
		if s := p.Stats; p.Name == c.params.Pool && s.Stored+s.MaxAvail > 0 {
			capacity, used = s.Stored+s.MaxAvail, s.Stored
			if s.Quota > 0 {
				capacity = min(capacity, s.Quota)
			}
		}
	}
	return capacity, used, nil
}

// broken says why the pool does not work now.
func (p *Pool) broken() (metav1.Reason, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.health.reason != 0 {
		return p.health.reason, p.health.message
	}
	if b := p.health.began; !b.IsZero() && time.Since(b) > p.limits.Connect {
		return metav1.Reason_REASON_BACKEND_TIMEOUT, fmt.Sprintf("the cluster does not answer since %s", time.Since(b).Round(time.Second))
	}
	return 0, ""
}

// usable refuses calls to a pool that does not work.
func (p *Pool) usable() error {
	if reason, message := p.broken(); reason != 0 {
		return fault.New(metav1.Reason_REASON_POOL_UNHEALTHY, "pool %s: %s: %s", p.id, fault.ReasonName(reason), message).
			WithRemedy("the pool is looked at every %s and used again when it answers", p.limits.Probe)
	}
	return nil
}

// State is health and capacity as last seen. It asks nobody.
func (p *Pool) State() *driverv1.Pool {
	out := &driverv1.Pool{PoolId: p.id, Health: driverv1.HealthState_HEALTH_STATE_HEALTHY}
	p.mu.Lock()
	out.CapacityBytes, out.UsedBytes = p.health.capacity, p.health.used
	full := p.health.full
	p.mu.Unlock()
	if reason, message := p.broken(); reason != 0 {
		out.Health, out.Reason, out.Message = driverv1.HealthState_HEALTH_STATE_UNHEALTHY, fault.ReasonName(reason), message
	} else if full {
		out.Health, out.Reason, out.Message = driverv1.HealthState_HEALTH_STATE_DEGRADED, "NO_SPACE", "less than 5 % of the pool is free"
	}
	return out
}
