package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestApply(t *testing.T) {
	b := newBench(t)
	web := `kind: VM
meta: {name: web, labels: {app: web}}
spec:
  cpu: {vcpus: 2}
  memory_bytes: 1G
  run_policy: always
  disks:
  - {name: root, inline: {image: debian}}
`
	for _, step := range []struct{ file, out string }{
		{web, "web created (running on host1, 0s)\n"},
		{web, "web unchanged\n"},
		{strings.Replace(web, "1G", "2G", 1), "web updated (running on host1, 0s)\n  spec.memory_bytes: 1073741824 -> 2147483648\n"},
		{strings.Replace(strings.Replace(web, "1G", "2G", 1), "app: web", "app: front", 1), "web updated (running on host1, 0s)\n  meta.labels: {app=web} -> {app=front}\n"},
		// What the document does not name stays.
		{"kind: VM\nmeta: {name: web}\nspec: {cpu: {vcpus: 2}}\n", "web unchanged\n"},
		// What differs as written, but not in effect, is not called a change.
		{"kind: VM\nmeta: {name: web}\nspec: {disks: [{name: root, bus: virtio, inline: {image: debian}}]}\n", "web unchanged\n"},
		{"kind: VM\nmeta: {name: a}\nspec: {memory_bytes: 64M}\n---\n{kind: VM, meta: {name: web}}\n", "a created (running on host1, 0s)\nweb unchanged\n"},
	} {
		if got := b.ok("apply", "-f", write(t, step.file)); got != step.out {
			t.Errorf("%s\n got %q\nwant %q", step.file, got, step.out)
		}
	}
	b.in = strings.NewReader("kind: VM\n" + b.ok("vm", "show", "web", "-o", "yaml"))
	if got := b.ok("apply", "-f", "-"); got != "web unchanged\n" {
		t.Errorf("what show prints, applied: %q", got)
	}
	if got := b.ok("apply", "-f", write(t, web), "-o", "json"); !strings.Contains(got, `"items"`) {
		t.Error(got)
	}
	if got := b.ok("delete", "-f", write(t, web)); got != "web deleted (0s)\n" {
		t.Errorf("%q", got)
	}
	if got := b.ok("delete", "-f", write(t, web)); got != "web is gone already\n" {
		t.Errorf("%q", got)
	}
}

// A file with a mistake changes nothing, not even what its other documents say.
func TestApplyIsStrict(t *testing.T) {
	b := newBench(t)
	path := write(t, "kind: VM\nmeta: {name: a}\nspec: {memory_bytes: 64M}\n---\nkind: VM\nmeta: {name: b}\nspec:\n  memroy_bytes: 64M\n")
	b.fails(failure.ExitUsage, []string{"apply", "-f", path}, `f.yaml:8: unknown key "spec.memroy_bytes"; did you mean "spec.memory_bytes"?`, "reason: MANIFEST")
	if len(b.server.VMs) != 0 {
		t.Error("something was created")
	}
	b.fails(failure.ExitUsage, []string{"delete", "-f", path}, "f.yaml:8")
}

// What could be applied before a refusal is said, and the refusal decides on the exit code.
func TestApplyStopsAtARefusal(t *testing.T) {
	b := newBench(t)
	path := write(t, "kind: VM\nmeta: {name: a}\nspec: {memory_bytes: 64M}\n---\nkind: VM\nmeta: {name: b}\nspec: {memory_bytes: 1M}\n")
	if r := b.fails(failure.ExitUsage, []string{"apply", "-f", path}, "vm.spec.memory_bytes"); r.out != "a created (running on host1, 0s)\n" {
		t.Errorf("%q", r.out)
	}
}

const shop = `kind: VM
meta: {name: web}
spec:
  memory_bytes: 64M
  nics:
  - {name: nic0, network: {network: lan, security_groups: [web]}}
  - {name: front, network: {port: vip}}
---
kind: Port
meta: {name: vip, labels: {a: b}}
spec: {network_id: lan, ip_addresses: [10.4.0.10], security_group_ids: [web], qos: {ingress_bits_per_second: 100M}}
---
kind: Network
meta: {name: lan}
spec:
  subnets: [{cidr: 10.4.0.0/24}]
  forwards:
  - {protocol: tcp, listen_port: 8080, port_id: vip, target_port: 80}
  - {protocol: tcp, listen_port: 8022, port_id: web/nic0, target_port: 22}
  - {protocol: tcp, listen_port: 53, ip_address: 10.4.0.9, target_port: 53}
---
kind: SecurityGroup
meta: {name: web}
spec:
  rules:
  - {direction: ingress, protocol: tcp, port_first: 80, cidr: 0.0.0.0/0}
  - {direction: ingress, security_group_id: db}
---
kind: SecurityGroup
meta: {name: db}
spec:
  rules:
  - {direction: ingress, protocol: tcp, port_first: 5432, security_group_id: web}
`

