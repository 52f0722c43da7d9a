package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validate finds everything that can never work, all at once. Each error begins with the key.
func (c Config) Validate() error {
	var found []error
	bad := func(key, format string, args ...any) { found = append(found, fmt.Errorf(key+": "+format, args...)) }

	public, publicErr := splitAddress(c.Listen)
	if publicErr != nil {
		bad("listen", "%w", publicErr)
	}
	if _, err := splitAddress(c.AgentListen); err != nil {
		bad("agent_listen", "%w", err)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		bad("tls", "cert and key go together; one is missing")
	}
	if publicErr == nil && !c.UsesTLS() && !isLoopback(public) {
		bad("listen", "%s can be reached from other machines, and without TLS the admin token would travel in the clear: set tls.cert and tls.key, or listen on 127.0.0.1", c.Listen)
	}
	if c.AgentAddress != "" && c.agentHost() == "" {
		bad("agent_address", "%q is neither a host nor host:port", c.AgentAddress)
	}
	if c.DataDir == "" {
		bad("data_dir", "must be a directory")
	}
	oneOf := func(key, value string, of ...string) {
		if !slices.Contains(of, value) {
			hint := ""
			if near := Nearest(value, of); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			bad(key, "%q is not one of %s%s", value, strings.Join(of, ", "), hint)
		}
	}
	oneOf("store.kind", c.Store.Kind, StoreEtcd, StoreMemory)
	c.Store.validate(bad)
	oneOf("scheduler.placement_strategy", c.Scheduler.PlacementStrategy, "spread", "pack", "balance")
	ratio := func(key string, v float64) {
		if !(v >= 0.1 && v <= 100) {
			bad(key, "%v is not between 0.1 and 100", v)
		}
	}
	ratio("scheduler.overcommit_cpu", c.Scheduler.OvercommitCPU)
	ratio("scheduler.overcommit_memory", c.Scheduler.OvercommitMemory)
	if !(c.Scheduler.ReservedCPUs >= 0 && c.Scheduler.ReservedCPUs <= 4096) {
		bad("scheduler.reserved_cpus", "%v is not between 0 and 4096", c.Scheduler.ReservedCPUs)
	}
	if c.Heartbeat.Interval < 100*time.Millisecond || c.Heartbeat.Interval > time.Minute {
		bad("heartbeat.interval", "%v is not between 100ms and 1m", c.Heartbeat.Interval)
	}
	if c.Heartbeat.Timeout < 3*c.Heartbeat.Interval {
		bad("heartbeat.timeout", "%v is less than three intervals (%v): one lost heartbeat must not lose a node", c.Heartbeat.Timeout, 3*c.Heartbeat.Interval)
	}
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "json", "text")
	return errors.Join(found...)
}

// UsesTLS says whether the public API has a certificate.
func (c Config) UsesTLS() bool { return c.TLS.Cert != "" && c.TLS.Key != "" }

// SlogLevel is log.level for slog; info when it is none.
func (c Config) SlogLevel() slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.Log.Level)); err != nil {
		return slog.LevelInfo
	}
	return l
}

// AdvertisedAgentAddress is the host:port at which agents reach this controller; port is the one that is bound.
func (c Config) AdvertisedAgentAddress(port int) string {
	if _, _, err := net.SplitHostPort(c.AgentAddress); err == nil {
		return c.AgentAddress
	}
	host := c.agentHost()
	if host == "" {
		host, _, _ = net.SplitHostPort(c.AgentListen)
		if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
			if name, err := os.Hostname(); err == nil {
				host = name
			} else {
				host = "localhost"
			}
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// agentHost is the host of agent_address, "" when it has none.
func (c Config) agentHost() string {
	if host, port, err := net.SplitHostPort(c.AgentAddress); err == nil {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return ""
		}
		return host
	}
	host := strings.Trim(c.AgentAddress, "[]")
	if net.ParseIP(host) == nil && strings.ContainsAny(host, ":/ @") {
		return ""
	}
	return host
}

func splitAddress(address string) (host string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("%q is not host:port, for example 127.0.0.1:8080", address)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", fmt.Errorf("%q is not a port number", port)
	}
	return host, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
