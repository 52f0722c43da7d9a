package domain

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

const (
	// DefaultPool is the pool of volumes that name none.
	DefaultPool      = "local"
	defaultStopGrace = 60 * time.Second
)

// DefaultVM fills what a client may leave out of a spec, so that what is stored says what will happen. id seeds MAC addresses.
func DefaultVM(spec *computev1.VMSpec, id string) {
	if spec.Cpu == nil {
		spec.Cpu = &computev1.CPU{}
	}
	if spec.Cpu.Vcpus == 0 {
		spec.Cpu.Vcpus = 1
	}
	if spec.DesiredPower == computev1.PowerState_POWER_STATE_UNSPECIFIED {
		spec.DesiredPower = computev1.PowerState_POWER_STATE_RUNNING
	}
	if spec.RunPolicy == computev1.RunPolicy_RUN_POLICY_UNSPECIFIED {
		spec.RunPolicy = computev1.RunPolicy_RUN_POLICY_ON_FAILURE
	}
	if spec.StopGrace == nil {
		spec.StopGrace = durationpb.New(defaultStopGrace)
	}
	if spec.GuestAgent == nil {
		spec.GuestAgent = proto.Bool(true)
	}
	if spec.SerialConsole == nil {
		spec.SerialConsole = proto.Bool(true)
	}
	for _, d := range spec.GetDisks() {
		if d.GetBus() == computev1.DiskBus_DISK_BUS_UNSPECIFIED {
			d.Bus = computev1.DiskBus_DISK_BUS_VIRTIO
		}
		if in := d.GetInline(); in != nil && in.Pool == "" {
			in.Pool = DefaultPool
		}
	}
	for _, n := range spec.GetNics() {
		if net := n.GetNetwork(); net != nil && net.GetNetwork() == "" && net.GetPort() == "" {
			net.Network = DefaultNetworkName
		}
		if n.Mac == "" && n.GetNetwork().GetPort() == "" { // a port brings its own
			n.Mac = MakeMAC(id, n.GetName())
		}
		for _, f := range n.GetUser().GetForwards() {
			if f.Protocol == "" {
				f.Protocol = "tcp"
			}
			if f.HostAddress == "" {
				f.HostAddress = "127.0.0.1"
			}
		}
	}
	for _, r := range spec.GetPlacement().GetAffinity() {
		if r.GetPreferred() && r.Weight == 0 {
			r.Weight = 50
		}
	}
}

// MakeMAC derives the address of a VM's NIC, the same each time, in QEMU's own prefix.
func MakeMAC(id, nic string) string {
	h := sha256.Sum256([]byte(id + "/" + nic))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2])
}

// TakeUserData removes the secret document from a spec and leaves its checksum in its place.
func TakeUserData(spec *computev1.VMSpec) []byte {
	ci := spec.GetCloudInit()
	if ci == nil {
		return nil
	}
	data := ci.GetUserData()
	ci.UserData, ci.UserDataSha256 = nil, ""
	if len(data) == 0 {
		return nil
	}
	sum := sha256.Sum256(data)
	ci.UserDataSha256 = hex.EncodeToString(sum[:])
	return slices.Clone(data)
}