// Kinds are made in the order in which they need each other, groups may refer to each other, and what is as wanted is left alone.
func TestApplyNetworks(t *testing.T) {
	b := newBench(t)
	created := `security group web created (0s)
security group db created (0s)
network lan created (ready, 0s)
port vip created (up, 10.4.0.10, 0s)
web created (running on host1, 0s)
`
	if got := b.ok("apply", "-f", write(t, shop)); got != created {
		t.Errorf("%q", got)
	}
	if f := b.server.Networks[0].GetSpec().GetForwards(); len(f) != 3 || f[0].GetPortId() != b.server.Ports[0].GetMeta().GetId() || f[1].GetPortId() != b.server.Ports[1].GetMeta().GetId() {
		t.Errorf("%v", f)
	}
	ids := map[string]string{}
	for _, g := range b.server.Groups {
		for _, r := range g.GetSpec().GetRules() {
			ids[r.GetId()] = g.GetMeta().GetName()
		}
	}
	unchanged := "security group web unchanged\nsecurity group db unchanged\nnetwork lan unchanged\nport vip unchanged\nweb unchanged\n"
	if got := b.ok("apply", "-f", write(t, shop)); got != unchanged {
		t.Errorf("%q", got)
	}
	turned := strings.Replace(shop, "  - {direction: ingress, protocol: tcp, port_first: 80, cidr: 0.0.0.0/0}\n  - {direction: ingress, security_group_id: db}\n",
		"  - {direction: ingress, protocol: any, security_group_id: db}\n  - {direction: ingress, protocol: tcp, port_first: 80, port_last: 80, cidr: 0.0.0.0/0}\n", 1)
	if got := b.ok("apply", "-f", write(t, turned)); got != unchanged {
		t.Errorf("the order of rules counts: %q", got)
	}
	for name, kind := range map[string]string{"lan": "Network", "vip": "Port", "web": "SecurityGroup", "db": "SecurityGroup"} {
		verb := map[string]string{"Network": "network", "Port": "port", "SecurityGroup": "sg"}[kind]
		b.in = strings.NewReader("kind: " + kind + "\n" + b.ok(verb, "show", name, "-o", "yaml"))
		if got := b.ok("apply", "-f", "-"); !strings.HasSuffix(got, " "+name+" unchanged\n") {
			t.Errorf("what show prints, applied: %q", got)
		}
	}
	changed := strings.NewReplacer("listen_port: 8080", "listen_port: 8081", "100M", "200M", "port_first: 5432", "port_first: 5433", "a: b", "a: c").Replace(shop)
	got := b.ok("apply", "-f", write(t, changed))
	for _, want := range []string{
		"security group web unchanged\n", "security group db updated (0s)\n  spec.rules: ", "network lan updated (ready, 0s)\n  spec.forwards: ", "port vip updated (up, 10.4.0.10, 0s)\n",
		"  spec.qos.ingress_bits_per_second: 100000000 -> 200000000\n", "  meta.labels: {a=b} -> {a=c}\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	for _, r := range b.server.Groups[0].GetSpec().GetRules() {
		if ids[r.GetId()] != "web" {
			t.Errorf("rule %v is another one", r)
		}
	}
	b.fails(failure.ExitNotFound, []string{"apply", "-f", write(t, "kind: Port\nmeta: {name: vip}\nspec: {security_group_ids: [absent]}\n")}, `no security group "absent"`)
	b.fails(failure.ExitUsage, []string{"apply", "-f", write(t, "kind: Network\nmeta: {name: lan}\nspec: {mtu: 1400, vni: 5}\n")}, "spec.vni cannot change")
	// The groups refer to each other: one of them cannot go, and that is said; what could go is gone.
	r := b.fails(failure.ExitState, []string{"delete", "-f", write(t, shop)}, "security group web is in use", "security group db is in use")
	if want := "web deleted (0s)\nport vip deleted (0s)\nnetwork lan deleted (0s)\n"; r.out != want {
		t.Errorf("%q", r.out)
	}
	b.ok("sg", "rule", "remove", "web", "--in", "any", "--from", "sg/db")
	// Now one refers to the other, which goes first, wherever it stands.
	want := "web is gone already\nport vip is gone already\nnetwork lan is gone already\nsecurity group db deleted (0s)\nsecurity group web deleted (0s)\n"
	if got := b.ok("delete", "-f", write(t, shop)); got != want {
		t.Errorf("%q", got)
	}
	b.ok("apply", "-f", write(t, "kind: Network\nmeta: {name: lan}\n---\nkind: SecurityGroup\nmeta: {name: web}\n"))
	if got := b.ok("delete", "-f", write(t, shop), "-o", "json"); strings.Count(got, `"items"`) != 1 {
		t.Error(got)
	}
}
