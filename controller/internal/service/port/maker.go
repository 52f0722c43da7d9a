package port

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/network"
	"github.com/limiquantix/limiquantix/controller/internal/service/securitygroup"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Maker works out the ports of one commit, of a project: their networks, groups, MAC addresses and addresses, taken by keys that must not exist. What it refers to must stay as
// it is until the commit. Make one for every try.
type Maker struct {
	cache   *state.Cache
	w       *state.Writer
	project string
	now     time.Time

	networks     map[string]*inNetwork // by what they were asked for by
	defaultGroup string
	same         map[string]bool // keys that are required to stay as they are
	taken        map[string]bool // keys that this commit takes
}

type inNetwork struct {
	rec     *statev1.NetworkRecord
	subnets []*domain.Addresses
}

func (n *inNetwork) id() string { return n.rec.GetNetwork().GetMeta().GetId() }

// NewMaker makes a maker that writes to w.
func NewMaker(cache *state.Cache, w *state.Writer, project string, now time.Time) *Maker {
	return &Maker{cache: cache, w: w, project: project, now: now, networks: map[string]*inNetwork{}, same: map[string]bool{}, taken: map[string]bool{}}
}

// Fields are where a request names what a port is made of.
type Fields struct{ Network, MAC, Addresses, Groups string }

// FieldsOf are those of a port's own spec.
func FieldsOf(spec string) Fields {
	return Fields{Network: spec + ".network_id", MAC: spec + ".mac", Addresses: spec + ".ip_addresses", Groups: spec + ".security_group_ids"}
}

// Network is the network that a port asks for, by id or name, "" being the default one, which is made if there is none. None: NETWORK_NOT_FOUND, naming field.
func (m *Maker) Network(field, ref string) (*statev1.NetworkRecord, error) {
	n, err := m.network(field, ref)
	if err != nil {
		return nil, err
	}
	return n.rec, nil
}

func (m *Maker) network(field, ref string) (*inNetwork, error) {
	if ref == "" {
		ref = domain.DefaultNetworkName
	}
	if n := m.networks[ref]; n != nil {
		return n, nil
	}
	row := m.cache.Resolve(state.KindNetwork, m.project, ref)
	var rec *statev1.NetworkRecord
	switch {
	case row == nil && ref == domain.DefaultNetworkName:
		var err error
		if rec, err = network.Default(m.cache, m.w, m.project, m.now); err != nil {
			return nil, err
		}
	case row == nil || row.Project != m.project:
		what := fmt.Sprintf("there is no network %q in project %q", ref, m.project)
		e := fault.New(metav1.Reason_REASON_NETWORK_NOT_FOUND, "%s: %s", field, what).WithRemedy("list networks to see which there are")
		e.Violations = []fault.Violation{{Field: field, Description: what}}
		return nil, e
	case row.Deleting:
		return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "%s: network %s is being deleted", field, row.Name)
	default:
		m.keep(row)
		rec = row.Network()
	}
	n := &inNetwork{rec: rec, subnets: domain.AddressesOf(rec.GetNetwork().GetSpec())}
	m.networks[ref], m.networks[rec.GetNetwork().GetMeta().GetId()] = n, n
	return n, nil
}

// keep requires, once, that a record stays as it is.
func (m *Maker) keep(row *state.Row) {
	if key := state.Key(row.Kind, row.ID); !m.same[key] {
		m.same[key] = true
		m.w.Same(row)
	}
}

// Groups are the ids of security groups that are named by id or name; none being the project's default group, which is made if there is none.
func (m *Maker) Groups(v *domain.Violations, field string, refs []string) []string {
	if len(refs) == 0 {
		if m.defaultGroup == "" {
			m.defaultGroup = securitygroup.Default(m.cache, m.w, m.project, m.now)
			if row := m.cache.Row(state.KindSecurityGroup, m.defaultGroup); row != nil {
				m.keep(row)
			}
		}
		return []string{m.defaultGroup}
	}
	var out []string
	for i, ref := range refs {
		at := fmt.Sprintf("%s[%d]", field, i)
		row := m.cache.Resolve(state.KindSecurityGroup, m.project, ref)
		switch {
		case row == nil && ref == domain.DefaultSecurityGroupName:
			out = append(out, m.Groups(v, field, nil)...)
		case row == nil || row.Project != m.project:
			v.Add(at, "there is no security group %q in project %q: list security groups to see which there are", ref, m.project)
		case row.Deleting:
			v.Add(at, "security group %q is being deleted", ref)
		case slices.Contains(out, row.ID):
			v.Add(at, "security group %q is named twice", ref)
		default:
			m.keep(row)
			out = append(out, row.ID)
		}
	}
	return out
}

