package ovs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
)

const (
	cluster = "dddddddd-0000-4000-8000-000000000001"
	node    = "dddddddd-0000-4000-8000-000000000002"
	netID   = "aaaaaaaa-0000-4000-8000-000000000001"
	group   = "bbbbbbbb-0000-4000-8000-000000000001"
	friends = "cccccccc-0000-4000-8000-000000000001"
)

func mark(id string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: cluster, NodeId: node, ObjectId: id, Generation: 1, Epoch: 1}
}

// plugin is a running plugin with one network.
type plugin struct {
	*host.Process
	driverv1.NetworkDriverServiceClient
	t      *testing.T
	o      *openvswitch
	bridge string
}

func launch(t *testing.T, o *openvswitch, config string) *plugin {
	t.Helper()
	dir, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	p, err := host.Launch(t.Context(), host.Spec{
		Dir: pluginDir(t), RuntimeDir: dir, ConfigJSON: config,
		Host: &driverv1.HostFacts{ClusterId: cluster, NodeId: node, NodeName: "n", BootId: "b", StateDirectory: dir, RuntimeDirectory: dir},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = p.Stop(ctx, 5*time.Second)
		_ = os.RemoveAll(dir)
	})
	return &plugin{Process: p, NetworkDriverServiceClient: driverv1.NewNetworkDriverServiceClient(p.Conn()), t: t, o: o}
}

func (p *plugin) ensure(spec *driverv1.NetworkSpec) {
	p.t.Helper()
	r, err := p.EnsureNetwork(p.t.Context(), &driverv1.EnsureNetworkRequest{NetworkId: netID, Mark: mark(netID), Spec: spec})
	if err != nil {
		p.t.Fatal(err)
	}
	p.bridge = r.GetNetwork().GetDevice()
}

