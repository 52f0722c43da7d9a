package etcd

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// expected are warnings of etcd about what is meant to be so here.
var expected = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"retrying of unary invoker failed":             true, // the caller is given the error
	"simple token is not cryptographically signed": true,
}

// early are complaints of the version monitor, which looks before the first term
// is on disk, and looks again; they are left out for that reason alone.
var early = map[string]bool{
	"Failed to detect schema version":  true,
	"failed to update storage version": true,
}

const earlyReason = "missing term information"

// bridge hands etcd's log entries, from warnings on, to slog.
type bridge struct {
	logger *slog.Logger
}

func newZap(logger *slog.Logger) *zap.Logger {
	return zap.New(bridge{logger: logger.With("component", "etcd")})
}

func (b bridge) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel && b.logger.Enabled(context.Background(), toSlog(level))
}

func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{logger: b.logger.With(attributes(fields)...)}
}

func (b bridge) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(entry.Level) && !expected[entry.Message] {
		return checked.AddCore(entry, b)
	}
	return checked
}

func (b bridge) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	if early[entry.Message] && slices.ContainsFunc(fields, isEarly) {
		return nil
	}
	b.logger.Log(context.Background(), toSlog(entry.Level), entry.Message, attributes(fields)...)
	return nil
}

func (bridge) Sync() error { return nil }

func isEarly(f zapcore.Field) bool {
	err, ok := f.Interface.(error)
	return ok && strings.Contains(err.Error(), earlyReason)
}

func toSlog(level zapcore.Level) slog.Level {
	switch {
	case level >= zapcore.ErrorLevel:
		return slog.LevelError
	case level == zapcore.WarnLevel:
		return slog.LevelWarn
	case level == zapcore.InfoLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func attributes(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	args := make([]any, 0, len(enc.Fields))
	for _, name := range slices.Sorted(maps.Keys(enc.Fields)) {
		args = append(args, slog.Any(name, enc.Fields[name]))
	}
	return args
}
