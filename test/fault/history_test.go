package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deed is what a driver did to a domain, by the history that the reference driver keeps beside its journal.
type deed struct {
	Number int64
	Time   time.Time
	Node   string
	Verb   string
	Domain string
	Epoch  int64
}

// deeds are what a node's driver did, from the first on.
func (n *node) deeds() (out []deed, err error) {
	lock, err := os.OpenFile(n.journal+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, err
	}
	tables, err := n.tables()
	if err != nil {
		return nil, err
	}
	var last int64
	if b := tables["history"]["last"]; b != nil {
		if _, err := fmt.Sscan(string(b), &last); err != nil {
			return nil, err
		}
	}
	b, err := os.ReadFile(n.journal + ".history")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		var d deed
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			return nil, fmt.Errorf("history of %s: %q: %w", n.name, line, err)
		}
		for len(out) > 0 && out[len(out)-1].Number >= d.Number { // the driver was killed before that came about
			out = out[:len(out)-1]
		}
		out = append(out, d)
	}
	for len(out) > 0 && out[len(out)-1].Number > last {
		out = out[:len(out)-1]
	}
	if int64(len(out)) != last {
		return nil, fmt.Errorf("the history of %s has %d deeds of %d", n.name, len(out), last)
	}
	return out, nil
}

// deeds are what all drivers did, in the order of time: their clock is one.
func (f *fleet) deeds(t *testing.T) (all []deed) {
	t.Helper()
	for _, n := range f.nodes {
		own, err := n.deeds()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range own {
			if d.Node != n.id {
				t.Errorf("%s has a deed under the mark of another node: %+v", n.name, d)
			}
		}
		all = append(all, own...)
	}
	slices.SortStableFunc(all, func(a, b deed) int { return a.Time.Compare(b.Time) })
	return all
}

// asked is when clients first asked for something, by VM and by what: "on", "off", "pause", "reboot", "delete".
type asked map[string]map[string][]time.Time

func (a asked) note(vm, what string, at time.Time) {
	if a[vm] == nil {
		a[vm] = map[string][]time.Time{}
	}
	a[vm][what] = append(a[vm][what], at)
}

// drop forgets the last that was asked for: it was refused.
func (a asked) drop(vm, what string) {
	a[vm][what] = a[vm][what][:len(a[vm][what])-1]
}

// guest is how a VM stands on the hosts while its history is read.
type guest struct {
	on      string          // node
	defined map[string]bool // nodes
	epoch   int64
	done    map[string]int
}

// judge reads the whole history: no VM was on twice, nothing was done to a guest more often or earlier than somebody asked for it, and of what was deleted
// nothing is left. What stays is told back: VMs that are still on a host.
func judge(deeds []deed, a asked) (wrong []string, left []string) {
	guests := map[string]*guest{}
	for _, d := range deeds {
		g := guests[d.Domain]
		if g == nil {
			g = &guest{defined: map[string]bool{}, done: map[string]int{}}
			guests[d.Domain] = g
		}
		say := func(format string, args ...any) {
			wrong = append(wrong, fmt.Sprintf("VM %s, deed %d of node %s, %s: ", d.Domain, d.Number, d.Node, d.Verb)+fmt.Sprintf(format, args...))
		}
		// The n-th time needs n that were asked for before: an agent may be late, it never does more.
		answers := func(what string) {
			g.done[what]++
			if n := g.done[what]; n > len(a[d.Domain][what]) || a[d.Domain][what][n-1].After(d.Time) {
				say("nobody had asked for it: %d times %s of %v", n, what, a[d.Domain][what])
			}
		}
		if d.Epoch < g.epoch {
			say("of epoch %d, after one of epoch %d", d.Epoch, g.epoch)
		}
		g.epoch = d.Epoch
		switch d.Verb {
		case "defined":
			g.defined[d.Node] = true
		case "started":
			if g.on != "" {
				say("it is on at node %s", g.on)
			}
			g.on = d.Node
			answers("on")
		case "shutdown", "stopped":
			if g.on != d.Node {
				say("it is on at node %q", g.on)
			}
			g.on = ""
			answers("off")
		case "undefined":
			if len(a[d.Domain]["delete"]) == 0 || a[d.Domain]["delete"][0].After(d.Time) {
				say("nobody had asked for it")
			}
			if g.on == d.Node {
				g.on = ""
			}
			delete(g.defined, d.Node)
		case "rebooted":
			answers("reboot")
		case "paused":
			answers("pause")
		case "resumed": // also before a stop: a halted guest hears nothing
		default:
			say("that is no verb")
		}
	}
	for id, g := range guests {
		if g.on != "" || len(g.defined) > 0 {
			left = append(left, id)
		}
	}
	return wrong, left
}

