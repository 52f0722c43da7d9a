package render

import (
	"fmt"
	"io"
	"strings"
	"time"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// Explanation prints why something is as it is: a line that says it all, then what is known, indented, and the same of what it depends on.
func Explanation(w io.Writer, x *computev1.Explanation, now time.Time) error {
	var b strings.Builder
	explain(&b, x, now, "")
	_, err := io.WriteString(w, b.String())
	return err
}

func explain(b *strings.Builder, x *computev1.Explanation, now time.Time, indent string) {
	name := x.GetObjectName()
	if name == "" {
		name = x.GetObjectId()
	}
	if indent != "" {
		name = strings.ToLower(x.GetObjectKind()) + " " + name
	}
	state := lower(x.GetState())
	if !x.GetAsWanted() && x.GetWanted() != "" && x.GetWanted() != x.GetState() {
		state += ", shall be " + lower(x.GetWanted())
	}
	fmt.Fprintf(b, "%s%s (%s): %s\n", indent, name, state, x.GetSummary())
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(b, "%s  %-10s %s\n", indent, label, text)
		}
	}
	p := x.GetProgress()
	for _, c := range p.GetCalls() {
		text := fmt.Sprintf("%s of driver %s, for %s", c.GetMethod(), c.GetDriver(), Age(c.GetStartTime(), now))
		if c.GetQueued() {
			text += ", waits for its turn"
		}
		if c.GetDeadline() != nil {
			text += ", given up in " + Span(c.GetDeadline().AsTime().Sub(now))
		}
		line("In flight:", text)
	}
	if e := p.GetLastError(); e != nil {
		line("Error:", strings.TrimSuffix(strings.Join(nonEmpty(e.GetCode(), e.GetReason()), " ")+": "+e.GetMessage(), ": "))
		line("When:", ago(e, now))
		line("Remedy:", e.GetRemedy())
	}
	if p.GetTries() > 0 {
		line("Tries:", fmt.Sprintf("%d failed in a row", p.GetTries()))
	}
	if t := p.GetNextTryTime(); t != nil {
		line("Next try:", "in "+Span(t.AsTime().Sub(now)))
	}
	line("Waits for:", x.GetWaitsFor())
	if x.GetSince() != nil {
		line("Since:", withAge(Time(x.GetSince()), Age(x.GetSince(), now)))
	}
	for _, part := range x.GetParts() {
		explain(b, part, now, indent+"  ")
	}
}

func ago(e *computev1.Failure, now time.Time) string {
	if e.GetTime() == nil {
		return ""
	}
	return Age(e.GetTime(), now) + " ago"
}

func lower(state string) string { return strings.ReplaceAll(strings.ToLower(state), "_", "-") }
