package progress

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestLinesShowChangesOnce(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	r := New(&b, Lines)
	for _, s := range []string{"a", "a", "b", "a"} {
		r.Update(s)
	}
	r.Close()
	r.Update("late")
	if b.String() != "a\nb\na\n" {
		t.Errorf("%q", b.String())
	}
}

func TestSpinnerLeavesCleanLine(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	r := newSpinner(&b, time.Hour)
	r.Update("web: starting")
	r.Close()
	r.Close()
	r.Update("late")
	if got := b.String(); !strings.HasPrefix(got, clearLine+frames[0]+" web: starting") || !strings.HasSuffix(got, clearLine) || strings.Contains(got, "late") {
		t.Errorf("%q", got)
	}
}

func TestTransfer(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	clock := func() time.Time { return now }
	var b bytes.Buffer
	lines := Transfer{Reporter: New(&b, Lines), Mode: Lines, Label: "upload", Total: 1000, Now: clock}
	for done := int64(0); done <= 1000; done += 50 {
		lines.Add(done)
	}
	if got := strings.Count(b.String(), "\n"); got != 11 || !strings.HasSuffix(b.String(), "upload: 100% of 1000B\n") {
		t.Errorf("%d lines: %q", got, b.String())
	}
	bar := Transfer{Label: "upload", Total: 4 << 20, Now: clock}
	if got := bar.bar(1<<20, 2*time.Second); got != "upload  [=======                       ]  25%  1M of 4M  512K/s  6s left" {
		t.Errorf("%q", got)
	}
}
