package enforcer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk"
	"github.com/limiquantix/limiquantix/sdk/conformance/reference"
)

// Variables of the plugin's environment.
const (
	// StateEnv names the file that the driver keeps what it was asked for in.
	StateEnv = "ENFORCER_STATE"
	// DefectsEnv lists defects: drops-a-rule, swaps-ports, no-egress-deny, no-anti-spoof, no-cut, late, flushes, forgets-sets,
	// ignores-link-down, opens-when-refused, opens-on-detach.
	DefectsEnv = "ENFORCER_DEFECTS"
)

type (
	attachRequest  = driverv1.NetworkDriverServiceAttachInterfaceRequest
	attachResponse = driverv1.NetworkDriverServiceAttachInterfaceResponse
	detachRequest  = driverv1.NetworkDriverServiceDetachInterfaceRequest
	detachResponse = driverv1.NetworkDriverServiceDetachInterfaceResponse
)

type driver struct {
	driverv1.NetworkDriverServiceServer
	mu sync.Mutex
	state
}

// state is what was asked for.
type state struct {
	ports map[string]*driverv1.InterfaceSpec
	rules map[string]*driverv1.RuleSet
	sets  map[string]*driverv1.AddressSet
}

// New makes the plugin.
func New() sdk.Plugin {
	p := reference.New("1.0.0")
	d := &driver{NetworkDriverServiceServer: p.Network}
	d.load()
	return sdk.Plugin{Base: p.Base, Compute: p.Compute, Storage: p.Storage, Network: d}
}

func defect(name string) bool {
	return slices.Contains(strings.Split(os.Getenv(DefectsEnv), ","), name)
}

func bridgeName(network string) string { return "br" + network[:8] }
func tapName(id string) string         { return "t" + id[:8] }

func (d *driver) EnsureNetwork(ctx context.Context, r *driverv1.EnsureNetworkRequest) (*driverv1.EnsureNetworkResponse, error) {
	resp, err := d.NetworkDriverServiceServer.EnsureNetwork(ctx, r)
	if err != nil {
		return nil, err
	}
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName(r.GetNetworkId())}}
	if err := netlink.LinkAdd(link); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return resp, netlink.LinkSetUp(link)
}

func (d *driver) DeleteNetwork(ctx context.Context, r *driverv1.DeleteNetworkRequest) (*driverv1.DeleteNetworkResponse, error) {
	resp, err := d.NetworkDriverServiceServer.DeleteNetwork(ctx, r)
	if err != nil {
		return nil, err
	}
	if link, err := netlink.LinkByName(bridgeName(r.GetNetworkId())); err == nil {
		return resp, netlink.LinkDel(link)
	}
	return resp, nil
}

func (d *driver) AttachInterface(ctx context.Context, r *attachRequest) (*attachResponse, error) {
	resp, err := d.NetworkDriverServiceServer.AttachInterface(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { d.present(resp.GetInterface()) }()
	change := func() error {
		return d.change(func() { d.ports[r.GetInterfaceId()] = proto.CloneOf(r.GetSpec()) })
	}
	if defect("late") {
		timer := time.AfterFunc(300*time.Millisecond, func() { _ = change() })
		_ = timer
		return resp, nil
	}
	return resp, change()
}

func (d *driver) DetachInterface(ctx context.Context, r *detachRequest) (*detachResponse, error) {
	resp, err := d.NetworkDriverServiceServer.DetachInterface(ctx, r)
	if err != nil {
		return nil, err
	}
	if !defect("opens-on-detach") {
		if link, err := netlink.LinkByName(tapName(r.GetInterfaceId())); err == nil { // a guest that did not let go loses its place
			if err := netlink.LinkSetNoMaster(link); err != nil {
				return nil, err
			}
		}
	}
	return resp, d.change(func() { delete(d.ports, r.GetInterfaceId()) })
}

func (d *driver) ListInterfaces(ctx context.Context, r *driverv1.ListInterfacesRequest) (*driverv1.ListInterfacesResponse, error) {
	resp, err := d.NetworkDriverServiceServer.ListInterfaces(ctx, r)
	for _, i := range resp.GetInterfaces() {
		d.present(i)
	}
	return resp, err
}

// present turns the reference's interface, which has a tap, into one of a bridge.
func (d *driver) present(i *driverv1.NetworkInterface) {
	tap := tapName(i.GetInterfaceId())
	i.Binding = &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_BridgePort{
		BridgePort: &driverv1.BridgePortBinding{Bridge: bridgeName(i.GetNetworkId()), TapName: tap},
	}}
	if _, err := netlink.LinkByName(tap); err == nil {
		i.Device, i.State = tap, driverv1.InterfaceState_INTERFACE_STATE_UP
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.ports[i.GetInterfaceId()].GetLinkDown() {
			i.State, i.Reason = driverv1.InterfaceState_INTERFACE_STATE_BLOCKED, "LINK_DOWN"
		}
	}
}

