package reconcile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// sources is all that other drivers hand out for one VM.
type sources struct {
	volumes map[string]*driverv1.DiskSource // by volume id
	limits  map[string]*driverv1.IoLimits   // by volume id
	shared  map[string]bool                 // by volume id
	kernel  string                          // path
	initrd  string                          // path
	ports   map[string]portSource           // by port id
}

// portSource is what a NIC in a network plugs into.
type portSource struct {
	binding  *driverv1.InterfaceBinding
	mac      string
	queues   uint32
	linkDown bool
}

// domainSpec is what a compute driver gets for a VM.
func domainSpec(d *agentv1.DesiredVM, src sources) (*driverv1.DomainSpec, error) {
	spec := d.GetSpec()
	vcpus := max(spec.GetCpu().GetVcpus(), 1)
	out := &driverv1.DomainSpec{
		Name: d.GetName(),
		Cpu: &driverv1.DomainCpu{
			Vcpus: vcpus, MaxVcpus: vcpus, Sockets: spec.GetCpu().GetSockets(), Cores: spec.GetCpu().GetCores(),
			Threads: spec.GetCpu().GetThreads(), Model: spec.GetCpu().GetModel(),
		},
		MemoryBytes:   spec.GetMemoryBytes(),
		Boot:          &driverv1.DomainBoot{Firmware: driverv1.Firmware(spec.GetBoot().GetFirmware())},
		GuestAgent:    spec.GuestAgent == nil || spec.GetGuestAgent(),
		SerialConsole: spec.SerialConsole == nil || spec.GetSerialConsole(),
		Vnc:           spec.GetVnc(),
		MachineType:   spec.GetMachineType(),
	}
	if k := spec.GetBoot().GetKernel(); k != nil {
		out.Boot.KernelPath, out.Boot.InitrdPath, out.Boot.Cmdline = src.kernel, src.initrd, k.GetCmdline()
	}
	if err := addDisks(out, d, src); err != nil {
		return nil, err
	}
	for _, nic := range spec.GetNics() {
		n, err := domainInterface(d, nic, src)
		if err != nil {
			return nil, err
		}
		out.Interfaces = append(out.Interfaces, n)
	}
	if ci := spec.GetCloudInit(); ci != nil {
		seed, err := cloudInitSeed(d, ci)
		if err != nil {
			return nil, err
		}
		out.CloudInit = seed
	}
	return out, nil
}

func addDisks(out *driverv1.DomainSpec, d *agentv1.DesiredVM, src sources) error {
	ids := volumeIDs(d)
	ordered := d.GetSpec().GetBoot().GetKernel() != nil // a kernel boots: disks need no order
	for _, disk := range d.GetSpec().GetDisks() {
		ordered = ordered || disk.GetBootOrder() != 0
	}
	for i, disk := range d.GetSpec().GetDisks() {
		id := ids[disk.GetName()]
		source := src.volumes[id]
		if source == nil {
			return fault.New(metav1.Reason_REASON_INTERNAL, "disk %q has no source", disk.GetName())
		}
		order := disk.GetBootOrder()
		if !ordered {
			order = int32(i) + 1 //nolint:gosec // at most 24 disks
		}
		serial := disk.GetSerial()
		if serial == "" {
			serial = diskSerial(id)
		}
		out.Disks = append(out.Disks, &driverv1.DomainDisk{
			DiskId: id, Source: source, Bus: driverv1.DiskBus(disk.GetBus()), ReadOnly: disk.GetReadOnly(), BootOrder: order,
			Serial: serial, Discard: disk.GetDiscard(), Limits: src.limits[id], Shared: src.shared[id],
		})
	}
	return nil
}

// domainInterface is what a compute driver gets for a NIC.
func domainInterface(d *agentv1.DesiredVM, nic *computev1.NIC, src sources) (*driverv1.DomainInterface, error) {
	if user := nic.GetUser(); user != nil {
		return &driverv1.DomainInterface{
			InterfaceId: interfaceID(d.GetVmId(), nic.GetName()), Mac: nic.GetMac(), Model: nic.GetModel(),
			Binding: &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_UserMode{UserMode: userMode(user)}},
		}, nil
	}
	id := portIDs(d)[nic.GetName()]
	port, ok := src.ports[id]
	if !ok || port.binding == nil {
		return nil, fault.New(metav1.Reason_REASON_INTERNAL, "NIC %q has no binding", nic.GetName())
	}
	return &driverv1.DomainInterface{
		InterfaceId: id, Mac: cmp.Or(port.mac, nic.GetMac()), Model: nic.GetModel(), Binding: port.binding,
		LinkDown: port.linkDown, Queues: cmp.Or(nic.GetQueues(), port.queues),
	}, nil
}

// portIDs are the VM's ports by name of the NIC.
func portIDs(d *agentv1.DesiredVM) map[string]string {
	ids := make(map[string]string, len(d.GetPorts()))
	for _, p := range d.GetPorts() {
		ids[p.GetNicName()] = p.GetPortId()
	}
	return ids
}

