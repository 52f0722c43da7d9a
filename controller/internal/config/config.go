// Package config reads what an operator sets: one strict YAML file, over it the environment, over that flags. With none of them the controller
// runs with Default. Nothing here opens anything but the file.
package config

import (
	"time"
)

// Config is the controller's configuration. Field names in YAML are the tags; the environment names them in upper case after EnvPrefix, joined
// by "_": scheduler.overcommit_cpu is LIMIQUANTIX_CONTROLLER_SCHEDULER_OVERCOMMIT_CPU.
type Config struct {
	// Listen is the address of the public API: gRPC, gRPC-Web, Connect, JSON and the HTTP endpoints. Other than a loopback address needs TLS.
	Listen string `yaml:"listen"`
	// TLS is the certificate of the public API; empty = none.
	TLS TLS `yaml:"tls"`
	// AgentListen is the address of the agent API, always with mutual TLS.
	AgentListen string `yaml:"agent_listen"`
	// AgentAddress is the address, host or host:port, at which agents reach this controller: in its certificate, and told to agents that ask
	// another controller. Empty = the host name and the port of agent_listen.
	AgentAddress string `yaml:"agent_address"`
	// DataDir holds the store, the key file and the admin token; only the controller's user may read it.
	DataDir string `yaml:"data_dir"`
	// Store is where state is kept.
	Store Store `yaml:"store"`
	// Scheduler says how VMs are placed.
	Scheduler Scheduler `yaml:"scheduler"`
	// Heartbeat says how nodes show that they live.
	Heartbeat Heartbeat `yaml:"heartbeat"`
	// Log says what is logged, to standard error.
	Log Log `yaml:"log"`
}

// TLS names a certificate and its key, PEM files. Both or neither.
type TLS struct {
	// Cert is the certificate chain's file.
	Cert string `yaml:"cert"`
	// Key is the key's file.
	Key string `yaml:"key"`
}

// Store says where state is kept.
type Store struct {
	// Kind is "etcd" or "memory"; memory forgets everything at the end.
	Kind string `yaml:"kind"`
	// Endpoints are the client URLs of an etcd cluster run by others; empty = etcd inside this process, in data_dir.
	Endpoints []string `yaml:"endpoints"`
	// TLS is how such a cluster is reached when its endpoints are https.
	TLS StoreTLS `yaml:"tls"`
	// User is who the controller is to such a cluster, where it asks for users; its password is the first line of PasswordFile.
	User string `yaml:"user"`
	// PasswordFile holds the user's password. Both or neither.
	PasswordFile string `yaml:"password_file"`
}

// StoreTLS names the PEM files for an etcd cluster that speaks TLS.
type StoreTLS struct {
	// CA holds the certificates that sign the cluster's; empty = those that the system trusts.
	CA string `yaml:"ca"`
	// Cert is the controller's own certificate for clusters that ask for one, Key its key. Both or neither.
	Cert string `yaml:"cert"`
	// Key is the key's file.
	Key string `yaml:"key"`
}

// Scheduler says how VMs are placed.
type Scheduler struct {
	// PlacementStrategy is "spread" (the emptiest node), "pack" (the fullest that fits) or "balance" (CPU and memory used evenly).
	PlacementStrategy string `yaml:"placement_strategy"`
	// OvercommitCPU is how many virtual CPUs may be claimed per logical CPU.
	OvercommitCPU float64 `yaml:"overcommit_cpu"`
	// OvercommitMemory is how many bytes may be claimed per byte of memory.
	OvercommitMemory float64 `yaml:"overcommit_memory"`
	// ReservedCPUs is how many logical CPUs each node keeps for itself.
	ReservedCPUs float64 `yaml:"reserved_cpus"`
	// ReservedMemory is how much memory each node keeps for itself: bytes, or with a unit, as "512MiB".
	ReservedMemory Bytes `yaml:"reserved_memory"`
}

// Heartbeat says how nodes show that they live.
type Heartbeat struct {
	// Interval is how often an agent sends one.
	Interval time.Duration `yaml:"interval"`
	// Timeout is after what silence a node counts as unknown.
	Timeout time.Duration `yaml:"timeout"`
}

// Log says what is logged.
type Log struct {
	// Level is "debug", "info", "warn" or "error".
	Level string `yaml:"level"`
	// Format is "json" or "text".
	Format string `yaml:"format"`
}

// Store kinds.
const (
	StoreEtcd   = "etcd"
	StoreMemory = "memory"
)

// Default is the configuration without a file.
func Default() Config {
	return Config{
		Listen:      "127.0.0.1:8080",
		AgentListen: ":8081",
		DataDir:     "/var/lib/limiquantix/controller",
		Store:       Store{Kind: StoreEtcd},
		Scheduler:   Scheduler{PlacementStrategy: "spread", OvercommitCPU: 2, OvercommitMemory: 1.5},
		Heartbeat:   Heartbeat{Interval: 5 * time.Second, Timeout: 30 * time.Second},
		Log:         Log{Level: "info", Format: "json"},
	}
}
