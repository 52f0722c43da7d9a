package assign

import (
	"testing"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

func vm(id string) *agentv1.DesiredKey {
	return &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VM, Id: id}
}

func TestSet(t *testing.T) {
	t.Parallel()
	s := newSet([]*agentv1.DesiredKey{vm("old"), vm("kept")})
	if rev, dig := s.known(); rev != 0 || dig != nil {
		t.Error("what is from the state file has no secrets: it must be sent again")
	}
	s.snapshot()
	s.upsert(vm("kept"))
	s.restart() // the stream broke: nothing is known to be gone
	if gone := s.sync(1, []byte("x")); len(gone) != 0 {
		t.Errorf("gone %v", gone)
	}
	s.snapshot()
	s.upsert(vm("kept"))
	if gone := s.sync(5, []byte("d")); len(gone) != 1 || gone[0].GetId() != "old" {
		t.Errorf("gone %v", gone)
	}
	if rev, dig := s.known(); rev != 5 || string(dig) != "d" {
		t.Errorf("known %d %q", rev, dig)
	}
	s.upsert(vm("new"))
	if rev, _ := s.known(); rev != 0 {
		t.Error("a change without its sync counts as known")
	}
	if gone := s.sync(6, []byte("e")); len(gone) != 0 {
		t.Errorf("a group of changes removed %v", gone)
	}
	s.remove(vm("new"))
	if rev, _ := s.known(); rev != 0 {
		t.Error("a removal without its sync counts as known")
	}
}
