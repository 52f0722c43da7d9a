package ovs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/plugins/ovs/internal/flow"
)

var flowLine = regexp.MustCompile(`^table=(\d+),priority=(\d+),?(.*?),?actions=(.+)$`)

// All flows of the pipeline reach a switch by our own messages as they do by ovs-ofctl, which reads the same text; in one bundle all of them or none; others' changes are told, ours not.
func TestEncoding(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("internal", "pipeline", "testdata", "flows.golden"))
	if err != nil {
		t.Fatal(err)
	}
	o := newSwitch(t)
	o.vsctl("add-br", "br", "--", "set", "bridge", "br", "datapath_type=netdev", "fail_mode=secure", "protocols=OpenFlow10,OpenFlow13,OpenFlow14")
	b := flow.Bridge{Socket: filepath.Join(o.dir, "br.mgmt")}
	var text strings.Builder
	var add, remove []flow.Change
	for line := range strings.Lines(string(golden)) {
		m := flowLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			t.Fatalf("line %q", line)
		}
		table, _ := strconv.ParseUint(m[1], 10, 8)
		priority, _ := strconv.ParseUint(m[2], 10, 16)
		c := flow.Change{Key: flow.Key{Table: uint8(table), Priority: uint16(priority), Match: m[3]}, Cookie: uint64(len(add) + 1), Actions: m[4]}
		text.WriteString("cookie=" + strconv.FormatUint(c.Cookie, 10) + "," + line)
		add, remove = append(add, c), append(remove, flow.Change{Key: c.Key})
		for _, meter := range regexp.MustCompile(`meter:(\d+)`).FindAllStringSubmatch(m[4], -1) {
			id, _ := strconv.ParseUint(meter[1], 10, 32)
			if err := b.Meter(t.Context(), uint32(id), 1000, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	told := make(chan string, 100)
	l, err := b.Open(t.Context(), func(s string) { told <- s })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.Close(); <-told }()
	if err := l.Change(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	same := func(want string) {
		t.Helper()
		ds, err := b.Differences(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			t.Errorf("extra %v: %s", d.Extra, d.Line)
		}
	}
	same(text.String())
	spoilt := append(slices.Clone(remove), flow.Change{Key: flow.Key{Table: 3, Match: "tcp"}, Actions: "goto_table:2"}) // backwards
	if err := l.Change(t.Context(), spoilt); err == nil {
		t.Error("a flow that no switch can take is taken")
	}
	same(text.String())
	for _, c := range []flow.Change{{Actions: "fly"}, {Key: flow.Key{Match: "colour=red"}}, {Key: flow.Key{Match: "ip,nw_src=1.2.3"}}, {Key: flow.Key{Match: "ct_state=+odd"}}} {
		if err := l.Change(t.Context(), []flow.Change{c}); err == nil {
			t.Errorf("%v has a meaning", c)
		}
	}
	if err := l.Change(t.Context(), remove); err != nil {
		t.Fatal(err)
	}
	same("")
	o.ofctl("br", "add-flow", "table=7,priority=3,actions=drop")
	if s := <-told; !strings.Contains(s, "table 7") { // the first that is told
		t.Errorf("told %q", s)
	}
}
