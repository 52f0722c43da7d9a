package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func TestKeyLock(t *testing.T) {
	t.Parallel()
	var l KeyLock
	unlock, err := l.Lock("a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Lock("c", "b"); !fault.Is(err, metav1.Reason_REASON_BUSY) {
		t.Errorf("a held key: %v", err)
	}
	if u, err := l.Lock("c"); err != nil {
		t.Errorf("a refused call kept a key: %v", err)
	} else {
		u()
	}
	unlock()
	again, err := l.Lock("a")
	if err != nil {
		t.Fatal(err)
	}
	unlock() // a second time: must not free what somebody else holds now
	if _, err := l.Lock("a"); err == nil {
		t.Error("unlocking twice freed another's key")
	}
	again()
}

func TestHealthReportsAtOnceOnChangeAndInBetween(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := NewHealth(0)
		var mu sync.Mutex
		var got []driverv1.HealthState
		go h.Watch(ctx, func(r *driverv1.WatchHealthResponse) error { //nolint:errcheck // ends with ctx
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r.GetState())
			return nil
		})
		seen := func(want int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(got) != want {
				t.Errorf("%d reports, want %d: %v", len(got), want, got)
			}
		}
		seen(1)
		bad := Report{State: driverv1.HealthState_HEALTH_STATE_UNHEALTHY, Reason: "BACKEND_UNAVAILABLE"}
		h.Set(bad)
		seen(2)
		h.Set(bad)
		seen(2)
		time.Sleep(30 * time.Second) // of the bubble's own time
		if seen(4); got[3] != bad.State {
			t.Errorf("last report %s", got[3])
		}
		cancel()
		synctest.Wait()
	})
}

// events reads what a watcher with a cursor gets at once. To be called in a synctest bubble.
func events(t *testing.T, l *EventLog, cursor string) (got []*driverv1.WatchEventsResponse) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Watch(ctx, cursor, func(e *driverv1.WatchEventsResponse) error { got = append(got, e); return nil })
	}()
	synctest.Wait()
	cancel()
	<-done
	return got
}

func TestEventsResume(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testEventsResume)
}

func testEventsResume(t *testing.T) {
	l := NewEventLog(3)
	publish := func(id string) { l.Domain(id, driverv1.DomainEventType_DOMAIN_EVENT_TYPE_STARTED, 0, "") }
	publish("a")
	first := l.cursor(1)
	publish("b")
	publish("c")
	if got := events(t, l, first); len(got) != 2 || got[0].GetDomain().GetDomainId() != "b" || got[1].GetDomain().GetDomainId() != "c" || got[1].GetEventTime() == nil {
		t.Errorf("after the first: %v", got)
	}
	if got := events(t, l, ""); len(got) != 0 {
		t.Errorf("from now on: %v", got)
	}
	if got := events(t, l, l.cursor(0)); len(got) != 3 {
		t.Errorf("from the beginning, all kept: %v", got)
	}
	publish("d")
	publish("e") // pushes out b
	for name, cursor := range map[string]string{"gone": first, "of another life": "other.1", "of the future": l.cursor(9), "broken": "x"} {
		if got := events(t, l, cursor); len(got) != 1 || !got[0].GetResync() || got[0].GetCursor() != l.cursor(5) {
			t.Errorf("a cursor %s: %v", name, got)
		}
	}
	at := l.cursor(5)
	l.Resync()
	if got := events(t, l, at); len(got) != 1 || !got[0].GetResync() {
		t.Errorf("after a resync: %v", got)
	}
}

func TestSlowWatcherIsToldToResync(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l, gate := NewEventLog(2), make(chan struct{})
		var got []*driverv1.WatchEventsResponse
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = l.Watch(ctx, "", func(e *driverv1.WatchEventsResponse) error {
				got = append(got, e)
				<-gate
				return nil
			})
		}()
		synctest.Wait()
		for range 9 { // must not block
			l.Pool("p")
			synctest.Wait()
		}
		close(gate)
		synctest.Wait()
		cancel()
		<-done
		if len(got) != 2 || got[0].GetResync() || !got[1].GetResync() {
			t.Errorf("got %v", got)
		}
	})
}

