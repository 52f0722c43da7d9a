package server

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"
)

// ending gives a stream that came from the leader and broke an end in the client's protocol, so that the client sees UNAVAILABLE and not a defect.
type ending struct {
	io.ReadCloser
	res  *http.Response
	left []byte // of the end, once broken

	head   [5]byte // of the present envelope: flags and length
	have   int     // bytes of head
	remain uint32  // bytes of the envelope's content that are to come
	broken bool
}

// end wraps the body of an answer that is a stream of envelopes; others are left as they are.
func end(res *http.Response) {
	kind := res.Header.Get("Content-Type")
	if strings.HasPrefix(kind, "application/grpc") || strings.HasPrefix(kind, "application/connect+") {
		res.Body = &ending{ReadCloser: res.Body, res: res}
	}
}

func (e *ending) Read(p []byte) (int, error) {
	if e.broken {
		if len(e.left) == 0 {
			return 0, io.EOF
		}
		n := copy(p, e.left)
		e.left = e.left[n:]
		return n, nil
	}
	n, err := e.ReadCloser.Read(p)
	e.pass(p[:n])
	if err == nil || errors.Is(err, io.EOF) || e.have > 0 {
		return n, err // within an envelope nothing can be said any more
	}
	e.broken = true
	e.say(e.why(err))
	return n, nil
}

// pass keeps count of envelopes.
func (e *ending) pass(p []byte) {
	for len(p) > 0 {
		if e.have < len(e.head) {
			n := copy(e.head[e.have:], p)
			e.have, p = e.have+n, p[n:]
			if e.have < len(e.head) {
				return
			}
			e.remain = binary.BigEndian.Uint32(e.head[1:])
		}
		n := min(uint64(e.remain), uint64(len(p)))
		e.remain, p = e.remain-uint32(n), p[n:] //nolint:gosec // at most remain
		if e.remain == 0 {
			e.have = 0
		}
	}
}

func (e *ending) why(err error) string {
	ctx := e.res.Request.Context()
	if cause := context.Cause(ctx); errors.Is(cause, errDraining) {
		return cause.Error()
	}
	return fmt.Sprintf("the leader at %v went away in the middle of the call: %v: call again", ctx.Value(leaderKey{}), err)
}

// say ends the stream with UNAVAILABLE.
func (e *ending) say(message string) {
	escaped := strings.ReplaceAll(url.QueryEscape(message), "+", "%20")
	switch kind := e.res.Header.Get("Content-Type"); {
	case strings.HasPrefix(kind, "application/grpc-web"):
		e.envelope(0x80, fmt.Appendf(nil, "grpc-status: %d\r\ngrpc-message: %s\r\n", codes.Unavailable, escaped))
	case strings.HasPrefix(kind, "application/grpc"):
		if e.res.Trailer == nil {
			e.res.Trailer = http.Header{}
		}
		e.res.Trailer.Set("Grpc-Status", strconv.Itoa(int(codes.Unavailable)))
		e.res.Trailer.Set("Grpc-Message", escaped)
	default:
		body, _ := json.Marshal(map[string]any{"error": map[string]string{"code": connect.CodeUnavailable.String(), "message": message}}) // strings
		e.envelope(0x02, body)
	}
}

func (e *ending) envelope(flags byte, body []byte) {
	e.left = binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(body))) //nolint:gosec // a sentence
	e.left = append(e.left, body...)
}