// Make adds a port to the commit: its record, with operation, and its addresses. port has meta and a valid spec, in which names become ids and the MAC address is filled in;
// with none given it is prefer, if that is free. The caller takes the name, and writes the record once it is complete.
func (m *Maker) Make(f Fields, port *networkv1.Port, prefer string) (*statev1.PortRecord, error) {
	spec, id := port.GetSpec(), port.GetMeta().GetId()
	n, err := m.network(f.Network, spec.GetNetworkId())
	if err != nil {
		return nil, err
	}
	spec.NetworkId = n.id()
	var v domain.Violations
	spec.SecurityGroupIds = m.Groups(&v, f.Groups, spec.GetSecurityGroupIds())
	if err := v.Err(); err != nil {
		return nil, err
	}
	if spec.GetMac() == "" {
		spec.Mac = m.freeMAC(n, prefer)
	}
	if err := m.takeMAC(f.MAC, n, spec.GetMac(), id); err != nil {
		return nil, err
	}
	addresses, err := m.addresses(f.Addresses, n, spec, nil)
	if err != nil {
		return nil, err
	}
	m.takeAddresses(n, addresses, id)
	port.Meta.CreateTime, port.Meta.UpdateTime = timestamppb.New(m.now), timestamppb.New(m.now)
	port.Status = &networkv1.PortStatus{Phase: networkv1.PortPhase_PORT_PHASE_IDLE, Mac: spec.GetMac(), IpAddresses: addresses}
	return &statev1.PortRecord{SchemaVersion: 1, Port: port}, nil
}

// Readdress gives a port of its record the addresses that its spec asks for now; those of families that it does not name stay.
func (m *Maker) Readdress(f Fields, rec *statev1.PortRecord) error {
	spec, st, id := rec.GetPort().GetSpec(), rec.GetPort().GetStatus(), rec.GetPort().GetMeta().GetId()
	n, err := m.network(f.Network, spec.GetNetworkId())
	if err != nil {
		return err
	}
	next, err := m.addresses(f.Addresses, n, spec, st.GetIpAddresses())
	if err != nil {
		return err
	}
	was := st.GetIpAddresses()
	m.takeAddresses(n, slices.DeleteFunc(slices.Clone(next), func(a string) bool { return slices.Contains(was, a) }), id)
	for _, a := range was {
		if !slices.Contains(next, a) {
			m.w.Delete(state.AddressKey(n.id(), a))
		}
	}
	st.IpAddresses = next
	return nil
}

// holder is who has what a key stands for, this commit included.
func (m *Maker) holder(key string) string {
	if m.taken[key] {
		return "this request"
	}
	return m.cache.Holder(key)
}

func (m *Maker) take(key, id string) {
	m.taken[key] = true
	m.w.PutText(key, id)
	m.w.Require(store.KeyAbsent(key))
}

func (m *Maker) freeMAC(n *inNetwork, prefer string) string {
	if prefer != "" && m.holder(state.MACKey(n.id(), prefer)) == "" {
		return prefer
	}
	for {
		var b [3]byte
		_, _ = rand.Read(b[:]) // never fails, says its documentation
		mac := fmt.Sprintf("52:54:00:%02x:%02x:%02x", b[0], b[1], b[2])
		if m.holder(state.MACKey(n.id(), mac)) == "" {
			return mac
		}
	}
}

