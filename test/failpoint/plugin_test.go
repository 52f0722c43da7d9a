package failpoint_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/failpoint/rewrite"
	"github.com/limiquantix/limiquantix/test/stack"
)

// The actions of a plugin's points. A program can also be outlived by the plugin's end in the midst of it.
var (
	pluginActions  = []string{"kill-before", "kill-after", "fail", "lose"}
	programActions = []string{"kill-during"}
)

// pluginShare is one of how many trials make test runs.
const pluginShare = 60

// pluginWorkers is how many trials are under way at once: each waits for programs most of the time.
const pluginWorkers = 3

// pluginTrial is one visit of a point by an act, with an action.
type pluginTrial struct {
	act    int
	point  string
	visit  int
	action string
}

// A storage plugin fails at every write, rename and removal of a file and every run of a program, at visits that every act makes: what was asked for is
// done when it is asked for again, nobody's content changes, and nothing is left.
func TestFailpointsOfPlugins(t *testing.T) {
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{t: t, bound: 10 * bound, visits: map[string]int{}, table: map[string]map[string]string{}}
	full := os.Getenv(stack.CountEnv) != "" || os.Getenv(onlyEnv) != ""
	if s.dir, err = os.MkdirTemp("", "lqfp"); err != nil {
		t.Fatal(err)
	}
	if s.built, err = rewrite.BuildPlugin(t.Context(), root, filepath.Join(s.dir, "build"), rewrite.Plugins[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("everything is left in %s", s.dir)
			return
		}
		_ = os.RemoveAll(s.dir)
	})
	var all []pluginTrial
	programs := map[string]bool{}
	for _, p := range s.built.Points {
		programs[p.ID] = p.Kind == rewrite.Program
	}
	for i, a := range pluginActs {
		began := time.Now()
		visits, err := s.plugin(t.Context(), a, pluginTrial{})
		if err != nil {
			t.Fatalf("dry run: act %q: %v", a.name, err)
		}
		sum := 0
		for id, n := range visits {
			s.visits[id] += n
			sum += n
			if slices.Contains(a.arms, id) || !strings.Contains(id+" "+a.name, os.Getenv(onlyEnv)) {
				continue
			}
			do := pluginActions
			if programs[id] {
				do = append(slices.Clone(do), programActions...)
			}
			for _, k := range chosen(n) {
				for _, action := range do {
					all = append(all, pluginTrial{i, id, k, action})
				}
			}
		}
		t.Logf("act %-30s %5.1fs, %d points, %d visits", a.name, time.Since(began).Seconds(), len(visits), sum)
	}
	for _, p := range s.built.Points {
		if s.visits[p.ID] == 0 {
			t.Errorf("no act visits %s (%s)", p.ID, p.Kind)
		}
	}
	if t.Failed() {
		return
	}
	s.pluginTrials(all, full)
}

// chosen are the visits to try of the n that one act makes to one point: the ends of a loop and a turn in its midst.
func chosen(n int) []int {
	visits := []int{1, 2, n/2 + 1, n}
	slices.Sort(visits)
	visits = slices.Compact(visits)
	return slices.DeleteFunc(visits, func(k int) bool { return k > n })
}

func (s *suite) pluginTrials(all []pluginTrial, full bool) {
	seed := int64(sample)
	if text := os.Getenv(stack.SeedEnv); text != "" {
		var err error
		if seed, err = strconv.ParseInt(text, 10, 64); err != nil {
			s.t.Fatalf("%s: %v", stack.SeedEnv, err)
		}
	} else if full {
		seed = time.Now().UnixNano()
	}
	s.t.Logf("seed %d: run again with %s=%d", seed, stack.SeedEnv, seed)
	slices.SortFunc(all, func(a, b pluginTrial) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	r := rand.New(rand.NewPCG(uint64(seed), 0)) //nolint:gosec // a seed that can be given
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if !full {
		all = all[:len(all)/pluginShare]
	}
	next, done := make(chan pluginTrial), sync.WaitGroup{}
	for range pluginWorkers {
		done.Go(func() {
			for one := range next {
				if _, err := s.plugin(s.t.Context(), pluginActs[one.act], one); err != nil {
					s.t.Errorf("%s at %s, visit %d of act %q: %v", one.action, one.point, one.visit, pluginActs[one.act].name, err)
				}
			}
		})
	}
	for i, one := range all {
		next <- one
		if i%100 == 99 {
			fmt.Printf("%d/%d\n", i+1, len(all))
		}
	}
	close(next)
	done.Wait()
	fmt.Printf("evidence: failpoints of plugins | %d points, %d trials\n", len(s.built.Points), len(all))
}

// plugin does an act with a point armed, if any, and checks that everything is right afterwards.
func (s *suite) plugin(ctx context.Context, a pluginAct, one pluginTrial) (visits map[string]int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.bound)
	defer cancel()
	dir, err := os.MkdirTemp(s.dir, "p")
	if err != nil {
		return nil, err
	}
	r, err := newPluginRig(dir, s, a.shared)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, r.down()); err == nil {
			_ = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%s: %w", dir, err)
		}
	}()
	if one.point != "" {
		r.spare = 1
		if err := r.arm(one.point, fmt.Sprintf("%d %s", one.visit, one.action)); err != nil {
			return nil, err
		}
	}
	c := &calls{ctx: ctx, r: r}
	a.do(c)
	if c.err != nil {
		return nil, c.err
	}
	if one.point != "" && !r.fired(one.point) {
		return nil, errNotVisited
	}
	if err := r.clean(ctx); err != nil {
		return nil, err
	}
	visits, _ = r.visits(0)
	return visits, nil
}
