package seam

import (
	"fmt"
	"strings"
	"time"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// InWords is one sentence about what a node is doing.
func InWords(p *computev1.Progress, now time.Time) string {
	var parts []string
	for _, c := range p.GetCalls() {
		age := max(0, now.Sub(c.GetStartTime().AsTime())).Round(time.Second)
		text := fmt.Sprintf("%s of driver %s has been under way for %s", c.GetMethod(), c.GetDriver(), age)
		if c.GetQueued() {
			text = fmt.Sprintf("%s waits since %s for other calls of driver %s to end", c.GetMethod(), age, c.GetDriver())
		}
		parts = append(parts, text)
	}
	if e := p.GetLastError(); e != nil {
		text := fmt.Sprintf("%s failed: %s", p.GetDoing(), e.GetMessage())
		if p.GetTries() > 1 {
			text = fmt.Sprintf("%s failed %d times in a row, last with: %s", p.GetDoing(), p.GetTries(), e.GetMessage())
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 && p.GetWaitsFor() != "" {
		parts = append(parts, p.GetWaitsFor())
	}
	if t := p.GetNextTryTime(); t != nil {
		next := "next try at once"
		if left := t.AsTime().Sub(now); left > time.Second {
			next = "next try in " + left.Round(time.Second).String()
		}
		parts = append(parts, next)
	}
	return strings.Join(parts, "; ")
}