func TestConfigIsStrict(t *testing.T) {
	t.Parallel()
	type nested struct {
		Port int `json:"port"`
	}
	for in, field := range map[string]string{
		`{"a":1}`: "config_json.a", `{"n":{"port":"x"}}`: "config_json.n.port", `{}{}`: "config_json", `{`: "config_json", `{"n":{"port":5}}`: "",
	} {
		var v struct {
			N nested `json:"n"`
		}
		err := (&Config{JSON: []byte(in)}).Decode(&v)
		var f *fault.Error
		if field == "" {
			if err != nil || v.N.Port != 5 {
				t.Errorf("%s: %v", in, err)
			}
		} else if !errors.As(err, &f) || f.Reason != metav1.Reason_REASON_INVALID_FIELD || f.Violations[0].Field != field {
			t.Errorf("%s: %v, want field %s", in, err, field)
		}
	}
}

func TestLogLinesAreWhatHostsRead(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	slog.New(NewLogHandler(&b, slog.LevelDebug)).Warn("hello", "time", "noon", "@level", "fake", "n", 1)
	var m map[string]any
	if err := json.Unmarshal(b.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	if m["@level"] != "warn" || m["@message"] != "hello" || m["time"] != "noon" || m["_level"] != "fake" {
		t.Errorf("line %s", b.String())
	}
	if _, err := time.Parse(hclogTime, m["@timestamp"].(string)); err != nil {
		t.Error(err)
	}
}

type noDriver struct {
	driverv1.UnimplementedComputeDriverServiceServer
}

func TestServeRefusesWhatIsBuiltWrong(t *testing.T) {
	t.Parallel()
	configure := func(context.Context, *Config) (*driverv1.GetCapabilitiesResponse, error) { return nil, nil }
	base := func(name string) *BasePlugin { return NewBasePlugin(Info{Name: name}, configure) }
	for name, p := range map[string]Plugin{
		"no base": {Compute: noDriver{}}, "no driver": {Base: base("x")}, "bad name": {Base: base("Bad Name"), Compute: noDriver{}},
	} {
		if _, _, err := newServer(p); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	_, info, err := newServer(Plugin{Base: base("x"), Compute: noDriver{}})
	if err != nil || len(info.GetKinds()) != 1 {
		t.Fatalf("%v, %v", info, err)
	}
	var out bytes.Buffer
	if !answerFlags(&out, []string{"--version"}, info) || !strings.HasPrefix(out.String(), "limiquantix-plugin-x 0.0.0-dev") {
		t.Errorf("--version: %q", out.String())
	}
	out.Reset()
	if !answerFlags(&out, []string{"--plugin-info"}, info) || !strings.Contains(out.String(), `"kinds":["compute"]`) {
		t.Errorf("--plugin-info: %q", out.String())
	}
	if answerFlags(&out, nil, info) {
		t.Error("no flag was answered")
	}
}

func TestGuardRefusesDriverCallsBeforeConfigure(t *testing.T) {
	t.Parallel()
	g := &guard{}
	call := func(method string, h grpc.UnaryHandler) error {
		_, err := g.unary(slog.Default)(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: method}, h)
		return err
	}
	ok := func(context.Context, any) (any, error) { return nil, nil }
	fails := func(context.Context, any) (any, error) { return nil, errors.New("no") }
	list := driverv1.ComputeDriverService_ListDomains_FullMethodName
	if err := call(list, ok); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Errorf("before: %v", err)
	}
	if err := call(methodConfigure, fails); err == nil {
		t.Error("no error")
	}
	if err := call(list, ok); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Errorf("after a failed one: %v", err)
	}
	if err := call(methodConfigure, ok); err != nil {
		t.Error(err)
	}
	if err := call(list, ok); err != nil {
		t.Errorf("after: %v", err)
	}
	g.drain(t.Context())
	if err := call(list, ok); !fault.Is(err, metav1.Reason_REASON_PLUGIN_UNAVAILABLE) {
		t.Errorf("while ending: %v", err)
	}
}
