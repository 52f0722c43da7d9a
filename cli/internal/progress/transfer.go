package progress

import (
	"fmt"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/cli/internal/quantity"
)

// Transfer turns a count of bytes into progress: on a terminal a bar with rate and time left, elsewhere a line every tenth of the way.
type Transfer struct {
	Reporter Reporter
	Mode     Mode
	Label    string
	Total    int64 // bytes; 0 = unknown
	Now      func() time.Time

	begun, drawn time.Time
	shown        int64 // tenths, or gibibytes of an unknown total
	started      bool
}

// Add says that n bytes are done so far.
func (t *Transfer) Add(done int64) {
	now := t.Now()
	if !t.started {
		t.begun, t.started, t.shown = now, true, -1
	}
	if t.Mode == TTY {
		if now.Sub(t.drawn) < 100*time.Millisecond && done != t.Total {
			return
		}
		t.drawn = now
		t.Reporter.Update(t.bar(done, now.Sub(t.begun)))
		return
	}
	if t.Total == 0 {
		if g := done >> 30; g > t.shown {
			t.shown = g
			t.Reporter.Update(fmt.Sprintf("%s: %s", t.Label, quantity.FormatBytes(done)))
		}
		return
	}
	if tenth := done * 10 / t.Total; tenth > t.shown {
		t.shown = tenth
		t.Reporter.Update(fmt.Sprintf("%s: %d%% of %s", t.Label, tenth*10, quantity.FormatBytes(t.Total)))
	}
}

func (t *Transfer) bar(done int64, took time.Duration) string {
	rate := ""
	var perSecond float64
	if took > 200*time.Millisecond {
		perSecond = float64(done) / took.Seconds()
		rate = "  " + quantity.FormatBytes(int64(perSecond)) + "/s"
	}
	if t.Total == 0 {
		return fmt.Sprintf("%s  %s%s", t.Label, quantity.FormatBytes(done), rate)
	}
	const width = 30
	full := min(int(done*width/t.Total), width)
	left := ""
	if perSecond > 0 && done < t.Total {
		eta := time.Duration(float64(t.Total-done) / perSecond * float64(time.Second))
		left = "  " + eta.Round(time.Second).String() + " left"
	}
	return fmt.Sprintf("%s  [%s%s] %3d%%  %s of %s%s%s", t.Label, strings.Repeat("=", full), strings.Repeat(" ", width-full),
		done*100/t.Total, quantity.FormatBytes(done), quantity.FormatBytes(t.Total), rate, left)
}
