// Package etcd keeps the state in etcd: one inside this process, which nothing
// else can reach, or a cluster elsewhere. Both are used through the same client
// code; only how they are opened differs.
package etcd

import (
	"crypto/tls"
	"log/slog"
	"time"
)

// Common is what both kinds of store have. The zero value is fit for use.
type Common struct {
	// Logger gets etcd's warnings and errors; default slog.Default().
	Logger *slog.Logger
	// Prefix goes before every key, so that others can use the same cluster.
	Prefix string
	// ElectionTTL is how long a silent leader is waited for; default 10 s, and
	// whole seconds.
	ElectionTTL time.Duration
	// ProgressInterval is how long a watch may be silent; default 1 s.
	ProgressInterval time.Duration
	// RequestTimeout bounds a call to etcd; default 10 s.
	RequestTimeout time.Duration
}

// EmbeddedConfig describes an etcd in this process.
type EmbeddedConfig struct {
	Common
	// Dir holds the data. It is made if need be, open to its owner alone, and
	// locked against a second process.
	Dir string
	// QuotaBytes is the size at which writes are refused; default 2 GiB.
	QuotaBytes int64
	// ReserveBytes must be free on the disk for writes to be taken; default 128 MiB.
	ReserveBytes int64
	// Retention is how much history can be watched from; default 1 h.
	Retention time.Duration
	// DefragThresholdBytes is how much a defragmentation at start must free to
	// be worth its time; default 64 MiB, rounded up to MiB.
	DefragThresholdBytes int64
}

// ExternalConfig describes an etcd cluster elsewhere.
type ExternalConfig struct {
	Common
	// Endpoints are the client URLs of the members.
	Endpoints []string
	// TLS is for endpoints that are https; nil is the system's trust, and no certificate of our own.
	TLS *tls.Config
	// Username and Password are for a cluster with authentication.
	Username, Password string
}

func (c Common) withDefaults() Common {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.ElectionTTL <= 0 {
		c.ElectionTTL = 10 * time.Second
	}
	if c.ProgressInterval <= 0 {
		c.ProgressInterval = time.Second
	}
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 10 * time.Second
	}
	return c
}

func (c EmbeddedConfig) withDefaults() EmbeddedConfig {
	c.Common = c.Common.withDefaults()
	if c.QuotaBytes <= 0 {
		c.QuotaBytes = 2 << 30
	}
	if c.ReserveBytes <= 0 {
		c.ReserveBytes = reserveBytes
	}
	if c.Retention <= 0 {
		c.Retention = time.Hour
	}
	if c.DefragThresholdBytes <= 0 {
		c.DefragThresholdBytes = 64 << 20
	}
	return c
}
