package conformance

import (
	"context"
	"fmt"
	"os"
	"path"
	"strconv"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/guest"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// Options say which plugin is checked, and what its backend needs to be told.
type Options struct {
	// Plugin is launched for the checks. Dir and ConfigJSON matter; RuntimeDir and Host are made when they are empty.
	Plugin host.Spec
	// Only, when not empty, are patterns (path.Match on the check's name, '*' within one part) of the checks to run.
	Only []string
	// Skip are patterns of checks not to run.
	Skip []string
	// Brief repeats each fault less often: calls 3 times instead of 10, and cut short at 1 or 2 moments instead of 5. Every check runs all the same. It is for backends
	// of which each call takes long, between runs that are not brief.
	Brief bool

	Compute ComputeOptions
	Storage StorageOptions
	Network NetworkOptions
}

// ComputeOptions are what the compute suite needs to know of the backend.
type ComputeOptions struct {
	// Spec makes a spec that can be defined and started here; it is called anew for each domain. nil = one CPU, 128 MiB, nothing else.
	Spec func(name string) *driverv1.DomainSpec
	// GuestReboots says that the guest of Spec obeys RebootDomain and StopDomain without force.
	GuestReboots bool
	// Disk makes a new, empty source of a kind, of at least 4 MiB, that several may use one after the other; nil = the kind cannot be tried here. Disk itself nil = files.
	Disk func(kind driverv1.DiskSourceKind) (*driverv1.DiskSource, error)
	// Interface makes something of a kind to plug into, anew each time; nil = the kind cannot be tried here. Interface itself nil = taps by a name that no device has.
	Interface func(kind driverv1.InterfaceBindingKind) (*driverv1.InterfaceBinding, error)
	// GuestSpeaks says that the guest of Spec prints something on its serial console.
	GuestSpeaks bool
}

// StorageOptions are what the storage suite needs to know of the backend.
type StorageOptions struct {
	// Parameters and Secrets of the pool, as in EnsurePoolRequest.
	Parameters map[string]string
	Secrets    map[string][]byte
	// VolumeBytes is a good size for a volume; 0 = 4 MiB.
	VolumeBytes int64
	// Write writes n bytes of a pattern at an offset of an attached volume. nil = files and block devices are written, qcow2 by qemu-io.
	Write func(ctx context.Context, src *driverv1.DiskSource, pattern byte, offset, n int64) error
	// Objects names what the backend holds for volumes, snapshots and image copies, however they came to be there: files, logical volumes, RBD images. After the
	// last check there must be none that was not there before the first. What belongs to the pool itself is left out. nil = only lists of the plugin are looked at.
	Objects func(ctx context.Context) ([]string, error)
	// LeakTimeout is how long a backend may take to clear away what was deleted; 0 = 90 s.
	LeakTimeout time.Duration
}

// NetworkOptions are what the network suite needs to know of the backend.
type NetworkOptions struct {
	// Spec makes the spec of the n-th network; several can be there together. nil = type BRIDGE with the subnet 10.213.N.0/24, nothing else.
	Spec func(n int) *driverv1.NetworkSpec
	// Packets makes the checks send real packets; nil = what packets do is not checked, and the report says so. This process must then be root and in the network
	// namespace of the plugin, one that the checks may do with as they like: run them under "unshare --net --mount".
	Packets *PacketOptions
}

// PacketOptions say how much the checks of packets do. The number of policies, and with it everything else that is counted here, follows LIMIQUANTIX_TEST_COUNT
// when that is set, and the seed LIMIQUANTIX_TEST_SEED.
type PacketOptions struct {
	// Policies is how many random policies are tried; 0 = 300, or 30 when brief.
	Policies int
	// Seed of what is drawn; 0 = the clock. It is printed.
	Seed uint64
	// Ports is how many ports are watched from before they are there; 0 = 20, or 5 when brief.
	Ports int
	// Updates and Kills are how often rules change, and how often the plugin is killed, while packets are sent all the time; 0 = 100 and 10, or 20 and 2 when brief.
	Updates, Kills int
	// Disturbances spoil, each in its own way, what the driver keeps in force: rules flushed, a chain or a set removed, flows deleted. None may open anything; the driver puts
	// each right by itself. One is done each second, in turn; empty = what others spoil is not checked, and the report says so.
	Disturbances []Disturbance
	// Seconds is how long that goes on; 0 = 60, or twice through the list when brief.
	Seconds int
	// Shrink is how long a policy that went wrong is made smaller; 0 = 1 min.
	Shrink time.Duration
	// OVS says how the Open vSwitch is reached that bindings of kind OVS_PORT name.
	OVS guest.OVS
}

// Disturbance is something that an administrator or another program does to a driver's objects on the host.
type Disturbance struct {
	Name string
	Do   func(ctx context.Context) error
}

func (o Options) wants(name string) bool {
	match := func(patterns []string) bool {
		for _, p := range patterns {
			if ok, _ := path.Match(p, name); ok || p == name {
				return true
			}
		}
		return false
	}
	return (len(o.Only) == 0 || match(o.Only)) && !match(o.Skip)
}

func (o Options) withDefaults() Options {
	if o.Compute.Spec == nil {
		o.Compute.Spec = func(name string) *driverv1.DomainSpec {
			return &driverv1.DomainSpec{Name: name, Cpu: &driverv1.DomainCpu{Vcpus: 1}, MemoryBytes: 128 << 20, SerialConsole: true}
		}
	}
	if o.Storage.VolumeBytes == 0 {
		o.Storage.VolumeBytes = 4 << 20
	}
	if o.Storage.LeakTimeout == 0 {
		o.Storage.LeakTimeout = callTimeout
	}
	if o.Network.Spec == nil {
		o.Network.Spec = func(n int) *driverv1.NetworkSpec {
			return &driverv1.NetworkSpec{
				Type:    driverv1.NetworkType_NETWORK_TYPE_BRIDGE,
				Subnets: []*driverv1.SubnetSpec{{Cidr: fmt.Sprintf("10.213.%d.0/24", n)}},
			}
		}
	}
	if o.Network.Packets != nil {
		p := *o.Network.Packets
		o.Network.Packets = p.withDefaults(o.Brief)
	}
	return o
}

func (p PacketOptions) withDefaults(brief bool) *PacketOptions {
	few := func(n *int, usual, briefly int) {
		if *n == 0 {
			if *n = usual; brief {
				*n = briefly
			}
		}
	}
	if n, err := strconv.Atoi(os.Getenv(countEnv)); err == nil && n > 0 {
		p.Policies, p.Ports, p.Updates, p.Kills = n, max(1, n/10), max(1, n/2), max(1, n/20)
		p.Seconds = max(p.Seconds, n*3/100)
	}
	if n, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64); err == nil {
		p.Seed = n
	}
	if p.Seed == 0 {
		p.Seed = uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	}
	if p.Shrink == 0 {
		p.Shrink = time.Minute
	}
	few(&p.Policies, 300, 30)
	few(&p.Ports, 20, 5)
	few(&p.Updates, 100, 20)
	few(&p.Kills, 10, 2)
	few(&p.Seconds, 60, 2*len(p.Disturbances))
	return &p
}

// Variables of the environment of soaks.
const (
	countEnv = "LIMIQUANTIX_TEST_COUNT"
	seedEnv  = "LIMIQUANTIX_TEST_SEED"
)
