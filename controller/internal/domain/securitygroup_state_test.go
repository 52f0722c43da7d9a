package domain

import (
	"slices"
	"strings"
	"testing"

	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

func TestStateOfGroups(t *testing.T) {
	on := func(node string, applied int64) GroupMember {
		return GroupMember{NodeID: node, NodeName: "name-" + node, Reports: true, Applied: applied, Open: true}
	}
	silent := on("s", 2)
	silent.Reports = false
	shut := GroupMember{NodeID: "n", Reports: true}
	const (
		applying = networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_APPLYING
		ready    = networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_READY
		failed   = networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_FAILED
		runs     = operationv1.OperationState_OPERATION_STATE_RUNNING
		done     = operationv1.OperationState_OPERATION_STATE_DONE
		fails    = operationv1.OperationState_OPERATION_STATE_FAILED
	)
	for name, c := range map[string]struct {
		members  []GroupMember
		refusals map[string]string
		phase    networkv1.SecurityGroupPhase
		observed int64
		pending  string
		op       operationv1.OperationState // of generation 3
	}{
		"no members":                          {nil, nil, ready, 3, "", done},
		"in force":                            {[]GroupMember{on("a", 3), on("b", 3)}, nil, ready, 3, "", done},
		"one lags behind":                     {[]GroupMember{on("a", 3), on("b", 2)}, nil, applying, 2, "b", runs},
		"open without it":                     {[]GroupMember{on("a", 0)}, nil, applying, 0, "a", runs},
		"nothing passes, nothing is in force": {[]GroupMember{shut, on("a", 3)}, nil, ready, 3, "", done},
		"on no node":                          {[]GroupMember{{}}, nil, ready, 3, "", done},
		"a silent node is not waited for":     {[]GroupMember{silent, on("a", 3)}, nil, applying, 2, "s", done},
		"refused":                             {[]GroupMember{on("a", 3), on("b", 2)}, map[string]string{"b": "too big"}, failed, 2, "b", fails},
		"refused where nobody is any more":    {[]GroupMember{on("a", 3)}, map[string]string{"b": "too big"}, ready, 3, "", done},
		"refused after a laggard":             {[]GroupMember{on("a", 1), on("b", 2)}, map[string]string{"b": "too big"}, failed, 1, "a b", fails},
	} {
		t.Run(name, func(t *testing.T) {
			rec := &statev1.SecurityGroupRecord{Refusals: c.refusals, SecurityGroup: &networkv1.SecurityGroup{Meta: &metav1.ObjectMeta{Generation: 3}}}
			SettleSecurityGroup(rec, c.members, nil)
			st := rec.GetSecurityGroup().GetStatus()
			if st.GetPhase() != c.phase || st.GetObservedGeneration() != c.observed || strings.Join(st.GetPendingNodeIds(), " ") != c.pending || st.GetPortCount() != int64(len(c.members)) {
				t.Errorf("status is %v", st)
			}
			if (st.GetMessage() == "") != (c.phase == ready) {
				t.Errorf("message is %q", st.GetMessage())
			}
			op := &operationv1.Operation{State: runs, Verb: VerbUpdateSecurityGroup, Generation: 3}
			if got := SecurityGroupOutcome(op, rec, slices.Values(c.members)); got.State != c.op || got.State != done && got.Message == "" {
				t.Errorf("operation is %v", got)
			}
		})
	}
}
