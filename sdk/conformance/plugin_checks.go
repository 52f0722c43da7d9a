package conformance

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/grpc/codes"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// pluginChecks are what every plugin must pass, whatever its kinds. That name, version and kinds are the manifest's, and that mutual TLS is used, the launcher
// has seen to already.
func pluginChecks() []*Check {
	return []*Check{
		{Name: "plugin/info/pure", Contract: "GetPluginInfo is pure: the same answer at any time.", run: infoIsPure},
		{Name: "plugin/schema/is-json-schema", Contract: "GetConfigSchema returns the JSON Schema of an object.", run: schemaIsJSON},
		{Name: "plugin/configure/repeatable", Contract: "Configure is repeatable: the last one counts.", run: configureRepeats},
		{Name: "plugin/configure/unknown-key", Contract: "Unknown keys are INVALID_ARGUMENT; the configuration before stays in force.", run: configureStrict},
		{Name: "plugin/configure/host-facts", Contract: "A Configure without cluster and node is INVALID_ARGUMENT: no mark could be written.", run: configureNeedsHost},
		{Name: "plugin/capabilities/match-kinds", Contract: "Capabilities are set for the kinds that the plugin has, and unset for others.", run: capsMatchKinds},
		{Name: "plugin/health/at-once", Contract: "WatchHealth reports at once, with a state, and a reason unless HEALTHY.", run: healthAtOnce},
		{Name: "plugin/events/unknown-cursor", Contract: "When the cursor is unknown the first message has resync set.", run: eventsResync},
		{Name: "plugin/messages/too-large", Contract: "Messages are at most 16 MiB; a larger one is refused and the plugin serves on.", run: tooLarge},
		{Name: "plugin/stop/in-order", Contract: "Shutdown: the plugin finishes calls under way and exits by itself.", run: stopsInOrder},
	}
}

func infoIsPure(t T, e *Env) {
	a := call(t, e.plugin().GetPluginInfo, &driverv1.GetPluginInfoRequest{})
	e.kill(t)
	b := call(t, e.plugin().GetPluginInfo, &driverv1.GetPluginInfoRequest{})
	if a.String() != b.String() || a.GetName() == "" {
		t.Errorf("it says %v, then %v", a, b)
	}
}

func schemaIsJSON(t T, e *Env) {
	r := call(t, e.plugin().GetConfigSchema, &driverv1.GetConfigSchemaRequest{})
	var schema struct {
		Type                 string                     `json:"type"`
		Properties           map[string]json.RawMessage `json:"properties"`
		AdditionalProperties *bool                      `json:"additionalProperties"`
	}
	if err := json.Unmarshal([]byte(r.GetJsonSchema()), &schema); err != nil {
		t.Fatalf("no JSON: %v", err)
	}
	if schema.Type != "object" {
		t.Errorf(`its type is %q, not "object"`, schema.Type)
	}
}

func (e *Env) configure(t T, facts *driverv1.HostFacts, config string) error {
	_, err := e.plugin().Configure(within(t), &driverv1.ConfigureRequest{Host: facts, ConfigJson: config, Secrets: e.o.Plugin.Secrets})
	return err
}

func (e *Env) config() string {
	if e.o.Plugin.ConfigJSON == "" {
		return "{}"
	}
	return e.o.Plugin.ConfigJSON
}

func configureRepeats(t T, e *Env) {
	for range 3 {
		if err := e.configure(t, e.facts, e.config()); err != nil {
			t.Fatalf("the same again: %v", err)
		}
	}
}

func configureStrict(t T, e *Env) {
	wantCode(t, "an unknown key", e.configure(t, e.facts, `{"no_such_key_of_any_driver":1}`), codes.InvalidArgument)
	wantCode(t, "no JSON", e.configure(t, e.facts, `{`), codes.InvalidArgument)
	wantCode(t, "no object", e.configure(t, e.facts, `[]`), codes.InvalidArgument)
	if _, err := e.plugin().GetCapabilities(within(t), &driverv1.GetCapabilitiesRequest{}); err != nil {
		t.Errorf("the configuration before is not in force any more: %v", err)
	}
}

func configureNeedsHost(t T, e *Env) {
	wantCode(t, "no facts", e.configure(t, nil, e.config()), codes.InvalidArgument)
	wantCode(t, "no node", e.configure(t, &driverv1.HostFacts{
		ClusterId: "c", StateDirectory: e.facts.GetStateDirectory(), RuntimeDirectory: e.facts.GetRuntimeDirectory(),
	}, e.config()), codes.InvalidArgument)
}

func capsMatchKinds(t T, e *Env) {
	caps := call(t, e.plugin().GetCapabilities, &driverv1.GetCapabilitiesRequest{})
	for k, set := range map[driverv1.DriverKind]bool{
		driverv1.DriverKind_DRIVER_KIND_COMPUTE: caps.GetCompute() != nil,
		driverv1.DriverKind_DRIVER_KIND_STORAGE: caps.GetStorage() != nil,
		driverv1.DriverKind_DRIVER_KIND_NETWORK: caps.GetNetwork() != nil,
	} {
		if set != e.serves(k) {
			t.Errorf("%s: served %v, capabilities set %v", k, e.serves(k), set)
		}
	}
}

func healthAtOnce(t T, e *Env) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := e.plugin().WatchHealth(ctx, &driverv1.WatchHealthRequest{})
	must(t, "WatchHealth", err)
	r, err := s.Recv()
	if err != nil {
		t.Fatalf("no report within 10 s: %v", err)
	}
	if r.GetState() == driverv1.HealthState_HEALTH_STATE_UNSPECIFIED {
		t.Errorf("the report has no state")
	}
	if r.GetState() != driverv1.HealthState_HEALTH_STATE_HEALTHY && (r.GetReason() == "" || r.GetMessage() == "") {
		t.Errorf("%s without reason or message", r.GetState())
	}
}

func eventsResync(t T, e *Env) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := e.plugin().WatchEvents(ctx, &driverv1.WatchEventsRequest{Cursor: "no-such-cursor"})
	must(t, "WatchEvents", err)
	r, err := s.Recv()
	if err != nil {
		t.Fatalf("no message within 10 s: %v", err)
	}
	if !r.GetResync() || r.GetCursor() == "" || r.GetEvent() != nil {
		t.Errorf("first message: %v", r)
	}
}

func tooLarge(t T, e *Env) {
	// The host's own limit must not hide the plugin's, so the call goes without it.
	_, err := e.plugin().Configure(within(t), &driverv1.ConfigureRequest{Host: e.facts, ConfigJson: e.config(), Secrets: map[string][]byte{"big": make([]byte, 17<<20)}}, noSendLimit())
	wantCode(t, "17 MiB", err, codes.ResourceExhausted)
	if err := e.process().Check(within(t)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func stopsInOrder(t T, e *Env) {
	p := e.process()
	if _, err := e.plugin().Shutdown(within(t), &driverv1.ShutdownRequest{}); err != nil && code(err) != codes.Unavailable {
		t.Errorf("Shutdown: %v", err)
	}
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-p.Done():
	case <-timer.C:
		t.Errorf("20 s after Shutdown it still runs")
	}
	e.stop(t)
	e.launch(t)
}
