// Package config is the agent's configuration: one strict YAML file over defaults that run without any, and the environment over that.
package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/limiquantix/limiquantix/agent/internal/fetch"
)

// EnvPrefix begins every environment variable that sets a key, for example LIMIQUANTIX_AGENT_DATA_DIR; a list is separated by commas.
const EnvPrefix = "LIMIQUANTIX_AGENT_"

// Config is the whole configuration.
type Config struct {
	// Controllers are the endpoints of all controllers' agent port, host:port.
	Controllers []string `yaml:"controllers"`
	// DataDir holds identity and state file.
	DataDir string `yaml:"data_dir"`
	// StateDir holds one directory per plugin for what lasts: files that guests read lie below it.
	StateDir string `yaml:"state_dir"`
	// RunDir holds what lasts until the next boot: sockets.
	RunDir string `yaml:"run_dir"`
	// PluginDir holds one directory per installed plugin.
	PluginDir string `yaml:"plugin_dir"`
	// Plugins to run; empty = all that are installed, each with its defaults.
	Plugins []Plugin `yaml:"plugins"`
	// Listen is where /metrics and /health are served; empty = nowhere.
	Listen string `yaml:"listen"`
	// JoinTokenFile holds the token with which the node enrols if it has not.
	JoinTokenFile string `yaml:"join_token_file"`
	// ImageNetworks are networks, as CIDRs, from which images may be fetched by URL although they are not public.
	ImageNetworks []string `yaml:"image_networks"`
	// TunnelAddress is the address at which other nodes reach this one's ends of tunnels; empty = it takes part in no tunnel.
	TunnelAddress string `yaml:"tunnel_address"`
	// Log says how to log.
	Log Log `yaml:"log"`
}

// Plugin is one plugin to run.
type Plugin struct {
	// Name as in its manifest, which lies in PluginDir/Name.
	Name string `yaml:"name"`
	// Config is the plugin's own.
	Config map[string]any `yaml:"config"`
	// SecretFiles are files whose content is handed over as the secrets of these names; relative to nothing.
	SecretFiles map[string]string `yaml:"secret_files"`
}

// Log says how to log.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // json, text
}

// Default is what runs with no configuration at all.
func Default() Config {
	return Config{
		Controllers: []string{"127.0.0.1:8081"}, DataDir: "/var/lib/limiquantix/agent", StateDir: "/var/lib/limiquantix", RunDir: "/run/limiquantix",
		PluginDir: "/usr/lib/limiquantix/plugins", Listen: "127.0.0.1:9177", Log: Log{Level: "info", Format: "json"},
	}
}

// Load reads the file at path ("" = none) over Default, and environ over that.
func Load(path string, environ []string) (Config, error) {
	c := Default()
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return c, fmt.Errorf("configuration: %w", err)
		}
		if err := parse(data, &c); err != nil {
			return c, fmt.Errorf("configuration %s: %w", path, err)
		}
	}
	if err := applyEnv(&c, environ); err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	return c, nil
}

func parse(data []byte, c *Config) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return err
	}
	if len(doc.Content) == 0 {
		return nil
	}
	if err := checkKeys(doc.Content[0], reflect.TypeFor[Config](), ""); err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil {
		return err
	}
	if err := dec.Decode(new(yaml.Node)); err == nil {
		return errors.New("there is more than one document")
	}
	return nil
}

// checkKeys names every key that the type does not have, with its line and the nearest that it has.
func checkKeys(n *yaml.Node, t reflect.Type, path string) error {
	switch {
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		var errs []error
		for i, item := range n.Content {
			errs = append(errs, checkKeys(item, t.Elem(), fmt.Sprintf("%s[%d].", strings.TrimSuffix(path, "."), i)))
		}
		return errors.Join(errs...)
	case t.Kind() != reflect.Struct || n.Kind != yaml.MappingNode:
		return nil // the decoder says what is wrong with the type
	}
	known := map[string]reflect.Type{}
	for i := range t.NumField() {
		known[t.Field(i).Tag.Get("yaml")] = t.Field(i).Type
	}
	var errs []error
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if ft, ok := known[k.Value]; ok {
			errs = append(errs, checkKeys(n.Content[i+1], ft, path+k.Value+"."))
			continue
		}
		errs = append(errs, fmt.Errorf("line %d: unknown key %q%s", k.Line, path+k.Value, didYouMean(k.Value, known)))
	}
	return errors.Join(errs...)
}

func didYouMean[V any](name string, known map[string]V) string {
	best, least := "", len(name)/2+1
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return "; the keys are " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is how many letters to insert, drop or change to get from a to b.
func distance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			change := prev[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			cur[j] = min(change, prev[j]+1, cur[j-1]+1)
		}
		prev = cur
	}
	return prev[len(b)]
}

