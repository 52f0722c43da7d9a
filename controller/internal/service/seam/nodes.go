package seam

import (
	"time"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// Nodes tells what is known of nodes beside the store, which is kept by the leader alone and in its memory.
type Nodes interface {
	// Leading reports whether this process is the one that knows.
	Leading() bool
	// Stream reports whether a node follows its desired stream, and since when that is so; zero = since this process leads.
	Stream(nodeID string) (connected bool, since time.Time)
	// Progress is what a node is doing about an object; nil = nothing, as far as is known. Kind UNSPECIFIED: about no object, id is the node's.
	Progress(nodeID string, kind agentv1.DesiredKind, id string) *computev1.Progress
	// OrphanDetail is what a node still knows of an orphan VM; nil = nothing.
	OrphanDetail(nodeID, vmID string) *agentv1.OrphanDetail
	// PortStats are the counters of a port as its node told them last; nil = never.
	PortStats(nodeID, portID string) *agentv1.PortStats
}

// NoNodes knows of none.
type NoNodes struct{}

var _ Nodes = NoNodes{}

// Leading implements Nodes.
func (NoNodes) Leading() bool { return false }

// Stream implements Nodes.
func (NoNodes) Stream(string) (bool, time.Time) { return false, time.Time{} }

// Progress implements Nodes.
func (NoNodes) Progress(string, agentv1.DesiredKind, string) *computev1.Progress { return nil }

// OrphanDetail implements Nodes.
func (NoNodes) OrphanDetail(string, string) *agentv1.OrphanDetail { return nil }

// PortStats implements Nodes.
func (NoNodes) PortStats(string, string) *agentv1.PortStats { return nil }