func (m *Maker) takeMAC(field string, n *inNetwork, mac, id string) error {
	key := state.MACKey(n.id(), mac)
	if other := m.holder(key); other != "" {
		return heldBy(field, "MAC address "+mac, n, other)
	}
	m.take(key, id)
	return nil
}

// addresses are those that a port with a spec gets, in the order of the network's subnets: what it asks for, else what it has, else what is free.
func (m *Maker) addresses(field string, n *inNetwork, spec *networkv1.PortSpec, has []string) ([]string, error) {
	var v domain.Violations
	asked := map[*domain.Addresses]netip.Addr{}
	for i, s := range spec.GetIpAddresses() {
		at := fmt.Sprintf("%s[%d]", field, i)
		ip, err := netip.ParseAddr(s)
		j := slices.IndexFunc(n.subnets, func(a *domain.Addresses) bool { return a.Has(ip) })
		if err != nil || j < 0 {
			v.Add(at, "%s lies in no subnet of network %s", s, n.rec.GetNetwork().GetMeta().GetName())
			continue
		}
		asked[n.subnets[j]] = ip
		if slices.Contains(has, s) {
			continue
		}
		if why := n.subnets[j].Refuses(ip, spec.GetMac()); why != "" {
			v.Add(at, "%s %s", s, why)
		} else if other := m.holder(state.AddressKey(n.id(), s)); other != "" {
			return nil, heldBy(at, "address "+s, n, other)
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	out := make([]string, 0, len(n.subnets))
	for _, sub := range n.subnets {
		if ip, ok := asked[sub]; ok {
			out = append(out, ip.String())
			continue
		}
		if i := slices.IndexFunc(has, func(s string) bool { ip, err := netip.ParseAddr(s); return err == nil && sub.Has(ip) }); i >= 0 {
			out = append(out, has[i])
			continue
		}
		ip, ok := sub.Assign(spec.GetMac(), func(ip netip.Addr) bool { return m.holder(state.AddressKey(n.id(), ip.String())) != "" }, mathrand.Uint64N)
		if !ok {
			return nil, fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "no address is left in %s of network %s", sub.Prefix(), n.rec.GetNetwork().GetMeta().GetName()).
				WithRemedy("delete ports in it, widen the subnet's ranges, or use another network")
		}
		out = append(out, ip.String())
	}
	return out, nil
}

func (m *Maker) takeAddresses(n *inNetwork, addresses []string, id string) {
	for _, a := range addresses {
		m.take(state.AddressKey(n.id(), a), id)
	}
}

func heldBy(field, what string, n *inNetwork, other string) error {
	text := fmt.Sprintf("%s of network %s is held by port %s", what, n.rec.GetNetwork().GetMeta().GetName(), other)
	if !domain.IsID(other) {
		text = what + " is named twice"
	}
	e := fault.New(metav1.Reason_REASON_NAME_TAKEN, "%s: %s", field, text).WithRemedy("ask for another one, or for none").WithMetadata("id", other)
	e.Violations = []fault.Violation{{Field: field, Description: text}}
	return e
}

// NewPort is a port as a request gives it, with a new id.
func NewPort(meta *metav1.ObjectMeta, spec *networkv1.PortSpec, project string, now time.Time) *networkv1.Port {
	p := &networkv1.Port{
		Meta: domain.NewMeta(domain.NewID(now), meta.GetName(), domain.Project(project), meta.GetLabels(), meta.GetAnnotations()),
		Spec: proto.CloneOf(spec),
	}
	if p.Spec == nil {
		p.Spec = &networkv1.PortSpec{}
	}
	return p
}

// MarkDeleted asks for a port's deletion and frees its name, if it has one of its own. The caller writes the record.
func MarkDeleted(w *state.Writer, rec *statev1.PortRecord, now time.Time) {
	p := rec.GetPort()
	p.Meta.DeleteTime = timestamppb.New(now)
	p.Meta.Generation++
	p.Status.Phase = networkv1.PortPhase_PORT_PHASE_DELETING
	if rec.GetOwnerVmId() == "" {
		w.Delete(state.NameKey(p.GetMeta().GetProjectId(), state.KindPort, p.GetMeta().GetName()))
	}
}
