package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Config is what the host configures a plugin with. It is the plugin's own copy.
type Config struct {
	Host    *driverv1.HostFacts
	JSON    []byte            // one JSON object, without secrets
	Secrets map[string][]byte // by property name; never to be logged
}

// Decode reads the configuration into v strictly: an unknown key, a wrong type or trailing data is INVALID_FIELD naming the key.
func (c *Config) Decode(v any) error {
	dec := json.NewDecoder(bytes.NewReader(c.JSON))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("more than one JSON value")
	}
	field := "config_json"
	var typ *json.UnmarshalTypeError
	if errors.As(err, &typ) && typ.Field != "" {
		field += "." + typ.Field
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		name = strings.Trim(name, `"`)
		return fault.Invalid(fault.Violation{Field: field + "." + name, Description: "unknown key"})
	}
	return fault.Invalid(fault.Violation{Field: field, Description: err.Error()})
}

// ConfigureFunc takes a configuration and says what the plugin can do with it. It is called again when the configuration changes, never twice at once.
// A backend that is down is no error: report it by BasePlugin.Health. An error leaves the previous configuration in force.
type ConfigureFunc func(ctx context.Context, c *Config) (*driverv1.GetCapabilitiesResponse, error)

// BasePlugin implements PluginService but for the configuration, which is a function. Embed it to override single calls. All methods may be called at once.
type BasePlugin struct {
	driverv1.UnimplementedPluginServiceServer

	// Health is what WatchHealth reports. It begins HEALTHY.
	Health *Health
	// Events is what WatchEvents reports.
	Events *EventLog

	info      Info
	configure ConfigureFunc
	kinds     []driverv1.DriverKind // set by Serve before the first call

	configuring sync.Mutex // one Configure at a time
	mu          sync.Mutex // guards caps
	caps        *driverv1.GetCapabilitiesResponse

	stop func(grace time.Duration) // set by Serve
}

// NewBasePlugin makes the part that every plugin has. configure must not be nil.
func NewBasePlugin(info Info, configure ConfigureFunc) *BasePlugin {
	return &BasePlugin{Health: NewHealth(0), Events: NewEventLog(0), info: info.withDefaults(), configure: configure}
}

// GetPluginInfo says who the plugin is.
func (b *BasePlugin) GetPluginInfo(context.Context, *driverv1.GetPluginInfoRequest) (*driverv1.GetPluginInfoResponse, error) {
	return &driverv1.GetPluginInfoResponse{Name: b.info.Name, Version: b.info.Version, Kinds: b.kinds, Vendor: b.info.Vendor, Commit: b.info.Commit}, nil
}

// GetConfigSchema describes the configuration.
func (b *BasePlugin) GetConfigSchema(context.Context, *driverv1.GetConfigSchemaRequest) (*driverv1.GetConfigSchemaResponse, error) {
	return &driverv1.GetConfigSchemaResponse{JsonSchema: b.info.Schema}, nil
}

// Configure checks what all plugins need and calls the plugin's function.
func (b *BasePlugin) Configure(ctx context.Context, req *driverv1.ConfigureRequest) (*driverv1.ConfigureResponse, error) {
	if err := checkHostFacts(req.GetHost()); err != nil {
		return nil, err
	}
	raw := strings.TrimSpace(req.GetConfigJson())
	if raw == "" {
		raw = "{}"
	}
	if !json.Valid([]byte(raw)) || raw[0] != '{' {
		return nil, fault.Invalid(fault.Violation{Field: "config_json", Description: "not one JSON object"})
	}
	b.configuring.Lock()
	defer b.configuring.Unlock()
	secrets := make(map[string][]byte, len(req.GetSecrets()))
	for k, v := range req.GetSecrets() {
		secrets[k] = bytes.Clone(v)
	}
	caps, err := b.configure(ctx, &Config{Host: proto.CloneOf(req.GetHost()), JSON: []byte(raw), Secrets: secrets})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.caps = caps
	b.mu.Unlock()
	return &driverv1.ConfigureResponse{}, nil
}

// GetCapabilities lists what the last Configure found.
func (b *BasePlugin) GetCapabilities(context.Context, *driverv1.GetCapabilitiesRequest) (*driverv1.GetCapabilitiesResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.caps == nil {
		return nil, notConfigured()
	}
	return proto.CloneOf(b.caps), nil
}

// WatchHealth reports Health.
func (b *BasePlugin) WatchHealth(_ *driverv1.WatchHealthRequest, s driverv1.PluginService_WatchHealthServer) error {
	return b.Health.Watch(s.Context(), s.Send)
}

// WatchEvents reports Events.
func (b *BasePlugin) WatchEvents(req *driverv1.WatchEventsRequest, s driverv1.PluginService_WatchEventsServer) error {
	return b.Events.Watch(s.Context(), req.GetCursor(), s.Send)
}

// Shutdown ends the plugin when calls under way are done or the grace is over.
func (b *BasePlugin) Shutdown(_ context.Context, req *driverv1.ShutdownRequest) (*driverv1.ShutdownResponse, error) {
	if b.stop != nil {
		b.stop(req.GetGrace().AsDuration())
	}
	return &driverv1.ShutdownResponse{}, nil
}

// served is how Serve tells a BasePlugin, embedded or not, what it could not know.
func (b *BasePlugin) served(kinds []driverv1.DriverKind, stop func(grace time.Duration)) {
	b.kinds, b.stop = kinds, stop
}

func checkHostFacts(h *driverv1.HostFacts) error {
	var v []fault.Violation
	for _, f := range []struct{ name, value string }{
		{"host.cluster_id", h.GetClusterId()},
		{"host.node_id", h.GetNodeId()},
		{"host.state_directory", h.GetStateDirectory()},
		{"host.runtime_directory", h.GetRuntimeDirectory()},
	} {
		if f.value == "" {
			v = append(v, fault.Violation{Field: f.name, Description: "required"})
		} else if strings.HasSuffix(f.name, "directory") && f.value[0] != '/' {
			v = append(v, fault.Violation{Field: f.name, Description: "must be an absolute path"})
		}
	}
	if len(v) > 0 {
		return fault.Invalid(v...)
	}
	return nil
}

func notConfigured() error {
	return fault.New(metav1.Reason_REASON_WRONG_STATE, "the plugin is not configured").WithRemedy("call Configure first")
}
