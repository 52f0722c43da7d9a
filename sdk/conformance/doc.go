// Package conformance holds the suites that any driver plugin must pass: named checks, each with the sentence of the contract that it holds the driver to. They
// run against the plugin's real binary, launched as an agent launches it, and the same checks run under go test and in the tool cmd/limiquantix-conformance:
//
//	func TestConformance(t *testing.T) {
//		conformance.Test(t, conformance.Options{Plugin: host.Spec{Dir: dir, ConfigJSON: `{"accel":"tcg"}`}})
//	}
//
// Which checks apply follows from the kinds in the plugin's manifest and from the capabilities that it advertises; a check that does not apply is skipped and
// says why. Faults are wrappers around calls (faults.go), so that each changing verb is checked repeated, concurrent, cancelled and cut short by kill -9.
//
// Package reference is the smallest driver of all three kinds that passes: a model to read, and what the checks themselves are tested with.
package conformance
