// Package failpoint_test makes controller and agent fail at every point at which they commit, call a driver or write a file, in every way, and checks each
// time that nothing that was acknowledged is lost, nothing is left over and nothing hangs.
package failpoint_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/failpoint/rewrite"
	"github.com/limiquantix/limiquantix/test/stack"
)

// actions are what a point can be armed with.
var actions = []string{"kill-before", "kill-after", "fail", "lose", "delay"}

const (
	// bound is within what everything converges after a fault in a soak; make test gives ten times as much, for machines that do more besides.
	bound = 30 * time.Second
	// tenth is what make test runs of all trials.
	tenth = 10
	// sample says which, so that one tree is judged alike each time; another one is drawn by the seed's variable, and a soak runs all.
	sample = 1795513273134544542
	// patience is how long a trial waits for its point to be visited after its act.
	patience = 25 * time.Second

	stayName = "stay"
	// OnlyEnv limits the trials to points that contain a text, to look at one again.
	onlyEnv = "LIMIQUANTIX_TEST_ONLY"
	// tableEnv names a file for the table of all trials.
	tableEnv = "LIMIQUANTIX_TEST_TABLE"
)

// suite is the run of all trials.
type suite struct {
	t     *testing.T
	built rewrite.Built
	bound time.Duration
	dir   string

	rig  *rig // the standing one; nil = to be made
	stay stay
	rigs int
	last string // directory of the rig that was used last

	visits map[string]int   // of the dry run
	acts   map[string][]int // point: acts that visit it, shortest first
	took   []time.Duration  // of each act in the dry run
	table  map[string]map[string]string
}

