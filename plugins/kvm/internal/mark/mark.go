// Package mark is the element in a domain's metadata that says whose the domain is and which spec it was defined from. A domain without it is foreign.
package mark

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Namespace of the element, and Prefix, which libvirt asks for when the element of a domain is replaced.
const (
	Namespace = "https://limiquantix.io/xmlns/mark/1"
	Prefix    = "lq"
)

// Kinds of Device.
const (
	Disk      = "disk"
	Interface = "interface"
)

// Mark is the element. The spec itself is not kept, since it holds secrets: only hashes of its parts, so that a device can be added or removed and the
// hash of the whole still follows.
type Mark struct {
	XMLName    xml.Name `xml:"https://limiquantix.io/xmlns/mark/1 mark"`
	Cluster    string   `xml:"cluster,attr"`
	Node       string   `xml:"node,attr"`
	Object     string   `xml:"object,attr"`
	Generation int64    `xml:"generation,attr"`
	Epoch      int64    `xml:"epoch,attr"`
	Name       string   `xml:"name,attr"`  // hash of the name
	Base       string   `xml:"base,attr"`  // hash of all but name, virtual CPUs at start, and devices
	VCPUs      int32    `xml:"vcpus,attr"` // virtual CPUs at start
	Devices    []Device `xml:"device"`     // in order
}

// Device is a disk or an interface of the spec.
type Device struct {
	Kind string `xml:"kind,attr"`
	ID   string `xml:"id,attr"`
	Hash string `xml:"hash,attr"` // of all but a disk's source and limits
	// Source is a hash of where a disk's bytes are: it alone changes when the disk is switched to an overlay.
	Source string `xml:"source,attr,omitempty"`
	// Limits are a disk's, operations and bytes per second: they change while the guest runs.
	Limits string `xml:"limits,attr,omitempty"`
}

// Of makes the mark of a spec.
func Of(m *driverv1.OwnershipMark, spec *driverv1.DomainSpec) Mark {
	base := proto.CloneOf(spec)
	base.Name, base.Disks, base.Interfaces = "", nil, nil
	if c := base.GetCpu(); c != nil {
		c.MaxVcpus, c.Vcpus = max(c.GetVcpus(), c.GetMaxVcpus()), 0
	}
	out := Mark{
		Cluster: m.GetClusterId(), Node: m.GetNodeId(), Object: m.GetObjectId(), Generation: m.GetGeneration(), Epoch: m.GetEpoch(),
		Name: sum([]byte(spec.GetName())), Base: hash(base), VCPUs: spec.GetCpu().GetVcpus(),
	}
	for _, d := range spec.GetDisks() {
		out.Devices = append(out.Devices, OfDisk(d))
	}
	for _, n := range spec.GetInterfaces() {
		out.Devices = append(out.Devices, OfInterface(n))
	}
	return out
}

// OfDisk and OfInterface describe one device.
func OfDisk(d *driverv1.DomainDisk) Device {
	rest := proto.CloneOf(d)
	rest.Source, rest.Limits = nil, nil
	out := Device{Kind: Disk, ID: d.GetDiskId(), Hash: hash(rest), Source: OfSource(d.GetSource())}
	if l := d.GetLimits(); l.GetIops() != 0 || l.GetBytesPerSecond() != 0 {
		out.Limits = fmt.Sprintf("%d/%d", l.GetIops(), l.GetBytesPerSecond())
	}
	return out
}

// OfSource is a hash of a source, without its secrets.
func OfSource(s *driverv1.DiskSource) string {
	if s == nil {
		return ""
	}
	s = proto.CloneOf(s)
	if r := s.GetRbd(); r != nil {
		r.Key = ""
	}
	return hash(s)
}

// OfInterface describes one interface.
func OfInterface(n *driverv1.DomainInterface) Device {
	if n.GetQueues() == 1 { // the same as none named
		n = proto.CloneOf(n)
		n.Queues = 0
	}
	return Device{Kind: Interface, ID: n.GetInterfaceId(), Hash: hash(n)}
}

// OfOtherLink describes an interface that differs from n in nothing but its link's state.
func OfOtherLink(n *driverv1.DomainInterface) Device {
	n = proto.CloneOf(n)
	n.LinkDown = !n.GetLinkDown()
	return OfInterface(n)
}

// Ownership is the mark as the contract has it.
func (m *Mark) Ownership() *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: m.Cluster, NodeId: m.Node, ObjectId: m.Object, Generation: m.Generation, Epoch: m.Epoch}
}

// Hash is equal for equal specs.
func (m *Mark) Hash() string { return sum([]byte(m.Name + m.Running())) }

// Running is a hash of what a guest notices: two marks with the same one need no restart to become each other.
func (m *Mark) Running() string {
	text := m.Base + "/" + strconv.Itoa(int(m.VCPUs))
	for _, d := range m.Devices {
		text += "/" + d.Kind + " " + d.ID + " " + d.Hash + " " + d.Source + " " + d.Limits
	}
	return sum([]byte(text))
}

// Find is a device by its key.
func (m *Mark) Find(kind, id string) (Device, bool) {
	i := m.index(kind, id)
	if i < 0 {
		return Device{}, false
	}
	return m.Devices[i], true
}

// With is the mark with a device added, behind the others of its kind, or replaced.
func (m Mark) With(d Device) Mark {
	m.Devices = slices.Clone(m.Devices)
	if i := m.index(d.Kind, d.ID); i >= 0 {
		m.Devices[i] = d
		return m
	}
	at := len(m.Devices)
	for d.Kind == Disk && at > 0 && m.Devices[at-1].Kind == Interface {
		at--
	}
	m.Devices = slices.Insert(m.Devices, at, d)
	return m
}

// Without is the mark with a device removed.
func (m Mark) Without(kind, id string) Mark {
	m.Devices = slices.DeleteFunc(slices.Clone(m.Devices), func(d Device) bool { return d.Kind == kind && d.ID == id })
	return m
}

func (m *Mark) index(kind, id string) int {
	return slices.IndexFunc(m.Devices, func(d Device) bool { return d.Kind == kind && d.ID == id })
}

// Encode writes the element.
func (m *Mark) Encode() (string, error) {
	b, err := xml.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("encode mark: %w", err)
	}
	return string(b), nil
}

func hash(m proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "" // only of invalid UTF-8, which does not come over gRPC
	}
	return sum(b)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:12])
}
