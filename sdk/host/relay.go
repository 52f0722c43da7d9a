package host

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	relayBurst = 500 // lines passed on at once
	relayRate  = 100 // lines per second afterwards
)

// relay passes a plugin's log lines on to the host's log, at their own level, and drops what is too much.
type relay struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	tokens  float64
	last    time.Time
	dropped int
}

func newRelay(log *slog.Logger, now func() time.Time) *relay {
	return &relay{log: log, now: now, tokens: relayBurst, last: now()}
}

// line passes one line on.
func (r *relay) line(stream, line string) {
	if line == "" {
		return
	}
	ok, dropped := r.take()
	if !ok {
		return
	}
	if dropped > 0 {
		r.log.Warn("the plugin logs too much; lines were dropped", "dropped", dropped)
	}
	level, msg, attrs := parseLine(line)
	r.log.LogAttrs(context.Background(), level, msg, append(attrs, slog.String("stream", stream))...)
}

// take says whether a line may pass, and how many were dropped since the last one that did.
func (r *relay) take() (ok bool, dropped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	r.tokens = min(relayBurst, r.tokens+now.Sub(r.last).Seconds()*relayRate)
	r.last = now
	if r.tokens < 1 {
		r.dropped++
		return false, 0
	}
	r.tokens--
	dropped, r.dropped = r.dropped, 0
	return true, dropped
}

// parseLine reads a line as plugins log: go-plugin's JSON, or a level in brackets, or a Go panic, or just words.
func parseLine(line string) (slog.Level, string, []slog.Attr) {
	if strings.HasPrefix(line, "{") {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil {
			msg, isMsg := m["@message"].(string)
			level, isLevel := m["@level"].(string)
			if isMsg && isLevel {
				var attrs []slog.Attr
				for _, k := range slices.Sorted(maps.Keys(m)) {
					if !strings.HasPrefix(k, "@") {
						attrs = append(attrs, slog.Any(k, m[k]))
					}
				}
				return parseLevel(level), msg, attrs
			}
		}
	}
	for _, l := range []string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR"} {
		if rest, ok := strings.CutPrefix(line, "["+l+"]"); ok {
			return parseLevel(strings.ToLower(l)), strings.TrimSpace(rest), nil
		}
	}
	if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
		return slog.LevelError, line, nil
	}
	return slog.LevelInfo, line, nil
}

func parseLevel(s string) slog.Level {
	switch s {
	case "trace", "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}
