package fault

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// stopFor is how long a process is stopped: longer than a heartbeat's timeout.
const stopFor = 15 * time.Second

// maxCrashes keeps plugins out of quarantine, from which only an operator takes them.
const maxCrashes = 3

// count is how often a suite repeats: usual in make test.
func count(t *testing.T, usual int) (n int, soak bool) {
	t.Helper()
	s := os.Getenv(stack.CountEnv)
	if s == "" {
		return usual, false
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q", stack.CountEnv, s)
	}
	return n, true
}

// bound is a limit of a soak, and ten times as much in make test.
func bound(soak bool, d time.Duration) time.Duration {
	if soak {
		return d
	}
	return 10 * d
}

func seed(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv(stack.SeedEnv)
	if s == "" {
		s = strconv.FormatInt(time.Now().UnixNano(), 10)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", stack.SeedEnv, s, err)
	}
	t.Logf("seed %d: run again with %s=%d", n, stack.SeedEnv, n)
	return n
}

// Controller, agents and plugins are killed (kill -9) and stopped (SIGSTOP, 15 s later SIGCONT) at random times, while clients make, change and remove
// VMs. 20 kills of each and 10 stops in make test.
func TestKillsAndStops(t *testing.T) {
	kills, soak := count(t, 20)
	stops, nodes := kills/2, 6
	if soak {
		nodes = 24
	}
	n := seed(t)
	r := rand.New(rand.NewPCG(n, 0)) //nolint:gosec // a seed that can be given
	f := startFleet(t, shape{nodes: nodes, heartbeat: "{interval: 1s, timeout: 6s}", cpu: 64})
	l := newLedger(f)
	var steady []told
	for i := range nodes {
		if vm, ok := l.create(fmt.Sprintf("steady-%d", i)); ok {
			steady = append(steady, vm)
		}
	}
	l.settled(t, bound(soak, 30*time.Second))
	g := watch(t, f, steady)
	l.load(8, n)

	crashes := map[*node]int{} // of plugins, since the agent began
	var paused sync.WaitGroup
	for _, kind := range draw(r, kills, stops) {
		p := f.controller
		at := f.nodes[r.IntN(len(f.nodes))]
		if r.IntN(4) > 0 { // mostly where something is under way
			if n := l.busy(); n != nil {
				at = n
				time.Sleep(time.Duration(r.Int64N(int64(2 * callTakes))))
			}
		}
		for kind.of == "plugin" && crashes[at] == maxCrashes {
			at = f.nodes[r.IntN(len(f.nodes))]
		}
		switch kind.of {
		case "agent":
			p = at.process
			if !kind.stop {
				crashes[at] = 0
			}
		case "plugin":
			p = at.process
			crashes[at]++
		}
		pid := p.pid()
		if kind.of == "plugin" {
			if pid = at.plugin(r.IntN(2)); pid == 0 { // it is just away
				pid = p.pid()
			}
		}
		if kind.stop {
			_ = syscall.Kill(pid, syscall.SIGSTOP) // it may just have ended
			paused.Go(func() {
				time.Sleep(stopFor)
				_ = syscall.Kill(pid, syscall.SIGCONT)
			})
		} else {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(time.Duration(100+r.IntN(700)) * time.Millisecond)
	}
	paused.Wait()
	l.halt()
	last := time.Now()
	f.awaitNodes(t, bound(soak, 30*time.Second))
	l.settled(t, bound(soak, 30*time.Second)-time.Since(last))
	t.Logf("evidence: nodes | %d", nodes)
	t.Logf("evidence: kills of each of controller, agent, plugin | %d", kills)
	t.Logf("evidence: stops | %d", stops)
	t.Logf("evidence: acknowledged calls | %d", l.calls)
	t.Logf("evidence: converged after the last fault | %s", time.Since(last).Round(100*time.Millisecond))
	g.end(t)
	l.empty(t, bound(soak, 30*time.Second))
}

// blow is one fault.
type blow struct {
	of   string
	stop bool
}

// draw is so many kills of each kind of process, and stops, in a random order.
func draw(r *rand.Rand, kills, stops int) (out []blow) {
	kinds := []string{"controller", "agent", "plugin"}
	for range kills {
		for _, k := range kinds {
			out = append(out, blow{of: k})
		}
	}
	for range stops {
		out = append(out, blow{of: kinds[r.IntN(len(kinds))], stop: true})
	}
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
