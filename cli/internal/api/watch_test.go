package api

import (
	"context"
	"errors"
	"testing"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// script is a stream that plays events and then an error.
type script struct {
	events []*computev1.WatchVMsResponse
	err    error
	at     int
}

func (s *script) Receive() bool                    { s.at++; return s.at <= len(s.events) }
func (s *script) Msg() *computev1.WatchVMsResponse { return s.events[s.at-1] }
func (s *script) Err() error                       { return s.err }
func (s *script) Close() error                     { return nil }

func event1(kind computev1.WatchEventType, revision int64) *computev1.WatchVMsResponse {
	return &computev1.WatchVMsResponse{Type: kind, Revision: revision}
}

// A broken watch goes on where it broke; one that is too old begins anew; before its first bookmark there is nothing to go on from.
func TestWatchResumes(t *testing.T) {
	t.Parallel()
	const updated, bookmark = computev1.WatchEventType_WATCH_EVENT_TYPE_UPDATED, computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK
	gone := connect.NewError(connect.CodeUnavailable, errors.New("gone"))
	streams := []*script{
		{events: []*computev1.WatchVMsResponse{event1(updated, 5)}, err: gone}, // broke before the bookmark
		{events: []*computev1.WatchVMsResponse{event1(updated, 6), event1(bookmark, 7), event1(updated, 9)}, err: gone},
		{err: connect.NewError(connect.CodeOutOfRange, errors.New("compacted"))},
		{events: []*computev1.WatchVMsResponse{event1(bookmark, 20), event1(updated, 21)}, err: gone},
		{events: []*computev1.WatchVMsResponse{event1(updated, 22)}},
	}
	var from []int64
	seen := 0
	err := watch(t.Context(), 0, func(_ context.Context, revision int64) (stream[computev1.WatchVMsResponse], error) {
		from = append(from, revision)
		return streams[len(from)-1], nil
	}, func(e *computev1.WatchVMsResponse) error {
		if seen++; e.GetRevision() == 22 {
			return ErrStop
		}
		return nil
	})
	want := []int64{0, 0, 9, 0, 21}
	if err != nil || seen != 7 || len(from) != len(want) {
		t.Fatalf("%v, %d events, from %v", err, seen, from)
	}
	for i := range want {
		if from[i] != want[i] {
			t.Fatalf("from %v, want %v", from, want)
		}
	}
}

func TestWatchFailsAtOnceWhenItNeverBegan(t *testing.T) {
	t.Parallel()
	refused := connect.NewError(connect.CodeUnavailable, errors.New("refused"))
	calls := 0
	err := watch(t.Context(), 0, func(context.Context, int64) (stream[computev1.WatchVMsResponse], error) {
		calls++
		return nil, refused
	}, func(*computev1.WatchVMsResponse) error { return nil })
	if !errors.Is(err, refused) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestCheckServer(t *testing.T) {
	t.Parallel()
	for server, ok := range map[string]bool{
		"http://127.0.0.1:8080": true, "https://a:1/": true, "a:8080": false, "ftp://a": false, "http://": false, "http://u:p@a": false, "http://a/x": false, "http://a?b": false, "": false,
	} {
		if _, err := CheckServer(server); (err == nil) != ok {
			t.Errorf("%q: %v", server, err)
		}
	}
}
