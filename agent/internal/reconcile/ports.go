package reconcile

import (
	"context"
	"io"
	"time"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Plugin is what is known of a driver plugin now.
type Plugin struct {
	Name string
	// Running says that calls can be tried.
	Running bool
	// Healthy says that the plugin says so of itself.
	Healthy bool
	// Instance changes whenever another process serves: what the plugin was told before is forgotten.
	Instance uint64
	// Reason and Message say why it does not run; RetryTime when it is started next, zero = unknown.
	Reason    string
	Message   string
	RetryTime time.Time
	// Capabilities are nil until it ran once.
	Capabilities *driverv1.GetCapabilitiesResponse
	// Kinds as in the manifest, for example "compute".
	Kinds []string
}

// Plugins are the node's driver plugins.
type Plugins interface {
	// Plugin looks one up by name; false when none is known by that name.
	Plugin(name string) (Plugin, bool)
	// Names lists plugins of a kind ("compute", "storage", "network"), in order.
	Names(kind string) []string
	// Compute, Storage and Network are clients that fail at once when the plugin does not run.
	Compute(name string) driverv1.ComputeDriverServiceClient
	Storage(name string) driverv1.StorageDriverServiceClient
	Network(name string) driverv1.NetworkDriverServiceClient
}

// Reporter takes what the controller shall be told. No method waits.
type Reporter interface {
	VM(*agentv1.VMReport)
	Volume(*agentv1.VolumeReport)
	Snapshot(*agentv1.VolumeSnapshotReport)
	Pool(*agentv1.PoolReport)
	Image(*agentv1.ImageCopyReport)
	Network(*agentv1.NetworkReport)
	Port(*agentv1.PortReport)
	RuleSet(*agentv1.RuleSetReport)
	// PortStats tells counters that changed.
	PortStats(*agentv1.PortStats)
	// Progress tells what is being done about an object; without progress, that it is as wanted.
	Progress(*agentv1.ObjectProgress)
	// Orphans tells all orphans there are, and what is still known of them.
	Orphans([]*computev1.Orphan, []*agentv1.OrphanDetail)
	Event(vmID, typ, reason, message string)
	// Forget drops reports of an object that the controller no longer asks for.
	Forget(key *agentv1.DesiredKey)
}

// Fetcher reads images from where users say that they are.
type Fetcher interface {
	// Open asks for the content of a URL; size -1 = unknown. Whoever reads must close.
	Open(ctx context.Context, url string) (content io.ReadCloser, size int64, err error)
}

// Observer counts what happens, for metrics. No method waits.
type Observer interface {
	Reconciled(kind, result string, took time.Duration)
	Called(plugin, method, code string, took time.Duration)
}
