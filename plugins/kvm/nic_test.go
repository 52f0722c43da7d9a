package kvm_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const tapNicID = "5f6b1d52-6a0e-4d0e-9d2b-3c1a4f5e6a7b"

func bridgeNic(mac, bridge, tap string) *driverv1.DomainInterface {
	return &driverv1.DomainInterface{InterfaceId: nicID, Mac: mac, Binding: &driverv1.InterfaceBinding{
		Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{Bridge: bridge, TapName: tap}},
	}}
}

func tapNic(mac, tap string) *driverv1.DomainInterface {
	return &driverv1.DomainInterface{InterfaceId: tapNicID, Mac: mac, Binding: &driverv1.InterfaceBinding{
		Binding: &driverv1.InterfaceBinding_Tap{Tap: &driverv1.TapBinding{TapName: tap}},
	}}
}

// inNode runs programs in the node, one behind the other.
func (b *bench) inNode(commands ...string) {
	b.t.Helper()
	for _, c := range commands {
		if out, err := b.node.Exec(b.t.Context(), "bash", "-c", c); err != nil {
			b.t.Fatalf("%s: %s, %v", c, out, err)
		}
	}
}

// reaches reports whether the guest's web server answers at an address.
func (b *bench) reaches(address string) bool {
	out, err := b.node.Exec(b.t.Context(), "curl", "-s", "-m", "5", "http://"+address+"/")
	return err == nil && strings.Contains(out, "hello")
}

// until waits for something to become so.
func (b *bench) until(what string, so func() bool) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); !so(); <-time.After(100 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not within a minute: %s", what)
		}
	}
}

// packets are what the figures say that an interface received and sent.
func (b *bench) packets(id string) (in, out int64) {
	b.t.Helper()
	d := ok[*driverv1.GetStatsResponse](b.t, "stats")(b.GetStats(b.t.Context(), &driverv1.GetStatsRequest{})).GetDomains()
	for _, n := range d[0].GetInterfaces() {
		if n.GetInterfaceId() == id {
			return n.GetReceivePackets(), n.GetTransmitPackets()
		}
	}
	b.t.Fatalf("no figures of %s: %v", id, d)
	return 0, 0
}

