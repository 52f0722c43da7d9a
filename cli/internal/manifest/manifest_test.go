package manifest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

const whole = `# a comment
kind: VM
meta:
  name: web
  labels: {app: web}
spec:
  cpu: {vcpus: 2}
  memoryBytes: 256M
  desired_power: running
  run_policy: RUN_POLICY_ON_FAILURE
  stop_grace: 1m30s
  guest_agent: false
  cloud_init:
    user_data: |
      #cloud-config
      packages: []
  disks:
  - name: root
    inline: {image: debian, size_bytes: "10G"}
  nics:
  - name: eth0
    user:
      forwards:
      - {host_port: 8022, guest_port: 22}
  placement:
    node_selector: &zone {zone: a}
    affinity:
    - {type: anti-affinity, vm_labels: *zone}
---
{"kind": "VM", "meta": {"name": "db"}, "spec": {"memoryBytes": "268435456", "placement": null}}
`

func TestParse(t *testing.T) {
	t.Parallel()
	docs, err := Parse("f.yaml", []byte(whole))
	if err != nil || len(docs) != 2 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	s := docs[0].Object.(*computev1.VM).GetSpec()
	if s.GetMemoryBytes() != 256<<20 || s.GetDisks()[0].GetInline().GetSizeBytes() != 10<<30 || s.GetStopGrace().GetSeconds() != 90 ||
		s.GetDesiredPower() != computev1.PowerState_POWER_STATE_RUNNING || s.GuestAgent == nil || s.GetGuestAgent() ||
		string(s.GetCloudInit().GetUserData()) != "#cloud-config\npackages: []\n" || s.GetNics()[0].GetUser().GetForwards()[0].GetHostPort() != 8022 ||
		s.GetPlacement().GetAffinity()[0].GetType() != computev1.AffinityType_AFFINITY_TYPE_ANTI_AFFINITY ||
		s.GetPlacement().GetAffinity()[0].GetVmLabels()["zone"] != "a" {
		t.Errorf("read %v", s)
	}
	want := "meta.labels spec.cpu.vcpus spec.memory_bytes spec.desired_power spec.run_policy spec.stop_grace spec.guest_agent " +
		"spec.cloud_init.user_data spec.disks spec.nics spec.placement.node_selector spec.placement.affinity"
	if got := strings.Join(docs[0].Paths, " "); got != want {
		t.Errorf("paths\n%s, want\n%s", got, want)
	}
	if got := strings.Join(docs[1].Paths, " "); got != "spec.memory_bytes spec.placement" || docs[1].Line != 30 {
		t.Errorf("second: paths %s, line %d", got, docs[1].Line)
	}
}

func TestParseIsStrict(t *testing.T) {
	t.Parallel()
	head := "kind: VM\nmeta: {name: web}\n"
	for _, tc := range []struct{ in, want string }{
		{head + "spec: {memry_bytes: 1}", `f:3: unknown key "spec.memry_bytes"; did you mean "spec.memory_bytes"?`},
		{head + "sepc: {}", `f:3: unknown key "sepc"; did you mean "spec"?`},
		{head + "spec:\n  disks:\n  - name: a\n    inline: {}\n    volume: v", `f:7: "spec.disks[0].inline" and "spec.disks[0].volume" exclude each other`},
		{head + "spec:\n  disks:\n  - nmae: a", `f:5: unknown key "spec.disks[0].nmae"; did you mean "spec.disks[0].name"?`},
		{head + "spec: {desired_power: runing}", `unknown value "runing"; did you mean "running"?`},
		{head + "spec: {memory_bytes: 256MB}", `write M for a power of 1024`},
		{head + "spec: {cpu: {vcpus: many}}", `spec.cpu.vcpus must be a whole number`},
		{head + "spec: {cpu: {vcpus: 5000000000}}", `out of range`},
		{head + "spec: {vnc: yes please}", `must be true or false`},
		{head + "spec: {stop_grace: long}", `a length of time like 90s`},
		{head + "spec: {cloud_init: {user_data: hello}}", `must begin with "#cloud-config"`},
		{head + "spec: {vnc: true, vnc: false}", `key "spec.vnc" stands twice`},
		{head + "spec: []", `spec must be a mapping`},
		{head + "spec: {disks: {}}", `spec.disks must be a list`},
		{"kind: VM\nmeta: {name: web, labels: {n: 1}}", `f:2: meta.labels.n must be a string: put it in quotes`},
		{"kind: VM\nmeta: {name: 12}", `meta.name must be a string`},
		{"kind: VM\nspec: {}", `meta.name is missing`},
		{"meta: {name: web}", `f:1: kind is missing`},
		{"kind: Vm\nmeta: {name: web}", `unknown kind "Vm"; did you mean "VM"?`},
		{"kind: Pod\nmeta: {name: web}", `unknown kind "Pod"`},
		{"kind: VM\n  meta: x", `line 2`},
		{"- a", `a document must be a mapping`},
		{"", `holds no document`},
		{head + "spec:\n  placement: &a\n    node_selector: {}\n    affinity: [{vm_labels: {}}]\n    strategy: *a", `spec.placement.strategy must be a single value`},
	} {
		_, err := Parse("f", []byte(tc.in))
		var p Problems
		if !errors.As(err, &p) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q:\n got %v\nwant %s", tc.in, err, tc.want)
		}
	}
	_, err := Parse("f", []byte(head+"spec: {a: 1, b: 2}"))
	var p Problems
	if !errors.As(err, &p) || len(p) != 2 {
		t.Errorf("not every problem is found: %v", err)
	}
}

