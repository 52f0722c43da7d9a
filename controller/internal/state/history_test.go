package state_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// An operation's phases are contiguous: the controller's own, then the node's; a node whose clock is behind makes none of them negative.
func TestPhasesOfAnOperation(t *testing.T) {
	t.Parallel()
	t0 := time.Unix(1000, 0)
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	op := func(verb string, generation int64) *operationv1.Operation {
		return &operationv1.Operation{ObjectId: "v", ObjectKind: "VM", Verb: verb, Generation: generation, CreateTime: timestamppb.New(t0)}
	}
	phase := func(name string, begin, end int) *operationv1.OperationPhase {
		p := &operationv1.OperationPhase{Name: name, StartTime: timestamppb.New(at(begin))}
		if end >= 0 {
			p.EndTime = timestamppb.New(at(end))
		}
		return p
	}
	node := []*operationv1.OperationPhase{phase("define", 3, 4), phase("start", 4, -1)}
	for name, tc := range map[string]struct {
		op          *operationv1.Operation
		generation  int64
		node        []*operationv1.OperationPhase
		placed, end time.Time
		want        []string
		last        bool // the last one has ended
	}{
		"waits to be placed":       {op("CreateVM", 1), 0, nil, time.Time{}, time.Time{}, []string{"queued"}, false},
		"not taken up":             {op("CreateVM", 1), 0, nil, at(2), time.Time{}, []string{"queued", "assigned"}, false},
		"under way":                {op("CreateVM", 1), 1, node, at(2), time.Time{}, []string{"queued", "assigned", "define", "start"}, false},
		"ended":                    {op("CreateVM", 1), 1, node, at(2), at(9), []string{"queued", "assigned", "define", "start"}, true},
		"phases of an older wish":  {op("StopVM", 2), 1, node, at(-9), time.Time{}, []string{"assigned"}, false},
		"a node's clock is behind": {op("CreateVM", 1), 1, []*operationv1.OperationPhase{phase("start", -7, -6)}, at(2), at(3), []string{"queued", "assigned", "start"}, true},
		"delete":                   {op("DeleteVM", 2), 2, []*operationv1.OperationPhase{phase("delete", 1, 2)}, t0, at(4), []string{"assigned", "delete", "cleanup"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := state.NewHistory()
			h.SetPhases("v", tc.generation, tc.node)
			h.SetPhases("v", tc.generation-1, []*operationv1.OperationPhase{phase("late", 0, 0)})
			got := h.Phases(tc.op, tc.placed, tc.end)
			if len(got) != len(tc.want) {
				t.Fatalf("phases %v, want %v", got, tc.want)
			}
			for i, p := range got {
				if p.GetName() != tc.want[i] || p.GetDuration().AsDuration() < 0 {
					t.Errorf("phase %d is %v, want %s", i, p, tc.want[i])
				}
				if i < len(got)-1 && p.GetEndTime() == nil && tc.node == nil {
					t.Errorf("phase %s has no end, and %s came after it", p.GetName(), got[i+1].GetName())
				}
			}
			if last := got[len(got)-1]; (last.GetEndTime() != nil) != tc.last {
				t.Errorf("last phase %v", last)
			}
		})
	}
}
