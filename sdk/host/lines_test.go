package host

import (
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	in := "one\r\n\n" + strings.Repeat("x", 3*maxLine) + "\nlast"
	want := []string{"one", "", strings.Repeat("x", maxLine), "last"}
	var got []string
	readLines(iotest.HalfReader(strings.NewReader(in)), func(l string) { got = append(got, l) })
	if !slices.Equal(got, want) {
		t.Errorf("readLines: %d lines %.20q", len(got), got)
	}
	got = nil
	w := &lineWriter{each: func(l string) {
		if l != "" {
			got = append(got, l)
		}
	}}
	if _, err := io.Copy(w, iotest.OneByteReader(strings.NewReader(in+"\n"))); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0] != "one" || len(got[1]) < maxLine || len(got[1]) > maxLine+1 || got[2] != "last" {
		t.Errorf("lineWriter: %d lines %.20q", len(got), got)
	}
}

func TestParseLine(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]struct {
		level slog.Level
		msg   string
	}{
		`{"@level":"warn","@message":"m","k":1}`: {slog.LevelWarn, "m"},
		`{"@level":7,"@message":["m"]}`:          {slog.LevelInfo, `{"@level":7,"@message":["m"]}`}, // go-plugin's own client panics here
		`{broken`:                                {slog.LevelInfo, `{broken`},
		`[ERROR] no disk`:                        {slog.LevelError, "no disk"},
		`panic: x`:                               {slog.LevelError, "panic: x"},
		`words`:                                  {slog.LevelInfo, "words"},
	} {
		if level, msg, _ := parseLine(line); level != want.level || msg != want.msg {
			t.Errorf("%s: %s %q", line, level, msg)
		}
	}
}

func TestRelayDropsTheExcessAndSaysSo(t *testing.T) {
	t.Parallel()
	now, log := time.Unix(0, 0), &logged{}
	r := newRelay(slog.New(log), func() time.Time { return now })
	for range relayBurst + 70 {
		r.line("stderr", "flood")
	}
	if len(log.lines) != relayBurst {
		t.Errorf("%d lines passed", len(log.lines))
	}
	now = now.Add(time.Second)
	r.line("stderr", "after")
	if n := len(log.lines); n != relayBurst+2 || !log.has("INFO after") || !log.has("WARN the plugin logs too much") {
		t.Errorf("%d lines, the last %q", n, log.lines[n-2:])
	}
}
