package host

import (
	"log/slog"
	"maps"
	"slices"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Spec says which plugin to run and with what.
type Spec struct {
	// Dir holds plugin.json and the binary.
	Dir string
	// RuntimeDir is where sockets lie, absolute, at most 76 bytes, this plugin's alone; it is made 0700. Each launch has a directory of its own below it.
	RuntimeDir string
	// Host, ConfigJSON ("{}" when empty) and Secrets are handed to Configure.
	Host       *driverv1.HostFacts
	ConfigJSON string
	Secrets    map[string][]byte
	// Env is added to the small environment that a plugin gets ("KEY=value"). Nothing of the host's own environment is passed on.
	Env []string
	// StartTimeout bounds the way from exec to configured; 0 = 30 s.
	StartTimeout time.Duration
	// Logger gets the plugin's log lines; slog.Default() when nil.
	Logger *slog.Logger
}

// DefaultStartTimeout bounds a start when the Spec does not.
const DefaultStartTimeout = 30 * time.Second

func (s Spec) withDefaults() Spec {
	s.Secrets = maps.Clone(s.Secrets)
	s.Env = slices.Clone(s.Env)
	if s.ConfigJSON == "" {
		s.ConfigJSON = "{}"
	}
	if s.StartTimeout <= 0 {
		s.StartTimeout = DefaultStartTimeout
	}
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
	return s
}

func (s Spec) configureRequest() *driverv1.ConfigureRequest {
	return &driverv1.ConfigureRequest{Host: s.Host, ConfigJson: s.ConfigJSON, Secrets: s.Secrets}
}