func plain() *driverv1.NetworkSpec {
	return &driverv1.NetworkSpec{Type: driverv1.NetworkType_NETWORK_TYPE_OVS, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.213.0.0/24"}}}
}

// rules applies a rule set of n rules, one of them on the address set.
func (p *plugin) rules(generation int64, n int) {
	p.t.Helper()
	rs := &driverv1.RuleSet{RuleSetId: group, Mark: mark(group), Generation: generation}
	for i := range n {
		r := &driverv1.Rule{
			RuleId: fmt.Sprint("r", i), Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, IpVersion: driverv1.IpVersion_IP_VERSION_4, Protocol: proto.Uint32(6),
			Ports: &driverv1.PortRange{First: uint32(1 + 2*i), Last: uint32(1 + 2*i)}, //nolint:gosec // small
		}
		if i == 0 {
			r.Remote = &driverv1.Rule_AddressSetId{AddressSetId: friends}
		}
		rs.Rules = append(rs.Rules, r)
	}
	req := &driverv1.ApplyRuleSetRequest{RuleSet: rs, AddressSets: []*driverv1.AddressSet{{AddressSetId: friends, Mark: mark(friends), Generation: 1, Members: []string{"192.0.2.1"}}}}
	soon(p.t, "apply", func() error {
		_, err := p.ApplyRuleSet(p.t.Context(), req)
		if err != nil && !fault.Is(err, metav1.Reason_REASON_BACKEND_UNAVAILABLE) {
			p.t.Fatal(err)
		}
		return err
	})
}

func (p *plugin) flows() int {
	return strings.Count(p.o.ofctl(p.bridge, "dump-flows"), "cookie=")
}

func (p *plugin) wantClean() {
	p.t.Helper()
	r, err := p.CheckNetwork(p.t.Context(), &driverv1.CheckNetworkRequest{})
	if err != nil || len(r.GetDrifts()) > 0 {
		p.t.Errorf("%v, differs: %v", err, r.GetDrifts())
	}
}

// count is how many rules are applied at once: LIMIQUANTIX_TEST_COUNT, or a thousand. The limit is 10,000.
func count() int {
	if n, err := strconv.Atoi(os.Getenv("LIMIQUANTIX_TEST_COUNT")); err == nil && n > 0 {
		return min(n, 10000)
	}
	return 1000
}

// Many rules, one fewer, one member more: each is in force within its time, and changes as many flows as it must.
func TestManyRules(t *testing.T) {
	o := newSwitch(t)
	p := launch(t, o, o.config(""))
	p.ensure(plain())
	within := func(what string, limit time.Duration, f func()) {
		t.Helper()
		began := time.Now()
		f()
		d := time.Since(began)
		t.Logf("%s: %s", what, d)
		if d > 60*limit { // a machine that is busy with other tests
			t.Errorf("%s took %s, sixty times the %s that it may take on an idle machine", what, d, limit)
		}
	}
	n := count()
	within("all rules", time.Second, func() { p.rules(1, n) })
	want := p.flows()
	if want < n {
		t.Fatalf("%d flows", want)
	}
	within("the same again", time.Second, func() { p.rules(1, n) })
	within("one rule fewer", 300*time.Millisecond, func() { p.rules(2, n-1) })
	if n := p.flows(); n != want-1 {
		t.Errorf("one rule fewer: %d flows, were %d", n, want)
	}
	within("one member more", 50*time.Millisecond, func() {
		_, err := p.UpdateAddressSet(t.Context(), &driverv1.UpdateAddressSetRequest{AddressSetId: friends, Mark: mark(friends), Generation: 2, Change: &driverv1.UpdateAddressSetRequest_Delta{
			Delta: &driverv1.AddressSetDelta{BaseGeneration: 1, Add: []string{"192.0.2.2"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
	})
	if n := p.flows(); n != want {
		t.Errorf("one member more: %d flows, want %d", n, want)
	}
	p.wantClean()
}

// Flows that somebody removes, adds or changes are put right, and told of; so are the failure mode and records.
func TestDrift(t *testing.T) {
	o := newSwitch(t)
	p := launch(t, o, o.config(""))
	p.ensure(plain())
	p.rules(1, 50)
	want := p.flows()
	events, err := driverv1.NewPluginServiceClient(p.Conn()).WatchEvents(t.Context(), &driverv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan *driverv1.WatchEventsResponse, 1000)
	go func() { // ends with the stream
		for {
			e, err := events.Recv()
			if err != nil {
				return
			}
			told <- e
		}
	}()
	p.wantClean()
	for what, spoil := range map[string]func(){
		"all flows deleted":      func() { o.ofctl(p.bridge, "del-flows") },
		"a flow added":           func() { o.ofctl(p.bridge, "add-flow", "priority=65535,actions=NORMAL") },
		"a flow changed":         func() { o.ofctl(p.bridge, "mod-flows", "table=60,actions=goto_table:80") },
		"fail mode changed":      func() { o.vsctl("set-fail-mode", p.bridge, "standalone") },
		"a controller":           func() { o.vsctl("set-controller", p.bridge, "tcp:127.0.0.1:6653") },
		"records removed":        func() { o.vsctl("remove", "bridge", p.bridge, "external_ids", "limiquantix-rules-"+group) },
		"the bridge was deleted": func() { o.vsctl("del-br", p.bridge) },
	} {
		for len(told) > 0 { // of what came before: one change may be told in several parts
			<-told
		}
		spoil()
		select {
		case e := <-told:
			if e.GetNetworkDrift() == nil {
				t.Fatalf("%s: told %v", what, e)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nothing is told", what)
		}
		soon(t, what, func() error {
			r, err := p.CheckNetwork(t.Context(), &driverv1.CheckNetworkRequest{})
			if err == nil && len(r.GetDrifts()) > 0 {
				err = fmt.Errorf("differs: %v", r.GetDrifts())
			}
			return err
		})
		if n := p.flows(); n != want {
			t.Errorf("%s: %d flows, were %d", what, n, want)
		}
		if mode := o.vsctl("get-fail-mode", p.bridge); mode != "secure" {
			t.Errorf("%s: fail mode %q", what, mode)
		}
	}
}

// The switch, then its database, are killed: all is back by itself.
func TestRestart(t *testing.T) {
	o := newSwitch(t)
	p := launch(t, o, o.config(""))
	p.ensure(plain())
	p.rules(1, 50)
	want := p.flows()
	back := func(what string) {
		t.Helper()
		began := time.Now()
		soon(t, what, func() error {
			r, err := p.CheckNetwork(t.Context(), &driverv1.CheckNetworkRequest{})
			if err == nil && len(r.GetDrifts()) > 0 {
				err = errors.New("differs")
			}
			return err
		})
		if n := p.flows(); n != want {
			t.Errorf("%s: %d flows, were %d", what, n, want)
		}
		t.Logf("%s: all flows were back after %s", what, time.Since(began))
		if d := time.Since(began); d > 30*time.Second {
			t.Errorf("%s: it took %s", what, d)
		}
	}
	o.vswitchd.kill()
	o.startSwitch()
	back("ovs-vswitchd")
	o.db.kill()
	_ = os.Remove(filepath.Join(o.dir, "db.sock"))
	o.startDB()
	back("ovsdb-server")
	p.rules(2, 51) // the driver is connected again
	p.wantClean()
}
