package sdk

import (
	"io"
	"log/slog"
	"strings"
)

// hclogTime is the time format of go-plugin's log lines.
const hclogTime = "2006-01-02T15:04:05.000000Z07:00"

// NewLogHandler writes log records as the JSON lines that plugin hosts relay: "@level", "@message", "@timestamp", then the attributes.
func NewLogHandler(w io.Writer, level slog.Leveler) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) > 0 {
			return a
		}
		if level, ok := a.Value.Any().(slog.Level); ok && a.Key == slog.LevelKey {
			return slog.String("@level", levelName(level))
		}
		switch {
		case a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime:
			return slog.String("@timestamp", a.Value.Time().Format(hclogTime))
		case a.Key == slog.MessageKey:
			a.Key = "@message"
		case strings.HasPrefix(a.Key, "@"): // reserved
			a.Key = "_" + a.Key[1:]
		}
		return a
	}})
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelDebug:
		return "trace"
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	}
	return "error"
}
