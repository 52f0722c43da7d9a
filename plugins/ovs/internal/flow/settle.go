package flow

import (
	"context"
	"strings"
	"time"
)

// Settled waits until the datapath does what the bridge's flows say: what it has cached of earlier ones is gone.
//
// "revalidator/wait" answers when the pass over the caches ends that is under way, or the next one; but passes are half a second apart unless something changes, and the one under way
// may have begun before the change. So each of two waits is followed by a change of no consequence: the first pass ends after the switch knows of the change, and any pass that begins
// after it does what the new flows say.
func (c Conntrack) Settled(ctx context.Context, l *Line) error {
	ctl, err := c.control(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = ctl.Close() }()
	if err := l.nudge(ctx); err != nil { // the switch has been through its main loop once since the change
		return err
	}
	for range 2 {
		if err := ctl.send("revalidator/wait"); err != nil {
			return err
		}
		answer := make(chan error, 1)
		go func() { // ends with the connection, at the latest after its time limit
			_, err := ctl.receive("revalidator/wait")
			answer <- err
		}()
		err := l.nudgeUntil(ctx, answer)
		if err != nil && strings.Contains(err.Error(), "multiple") { // there are several datapaths: then all caches are emptied, which needs no waiting
			_, err = ctl.call("revalidator/purge")
			return err
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// again is how long a pass over the caches may take before it is asked for again: the switch may have begun one before it heard that somebody waits for its end.
const again = 25 * time.Millisecond

// nudgeUntil nudges the switch until it answers.
func (l *Line) nudgeUntil(ctx context.Context, answer <-chan error) error {
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		if err := l.nudge(ctx); err != nil {
			return err
		}
		select {
		case err := <-answer:
			return err
		case <-tick.C:
		}
	}
}
