package server

import (
	"context"
	"crypto/rand"
	"log/slog"
)

// call is what is known of one RPC while it runs: one goroutine's, from the HTTP handler down to the interceptor.
type call struct {
	requestID string
	code      string // gRPC code's name; empty = nobody said yet
	err       error
	principal string
}

type callKey struct{}

func withCall(ctx context.Context, c *call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// callOf is the RPC of a context; an empty one when there is none.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok && c != nil {
		return c
	}
	return &call{}
}

// RequestID is the id of the request that a context belongs to; "" when there is none.
func RequestID(ctx context.Context) string { return callOf(ctx).requestID }

// maxRequestID bounds what a client may choose as its request's id in logs.
const maxRequestID = 64

// chosenRequestID is the client's own id where it is fit for a log, else a random one.
func chosenRequestID(given string) string {
	if given == "" || len(given) > maxRequestID {
		return rand.Text()
	}
	for _, c := range []byte(given) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return rand.Text()
		}
	}
	return given
}

// LogHandler adds the request's id to what is logged with a request's context.
func LogHandler(next slog.Handler) slog.Handler { return logHandler{next} }

type logHandler struct{ slog.Handler }

func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if id := RequestID(ctx); id != "" {
		r.AddAttrs(slog.String("request_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs)}
}

func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name)}
}
