package conformance

import (
	"context"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Check holds a driver to one sentence of the contract.
type Check struct {
	// Name is kind/verb-or-subject/behaviour, for example "compute/create/same-spec-is-ok".
	Name string
	// Contract is what the contract says.
	Contract string
	// Kind is the kind of driver that it applies to; unset = every plugin.
	Kind driverv1.DriverKind
	// Feature is the optional part that it needs; 0 = none.
	Compute driverv1.ComputeFeature
	Storage driverv1.StorageFeature
	Network driverv1.NetworkFeature
	// Packets says that it sends packets: it needs Options.Network.Packets.
	Packets bool
	// Disturbed says that somebody spoils what the driver has made: it needs PacketOptions.Disturbances.
	Disturbed bool

	run func(T, *Env)
}

// Outcome is what came of a check.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "PASS"
	Failed  Outcome = "FAIL"
	Skipped Outcome = "SKIP"
)

// Result is what came of a check, outside of go test.
type Result struct {
	Check   *Check
	Outcome Outcome
	Detail  string // why it failed or was skipped
	Took    time.Duration
}

// Checks are all checks, of all kinds, in the order in which they run.
func Checks() []*Check {
	var all []*Check
	for _, suite := range [][]*Check{pluginChecks(), computeChecks(), storageChecks(), networkChecks(), packetChecks()} {
		all = append(all, suite...)
	}
	return all
}

// Test runs all checks that apply as subtests of t, each by its name.
func Test(t *testing.T, o Options) {
	t.Helper()
	e := newEnv(t, o)
	for _, c := range Checks() {
		switch {
		case !o.wants(c.Name) || !e.serves(c.Kind):
		case e.unfit(c) != "": // no subtest: a skipped one would look like a gap
			t.Logf("%s: %s", c.Name, e.unfit(c))
		default:
			t.Run(c.Name, func(t *testing.T) {
				t.Logf("contract: %s", c.Contract)
				e.one(t, c)
			})
		}
	}
}

// Run runs all checks that apply and hands each result to report as it comes. An error means that the plugin could not even be launched.
func Run(ctx context.Context, o Options, report func(Result)) error {
	var failed error
	setup := record(ctx, func(t T) {
		e := newEnv(t, o)
		for _, c := range Checks() {
			if !o.wants(c.Name) || !e.serves(c.Kind) || ctx.Err() != nil {
				continue
			}
			began := time.Now()
			r := record(ctx, func(t T) { e.one(t, c) })
			outcome, detail := r.outcome()
			report(Result{Check: c, Outcome: outcome, Detail: detail, Took: time.Since(began)})
		}
	})
	if outcome, detail := setup.outcome(); outcome == Failed {
		failed = setupError(detail)
	}
	return failed
}

type setupError string

func (e setupError) Error() string { return string(e) }