// judge holds the histories of the drivers to what clients asked for, once nothing is wanted any more.
func (l *ledger) judge(t *testing.T) {
	t.Helper()
	deeds := l.f.deeds(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	wrong, left := judge(deeds, l.asked)
	for _, w := range wrong {
		t.Error(w)
	}
	if len(left) > 0 {
		t.Errorf("left on hosts: %v", left)
	}
	if len(deeds) == 0 {
		t.Error("no driver did anything")
	}
	reboots := 0
	for _, d := range deeds {
		if d.Verb == "rebooted" {
			reboots++
		}
	}
	t.Logf("evidence: what drivers did to guests | %d", len(deeds))
	t.Logf("evidence: reboots among them (a reboot may be answered by a start, none is done twice) | %d", reboots)
}

// Each kind of fault that a history may hold is seen.
func TestJudge(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	life := func(more ...deed) []deed {
		all := append([]deed{{Verb: "defined", Time: at(1)}, {Verb: "started", Time: at(2)}}, more...)
		for i := range all {
			all[i].Domain = "v"
			if all[i].Node == "" {
				all[i].Node = "n1"
			}
			if all[i].Epoch == 0 {
				all[i].Epoch = 2
			}
		}
		return all
	}
	a := asked{}
	for what, when := range map[string]int{"on": 1, "off": 5, "reboot": 5, "pause": 5, "delete": 8} {
		a.note("v", what, at(when))
	}
	for name, tc := range map[string]struct {
		deeds []deed
		says  string // empty = nothing is wrong
		left  int
	}{
		"runs":               {life(), "", 1},
		"whole":              {life(deed{Verb: "rebooted", Time: at(6)}, deed{Verb: "stopped", Time: at(7)}, deed{Verb: "undefined", Time: at(9)}), "", 0},
		"deleted while on":   {life(deed{Verb: "undefined", Time: at(9)}), "", 0},
		"stopped by nobody":  {life(deed{Verb: "stopped", Time: at(4)}), "nobody had asked", 1},
		"rebooted twice":     {life(deed{Verb: "rebooted", Time: at(6)}, deed{Verb: "rebooted", Time: at(7)}), "2 times reboot", 1},
		"paused too early":   {life(deed{Verb: "paused", Time: at(3)}), "nobody had asked", 1},
		"two copies":         {life(deed{Verb: "started", Time: at(6), Node: "n2"}), "it is on at node n1", 1},
		"started again":      {life(deed{Verb: "stopped", Time: at(6)}, deed{Verb: "started", Time: at(7)}), "2 times on", 1},
		"stopped elsewhere":  {life(deed{Verb: "stopped", Time: at(6), Node: "n2"}), `it is on at node "n1"`, 1},
		"deleted by nobody":  {life(deed{Verb: "undefined", Time: at(7)}), "nobody had asked", 0},
		"an older placement": {life(deed{Verb: "resumed", Time: at(6), Epoch: 1}), "of epoch 1, after one of epoch 2", 1},
		"left on one of two": {life(deed{Verb: "defined", Time: at(6), Node: "n2"}, deed{Verb: "undefined", Time: at(9)}), "", 1},
	} {
		wrong, left := judge(tc.deeds, a)
		if said := strings.Join(wrong, "\n"); (tc.says == "") != (said == "") || !strings.Contains(said, tc.says) || len(left) != tc.left {
			t.Errorf("%s: %q, left %v; wanted %q, %d", name, said, left, tc.says, tc.left)
		}
	}
}