func applyEnv(c *Config, environ []string) error {
	set := map[string]func(string){
		"CONTROLLERS": func(v string) { c.Controllers = split(v) },
		"DATA_DIR":    func(v string) { c.DataDir = v }, "STATE_DIR": func(v string) { c.StateDir = v }, "RUN_DIR": func(v string) { c.RunDir = v },
		"PLUGIN_DIR": func(v string) { c.PluginDir = v }, "LISTEN": func(v string) { c.Listen = v },
		"JOIN_TOKEN_FILE": func(v string) { c.JoinTokenFile = v }, "LOG_LEVEL": func(v string) { c.Log.Level = v }, "LOG_FORMAT": func(v string) { c.Log.Format = v },
		"TUNNEL_ADDRESS": func(v string) { c.TunnelAddress = v },
		"PLUGINS": func(v string) {
			c.Plugins = nil
			for _, n := range split(v) {
				c.Plugins = append(c.Plugins, Plugin{Name: n})
			}
		},
		"CONFIG": func(string) {}, // the path of the file; read by main
	}
	var errs []error
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		key, ok := strings.CutPrefix(name, EnvPrefix)
		if !ok {
			continue
		}
		f, known := set[key]
		if !known {
			errs = append(errs, fmt.Errorf("environment: unknown variable %s%s", name, didYouMean(key, set)))
			continue
		}
		f(value)
	}
	return errors.Join(errs...)
}

func split(v string) []string {
	var out []string
	for s := range strings.SplitSeq(v, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

var pluginName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Validate says all that is wrong.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Controllers) == 0 {
		bad("controllers: at least one host:port is needed")
	}
	for i, e := range c.Controllers {
		if err := hostPort(e); err != nil {
			bad("controllers[%d] %q: %w", i, e, err)
		}
	}
	for _, d := range []struct{ key, path string }{{"data_dir", c.DataDir}, {"state_dir", c.StateDir}, {"run_dir", c.RunDir}, {"plugin_dir", c.PluginDir}} {
		if !filepath.IsAbs(d.path) {
			bad("%s %q: must be an absolute path", d.key, d.path)
		}
	}
	if n := len(filepath.Join(c.RunDir, "plugins", strings.Repeat("x", 16))); n > 76 {
		bad("run_dir %q: too long for unix sockets below it", c.RunDir)
	}
	if c.Listen != "" {
		if err := hostPort(c.Listen); err != nil {
			bad("listen %q: %w", c.Listen, err)
		}
	}
	seen := map[string]bool{}
	for i, p := range c.Plugins {
		switch {
		case !pluginName.MatchString(p.Name):
			bad("plugins[%d].name %q: must be 1-32 of a-z, 0-9 and '-'", i, p.Name)
		case seen[p.Name]:
			bad("plugins[%d].name %q: is there twice", i, p.Name)
		}
		seen[p.Name] = true
		if _, err := p.JSON(); err != nil {
			bad("plugins[%d].config: %w", i, err)
		}
	}
	if _, err := fetch.Networks(c.ImageNetworks); err != nil {
		bad("image_networks: %w", err)
	}
	if c.TunnelAddress != "" {
		if err := tunnelAddress(c.TunnelAddress); err != nil {
			bad("tunnel_address %q: %w", c.TunnelAddress, err)
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		bad("log.level %q: must be debug, info, warn or error", c.Log.Level)
	}
	if !slices.Contains([]string{"json", "text"}, c.Log.Format) {
		bad("log.format %q: must be json or text", c.Log.Format)
	}
	return errors.Join(errs...)
}

// JSON is the plugin's configuration as it is handed over.
func (p Plugin) JSON() (string, error) {
	if len(p.Config) == 0 {
		return "{}", nil
	}
	data, err := json.Marshal(p.Config)
	return string(data), err
}

// Secrets reads the plugin's secrets.
func (p Plugin) Secrets() (map[string][]byte, error) {
	out := map[string][]byte{}
	for name, path := range p.SecretFiles {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("secret %s of plugin %s: %w", name, p.Name, err)
		}
		out[name] = bytes.TrimRight(data, "\r\n")
	}
	return out, nil
}

func hostPort(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("must be host:port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return errors.New("the port must be 0-65535")
	}
	return nil
}

// tunnelAddress refuses what no other node could send to, and what is not written as everybody writes it: it is compared as text elsewhere.
func tunnelAddress(s string) error {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "":
		return errors.New("must be an IP address, for example 192.0.2.7")
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return errors.New("must be an address of this node that other nodes reach")
	case a.String() != s:
		return fmt.Errorf("must be written as %s", a)
	}
	return nil
}
