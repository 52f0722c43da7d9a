package sdk

import (
	"context"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// HealthInterval is how often WatchHealth repeats itself when nothing changes; the contract asks for 30 s at the latest.
const HealthInterval = 15 * time.Second

// Report is one statement on a plugin's health.
type Report struct {
	State      driverv1.HealthState
	Reason     string            // UPPER_SNAKE_CASE unless HEALTHY
	Message    string            // one sentence: what is wrong and what to do
	Attributes map[string]string // facts for the scheduler and for people
}

// Health keeps the last report and tells all watchers of a change. All methods may be called at once.
type Health struct {
	interval time.Duration
	mu       sync.Mutex
	report   Report
	at       time.Time
	changed  chan struct{} // closed and replaced at each change
}

// NewHealth makes a Health that begins HEALTHY and repeats itself every interval; 0 = HealthInterval.
func NewHealth(interval time.Duration) *Health {
	if interval <= 0 {
		interval = HealthInterval
	}
	return &Health{interval: interval, report: Report{State: driverv1.HealthState_HEALTH_STATE_HEALTHY}, at: time.Now(), changed: make(chan struct{})}
}

// Set makes r the report. Setting what already is only renews its time.
func (h *Health) Set(r Report) {
	r.Attributes = maps.Clone(r.Attributes)
	h.mu.Lock()
	defer h.mu.Unlock()
	same := h.report.State == r.State && h.report.Reason == r.Reason && h.report.Message == r.Message && maps.Equal(h.report.Attributes, r.Attributes)
	h.report, h.at = r, time.Now()
	if !same {
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// Healthy reports HEALTHY with the given attributes.
func (h *Health) Healthy(attributes map[string]string) {
	h.Set(Report{State: driverv1.HealthState_HEALTH_STATE_HEALTHY, Attributes: attributes})
}

// Get is the last report.
func (h *Health) Get() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.report
	r.Attributes = maps.Clone(r.Attributes)
	return r
}

// Watch sends the report at once, on every change and every interval, until ctx ends or send fails.
func (h *Health) Watch(ctx context.Context, send func(*driverv1.WatchHealthResponse) error) error {
	tick := time.NewTicker(h.interval)
	defer tick.Stop()
	for {
		h.mu.Lock()
		msg := &driverv1.WatchHealthResponse{
			State: h.report.State, Reason: h.report.Reason, Message: h.report.Message,
			Attributes: maps.Clone(h.report.Attributes), ObserveTime: timestamppb.New(h.at),
		}
		changed := h.changed
		h.mu.Unlock()
		if err := send(msg); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-tick.C:
		}
	}
}