func (d *driver) ApplyRuleSet(ctx context.Context, r *driverv1.ApplyRuleSetRequest) (*driverv1.ApplyRuleSetResponse, error) {
	resp, err := d.NetworkDriverServiceServer.ApplyRuleSet(ctx, r)
	if err != nil {
		if defect("opens-when-refused") {
			_ = d.change(func() {
				d.rules[r.GetRuleSet().GetRuleSetId()] = &driverv1.RuleSet{Rules: []*driverv1.Rule{{Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS}}}
			})
		}
		return nil, err
	}
	return resp, d.change(func() {
		for _, s := range r.GetAddressSets() {
			if have := d.sets[s.GetAddressSetId()]; have.GetGeneration() < s.GetGeneration() {
				d.sets[s.GetAddressSetId()] = proto.CloneOf(s)
			}
		}
		d.rules[r.GetRuleSet().GetRuleSetId()] = proto.CloneOf(r.GetRuleSet())
	})
}

func (d *driver) UpdateAddressSet(ctx context.Context, r *driverv1.UpdateAddressSetRequest) (*driverv1.UpdateAddressSetResponse, error) {
	resp, err := d.NetworkDriverServiceServer.UpdateAddressSet(ctx, r)
	if err != nil || defect("forgets-sets") {
		return resp, err
	}
	return resp, d.change(func() {
		members := map[string]bool{}
		if r.GetDelta() != nil {
			for _, m := range d.sets[r.GetAddressSetId()].GetMembers() {
				members[m] = true
			}
		}
		for _, m := range append(r.GetReplace().GetMembers(), r.GetDelta().GetAdd()...) {
			members[m] = true
		}
		for _, m := range r.GetDelta().GetRemove() {
			delete(members, m)
		}
		d.sets[r.GetAddressSetId()] = &driverv1.AddressSet{AddressSetId: r.GetAddressSetId(), Generation: r.GetGeneration(), Members: slices.Sorted(maps.Keys(members))}
	})
}

// change changes what was asked for, keeps it, and puts it in force.
func (d *driver) change(f func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	if err := d.save(); err != nil {
		return err
	}
	return d.render()
}

// save keeps the state for the process after this one.
func (d *driver) save() error {
	out := map[string]map[string]json.RawMessage{"ports": {}, "rules": {}, "sets": {}}
	put := func(kind, id string, m proto.Message) error {
		b, err := protojson.Marshal(m)
		out[kind][id] = b
		return err
	}
	var errs []error
	for id, m := range d.ports {
		errs = append(errs, put("ports", id, m))
	}
	for id, m := range d.rules {
		errs = append(errs, put("rules", id, m))
	}
	for id, m := range d.sets {
		errs = append(errs, put("sets", id, m))
	}
	b, err := json.Marshal(out)
	if err := errors.Join(append(errs, err)...); err != nil {
		return err
	}
	tmp := os.Getenv(StateEnv) + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, os.Getenv(StateEnv))
}

func (d *driver) load() {
	d.state = state{map[string]*driverv1.InterfaceSpec{}, map[string]*driverv1.RuleSet{}, map[string]*driverv1.AddressSet{}}
	b, err := os.ReadFile(os.Getenv(StateEnv))
	if err != nil {
		return
	}
	var in struct{ Ports, Rules, Sets map[string]json.RawMessage }
	if err := json.Unmarshal(b, &in); err != nil {
		panic(fmt.Sprintf("%s: %v", os.Getenv(StateEnv), err))
	}
	for id, raw := range in.Ports {
		d.ports[id] = &driverv1.InterfaceSpec{}
		_ = protojson.Unmarshal(raw, d.ports[id])
	}
	for id, raw := range in.Rules {
		d.rules[id] = &driverv1.RuleSet{}
		_ = protojson.Unmarshal(raw, d.rules[id])
	}
	for id, raw := range in.Sets {
		d.sets[id] = &driverv1.AddressSet{}
		_ = protojson.Unmarshal(raw, d.sets[id])
	}
}