// A guest with an interface of two queues on a bridge: traffic passes, the guest sees queues and MTU, its link goes down and up by SetLink and by an update, and a second
// interface on a tap of somebody else's comes and goes while it runs; the tap stays.
func TestInterfaces(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	b.inNode("ip link add lqbr mtu 1400 up type bridge", "ip addr add 10.9.9.1/24 dev lqbr", "ip tuntap add lqtap1 mode tap", "ip addr add 10.9.8.1/24 dev lqtap1", "ip link set lqtap1 up")
	spec := b.spec("labname=nic labip=10.9.9.2/24")
	spec.Cpu.Vcpus = 2
	nic := bridgeNic("52:54:00:0a:0b:0c", "lqbr", "lqtap0")
	nic.Queues, nic.Binding.GetBridgePort().Mtu = 2, 1400
	spec.Interfaces = []*driverv1.DomainInterface{nic}
	b.create(b.id, spec)
	first := b.start()
	b.waitLog(b.id, "GUEST-READY")
	b.until("the guest answers on the bridge", func() bool { return b.reaches("10.9.9.2") })
	if got := b.answer(b.id, "cd /sys/class/net/eth0; echo $(ls queues | grep -c rx) $(cat mtu)"); got != "2 1400" {
		t.Errorf("queues and MTU in the guest: %q", got)
	}

	carrier := func(want string) {
		t.Helper()
		b.until("carrier "+want, func() bool { return b.answer(b.id, "cat /sys/class/net/eth0/carrier") == want })
		if n := b.get().GetInterfaces()[0]; n.GetLinkUp() != (want == "1") {
			t.Errorf("carrier %s: %v", want, n)
		}
	}
	carrier("1")
	ok[*driverv1.SetLinkResponse](t, "set link")(b.SetLink(ctx, &driverv1.SetLinkRequest{DomainId: b.id, InterfaceId: nicID}))
	carrier("0")
	if b.reaches("10.9.9.2") {
		t.Error("traffic passes a link that is down")
	}
	ok[*driverv1.SetLinkResponse](t, "set link")(b.SetLink(ctx, &driverv1.SetLinkRequest{DomainId: b.id, InterfaceId: nicID, Up: true}))
	carrier("1")
	for _, down := range []bool{true, false} {
		spec = proto.CloneOf(spec)
		spec.Interfaces[0].LinkDown = down
		for range 2 {
			d := ok[*driverv1.UpdateDomainResponse](t, "update")(b.UpdateDomain(ctx, &driverv1.UpdateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec})).GetDomain()
			if d.GetRestartRequired() || d.GetPid() != first.GetPid() {
				t.Errorf("link down %v: %v", down, d)
			}
		}
		carrier(map[bool]string{true: "0", false: "1"}[down])
	}
	b.until("the guest answers again", func() bool { return b.reaches("10.9.9.2") })

	more := proto.CloneOf(nic)
	more.InterfaceId, more.Mac, more.Binding.GetBridgePort().TapName, more.Queues = otherID, "52:54:00:0a:0b:0e", "lqtap2", 3
	for what, spoil := range map[string]func(*driverv1.DomainInterface){
		"queues":  func(*driverv1.DomainInterface) {},
		"mac":     func(n *driverv1.DomainInterface) { n.Queues, n.Mac = 1, nic.GetMac() },
		"binding": func(n *driverv1.DomainInterface) { n.Queues, n.Binding.GetBridgePort().TapName = 1, "lqtap0" },
	} {
		bad := proto.CloneOf(more)
		spoil(bad)
		_, err := b.AttachInterface(ctx, &driverv1.AttachInterfaceRequest{DomainId: b.id, Interface: bad})
		if !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) || !strings.Contains(fmt.Sprint(status.Convert(err).Details()), "interface."+what) {
			t.Errorf("%s: %v", what, err)
		}
	}

	tap := tapNic("52:54:00:0a:0b:0d", "lqtap1")
	for range 2 {
		ok[*driverv1.AttachInterfaceResponse](t, "attach")(b.AttachInterface(ctx, &driverv1.AttachInterfaceRequest{DomainId: b.id, Interface: tap}))
	}
	b.waitLog(b.id, "HOTPLUG add eth1")
	b.answer(b.id, "ip addr add 10.9.8.2/24 dev eth1; ip link set eth1 up")
	b.until("the guest answers on the tap", func() bool { return b.reaches("10.9.8.2") })
	in, out := b.packets(tapNicID)
	b.inNode("ip neigh add 10.9.8.9 lladdr 52:54:00:0a:0b:0d dev lqtap1 && for i in {1..100}; do echo x >/dev/udp/10.9.8.9/9; done")
	b.until("the guest's interface receives", func() bool {
		nowIn, nowOut := b.packets(tapNicID)
		if nowOut-out >= 50 {
			t.Fatalf("the figures are the wrong way round: %d in, %d out", nowIn-in, nowOut-out)
		}
		return nowIn-in >= 100
	})
	ok[*driverv1.SetLinkResponse](t, "set link")(b.SetLink(ctx, &driverv1.SetLinkRequest{DomainId: b.id, InterfaceId: tapNicID}))
	b.until("carrier lost", func() bool { return b.answer(b.id, "cat /sys/class/net/eth1/carrier") == "0" })
	for range 2 {
		ok[*driverv1.DetachInterfaceResponse](t, "detach")(b.DetachInterface(ctx, &driverv1.DetachInterfaceRequest{DomainId: b.id, InterfaceId: tapNicID}))
	}
	b.waitLog(b.id, "HOTPLUG remove eth1")
	b.inNode("ip link show lqtap1")
	if d := b.get(); d.GetRestartRequired() || len(d.GetInterfaces()) != 1 || d.GetPid() != first.GetPid() {
		t.Errorf("afterwards: %v", d)
	}

	// Cold: both kinds from the definition. A domain whose tap is absent does not start, and says so.
	ok[*driverv1.StopDomainResponse](t, "stop")(b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: b.id, Force: true}))
	ok[*driverv1.AttachInterfaceResponse](t, "attach")(b.AttachInterface(ctx, &driverv1.AttachInterfaceRequest{DomainId: b.id, Interface: tap}))
	b.inNode("ip link del lqtap1")
	if _, err := b.StartDomain(ctx, &driverv1.StartDomainRequest{DomainId: b.id}); status.Code(err) == codes.OK || !strings.Contains(err.Error(), "lqtap1") {
		t.Error("start without the tap:", err)
	}
	b.inNode("ip tuntap add lqtap1 mode tap", "ip link set lqtap1 up")
	b.start()
	if n := b.get().GetInterfaces(); len(n) != 2 || n[1].GetDevice() != "lqtap1" || !n[1].GetLinkUp() {
		t.Errorf("interfaces: %v", n)
	}
	ok[*driverv1.DeleteDomainResponse](t, "delete")(b.DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: b.id}))
	b.inNode("ip link show lqtap1", "! ip link show lqtap0")
}

// openvswitch runs Open vSwitch in the node, with a bridge whose datapath is in user space, and says where its database listens.
func (b *bench) openvswitch() (socket string) {
	b.t.Helper()
	dir := filepath.Join(b.dir, "ovs")
	socket = filepath.Join(dir, "db.sock")
	env := fmt.Sprintf("export OVS_RUNDIR=%[1]s OVS_LOGDIR=%[1]s OVS_DBDIR=%[1]s OVS_SYSCONFDIR=%[1]s; cd %[1]s; ", dir)
	b.inNode(
		"mkdir -p "+dir+" /run/openvswitch && mount --bind "+dir+" /run/openvswitch", // libvirt calls ovs-vsctl without more
		env+"ovsdb-tool create conf.db /usr/share/openvswitch/vswitch.ovsschema",
		env+"ovsdb-server conf.db --remote=punix:db.sock --pidfile --detach --no-chdir --log-file </dev/null >/dev/null 2>&1",
		env+"ovs-vsctl --no-wait init",
		env+"ovs-vswitchd unix:db.sock --pidfile --detach --no-chdir --log-file </dev/null >/dev/null 2>&1",
		env+"ovs-vsctl add-br lqovs -- set bridge lqovs datapath_type=netdev && ip addr add 10.9.7.1/24 dev lqovs && ip link set lqovs up",
	)
	return socket
}