func TestParseNetworks(t *testing.T) {
	t.Parallel()
	docs, err := Parse("f", []byte(`
kind: Network
meta: {name: lan}
spec:
  type: vxlan
  egress: none
  subnets:
  - {cidr: 10.4.0.0/24, dhcp: false, ranges: [{first: 10.4.0.10, last: 10.4.0.20}]}
  forwards: [{listen_port: 8080, port_id: web, target_port: 80}]
---
kind: Port
meta: {name: vip}
spec: {network_id: lan, ip_addresses: [10.4.0.10], qos: {ingress_bits_per_second: 100M, burst_bytes: 1M}}
status: {phase: up}
---
kind: SecurityGroup
meta: {name: web}
spec:
  egress_default: deny
  rules:
  - {direction: ingress, protocol: tcp, port_first: 80, cidr: 0.0.0.0/0}
  - {direction: egress, ip_version: "6", security_group_id: db}
`))
	if err != nil || len(docs) != 3 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	n, p, g := docs[0].Object.(*networkv1.Network), docs[1].Object.(*networkv1.Port), docs[2].Object.(*networkv1.SecurityGroup)
	if n.GetSpec().GetType() != networkv1.NetworkType_NETWORK_TYPE_VXLAN || n.GetSpec().GetSubnets()[0].GetDhcp() || n.GetSpec().GetForwards()[0].GetPortId() != "web" ||
		p.GetSpec().GetQos().GetIngressBitsPerSecond() != 1e8 || p.GetSpec().GetQos().GetBurstBytes() != 1<<20 || p.GetStatus() != nil ||
		g.GetSpec().GetRules()[1].GetIpVersion() != networkv1.IpVersion_IP_VERSION_6 || g.GetSpec().GetRules()[1].GetSecurityGroupId() != "db" {
		t.Errorf("read %v\n%v\n%v", n, p, g)
	}
	for i, want := range []string{
		"spec.type spec.egress spec.subnets spec.forwards", "spec.network_id spec.ip_addresses spec.qos.ingress_bits_per_second spec.qos.burst_bytes", "spec.egress_default spec.rules",
	} {
		if got := strings.Join(docs[i].Paths, " "); got != want || docs[i].Kind != []string{KindNetwork, KindPort, KindSecurityGroup}[i] {
			t.Errorf("%s: paths %s, want %s", docs[i].Kind, got, want)
		}
	}
	for in, want := range map[string]string{
		"kind: Netwrk\nmeta: {name: a}":                                                          `did you mean "Network"?`,
		"kind: Network\nmeta: {name: a}\nspec: {vlan: 12}":                                       `unknown key "spec.vlan"`,
		"kind: Network\nmeta: {name: a}\nspec: {vlan_id: -1}":                                    "out of range",
		"kind: Port\nmeta: {name: a}\nspec: {qos: {ingress_bits_per_second: 100MB}}":             `unknown unit "MB"`,
		"kind: SecurityGroup\nmeta: {name: a}\nspec: {rules: [{cidr: a, security_group_id: b}]}": "exclude each other",
		"kind: SecurityGroup\nmeta: {name: a}\nspec: {rules: [{direction: in}]}":                 "unknown value",
	} {
		if _, err := Parse("f", []byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

func TestParseWithstandsAliasBombs(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("kind: VM\nmeta: {name: web}\nspec:\n  disks: &d0 [{name: a}]\n")
	in := b.String() + "  nics: [" + strings.Repeat("{user: {forwards: *d0}},", 20000) + "]"
	if _, err := Parse("f", []byte(in)); err == nil {
		t.Error("taken")
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	have := &computev1.VM{
		Meta: &metav1.ObjectMeta{Labels: map[string]string{"a": "1"}},
		Spec: &computev1.VMSpec{MemoryBytes: 256 << 20, Cpu: &computev1.CPU{Vcpus: 1}, CloudInit: &computev1.CloudInit{
			UserDataSha256: "9b4fb24edd6d1d8830e272398263cdbf026b97392cc35387b991dc0248a628f9", // of "not this"
		}},
	}
	docs, err := Parse("f", []byte("kind: VM\nmeta: {name: web, labels: {a: '1'}}\nspec: {memory_bytes: 512M, cpu: {vcpus: 1}, cloud_init: {user_data: '#x'}}"))
	if err != nil {
		t.Fatal(err)
	}
	if got := Differing(have, docs[0].Object, docs[0].Paths); !slices.Equal(got, []string{"spec.memory_bytes", "spec.cloud_init.user_data"}) {
		t.Errorf("differing %v", got)
	}
	after := proto.CloneOf(have)
	after.Spec.MemoryBytes = 512 << 20
	after.Meta.Labels = nil
	var got []string
	for _, c := range Diff(have, after) {
		got = append(got, c.String())
	}
	if want := []string{"spec.memory_bytes: 268435456 -> 536870912", "meta.labels: {a=1} -> (none)"}; !slices.Equal(got, want) {
		t.Errorf("diff %q", got)
	}
	if len(Diff(have, proto.CloneOf(have))) != 0 {
		t.Error("differs from itself")
	}
}
