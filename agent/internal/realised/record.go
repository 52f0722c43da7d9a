// Package realised keeps what this node has realised, and what it was last asked to, in one bbolt file: enough to go on without a controller and to
// recognise an older placement. It holds neither secrets nor user-data. The file is no authority on what exists: drivers and their marks are, and a lost
// or damaged file is rebuilt from them.
package realised

import (
	"maps"
	"slices"
	"time"
)

// Kinds of objects.
const (
	KindVM     = "vm"
	KindVolume = "volume"
	KindPool   = "pool"
	KindImage  = "image"
	// KindSnapshot is a snapshot of a volume.
	KindSnapshot = "snapshot"
	KindNetwork  = "network"
	KindPort     = "port"
	// KindRuleSet is a security group's rules, KindAddressSet its members.
	KindRuleSet    = "rule_set"
	KindAddressSet = "address_set"
)

// Key names an object on this node.
type Key struct{ Kind, ID string }

func (k Key) String() string { return k.Kind + "/" + k.ID }

// Record is what is known of one realised object.
type Record struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
	// Driver is the plugin that holds the object.
	Driver string `json:"driver,omitempty"`
	// PoolID is the pool of a volume or image copy.
	PoolID string `json:"pool_id,omitempty"`
	// Epoch is the highest placement epoch seen; Generation the newest spec realised.
	Epoch      int64 `json:"epoch"`
	Generation int64 `json:"generation"`
	// InputHash is of all in the desired object that shapes the definition; DomainHash of the definition as it was handed to the driver.
	InputHash  string `json:"input_hash,omitempty"`
	DomainHash string `json:"domain_hash,omitempty"`
	// Handle is the driver's, opaque.
	Handle []byte `json:"handle,omitempty"`
	// Made says that the object was made here: when it is missing later it was lost.
	Made bool `json:"made,omitempty"`
	// RestartDone is the restart generation up to which reboots were issued; RestartKnown says that it was ever set.
	RestartDone  int64 `json:"restart_done,omitempty"`
	RestartKnown bool  `json:"restart_known,omitempty"`
	// Ran says that the VM ran, or was started, since it was last off by our doing.
	Ran bool `json:"ran,omitempty"`
	// EndedGeneration is the generation at which the guest ended by itself and was left off; 0 = it was not.
	EndedGeneration int64 `json:"ended_generation,omitempty"`
	// StopAsked is when we asked the guest to shut down; zero = we did not.
	StopAsked time.Time `json:"stop_asked,omitzero"`
	// Attachments are the volumes that were, or were about to be, attached for the VM.
	Attachments []Attachment `json:"attachments,omitempty"`
	// Gone is when the object was confirmed absent; zero = it was not. The epoch stays known for a while.
	Gone time.Time `json:"gone,omitzero"`
	// Restored counts the last restore of a volume that was done.
	Restored int64 `json:"restored,omitempty"`
	// Moved is the newest move that was done.
	Moved int64 `json:"moved,omitempty"`
	// Begun: taking the snapshot was begun, and something of it may be there.
	Begun bool `json:"begun,omitempty"`
	// Quiesced: the guest was at rest when the snapshot was taken, or nothing had the volume open.
	Quiesced bool `json:"quiesced,omitempty"`
	// Frozen is the VM that may have been quiesced for a snapshot and not thawed; FrozenBy is its compute plugin.
	Frozen   string `json:"frozen,omitempty"`
	FrozenBy string `json:"frozen_by,omitempty"`
	// NetworkID is the network of a port.
	NetworkID string `json:"network_id,omitempty"`
	// Ports are those that a VM's definition has, or was about to have, as NICs.
	Ports []string `json:"ports,omitempty"`
	// Generations are the newest ones of a rule set or an address set that network drivers were told, by driver.
	Generations map[string]int64 `json:"generations,omitempty"`
}

// Attachment is a volume attached for a VM.
type Attachment struct {
	VolumeID string `json:"volume_id"`
	PoolID   string `json:"pool_id"`
	Driver   string `json:"driver"`
	Handle   []byte `json:"handle,omitempty"`
}

// clone is a copy that shares nothing that changes.
func (r Record) clone() Record {
	r.Attachments, r.Ports, r.Generations = slices.Clone(r.Attachments), slices.Clone(r.Ports), maps.Clone(r.Generations)
	return r
}

// Key is the record's key.
func (r Record) Key() Key { return Key{r.Kind, r.ID} }