// volumeIDs are the VM's volumes by name of the disk.
func volumeIDs(d *agentv1.DesiredVM) map[string]string {
	ids := make(map[string]string, len(d.GetVolumes()))
	for _, v := range d.GetVolumes() {
		ids[v.GetDiskName()] = v.GetVolumeId()
	}
	return ids
}

// diskSerial is made from the volume's id alone, so that a guest finds its disks by it wherever it runs.
func diskSerial(volumeID string) string {
	s := strings.ReplaceAll(volumeID, "-", "")
	return s[:min(len(s), 20)]
}

// interfaceID is the key of an interface that no network knows: a UUID that follows from VM and name.
func interfaceID(vmID, name string) string {
	sum := sha256.Sum256([]byte(vmID + "/nic/" + name))
	b := sum[:16]
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func userMode(u *computev1.UserModeNetwork) *driverv1.UserModeBinding {
	out := &driverv1.UserModeBinding{}
	for _, f := range u.GetForwards() {
		p := &driverv1.PortForward{Protocol: f.GetProtocol(), HostAddress: f.GetHostAddress(), HostPort: f.GetHostPort(), GuestPort: f.GetGuestPort()}
		if p.Protocol == "" {
			p.Protocol = "tcp"
		}
		if p.HostAddress == "" {
			p.HostAddress = "127.0.0.1"
		}
		out.Forwards = append(out.Forwards, p)
	}
	return out
}

// metaData is NoCloud's meta-data document.
type metaData struct {
	InstanceID    string   `yaml:"instance-id"`
	LocalHostname string   `yaml:"local-hostname"`
	PublicKeys    []string `yaml:"public-keys,omitempty"`
}

func cloudInitSeed(d *agentv1.DesiredVM, ci *computev1.CloudInit) (*driverv1.CloudInitSeed, error) {
	meta := metaData{InstanceID: d.GetVmId(), LocalHostname: ci.GetHostname(), PublicKeys: ci.GetSshAuthorizedKeys()}
	if meta.LocalHostname == "" {
		meta.LocalHostname = d.GetName()
	}
	doc, err := yaml.Marshal(meta)
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_INTERNAL, "cloud-init meta-data: %w", err)
	}
	user := d.GetUserData()
	if len(user) == 0 {
		user = []byte("#cloud-config\n{}\n")
	}
	return &driverv1.CloudInitSeed{MetaData: doc, UserData: user, NetworkConfig: []byte(ci.GetNetworkConfig())}, nil
}

// lacksUserData reports whether the VM has user-data that this agent was not given since it started.
func lacksUserData(d *agentv1.DesiredVM) bool {
	return d.GetSpec().GetCloudInit().GetUserDataSha256() != "" && len(d.GetUserData()) == 0
}

// inputHash is of all in the desired VM that shapes its definition: not what it shall do, nor where it may run. It is the same with and without
// user-data, whose own hash stands in the spec.
func inputHash(d *agentv1.DesiredVM) string {
	spec := proto.CloneOf(d.GetSpec())
	if spec == nil { // an absent VM may come without one
		spec = &computev1.VMSpec{}
	}
	spec.DesiredPower, spec.RunPolicy, spec.RestartGeneration, spec.StopGrace, spec.Placement = 0, 0, 0, nil, nil
	spec.ReleaseClaimWhenStopped, spec.DeleteProtection = false, false
	if ci := spec.GetCloudInit(); ci != nil {
		ci.UserData = nil
	}
	for _, disk := range spec.GetDisks() {
		disk.Source = nil // the volume's id says it; how it was made, or how large it is, shapes no definition
	}
	for _, nic := range spec.GetNics() {
		if nic.GetNetwork() != nil { // the port's id says it; its groups and addresses shape no definition
			nic.Attachment = &computev1.NIC_Network{Network: &computev1.NetworkAttachment{}}
		}
	}
	shape := &agentv1.DesiredVM{VmId: d.GetVmId(), Name: d.GetName(), Epoch: d.GetEpoch(), Spec: spec, Volumes: d.GetVolumes(), Ports: d.GetPorts()}
	return hashOf(shape)
}

// inputHash is that of a VM with the limits of its volumes, which change while it runs. Called under mu.
func (e *Engine) inputHash(d *agentv1.DesiredVM) string {
	hash := inputHash(d)
	for _, v := range d.GetVolumes() {
		if l := limitsOf(e.wants[volumeKey(v.GetVolumeId())].object().GetVolume().GetVolume()); l != nil {
			hash = hashOf(&agentv1.VMVolume{DiskName: hash, VolumeId: hashOf(l)})
		}
	}
	return hash
}

// limitsOf are a volume's limits as a hypervisor's driver gets them; nil = none.
func limitsOf(v *storagev1.Volume) *driverv1.IoLimits {
	q := v.GetSpec().GetQos()
	if q.GetIops() <= 0 && q.GetBytesPerSecond() <= 0 {
		return nil
	}
	return &driverv1.IoLimits{Iops: q.GetIops(), BytesPerSecond: q.GetBytesPerSecond()}
}

func hashOf(m proto.Message) string {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "" // only of invalid UTF-8, which did not come over gRPC
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}
