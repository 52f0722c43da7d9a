package domain

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// ruleIDs makes ids for the rules of one change: UUIDs that differ in their last four bytes alone, so that thousands of them take little room when they are compressed.
type ruleIDs struct {
	prefix string
	next   uint32
}

func newRuleIDs(now time.Time) *ruleIDs {
	id := NewID(now)
	b, _ := hex.DecodeString(id[28:]) // it is hex: it was made above
	return &ruleIDs{prefix: id[:28], next: binary.BigEndian.Uint32(b)}
}

func (r *ruleIDs) take() string {
	r.next++
	return fmt.Sprintf("%s%08x", r.prefix, r.next)
}

// SettleRules makes rules that are valid what is stored: each with an id, remote groups by id. Ids of rules that the group has already are kept, any others are made anew. groupID
// finds the id of a group by id or name.
func SettleRules(v *Violations, field string, rules, present []*networkv1.SecurityRule, groupID func(ref string) string, now time.Time) {
	have, used, ids := make(map[string]bool, len(present)), map[string]bool{}, newRuleIDs(now)
	for _, r := range present {
		have[r.GetId()] = true
	}
	for i, r := range rules {
		switch id := r.GetId(); {
		case id != "" && used[id]:
			v.Add(fmt.Sprintf("%s[%d].id", field, i), "two rules have the id %s", quoteKey(id))
		case id == "" || !have[id]:
			r.Id = ids.take()
		}
		used[r.GetId()] = true
		if g, ok := r.GetRemote().(*networkv1.SecurityRule_SecurityGroupId); ok {
			if id := groupID(g.SecurityGroupId); id != g.SecurityGroupId {
				r.Remote = &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: id}
			}
		}
	}
}
