package command

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/fakeapi"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func TestOrphans(t *testing.T) {
	b := newBench(t)
	b.server.Orphans = []*computev1.NodeOrphan{
		{NodeId: "1", NodeName: "n1", Confirm: "web", Orphan: &computev1.Orphan{
			Kind: "domain", ObjectId: "d1", Name: "web", Detail: "runs", Adoptable: true, FirstSeenTime: timestamppb.New(fakeapi.Epoch),
		}},
		{NodeId: "1", NodeName: "n1", Confirm: "v1", Orphan: &computev1.Orphan{Kind: "volume", ObjectId: "v1"}},
	}
	got := b.ok("node", "orphans")
	for _, word := range []string{"n1", "domain", "d1", "web", "runs", "adoptable", "volume", "not touched"} {
		if !strings.Contains(got, word) {
			t.Errorf("no %q in\n%s", word, got)
		}
	}
	if got := b.ok("node", "orphans", "n1", "-o", "name"); got != "d1\nv1\n" {
		t.Error(got)
	}
	b.ok("node", "orphans", "adopt", "n1", "d1", "--name", "again")
	b.fails(failure.ExitUsage, []string{"node", "orphans", "remove", "n1", "d1"}, "--confirm is missing")
	b.fails(failure.ExitUsage, []string{"node", "orphans", "remove", "n1", "d1", "--confirm", "x"}, "confirm")
	b.ok("node", "orphans", "remove", "n1", "d1", "--confirm", "web")
	if got := b.ok("node", "orphans"); strings.Contains(got, "d1") {
		t.Error(got)
	}
}