func TestFailpoints(t *testing.T) {
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{t: t, bound: 10 * bound, visits: map[string]int{}, acts: map[string][]int{}, table: map[string]map[string]string{}}
	full := os.Getenv(stack.CountEnv) != ""
	if full {
		s.bound = bound
	}
	if s.dir, err = os.MkdirTemp("", "lqfp"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if s.built, err = rewrite.Build(t.Context(), root, filepath.Join(s.dir, "build")); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d points built in %s", len(s.built.Points), time.Since(began).Round(time.Second))
	t.Cleanup(func() {
		s.dropRig()
		if t.Failed() {
			t.Logf("everything is left in %s", s.dir)
			return
		}
		_ = os.RemoveAll(s.dir)
	})
	s.dryRun()
	if t.Failed() {
		return
	}
	s.trials(full)
	s.end()
	s.writeTable()
}

// standing is the rig that is kept across trials.
func (s *suite) standing(ctx context.Context) (*rig, error) {
	if s.rig != nil {
		return s.rig, nil
	}
	r, err := s.newRig(false)
	if err != nil {
		return nil, err
	}
	s.rig, s.stay = r, stay{}
	if err := r.up(ctx); err != nil {
		return nil, err
	}
	img, err := r.upload(ctx, stayName, "stay-image", content)
	if err != nil {
		return nil, err
	}
	s.stay.image = img.GetMeta().GetId()
	if s.stay.vm, err = r.create(ctx, machine(stayName, disk("root", stayName, diskSize))); err != nil {
		return nil, err
	}
	return r, r.converged(ctx, s.stay)
}

func (s *suite) newRig(pair bool) (*rig, error) {
	s.rigs++
	return newRigOf(filepath.Join(s.dir, fmt.Sprintf("r%d", s.rigs)), s.built, s.bound, pair)
}

func (s *suite) dropRig() {
	if s.rig == nil {
		return
	}
	if err := s.rig.down(); err != nil {
		s.t.Error(err)
	}
	s.rig = nil
}

// perform does an act with a point armed, if any, and checks that everything is right afterwards.
func (s *suite) perform(ctx context.Context, a act, point, action string) (visits map[string]int, err error) {
	r, want := s.rig, stay{}
	if a.fresh || a.pair {
		if r, err = s.newRig(a.pair); err != nil {
			return nil, err
		}
		defer func() {
			err = errors.Join(err, r.down())
			if err == nil {
				_ = os.RemoveAll(r.dir)
			}
		}()
	} else {
		if r, err = s.standing(ctx); err != nil {
			return nil, fmt.Errorf("start: %w", err)
		}
		want = s.stay
	}
	s.last = r.dir
	_, offset := r.visits(0)
	for id, do := range a.with {
		if err := r.arm(id, do); err != nil {
			return nil, err
		}
	}
	if point != "" {
		if err := r.arm(point, action); err != nil {
			return nil, err
		}
		defer r.disarm(point)
	}
	if err := a.do(ctx, r); err != nil {
		return nil, fmt.Errorf("act %q: %w", a.name, err)
	}
	for end := time.Now().Add(patience); point != "" && !r.fired(point); {
		if time.Now().After(end) {
			return nil, errNotVisited
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if !a.alone {
		err = r.converged(ctx, want)
	}
	visits, _ = r.visits(offset)
	return visits, err
}

var errNotVisited = errors.New("the point was not visited")

// dryRun does every act without a fault and counts who visits what.
func (s *suite) dryRun() {
	for i, a := range acts {
		began := time.Now()
		visits, err := s.perform(s.t.Context(), a, "", "")
		if err != nil {
			s.t.Fatalf("dry run: %v\n%s", err, s.logs())
		}
		s.took = append(s.took, time.Since(began))
		for id, n := range visits {
			s.visits[id] += n
			s.acts[id] = append(s.acts[id], i)
		}
		s.t.Logf("act %-30s %5.1fs, %d points", a.name, s.took[i].Seconds(), len(visits))
	}
	for _, p := range s.built.Points {
		if s.visits[p.ID] == 0 {
			s.t.Errorf("no act visits %s (%s)", p.ID, p.Kind)
		}
		slices.SortFunc(s.acts[p.ID], func(a, b int) int { return cmp.Compare(s.cost(a), s.cost(b)) })
	}
}

func (s *suite) cost(i int) time.Duration {
	c := s.took[i]
	if len(acts[i].with) > 0 {
		c += time.Hour // only for what nothing else visits
	}
	return c
}

// trial is one point with one action.
type trial struct{ point, action string }

func (s *suite) trials(full bool) {
	var all []trial
	for _, p := range s.built.Points {
		if strings.Contains(p.ID, os.Getenv(onlyEnv)) {
			for _, a := range actions {
				all = append(all, trial{p.ID, a})
			}
		}
	}
	seed := int64(sample)
	if full {
		seed = time.Now().UnixNano()
	}
	if text := os.Getenv(stack.SeedEnv); text != "" {
		var err error
		if seed, err = strconv.ParseInt(text, 10, 64); err != nil {
			s.t.Fatalf("%s: %v", stack.SeedEnv, err)
		}
	}
	s.t.Logf("seed %d: run again with %s=%d", seed, stack.SeedEnv, seed)
	r := rand.New(rand.NewPCG(uint64(seed), 0)) //nolint:gosec // a seed that can be given
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if !full && os.Getenv(onlyEnv) == "" {
		all = all[:len(all)/tenth]
	}
	for i, one := range all {
		began := time.Now()
		err := s.trial(one)
		result := fmt.Sprintf("%.1f s", time.Since(began).Seconds())
		if err != nil {
			result = "FAILED"
			s.t.Errorf("%s at %s: %v\n%s", one.action, one.point, err, s.logs())
			s.dropRig()
		}
		if s.table[one.point] == nil {
			s.table[one.point] = map[string]string{}
		}
		s.table[one.point][one.action] = result
		fmt.Printf("%d/%d %-12s %s: %s\n", i+1, len(all), one.action, one.point, result)
	}
}

// trial tries the acts that visited the point, until one does again.
func (s *suite) trial(one trial) error {
	var err error
	for _, i := range s.acts[one.point] {
		ctx, cancel := context.WithTimeout(s.t.Context(), 4*s.bound)
		_, err = s.perform(ctx, acts[i], one.point, one.action)
		cancel()
		if !errors.Is(err, errNotVisited) {
			return err
		}
	}
	return err
}

// end deletes what stayed all the time: nothing may be left.
func (s *suite) end() {
	if s.rig == nil {
		return
	}
	ctx := s.t.Context()
	err := errors.Join(s.rig.remove(ctx, s.stay.vm), s.rig.removeImage(ctx, s.stay.image))
	if err == nil {
		err = s.rig.converged(ctx, stay{})
	}
	if err != nil {
		s.t.Errorf("at the end: %v\n%s", err, s.logs())
	}
}

// logs are the ends of the logs of the rig that was used last.
func (s *suite) logs() string {
	var b strings.Builder
	for _, name := range []string{"controller", "agent"} {
		text, err := os.ReadFile(filepath.Join(s.last, name+".log"))
		if err == nil {
			fmt.Fprintf(&b, "end of %s.log in %s:\n%s\n", name, s.last, text[max(0, len(text)-3000):])
		}
	}
	return b.String()
}

// writeTable writes what came of each trial.
func (s *suite) writeTable() {
	file := os.Getenv(tableEnv)
	if file == "" {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d points; visits are those of one run of all acts without a fault; each cell is how long the trial took until everything was as it should be.\n\n", len(s.built.Points))
	fmt.Fprintf(&b, "| point | kind | visits | %s |\n|---|---|---|%s\n", strings.Join(actions, " | "), strings.Repeat("---|", len(actions)))
	for _, p := range s.built.Points {
		fmt.Fprintf(&b, "| %s | %s | %d |", p.ID, p.Kind, s.visits[p.ID])
		for _, a := range actions {
			fmt.Fprintf(&b, " %s |", cmp.Or(s.table[p.ID][a], "-"))
		}
		b.WriteString("\n")
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		s.t.Error(err)
	}
}