// A port of Open vSwitch comes with the id that its flows are found by, passes TCP with offloads off, and comes and goes while the guest runs; where there is no Open vSwitch
// none is offered and none is taken.
func TestOpenVSwitchPort(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	offers := func() bool {
		c := ok[*driverv1.GetCapabilitiesResponse](t, "capabilities")(b.GetCapabilities(ctx, &driverv1.GetCapabilitiesRequest{}))
		return slices.Contains(c.GetCompute().GetInterfaceBindings(), driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_OVS_PORT)
	}
	port := &driverv1.OvsPortBinding{Bridge: "lqovs", TapName: "lqtap0", InterfaceId: nicID, OffloadsOff: true, Mtu: 1450}
	nic := &driverv1.DomainInterface{InterfaceId: nicID, Mac: "52:54:00:0a:0b:0c", Binding: &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_OvsPort{OvsPort: port}}}
	spec := b.spec("labname=ovs labip=10.9.7.2/24")
	spec.Interfaces = []*driverv1.DomainInterface{nic}
	if _, err := b.CreateDomain(ctx, &driverv1.CreateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec}); offers() || !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Errorf("without Open vSwitch: offered %v, %v", offers(), err)
	}
	b.openvswitch()
	b.launch()
	if !offers() {
		t.Fatal("Open vSwitch is not offered")
	}
	b.create(b.id, spec)
	first := b.start()
	b.waitLog(b.id, "GUEST-READY")
	ids, err := b.node.Exec(ctx, "ovs-vsctl", "get", "interface", "lqtap0", "external_ids")
	if err != nil || !strings.Contains(ids, nicID) || !strings.Contains(ids, "52:54:00:0a:0b:0c") {
		t.Errorf("external ids: %s, %v", ids, err)
	}
	b.until("the guest answers by TCP", func() bool { return b.reaches("10.9.7.2") })
	if got := b.answer(b.id, "cat /sys/class/net/eth0/mtu"); got != "1450" {
		t.Errorf("MTU in the guest: %q", got)
	}
	before, _ := b.packets(nicID)
	b.inNode("ip neigh add 10.9.7.9 lladdr 52:54:00:0a:0b:0c dev lqovs && for i in {1..100}; do echo x >/dev/udp/10.9.7.9/9; done")
	b.until("the guest's interface receives", func() bool { in, _ := b.packets(nicID); return in-before >= 100 })
	ok[*driverv1.SetLinkResponse](t, "set link")(b.SetLink(ctx, &driverv1.SetLinkRequest{DomainId: b.id, InterfaceId: nicID}))
	b.until("carrier lost", func() bool { return b.answer(b.id, "cat /sys/class/net/eth0/carrier") == "0" })
	for range 2 {
		ok[*driverv1.DetachInterfaceResponse](t, "detach")(b.DetachInterface(ctx, &driverv1.DetachInterfaceRequest{DomainId: b.id, InterfaceId: nicID}))
	}
	b.waitLog(b.id, "HOTPLUG remove eth0")
	b.until("the port is gone", func() bool {
		ports, err := b.node.Exec(ctx, "ovs-vsctl", "list-ports", "lqovs")
		return err == nil && !strings.Contains(ports, "lqtap0")
	})
	for range 2 {
		ok[*driverv1.AttachInterfaceResponse](t, "attach")(b.AttachInterface(ctx, &driverv1.AttachInterfaceRequest{DomainId: b.id, Interface: nic}))
	}
	b.waitLog(b.id, "HOTPLUG add eth0")
	b.answer(b.id, "ip addr add 10.9.7.2/24 dev eth0; ip link set eth0 up")
	b.until("the guest answers again", func() bool { return b.reaches("10.9.7.2") })
	if d := b.get(); d.GetRestartRequired() || d.GetPid() != first.GetPid() || !d.GetInterfaces()[0].GetLinkUp() {
		t.Errorf("afterwards: %v", d)
	}
	ok[*driverv1.DeleteDomainResponse](t, "delete")(b.DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: b.id}))
	if ports, err := b.node.Exec(ctx, "ovs-vsctl", "list-ports", "lqovs"); err != nil || strings.Contains(ports, "lqtap0") {
		t.Errorf("left on the bridge: %s, %v", ports, err)
	}
}
