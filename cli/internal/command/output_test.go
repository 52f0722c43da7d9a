package command

import (
	"encoding/json"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func TestOutputGolden(t *testing.T) {
	b := newBench(t)
	b.populate()
	for name, args := range map[string]string{
		"vm-list.txt":       "vm list",
		"vm-list-wide.txt":  "vm list -o wide",
		"vm-list-name.txt":  "vm list -o name",
		"vm-list.json":      "vm list -o json",
		"vm-list.yaml":      "vm list -o yaml -l app=web",
		"vm-show.txt":       "vm show web",
		"vm-show.json":      "vm show web -o json",
		"vm-events.txt":     "vm events web",
		"vm-explain.txt":    "vm explain web",
		"node-list.txt":     "node list",
		"node-show.txt":     "node show host1",
		"op-list.txt":       "op list",
		"op-show.txt":       "op show op-1",
		"version.txt":       "version",
		"help-exit.txt":     "help exit-codes",
		"help-vm.txt":       "help vm",
		"token-list.txt":    "node token list",
		"empty-images.json": "image list -o json",
	} {
		got := b.ok(strings.Fields(args)...)
		golden(t, name, strings.ReplaceAll(got, b.server.URL, "http://server"))
	}
}

// What -o json prints is the API's own JSON: it reads back as the message.
func TestJSONIsTheMessage(t *testing.T) {
	b := newBench(t)
	b.populate()
	var vm computev1.VM
	if err := protojson.Unmarshal([]byte(b.ok("vm", "show", "web", "-o", "json")), &vm); err != nil || vm.GetSpec().GetMemoryBytes() != 1<<30 {
		t.Errorf("%v: %v", err, &vm)
	}
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal([]byte(b.ok("vm", "list", "-o", "json")), &list); err != nil || len(list.Items) != 2 {
		t.Errorf("%v: %d items", err, len(list.Items))
	}
	var fromYAML, fromJSON any
	if err := yaml.Unmarshal([]byte(b.ok("vm", "show", "web", "-o", "yaml")), &fromYAML); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(b.ok("vm", "show", "web", "-o", "json")), &fromJSON); err != nil {
		t.Fatal(err)
	}
	y, _ := json.Marshal(fromYAML)
	j, _ := json.Marshal(fromJSON)
	if !strings.EqualFold(string(y), string(j)) {
		t.Errorf("YAML and JSON differ:\n%s\n%s", y, j)
	}
}

func TestFailureAsJSON(t *testing.T) {
	b := newBench(t)
	for _, args := range [][]string{{"vm", "show", "nope", "-o", "json"}, {"vm", "list", "--bogus", "-o", "json"}, {"vm", "lst", "-ojson"}} {
		r := b.run(args...)
		var got struct {
			Error struct {
				Message, Reason, Fix string
				ExitCode             int
			}
		}
		if err := json.Unmarshal([]byte(r.err), &got); err != nil || got.Error.Message == "" || got.Error.Reason == "" || got.Error.Fix == "" || got.Error.ExitCode != r.code || r.code == 0 {
			t.Errorf("%v: %v: %s", args, err, r.err)
		}
	}
}

func TestTerminalEscapesOfOthersAreNotPrinted(t *testing.T) {
	b := newBench(t)
	b.ok("vm", "create", "web", "--no-wait")
	b.server.Change("web", func(vm *computev1.VM) { vm.Status.Message = "\x1b[2Jboo\nline" })
	if got := b.ok("vm", "list", "-o", "wide") + b.ok("vm", "show", "web"); strings.Contains(got, "\x1b") || !strings.Contains(got, "boo line") {
		t.Errorf("%q", got)
	}
}
