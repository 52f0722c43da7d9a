package link

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func notLeader(leader string) error {
	f := fault.New(metav1.Reason_REASON_NOT_LEADER, "not the leader")
	if leader != "" {
		f = f.WithMetadata("leader", leader)
	}
	return f.GRPCStatus().Err()
}

// Each failure leads to where the leader is said to be, to the next endpoint, or nowhere.
func TestWhereAFailureLeads(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		what string
		errs []error
		want string
	}{
		{"told of the leader", []error{notLeader("c:1")}, "c:1"},
		{"nobody leads", []error{notLeader("")}, "b:1"},
		{"told of itself", []error{notLeader("a:1")}, "b:1"},
		{"unreachable", []error{status.Error(codes.Unavailable, "refused")}, "b:1"},
		{"silent", []error{status.Error(codes.DeadlineExceeded, "late")}, "b:1"},
		{"does not know us", []error{status.Error(codes.Unauthenticated, "who?")}, "b:1"},
		{"a refusal of the call itself", []error{status.Error(codes.InvalidArgument, "no"), errors.New("odd")}, "a:1"},
		{"a leader that nobody listed is gone", []error{notLeader("c:1"), status.Error(codes.Unavailable, "refused")}, "b:1"},
		{"round", []error{notLeader(""), notLeader("")}, "a:1"},
	} {
		l := New([]string{"a:1", "b:1"}, func() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} }, slog.New(slog.DiscardHandler))
		for _, err := range tc.errs {
			conn, dial := l.Conn()
			if dial != nil {
				t.Fatal(dial)
			}
			l.Failed(conn, err)
			l.Failed(conn, err) // a second caller on the same connection changes nothing
		}
		if _, err := l.Conn(); err != nil || l.Endpoint() != tc.want {
			t.Errorf("%s: leads to %s, not %s; %v", tc.what, l.Endpoint(), tc.want, err)
		}
		l.Close()
	}
}
